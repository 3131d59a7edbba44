"""What repairkit writes into a model's metadata: the framework's layers, and patches made to it.

Patching leaves the map of layers as it is.
"""

import json
import logging
from collections.abc import Sequence
from typing import Any

from onnx import ModelProto

from repairkit.core import errors, framework

LAYERS_KEY = "repairkit.layers"

logger = logging.getLogger(__name__)


def read_layer_map(model: ModelProto) -> framework.LayerMap | None:
    """The map in a model's metadata; None where there is none.

    A broken map is ignored with a warning, because only names are lost.
    """
    texts = [p.value for p in model.metadata_props if p.key == LAYERS_KEY]
    if not texts:
        return None
    try:
        return framework.LayerMap.from_json(json.loads(texts[0]))
    except (ValueError, RecursionError) as error:
        logger.warning(
            "the model's %s metadata is broken (%s): layers go without their names; export the "
            "model anew",
            LAYERS_KEY,
            error,
        )
        return None


def write_layer_map(model: ModelProto, layers: framework.LayerMap) -> None:
    """Put a map into a model's metadata, in place of an older one."""
    entry = next((p for p in model.metadata_props if p.key == LAYERS_KEY), None)
    entry = model.metadata_props.add(key=LAYERS_KEY) if entry is None else entry
    entry.value = json.dumps(layers.to_json(), separators=(",", ":"))


PATCHES_KEY = "repairkit.patches"


def read_claims(model: ModelProto) -> list[dict[str, Any]]:
    """What a model's metadata says about the patches made to it, oldest first.

    Raises:
        VerificationError: the entry is not what repairkit writes.
    """
    texts = [p.value for p in model.metadata_props if p.key == PATCHES_KEY]
    if not texts:
        return []
    try:
        claims = json.loads(texts[0])
    except (ValueError, RecursionError) as error:
        raise errors.VerificationError(f"the model's {PATCHES_KEY} metadata is broken") from error
    if not isinstance(claims, list) or not all(isinstance(c, dict) for c in claims):
        raise errors.VerificationError(f"the model's {PATCHES_KEY} metadata is broken")
    return claims


def write_claims(model: ModelProto, claims: Sequence[dict[str, Any]]) -> None:
    """Replace the metadata about patches, in place; without claims it is removed."""
    kept = [p for p in model.metadata_props if p.key == PATCHES_KEY]
    if not claims:
        for entry in kept:
            model.metadata_props.remove(entry)
        return
    entry = kept[0] if kept else model.metadata_props.add(key=PATCHES_KEY)
    entry.value = json.dumps(list(claims), separators=(",", ":"), sort_keys=True)
