"""Run models in ONNX Runtime, without repairkit's own engine in the way, or open them for it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnxruntime
from onnx import ModelProto

from repairkit.core.filters import FilterMeans, FrozenFilter, Patch, Roster, Site
from repairkit.engine.runner import OpenModel
from repairkit.graph.coalitions.masking import mask_name, mask_shape
from repairkit.graph.coalitions.rebatch import fixed_batch


def run(model: ModelProto, feeds: dict[str, Any], *, optimise: bool = False) -> list[Any]:
    """All outputs of a model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run(None, feeds)


def all_present(sites: tuple[Site, ...]) -> dict[str, Any]:
    """Masks under which every filter computes as trained."""
    return {mask_name(site): np.ones(mask_shape(site, 1), bool) for site in sites}


def random_levels(sites: tuple[Site, ...], seed: int = 0) -> FilterMeans:
    """Levels to freeze at, of the size of a typical activation."""
    rng = np.random.default_rng(seed)
    return {s.name: rng.standard_normal(s.n_channels).astype(np.float32) for s in sites}


def frozen_players(
    sites: tuple[Site, ...], levels: FilterMeans, players: list[int]
) -> tuple[Patch, dict[str, Any]]:
    """A patch that freezes some players at their levels, and the masks that do the same."""
    masks = all_present(sites)
    chosen = [Roster(sites).filters[player] for player in players]
    for f in chosen:
        masks[f"{f.site}/mask"].reshape(-1)[f.channel] = False
    frozen = tuple(FrozenFilter(f, float(levels[f.site][f.channel])) for f in chosen)
    return Patch(frozen), masks


def input_name(model: ModelProto) -> str:
    """The image input."""
    stored = {t.name for t in model.graph.initializer}
    return next(i.name for i in model.graph.input if i.name not in stored)


def opened(model: ModelProto, output: str | None = None) -> OpenModel:
    """A model to be run as its input declares; its first output is judged unless one is named."""
    image = input_name(model)
    return OpenModel(
        model=model,
        image=image,
        output=output or model.graph.output[0].name,
        step=fixed_batch(model, image),
    )


def interface(model: ModelProto) -> dict[str, tuple[object, ...]]:
    """The name, shape and type of each initializer."""
    return {t.name: (tuple(t.dims), t.data_type) for t in model.graph.initializer}


def only_numbers_differ(before: ModelProto, after: ModelProto) -> bool:
    """Whether two models are equal but for what their initializers hold: all that a refit takes."""
    parts = ("node", "input", "output", "value_info", "sparse_initializer")
    same = all(list(getattr(before.graph, p)) == list(getattr(after.graph, p)) for p in parts)
    return same and interface(before) == interface(after)
