"""`repairkit export`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from repairkit import api
from repairkit.cli.options.answer import Answer
from repairkit.cli.options.groups import argument, only, option
from repairkit.cli.options.job import PREPARATION, Job, settle_without_model
from repairkit.cli.options.source import read_shape


@dataclass(frozen=True, kw_only=True)
class Exporting:
    """A framework's model, how it is loaded, and where the result goes."""

    source: str = argument(
        "module:factory, a .pt2 program or TorchScript of PyTorch; a saved Keras model.",
        "SOURCE",
        default=...,
    )
    out: Path | None = option("Result; SOURCE.onnx.", "-o", "--out")
    framework: str | None = option("pytorch, keras or another adapter's name.")
    weights: Path | None = option("State dict for a factory (safetensors or torch.save).")
    input_shape: str | None = option("Of one image as the model takes it, as 3,224,224.")
    opset: int | None = option("Of the ONNX file.", min=7)


def export_command(
    exporting: Exporting,
    job: Annotated[Job, only("trust", "data", "output", *PREPARATION)],
    answer: Answer,
) -> None:
    """Write a model of PyTorch or Keras as ONNX, with a proven map of its layers."""
    from repairkit.cli.shown.results import print_exported

    out = exporting.out or Path(f"{_stem(exporting.source)}.onnx")
    exported = api.export(
        exporting.source,
        out=out,
        settings=settle_without_model(job, out),
        framework=exporting.framework,
        weights=exporting.weights,
        input_shape=read_shape(exporting.input_shape),
        trust=job.trust,
        opset=exporting.opset,
    )
    answer.give(exported.to_json, lambda: print_exported(exported))


def _stem(source: str) -> str:
    path, colon, name = source.rpartition(":")
    return name.rpartition(".")[2] if colon and path else Path(source).stem
