"""What a job works with: its settings, the model under study, and both with images on a bench.

`preparing` makes a bench, `subject` opens a model, `settings` reads settings from options.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
from onnx import ModelProto

from repairkit.core import attacked, errors, filters, framework, metric, outputs
from repairkit.core.process.text import counted
from repairkit.core.process.trust import GivenName, check_trusted
from repairkit.core.suite import Annotations, Array, Indices, Suite
from repairkit.data.dataset import Dataset
from repairkit.data.given import Data
from repairkit.data.parts import PartPlan, Parts
from repairkit.data.preprocessing import FurtherInput, InputSpec, Preprocessing
from repairkit.engine.batching import Batching
from repairkit.engine.runner import OpenModel
from repairkit.engine.working import Working
from repairkit.formats.effects import About, Affects
from repairkit.formats.means_file import CommonMeans, read_means
from repairkit.graph import fixing, metadata
from repairkit.graph.coalitions.masking import mask_name, mask_shape
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.kinds.ensembles import class_labels, is_ensemble, zipped_outputs
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.protos import GraphIndex, dims_of
from repairkit.graph.stored.model_files import ModelFile
from repairkit.metrics import catalogue, image_metrics, robustness

ABSENT = ("mean", "zero", "bias")
PROOF_IMAGES = 8
IMAGE_AXES = {"nchw": (2, 3), "nhwc": (1, 2)}
"""Of height and width, by the layout of the input."""
_MOST_TRIED = 64
_PROBE_SECONDS, _MOST_TRIES = 0.5, 3  # of timing a pass


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything but the model that a job on images needs; each field says what it affects.

    Attributes:
        data: a folder, a manifest or an `.npz`; or what lies in memory, see `data.given`.
        metrics: the first steers the search.
        groups: columns that are crossed into groups.
        class_names: in the order of the model's outputs.
        preprocessing: how stored images become the model's input.
        parts: how images are shared out.
        output: the output that is judged; the first if None.
        columns: the first column of the output that is judged and the one behind the last; all if
            None.
        threshold: from which number on an output of one column says class 1.
        outputs_are: `logits`, `probabilities` or `log-probabilities`; told from the graph or the
            calibration images if None.
        sites: patterns of site names; all sites if empty.
        sites_at: `pre-activation` or `activation`.
        include: further kinds of sites (`dense`, or `heads` and `mlp`).
        absent: what an absent filter yields: `mean`, `zero` or `bias`.
        device: `auto`, `cpu` or `cuda`.
        tf32: let a CUDA device round the factors of products to 10 bits, for coalitions alone.
        half: evaluate coalitions in half precision, for coalitions alone.
        workers: threads; the number of cores if None. Never changes a result.
        batch_size: images in one run, and in one drawn batch.
        seed: of the parts, the search and the intervals.
        features: columns of a table that the model takes, in its order; patterns are allowed.
        cache_memory: bytes for what is kept between coalitions; if None, what the model can use,
            at most 2 GiB and a quarter of the free memory. Never changes a result.
        means: a file of common means, in place of those over the calibration part.
        named_by: metrics of the form `module:function` that only a file named, with that file.
        trust: import those too; see `repairkit.core.process.trust`.
        image_input: the input that takes the images; the likeliest if None.
        inputs: constants for the model's other inputs, as text, by name.
        label: the column of the data that holds the labels; `label` of a manifest and `y` of an
            `.npz` if None.
        corruptions: by which each image gets a spoiled copy, which makes the columns `corruption`
            and `image`.
        accept_preprocessing: continue if the images are probably not prepared as the model expects.
    """

    data: Annotated[Data | None, About(Affects.IMAGES, by_digest=True)] = None
    metrics: Annotated[tuple[str, ...], About(Affects.METRICS)] = ("accuracy",)
    groups: Annotated[tuple[str, ...], About(Affects.IMAGES)] = ()
    class_names: Annotated[tuple[str, ...], About(Affects.FIGURE)] = ()
    preprocessing: Annotated[Preprocessing, About(Affects.FIGURE)] = field(
        default_factory=Preprocessing
    )
    parts: Annotated[PartPlan, About(Affects.IMAGES)] = field(default_factory=PartPlan)
    output: Annotated[str | None, About(Affects.FILTERS)] = None
    columns: Annotated[tuple[int, int] | None, About(Affects.FIGURE)] = None
    threshold: Annotated[float | None, About(Affects.FIGURE)] = None
    outputs_are: Annotated[str | None, About(Affects.FIGURE)] = None
    sites: Annotated[tuple[str, ...], About(Affects.ROSTER)] = ()
    sites_at: Annotated[str, About(Affects.FILTERS)] = "pre-activation"
    include: Annotated[tuple[str, ...], About(Affects.FILTERS)] = ()
    absent: Annotated[str, About(Affects.FILTERS)] = "mean"
    device: Annotated[str, About(Affects.PLACE)] = "auto"
    tf32: Annotated[bool, About(Affects.ROUNDING)] = False
    half: Annotated[bool, About(Affects.ROUNDING)] = False
    workers: Annotated[int | None, About(Affects.SPEED)] = None
    batch_size: Annotated[int, About(Affects.SEARCH)] = 128
    seed: Annotated[int, About(Affects.IMAGES)] = 0
    features: Annotated[tuple[str, ...], About(Affects.FIGURE)] = ()
    cache_memory: Annotated[int | None, About(Affects.SPEED)] = None
    means: Annotated[Path | None, About(Affects.FILTERS, by_digest=True)] = None
    named_by: Annotated[Mapping[str, str], About(Affects.PLACE, option=False)] = field(
        default_factory=dict
    )
    trust: Annotated[bool, About(Affects.PLACE)] = False
    image_input: Annotated[str | None, About(Affects.FIGURE, where_given=True)] = None
    inputs: Annotated[Mapping[str, str], About(Affects.FIGURE, where_given=True)] = field(
        default_factory=dict
    )
    label: Annotated[str | None, About(Affects.IMAGES, where_given=True)] = None
    corruptions: Annotated[tuple[str, ...], About(Affects.IMAGES, where_given=True)] = ()
    accept_preprocessing: Annotated[bool, About(Affects.PLACE)] = False

    def __post_init__(self) -> None:
        if self.absent not in ABSENT:
            raise errors.SettingsError(
                f"an absent filter cannot yield {self.absent!r}; choose {', '.join(ABSENT)}"
            )
        if self.outputs_are is not None and self.outputs_are not in outputs.FORMS:
            raise errors.SettingsError(
                f"outputs are {self.outputs_are!r}; expected {', '.join(outputs.FORMS)}, "
                "or leave it out"
            )
        if self.means is not None and self.absent != "mean":
            raise errors.SettingsError(
                f"absent filters yield {self.absent!r} and common means were given; leave one out"
            )
        if self.batch_size < 1 or (self.workers is not None and self.workers < 1):
            raise errors.SettingsError("batch size and workers must be at least 1")
        twice = [name for name in self.groups if self.groups.count(name) > 1]
        if twice:
            raise errors.SettingsError(f"groups name the column {twice[0]!r} twice; name each once")
        if self.tf32 and self.half:
            raise errors.SettingsError("TF32 and half precision exclude each other; choose one")
        if self.tf32 and self.device == "cpu":
            raise errors.SettingsError(
                "TF32 is a mode of NVIDIA cards and the device is cpu; leave --tf32 out, or use "
                "--device cuda"
            )

    @property
    def data_file(self) -> Path | None:
        """The path of the data; None without data, and for those that lie in memory."""
        return self.data if isinstance(self.data, Path) else None


def check_metrics(settings: Settings, metrics: Sequence[str]) -> None:
    """Refuse metrics that are unknown, or code named by a file alone, unless it is trusted.

    Raises:
        SettingsError: there is one; nothing of it was imported.
    """
    for name in metrics:
        catalogue.check_name(name)
        if not settings.trust:
            check_trusted(name, settings.named_by)


@dataclass(frozen=True, repr=False)
class Subject:
    """A model file, the name and shape of its image input, and the output that is judged.

    `further` are the inputs beside the images, and `constants` what those of them hold that are
    not fed with each image.
    """

    file: ModelFile
    input_name: str
    spec: InputSpec
    output: str
    further: tuple[FurtherInput, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"Subject: {self.file.path.name}, input {self.input_name}, output {self.output}"

    @property
    def n_classes(self) -> int | None:
        """The classes that the judged output's shape promises; None where it fixes none."""
        index = GraphIndex(self.model)
        if self.output in zipped_outputs(index):
            return len(class_labels([index.nodes[index.producers[self.output]]])) or None
        value = next(o for o in self.model.graph.output if o.name == self.output)
        dims = (dims_of(value) or ())[1:]
        widths = [size for size in dims if size != 1]
        one_row = len(dims) == 1 or dims[1:] == (1, 1)
        return widths[0] if one_row and len(widths) == 1 else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels that a tree ensemble gives, in the order of its scores.

        Empty where they are the numbers from 0 on, which need no names, or are not known.
        """
        trees = [node for node in self.model.graph.node if is_ensemble(node)]
        labels = class_labels(trees)
        return () if labels == tuple(map(str, range(len(labels)))) else labels

    @cached_property
    def layer_map(self) -> framework.LayerMap | None:
        """Where the filters come from, if the model says so."""
        return metadata.read_layer_map(self.model)

    @property
    def told_layers(self) -> dict[str, Any]:
        """The `layers` of documents: of which layer each site is; nothing where it is not known."""
        known = self.layer_map
        if known is None:
            return {}
        return {"layers": {"framework": known.framework, "sites": known.by_site}}

    @property
    def model(self) -> ModelProto:
        return self.file.model

    def runnable(self, model: ModelProto) -> ModelProto:
        """A model with the subject's inputs, itself or a copy whose constant inputs are fixed."""
        if not self.constants:
            return model
        repeated = {wanted.name for wanted in self.further if wanted.per_image}
        return fixing.with_constants(
            model, self.constants, image=self.input_name, repeated=repeated
        )

    @cached_property
    def working(self) -> ModelProto:
        """The model as it runs on images alone, or with what is fed with each image."""
        return self.runnable(self.model)

    def opened(self, *, device: str = "cpu", seconds: float | None = None) -> OpenModel:
        """The model as it runs, with the batch that its input declares.

        Args:
            device: where it runs.
            seconds: after which a run is broken off; None for no limit.
        """
        return OpenModel(
            model=self.working,
            image=self.input_name,
            output=self.output,
            step=fixed_batch(self.model, self.input_name),
            device=device,
            seconds=seconds,
        )


class Look(Protocol):
    """What a first look at model and data found; see `first_look`."""

    @property
    def accepted(self) -> bool:
        """Whether a doubt does not stop the job."""
        ...

    @property
    def doubt(self) -> str:
        """The reason to doubt the preprocessing in use; empty if there is none."""
        ...

    @property
    def remedy(self) -> str:
        """What to do about the doubt."""
        ...

    def to_json(self) -> dict[str, Any]:
        """The entry `first_look` of what was read."""
        ...


@dataclass(frozen=True, kw_only=True, repr=False)
class Bench:
    """A subject with everything that is needed to evaluate coalitions of its filters.

    `original` surveys the file's model; `working` is the model that is run, with the same sites,
    and `batching` says how it takes several images. `unjudged` says why no metric can be computed;
    it is empty where one can. With `all_outputs` the sites lead to any output of the model, else to
    the judged one. `look` is the first look at model and data, where one was taken (see `looking`).
    `full_size` is the bench at the model's own size, where this one is of smaller images. `slices`
    tells of the groups, where they were found and not named (see `slicing`).
    """

    subject: Subject
    settings: Settings
    original: Survey
    working: Working
    batching: Batching
    dataset: Dataset
    parts: Parts
    form: outputs.OutputForm | None
    n_classes: int
    unjudged: str = ""
    all_outputs: bool = False
    look: Look | None = None
    full_size: "Bench | None" = None
    slices: Mapping[str, Any] | None = None

    def __repr__(self) -> str:
        n_images = counted(len(self.dataset.images), "image")
        return f"Bench: {self.subject.file.path.name}, {len(self.roster):,} filters, {n_images}"

    @property
    def roster(self) -> filters.Roster:
        """The filters of the game."""
        return self.working.roster

    @property
    def image_size(self) -> tuple[int, int] | None:
        """Height and width of the images; None where they have none."""
        layout = self.subject.spec.layout
        if layout not in IMAGE_AXES:
            return None
        shape = self.dataset.images.batch(np.arange(1)).shape
        height, width = (int(shape[axis]) for axis in IMAGE_AXES[layout])
        return height, width

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of data and model."""
        batching = [self.batching.note] if self.batching.note else []
        unjudged = [f"no metric was computed: {self.unjudged}"] if self.unjudged else []
        fed = ", ".join(self.dataset.further)
        slow = [f"{fed}: fed with each image, so that nothing is shared between coalitions"]
        given = [
            f"the metric {name} is a function that was given in Python; whoever resumes, asks or "
            "reports this needs to give it again"
            for name in self.settings.metrics
            if isinstance(name, GivenName) and name.only_given
        ]
        read = (*self.dataset.notes, *self.parts.notes, *given)
        return (*read, *batching, *unjudged, *(slow if fed else []), *doubts(self.look))

    @property
    def reading(self) -> dict[str, Any]:
        """What was read of the data, as runs and reports tell it."""
        read = told_reading(self.dataset, self.parts, form=self.form, look=self.look)
        return read if self.slices is None else {**read, "slices": self.slices}

    @cached_property
    def common(self) -> CommonMeans | None:
        """The means that the settings name, if any."""
        return None if self.settings.means is None else read_means(self.settings.means)

    def metrics(self, names: Sequence[str]) -> tuple[metric.Metric, ...]:
        """Metrics by name, fitted to the model's outputs and the data's classes and groups.

        Raises:
            SettingsError: one is unknown, unfit, or code that only a file named.
        """
        given = {name: name for name in self.settings.metrics}  # names that come with their code
        names = [given.get(name, name) for name in names]
        check_metrics(self.settings, names)
        sample, places = (
            self.trial if any(map(catalogue.is_user_metric, names)) else (self.sample, None)
        )
        return tuple(
            catalogue.make_metric(
                name,
                form=self.form,
                annotations=self.dataset.annotations,
                n_classes=self.n_classes,
                sample=sample,
                places=places,
            )
            for name in names
        )

    @property
    def metric_names(self) -> tuple[str, ...]:
        """The settings' metrics, `recall:*` spelt out for the classes of the selection part."""
        selection = self.parts.selection.annotations
        return catalogue.spell_out(self.settings.metrics, selection, self.n_classes)

    @property
    def accuracy(self) -> str:
        """The name of accuracy; if images were attacked, of accuracy on the clean images."""
        with_attacks = attacked.is_attacked(self.dataset.annotations)
        return (robustness.CLEAN_ACCURACY if with_attacks else image_metrics.ACCURACY).name

    @cached_property
    def sample(self) -> Array:
        """The untouched model's outputs for the first images of the data."""
        answers = self.batching.answers
        if answers is not None:  # its batching was proven on just these
            return answers[self.subject.output]
        return self.working.run_plain(first_images(self.dataset, PROOF_IMAGES))

    @cached_property
    def trial(self) -> tuple[Array, Indices]:
        """The outputs of some images that a user metric is tried on, and the rows of these images.

        They are the first of the data and, so that a figure that compares classes or groups exists,
        two of every label and group, up to 64.
        """
        places = _of_every_kind(self.dataset, len(self.sample))
        if len(places) == len(self.sample):
            return self.sample, places
        whole = Suite.whole("sample", self.dataset.images, self.dataset.annotations)
        return self.working.run_plain(whole.take(places)), places


def seconds_per_pass(bench: Bench) -> float:
    """Seconds that an image takes through the instrumented model; the least of a few tries."""
    suite = bench.parts.selection
    images = suite.batch(np.arange(min(PROOF_IMAGES, len(suite))))
    masks = {mask_name(site): np.ones(mask_shape(site, 1), bool) for site in bench.roster.sites}
    tries: list[float] = []
    while len(tries) < 2 or (sum(tries) < _PROBE_SECONDS and len(tries) < _MOST_TRIES):
        began = time.monotonic()
        bench.working.judge.run(images, masks)
        tries.append(time.monotonic() - began)
    return max(min(tries) / len(images), 1e-7)


def _of_every_kind(dataset: Dataset, n_first: int) -> Indices:
    """The first images, then two of every label and of every group; up to `_MOST_TRIED`."""
    about = dataset.annotations
    rows = list(range(n_first))
    for kinds in (about.labels, about.groups):
        if kinds is None:
            continue
        for kind in np.unique(kinds)[:_MOST_TRIED]:
            rows += np.flatnonzero(kinds == kind)[:2].tolist()
    return np.array(list(dict.fromkeys(rows))[: max(_MOST_TRIED, n_first)], np.intp)


def doubts(look: Look | None) -> list[str]:
    """The note on a job that continued although its preprocessing is doubtful, if it is."""
    if look is None or not look.doubt:
        return []
    return [f"the preprocessing is doubtful: {look.doubt}; {look.remedy}"]


def first_images(dataset: Dataset, at_most: int) -> Suite:
    """The first images of the data, whatever part they are in."""
    whole = Suite.whole("sample", dataset.images, dataset.annotations, dataset.further)
    return whole.take(np.arange(min(at_most, len(whole))))


def told_reading(
    dataset: Dataset,
    parts: Parts,
    *,
    form: outputs.OutputForm | None,
    look: Look | None,
) -> dict[str, Any]:
    """The entry `read` of `run.json` and of reports.

    Counts are by part in the order calibration, selection, test. A class or group without images
    in any part is left out. `means` says which images a calibration part holds that was left
    open: it holds the selection images, and that is by design.
    """
    suites = (parts.calibration, parts.selection, parts.test)
    whole = dataset.annotations
    annotations = [suite.annotations for suite in suites]
    class_names = _class_names(whole) if dataset.labelled else ()
    return {
        "images": len(whole),
        "labels": dataset.reading,
        "outputs": "" if form is None else form.reading,
        "parts": {suite.name: len(suite) for suite in suites},
        "means": parts.means,
        "in_no_part": parts.n_unused,
        "classes": _counts([_classes(about) for about in annotations], class_names),
        "groups": _counts([about.groups for about in annotations], whole.group_names),
        "left_out": list(dataset.left_out),
        **({} if look is None else {"first_look": look.to_json()}),
    }


def _classes(about: Annotations) -> Array | None:
    return about.labels if about.labels.dtype.kind in "iu" else None


def _class_names(whole: Annotations) -> tuple[str, ...]:
    if whole.labels.dtype.kind not in "iu":
        return ()
    n_named, n_classes = len(whole.class_names), int(whole.labels.max(initial=-1)) + 1
    return (*whole.class_names, *(str(number) for number in range(n_named, n_classes)))


def _counts(columns: list[Array | None], names: tuple[str, ...]) -> dict[str, list[int]]:
    """Images by name, one number per part."""
    known = [column for column in columns if column is not None]
    if len(known) < len(columns) or not names:
        return {}
    table = np.stack([np.bincount(column, minlength=len(names)) for column in known], axis=1)
    return {name: row for name, row in zip(names, table.tolist(), strict=True) if any(row)}
