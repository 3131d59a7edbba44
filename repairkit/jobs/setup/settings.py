"""Settings of a job: options first, then `repairkit.toml`, then defaults."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from repairkit.core.errors import SettingsError
from repairkit.core.outputs import FORMS
from repairkit.core.process.trust import check_trusted
from repairkit.data.parts import PartPlan
from repairkit.data.preprocessing import Preprocessing
from repairkit.data.project import PROJECT_FILE, Project
from repairkit.formats.effects import About, Affects
from repairkit.metrics.catalogue import is_user_metric

ABSENT = ("mean", "zero", "bias")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Everything but the model that a job on images needs; each field says what it affects.

    Attributes:
        data: a folder, a manifest or an `.npz`.
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
        include: further kinds of sites (`dense`).
        absent: what an absent filter yields: `mean`, `zero` or `bias`.
        device: `auto`, `cpu` or `cuda`.
        tf32: let a CUDA device round the factors of products to 10 bits, for coalitions alone.
        half: evaluate coalitions in half precision, for coalitions alone.
        workers: threads; the number of cores if None. Never changes a result.
        batch_size: images in one run, and in one drawn batch.
        seed: of the parts, the search and the intervals.
        features: columns of a table that the model takes, in its order; patterns are allowed.
        cache_memory: bytes for what is kept between coalitions; a quarter of the free memory if
            None. Never changes a result.
        means: a file of common means, in place of those over the calibration part.
        named_by: metrics of the form `module:function` that only a file named, with that file.
        trust: import those too; see `repairkit.core.process.trust`.
        image_input: the input that takes the images; the likeliest if None.
        inputs: constants for the model's other inputs, as text, by name.
        accept_preprocessing: go on where the images are hardly prepared as the model expects.
    """

    data: Annotated[Path | None, About(Affects.IMAGES, by_digest=True)] = None
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
    accept_preprocessing: Annotated[bool, About(Affects.PLACE)] = False

    def __post_init__(self) -> None:
        if self.absent not in ABSENT:
            raise SettingsError(
                f"an absent filter cannot yield {self.absent!r}; choose {', '.join(ABSENT)}"
            )
        if self.outputs_are is not None and self.outputs_are not in FORMS:
            raise SettingsError(
                f"outputs are {self.outputs_are!r}; expected {', '.join(FORMS)}, or leave it out"
            )
        if self.means is not None and self.absent != "mean":
            raise SettingsError(
                f"absent filters yield {self.absent!r} and common means were given; leave one out"
            )
        if self.batch_size < 1 or (self.workers is not None and self.workers < 1):
            raise SettingsError("batch size and workers must be at least 1")
        twice = [name for name in self.groups if self.groups.count(name) > 1]
        if twice:
            raise SettingsError(f"groups name the column {twice[0]!r} twice; name each once")
        if self.tf32 and self.half:
            raise SettingsError("TF32 and half precision exclude each other; choose one")
        if self.tf32 and self.device == "cpu":
            raise SettingsError(
                "TF32 is a mode of NVIDIA cards and the device is cpu; leave --tf32 out, or use "
                "--device cuda"
            )


@dataclass(frozen=True)
class Exclusion:
    """Filters to leave out: the top `share`, in (0, 1), of a finished run of the same model."""

    run: Path
    share: float = 0.2

    def __post_init__(self) -> None:
        if not 0 < self.share < 1:
            raise SettingsError(
                f"--exclude-share is {self.share:g}; expected a share between 0 and 1, such as 0.2"
            )


def settle(options: Mapping[str, Any], project: Project | None) -> Settings:
    """Settings from options (None where not given) over a project file over defaults.

    Raises:
        SettingsError: a value that makes no sense.
    """
    given = {name: value for name, value in options.items() if value not in (None, ())}
    image_options = given.pop("preprocessing", {})
    part_options = given.pop("parts", {})
    if project is None:
        preprocessing, parts = dict(image_options), dict(part_options)
    else:
        preprocessing = {**project.preprocessing, **image_options}
        parts = {**project.parts, **part_options}
        from_file = {
            "data": project.data,
            "metrics": project.metrics,
            "groups": project.groups,
            "class_names": project.class_names,
            "features": project.features,
            "image_input": project.image_input,
            "output": project.output,
            "columns": read_columns(project.columns),
            "threshold": project.threshold,
            "outputs_are": project.outputs_are,
            "seed": project.seed,
            "accept_preprocessing": project.accept_preprocessing or None,
        }
        given = {**{n: v for n, v in from_file.items() if v not in (None, ())}, **given}
        if not options.get("metrics"):
            given["named_by"] = named_in(project.folder / PROJECT_FILE, project.metrics)
    if project is not None:
        given["inputs"] = {**project.inputs, **given.get("inputs", {})}
    where = "the options" if project is None else f"{project.folder / 'repairkit.toml'} or options"
    return Settings(
        **given,
        preprocessing=Preprocessing.from_mapping(preprocessing, where),
        parts=PartPlan(**parts),
    )


def named_in(file: Path, metrics: Sequence[str]) -> dict[str, str]:
    """Those of a file's metrics that are code, with the file; see `Settings.named_by`."""
    return dict.fromkeys(filter(is_user_metric, metrics), str(file))


def check_metrics(settings: Settings, metrics: Sequence[str]) -> None:
    """Refuse metrics that are code named by a file alone, unless it is trusted.

    Raises:
        SettingsError: there is one; nothing of it was imported.
    """
    for name in metrics:
        if not settings.trust:
            check_trusted(name, settings.named_by)


def read_inputs(texts: Sequence[str]) -> dict[str, str]:
    """`NAME=VALUE` texts as a mapping.

    Raises:
        SettingsError: one is no such text, or a name comes twice.
    """
    inputs: dict[str, str] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not (sign and name.strip() and value.strip()):
            raise SettingsError(f"--input {text!r} is none; give NAME=VALUE, such as threshold=0.5")
        if name.strip() in inputs:
            raise SettingsError(f"--input names {name.strip()!r} twice; name each input once")
        inputs[name.strip()] = value.strip()
    return inputs


def read_columns(text: str | None) -> tuple[int, int] | None:
    """`0:2` as (0, 2), `3` as (3, 4); None stays None.

    Raises:
        SettingsError: it is neither, or holds no column.
    """
    if text is None:
        return None
    first, colon, behind = text.partition(":")
    if first.isdecimal() and (behind.isdecimal() if colon else True):
        columns = int(first), int(behind) if colon else int(first) + 1
        if columns[0] < columns[1]:
            return columns
    raise SettingsError(f"columns {text!r} are none; give FIRST:BEHIND such as 0:2, or one number")


def require_data(settings: Settings) -> Path:
    """The data, or one line that says how to name it.

    Raises:
        SettingsError: there is none.
    """
    if settings.data is None:
        raise SettingsError(
            "no images were given; use --data with a folder of one sub-folder per class, a CSV "
            "manifest or an .npz, or name them in repairkit.toml"
        )
    return settings.data
