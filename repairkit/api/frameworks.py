"""What needs a framework beside the ONNX file: exports and attacks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from repairkit.api.jobs import open_job
from repairkit.attacks import Pgd, Square
from repairkit.core.framework import FrameworkModel, LoadOptions
from repairkit.data import find_project
from repairkit.jobs.attack import attacking
from repairkit.jobs.attack.attacking import Attacked, AttackSettings
from repairkit.jobs.export import exporting
from repairkit.jobs.export.adapters import load_framework_model
from repairkit.jobs.export.exporting import Exported
from repairkit.jobs.setup.settings import Settings, settle


def export(
    source: str | Path | FrameworkModel,
    *,
    out: str | Path,
    data: str | Path | None = None,
    framework: str | None = None,
    weights: str | Path | None = None,
    input_shape: Sequence[int] | None = None,
    trust: bool = False,
    opset: int | None = None,
    settings: Settings | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Exported:
    """Write a model of PyTorch or Keras as ONNX with a map of its layers, as `repairkit export`.

    Args:
        source: see `repairkit export --help`; or a model that an adapter holds, such as
            `repairkit_adapters.pytorch.wrap(module, (3, 224, 224))`.
        out: the ONNX file; the map goes beside it, and into its metadata.
        data: images on which outputs are compared; those of the settings if None, else noise.
        framework: an adapter's name; whoever takes the source if None.
        weights: a state dict for a factory.
        input_shape: of one image as the model takes it, where it does not tell itself.
        trust: run code that the source names or holds: pickles, Lambda layers, TorchScript.
        opset: of the ONNX file; the exporter's own choice if None.
        settings: preprocessing and more; what `repairkit.toml` says if None.
        on_progress: told how many filters are mapped, and of how many.

    Raises:
        AdapterError: the source, its weights or the framework is missing or unfit.
        ExportError: a layer cannot be exported, or the ONNX file computes something else.
        RepairkitError: anything else that the user can mend.
    """
    place = Path(out)
    job = settle({}, find_project(place, Path.cwd())) if settings is None else settings
    if data is not None:
        job = replace(job, data=Path(data))
    name = "model"
    if isinstance(source, str | Path):
        name = str(source)
        given = LoadOptions(
            None if weights is None else Path(weights),
            None if input_shape is None else tuple(input_shape),
            trust,
            opset,
        )
        source = load_framework_model(name, given, framework=framework)
    return exporting.export(source, place, settings=job, source=name, on_progress=on_progress)


def attack(
    model: str | Path,
    data: str | Path | None = None,
    *,
    out: str | Path,
    source: FrameworkModel | None = None,
    method: Pgd | Square | None = None,
    pixel_range: tuple[float, float] | None = None,
    at_most: int | None = None,
    settings: Settings | None = None,
    accept_preprocessing: bool = False,
) -> Attacked:
    """Make images that fool a model, as `repairkit attack` does.

    Args:
        model: an ONNX file.
        data: images; see `score`.
        out: the `.npz` that clean and adversarial images go to.
        source: the framework's model that gives gradients, as an adapter makes it.
        method: `Pgd` where there is a source and `Square` where there is none, if None.
        pixel_range: what the darkest and the brightest pixel are in the model's input, where the
            data does not tell.
        at_most: images attacked of each part; all if None.
        settings: preprocessing, parts, seed; see `score`.
        accept_preprocessing: go on where images or classes are hardly as the model expects
            (docs/guide/data.md).

    Raises:
        RepairkitError: anything that the user can mend.
    """
    subject, job = open_job(model, data, settings, accept_preprocessing=accept_preprocessing)
    if method is None:
        method = Square() if source is None else Pgd()
    how = AttackSettings(method, pixel_range, at_most)
    named = None if source is None else (type(source).__name__, source)
    return attacking.attack(subject, job, how, out=Path(out), source=named)
