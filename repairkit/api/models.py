"""Inspect, compare and instrument ONNX models; attack or dream them; export from a framework."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Unpack

from repairkit.api.job_settings import (
    JobKeywords,
    Metrics,
    check_keywords,
    job_settings,
    load_source,
    metric_names,
    open_job,
)
from repairkit.attacks import Pgd, Square
from repairkit.core import framework, results
from repairkit.core.filters import Filter
from repairkit.core.process.text import counted
from repairkit.data.given import GivenAs
from repairkit.data.preprocessing import describe_shape
from repairkit.graph.coalitions.masking import mask_name
from repairkit.jobs.attack import attacking
from repairkit.jobs.backdoor.suspects import Suspect, suspects_of
from repairkit.jobs.diff import differing
from repairkit.jobs.dream import dream_writing
from repairkit.jobs.dream.dream import DreamSettings
from repairkit.jobs.export import exporting
from repairkit.jobs.look import inspection, patch_facts
from repairkit.jobs.setup.first_look import ErrorLook, FirstLook, first_look_lines
from repairkit.jobs.setup.looking import slice_lines
from repairkit.jobs.setup.subject import load_framework_model
from repairkit.jobs.setup.workbench import Settings
from repairkit.notebook import cells, frames, lines
from repairkit.notebook.progress import shown_in_cell

if TYPE_CHECKING:
    from pandas import DataFrame

METHODS: Mapping[str, Callable[..., Pgd | Square]] = {"pgd": Pgd, "square": Square}
"""The settings of each attack, by its name on the command line."""


@dataclass(frozen=True)
class Inspected:
    """A model, and how usual preprocessings do on images.

    `look` is None without images; a text says why the preprocessings were not tried. `slices` are
    the slices of errors, or why there are none, and `suspects` all channels, the likeliest of a
    backdoor first; both None where they were not asked for.
    """

    model: inspection.Inspection
    look: FirstLook | ErrorLook | str | None
    slices: Mapping[str, object] | str | None = None
    suspects: tuple[Suspect, ...] | None = None

    def to_json(self) -> dict[str, object]:
        document = self.model.to_json()
        if self.suspects is not None:
            document["suspects"] = [each.to_json() for each in self.suspects]
        if isinstance(self.slices, str):
            document |= {"slices": None, "slices_note": self.slices}
        elif self.slices is not None:
            document["slices"] = self.slices
        if self.look is None:
            return document
        if isinstance(self.look, str):
            return {**document, "first_look": None, "first_look_note": self.look}
        return {**document, "first_look": self.look.to_json()}

    def __repr__(self) -> str:
        name = lines.short(self.model.subject.file.path.name)
        n_filters = sum(each.site.n_channels for each in self.model.sites)
        sizes = f"{counted(len(self.model.sites), 'site')}, {counted(n_filters, 'filter')}"
        left_out = counted(len(self.model.left_out), "layer")
        return f"Inspected: {name}, {sizes}, {left_out} left out"

    def _repr_html_(self) -> str:
        """For a notebook: the sites, what is left out, and the first look."""
        document = self.model.to_json()
        parts = [cells.sentence(repr(self).partition(": ")[2], "Inspected")]
        for title, key in (("Sites", "sites"), ("Left out", "left_out")):
            if document[key]:
                parts.append(cells.table_of(title, document[key]))
        return cells.cell(*parts, *(cells.sentence(line) for line in self.look_in_words()))

    def to_pandas(self) -> "DataFrame":
        """A row for each site: its kind, filters, tensor, and share of the multiplications.

        Raises:
            SettingsError: pandas is not installed; it comes with `repairkit[pandas]`.
        """
        return frames.frame(self.model.to_json()["sites"])

    def look_in_words(self) -> Iterator[str]:
        """Lines about the first look, without the table of attempts."""
        if isinstance(self.look, str):
            yield f"preprocessings were not tried: {self.look}"
        elif self.look is not None:
            yield from first_look_lines(self.look.to_json())
        if isinstance(self.slices, str):
            yield self.slices
        elif self.slices is not None:
            yield from slice_lines(self.slices)

    def further_inputs(self) -> list[str]:
        """Descriptions of the inputs beside the images."""
        return [
            f"{other.name}: {describe_shape(other.shape)} {other.dtype.name}"
            f"{', a row per image' if other.per_image else ''}"
            for other in self.model.subject.further
        ]

    def seconds_of_all(self) -> list[tuple[int, float]]:
        """Seconds for all filters, by the number of passes per filter."""
        passes = self.model.passes
        return [(n, passes.seconds_of(n) or 0.0) for n in inspection.PASSES_PER_FILTER]


def inspect(
    model: str | Path,
    data: GivenAs | None = None,
    *,
    metric: Metrics | None = None,
    suspect: bool = False,
    settings: Settings | None = None,
    **words: Unpack[JobKeywords],
) -> Inspected:
    """List inputs, outputs, sites and filters, as `repairkit inspect` does.

    Args:
        model: an ONNX file.
        data: labelled images to try the usual preprocessings on; not tried if None.
        metric: one or several; outputs are read as it needs. Those of the settings if None.
        suspect: also rank channels by how much they look like a backdoor's, from weights alone.
        settings: preprocessing, sites, inputs and outputs; see `score`.
        words: see `JobKeywords`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    check_keywords("inspect", words, JobKeywords)
    subject, job = open_job(model, data, settings, words)
    if metric is not None:
        job = replace(job, metrics=metric_names(metric))
    inspected = inspection.inspect(subject, job)
    suspects = suspects_of(subject, job) if suspect else None
    look, slices = (None, None) if data is None else inspection.look_at_data(subject, job)
    return Inspected(inspected, look, slices, suspects)


def inspect_patch(patch_file: str | Path) -> patch_facts.PatchInspected:
    """Tell what a patch means for compiled models, as `repairkit inspect PATCH` does.

    Args:
        patch_file: what `patch` wrote, a file whose name ends in `.patch.json`.

    Raises:
        RunFolderError: it is missing, or no patch file of this version.
        VerificationError: it was altered.
    """
    return patch_facts.inspect_patch(Path(patch_file))


def diff(
    a: str | Path,
    b: str | Path,
    data: GivenAs | None = None,
    *,
    patch_file: str | Path | None = None,
    html: str | Path | None = None,
    settings: Settings | None = None,
    **words: Unpack[JobKeywords],
) -> differing.Diff:
    """Tell what differs between two models, as `repairkit diff` does.

    Args:
        a: an ONNX file.
        b: another.
        data: images on which outputs are compared; labels are not needed. Noise if there are none.
        patch_file: say whether the difference is exactly this patch; if None, the one beside the
            patched model, if it made that model.
        html: a page to write; none if None.
        settings: preprocessing, groups, inputs and outputs; see `score`.
        words: see `JobKeywords`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    check_keywords("diff", words, JobKeywords)
    path = Path(a)
    job = job_settings(path, data, settings, words)
    return differing.diff(
        path,
        Path(b),
        job,
        patch=None if patch_file is None else Path(patch_file),
        page=None if html is None else Path(html),
    )


@dataclass(frozen=True)
class Instrumented:
    """A model with mask inputs: its file, and the number of filters of each mask."""

    out: Path
    masks: dict[str, int]

    def to_json(self) -> dict[str, object]:
        masks = [{"input": name, "filters": n} for name, n in self.masks.items()]
        return {"instrumented_model": str(self.out), "masks": masks}

    def __repr__(self) -> str:
        sizes = f"{counted(len(self.masks), 'mask')} of {sum(self.masks.values()):,} filters"
        return f"Instrumented: {lines.short(self.out)}, {sizes}"


def instrument(
    model: str | Path,
    data: GivenAs | None = None,
    *,
    out: str | Path,
    settings: Settings | None = None,
    **words: Unpack[JobKeywords],
) -> Instrumented:
    """Write a model with a run-time mask input per site, as `repairkit instrument` does.

    Args:
        model: an ONNX file.
        data: images for the means of absent filters; see `score`.
        out: the file for the model with masks.
        settings: preprocessing, sites, level of absent filters; see `score`.
        words: see `JobKeywords`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    check_keywords("instrument", words, JobKeywords)
    subject, job = open_job(model, data, settings, words)
    sites = inspection.write_instrumented(subject, job, Path(out))
    return Instrumented(Path(out), {mask_name(site): site.n_channels for site in sites})


class ExportKeywords(JobKeywords, total=False):
    """Further arguments of `export`: how to load the source and how to prove the map.

    Attributes:
        framework: an adapter's name; if None, the adapter that takes the source.
        weights: a state dict for a factory.
        input_shape: of one image as the model takes it, if the model does not say.
        trust: run code that the source names or holds: pickles, Lambda layers, TorchScript.
        opset: of the ONNX file; the exporter's default if None.
        one_by_one: prove every filter by freezing it alone, also in a large model, where most are
            otherwise frozen in groups (docs/guide/frameworks.md).
        progress: in a notebook, show a bar while the job runs; True if left out.
    """

    framework: str | None
    weights: str | Path | None
    input_shape: Sequence[int] | None
    progress: bool
    trust: bool
    opset: int | None
    one_by_one: bool


@shown_in_cell
def export(
    source: str | Path | framework.FrameworkModel,
    *,
    out: str | Path,
    data: GivenAs | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **more: Unpack[ExportKeywords],
) -> results.Exported:
    """Write a PyTorch or Keras model as ONNX with a map of its layers, as `repairkit export` does.

    Args:
        source: see `repairkit export --help`; or a model that an adapter holds, such as
            `repairkit_adapters.pytorch.wrap(module, (3, 224, 224))`.
        out: the ONNX file; the map is written beside it and into its metadata.
        data: images to compare outputs on; those of the settings if None, or noise without any.
        settings: preprocessing and more; read from `repairkit.toml` if None.
        on_progress: called with the number of mapped filters and of all filters.
        more: see `ExportKeywords`.

    Raises:
        AdapterError: the source, its weights or the framework is missing or unsuitable.
        ExportError: a layer cannot be exported, or the ONNX file computes something else.
        RepairkitError: anything else that the user can correct.
    """
    check_keywords("export", more, ExportKeywords)
    place = Path(out)
    job = job_settings(place, data, settings, more)
    name = str(source) if isinstance(source, str | Path) else "model"
    model = _load(name, more) if isinstance(source, str | Path) else source
    return exporting.export(
        model,
        place,
        settings=job,
        source=name,
        one_by_one=more.get("one_by_one", False),
        on_progress=on_progress,
    )


def _load(source: str, given: ExportKeywords) -> framework.FrameworkModel:
    weights, shape = given.get("weights"), given.get("input_shape")
    options = framework.LoadOptions(
        weights=None if weights is None else Path(weights),
        input_shape=None if shape is None else tuple(shape),
        trust=given.get("trust", False),
        opset=given.get("opset"),
    )
    return load_framework_model(source, options, framework=given.get("framework"))


class AttackKeywords(JobKeywords, total=False):
    """Further arguments of `attack`.

    Attributes:
        pixel_range: values of the darkest and the brightest pixel in the model's input, if the data
            does not say.
        at_most: images of each part to attack; all if None.
        trust: run code that `repairkit.toml` names or a named source holds.
        accept_preprocessing: continue although images or classes look unlike what the model expects
            (docs/guide/data.md).
        progress: in a notebook, show a bar while the job runs; True if left out.
    """

    pixel_range: tuple[float, float] | None
    at_most: int | None
    progress: bool
    trust: bool
    accept_preprocessing: bool


@shown_in_cell
def attack(
    model: str | Path,
    data: GivenAs | None = None,
    *,
    out: str | Path,
    source: framework.FrameworkModel | framework.Source | None = None,
    method: Pgd | Square | None = None,
    settings: Settings | None = None,
    **more: Unpack[AttackKeywords],
) -> results.Attacked:
    """Make images that fool a model, as `repairkit attack` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: the `.npz` file for clean and adversarial images.
        source: the framework's model that gives gradients.
        method: if None, `Pgd` with a source and `Square` without one.
        settings: preprocessing, parts, seed; see `score`.
        more: see `AttackKeywords`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    check_keywords("attack", more, AttackKeywords)
    if method is None:
        method = Square() if source is None else Pgd()
    plan = attacking.AttackSettings(method, more.get("pixel_range"), more.get("at_most"))
    subject, job = open_job(model, data, settings, more)
    return attacking.attack(
        subject,
        job,
        plan,
        out=Path(out),
        source=load_source(source, subject, trust=job.trust),
    )


class DreamKeywords(JobKeywords, total=False):
    """Further arguments of `dream`.

    Attributes:
        at: excite the `centre` of the filter's map (if left out), or the mean over it, `channel`.
        diverse: dreams of each filter, each unlike the ones before it; 1 if left out.
        pixel_range: values of the darkest and the brightest pixel in the model's input, if neither
            data nor preprocessing say.
        progress: in a notebook, show a bar while the job runs; True if left out.
        trust: run code that `repairkit.toml` names or a named source holds.
    """

    at: str
    diverse: int
    pixel_range: tuple[float, float] | None
    progress: bool
    trust: bool


@shown_in_cell
def dream(
    model: str | Path,
    filters: str | Filter | Sequence[str | Filter],
    data: GivenAs | None = None,
    *,
    out: str | Path | None = None,
    source: framework.FrameworkModel | framework.Source | None = None,
    settings: Settings | None = None,
    **more: Unpack[DreamKeywords],
) -> dream_writing.Dreamt:
    """Make images that excite filters, as `repairkit dream` does.

    Args:
        model: an ONNX file.
        filters: one or several, as `SITE:CHANNEL` or `LAYER:CHANNEL`.
        data: real images to compare with; labels are not needed. No comparison if None.
        out: a folder for pictures and the record; nothing is written if None.
        source: the framework's model that gives gradients; forward passes of the ONNX model if
            None.
        settings: preprocessing, parts, seed; see `score`.
        more: see `DreamKeywords`.

    Raises:
        RepairkitError: anything that the user can correct.
    """
    check_keywords("dream", more, DreamKeywords)
    several = [filters] if isinstance(filters, str | Filter) else list(filters)
    wanted = [f if isinstance(f, Filter) else Filter.parse(f) for f in several]
    asked = DreamSettings(
        at=more.get("at", "centre"),
        diverse=more.get("diverse", 1),
        pixel_range=more.get("pixel_range"),
    )
    subject, job = open_job(model, data, settings, more)
    return dream_writing.dream(
        subject,
        job,
        wanted,
        asked,
        out=None if out is None else Path(out),
        source=load_source(source, subject, trust=job.trust),
    )
