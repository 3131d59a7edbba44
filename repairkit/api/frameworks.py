"""Exports and attacks, which need a framework beside the ONNX file."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, Unpack

from repairkit.api.job_settings import check_keywords, find_settings, load_source, open_job
from repairkit.attacks import Pgd, Square
from repairkit.core.framework import FrameworkModel, LoadOptions, Source
from repairkit.core.results import Attacked, Exported
from repairkit.jobs.attack import attacking
from repairkit.jobs.export import adapters, exporting
from repairkit.jobs.setup.workbench import Settings

METHODS: Mapping[str, Callable[..., Pgd | Square]] = {"pgd": Pgd, "square": Square}
"""The settings of each attack, by its name on the command line."""


class ExportKeywords(TypedDict, total=False):
    """Further arguments of `export`: how to load the source.

    Attributes:
        framework: an adapter's name; if None, the adapter that takes the source.
        weights: a state dict for a factory.
        input_shape: of one image as the model takes it, if the model does not say.
        trust: run code that the source names or holds: pickles, Lambda layers, TorchScript.
        opset: of the ONNX file; the exporter's default if None.
    """

    framework: str | None
    weights: str | Path | None
    input_shape: Sequence[int] | None
    trust: bool
    opset: int | None


def export(
    source: str | Path | FrameworkModel,
    *,
    out: str | Path,
    data: str | Path | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    **more: Unpack[ExportKeywords],
) -> Exported:
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
    job = find_settings(place) if settings is None else settings
    if data is not None:
        job = replace(job, data=Path(data))
    name = "model"
    if isinstance(source, str | Path):
        name = str(source)
        weights, shape = more.get("weights"), more.get("input_shape")
        given = LoadOptions(
            weights=None if weights is None else Path(weights),
            input_shape=None if shape is None else tuple(shape),
            trust=more.get("trust", False),
            opset=more.get("opset"),
        )
        source = adapters.load_framework_model(name, given, framework=more.get("framework"))
    return exporting.export(source, place, settings=job, source=name, on_progress=on_progress)


class AttackKeywords(TypedDict, total=False):
    """Further arguments of `attack`.

    Attributes:
        pixel_range: values of the darkest and the brightest pixel in the model's input, if the data
            does not say.
        at_most: images of each part to attack; all if None.
        trust: run code that `repairkit.toml` names or a named source holds.
        accept_preprocessing: continue although images or classes look unlike what the model expects
            (docs/guide/data.md).
    """

    pixel_range: tuple[float, float] | None
    at_most: int | None
    trust: bool
    accept_preprocessing: bool


def attack(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    source: FrameworkModel | Source | None = None,
    method: Pgd | Square | None = None,
    settings: Settings | None = None,
    **more: Unpack[AttackKeywords],
) -> Attacked:
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
