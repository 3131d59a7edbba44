"""The map from framework layers to sites, in a model's metadata; patching leaves it there."""

from __future__ import annotations

import json
import logging

from onnx import ModelProto

from repairkit.core.layer_map import LayerMap

METADATA_KEY = "repairkit.layers"

logger = logging.getLogger(__name__)


def read_layer_map(model: ModelProto) -> LayerMap | None:
    """The map in a model's metadata; None where there is none.

    One that is broken costs names and nothing else, so it is left out with a warning.
    """
    texts = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    if not texts:
        return None
    try:
        return LayerMap.from_json(json.loads(texts[0]))
    except (ValueError, RecursionError) as error:
        logger.warning(
            "the model's %s metadata is broken (%s): layers go without their names; export the "
            "model anew",
            METADATA_KEY,
            error,
        )
        return None


def write_layer_map(model: ModelProto, layers: LayerMap) -> None:
    """Put a map into a model's metadata, in place of the one that is there."""
    entry = next((p for p in model.metadata_props if p.key == METADATA_KEY), None)
    entry = model.metadata_props.add(key=METADATA_KEY) if entry is None else entry
    entry.value = json.dumps(layers.to_json(), separators=(",", ":"))
