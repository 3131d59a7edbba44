"""What every other runtime does for a check: it runs a model on some feeds and says what it is.

Each `ForeignRuntime` states a tolerance: how far its outputs may be from those of ONNX Runtime on
the CPU, relative to the largest number of the output. Sums of 32-bit numbers in another order
differ by some 1e-6. Where a runtime cannot be told to compute in 32 bits, its tolerance is wider.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from repairkit.core import errors, filters
from repairkit.engine import ort
from repairkit.graph import protos
from repairkit.graph.stored.tensors import folder_of

FLOAT_TOLERANCE = 1e-4
"""Of sums of 32-bit numbers that are added in another order."""
HALF_TOLERANCE = 1e-2
"""Of 16-bit numbers, and of 32-bit numbers that a GPU rounds to TF32 (10 bits)."""
CODE_TOLERANCE = 0.1
"""Of integer codes: runtimes round a code that lies between two differently, in every layer."""

_HALVES = (TensorProto.FLOAT16, TensorProto.BFLOAT16)
_MOST_BYTES = "2 GB"
Feeds = Mapping[str, Any]


@dataclass(frozen=True)
class Answered:
    """Outputs of all runs, in the order of the model's outputs, and by what they were computed."""

    runs: list[list[Any]]
    version: str
    how: str


class ForeignRuntime(Protocol):
    """A runtime that is there once it is asked to run something."""

    @property
    def name(self) -> str:
        """As `--runtime` takes it."""
        ...

    @property
    def title(self) -> str:
        """For messages."""
        ...

    @property
    def tolerance(self) -> float:
        """For a model of 32-bit numbers; see the module."""
        ...

    def run(self, model: ModelProto, feeds: Sequence[Feeds]) -> Answered:
        """Run a model once for each of `feeds`.

        Raises:
            DeviceError: the runtime is not installed, or not on this kind of machine.
            ModelError: it cannot load or run the model.
        """
        ...


def tolerance_for(runtime: ForeignRuntime, model: ModelProto) -> float:
    """How far the outputs of this model may be off: wider for 16-bit numbers and for codes."""
    operators = {node.op_type for node in protos.all_nodes(model.graph)}
    if any(o.startswith("QLinear") or "Quantize" in o or o.endswith("Integer") for o in operators):
        return max(runtime.tolerance, CODE_TOLERANCE)
    typed = [tensor.data_type for tensor in model.graph.initializer]
    typed += [value.type.tensor_type.elem_type for value in model.graph.input]
    if any(kind in _HALVES for kind in typed):
        return max(runtime.tolerance, HALF_TOLERANCE)
    return runtime.tolerance


def content_of(model: ModelProto, title: str) -> bytes:
    """The bytes of a model in one piece, as other runtimes take them.

    Raises:
        ModelError: it is too large for that, or its weights were left in another file.
    """
    content = None if folder_of(model) is not None else ort.serialised(model)
    if content is None:
        raise errors.ModelError(
            f"the model is too large to be handed to {title} in one piece; models below "
            f"{_MOST_BYTES} can be"
        )
    return content


def refusal(title: str, doing: str, error: Exception | str) -> errors.ModelError:
    """A runtime's own complaint in one line: `doing` is `load` or `run`."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    said = max(lines, key=len)[:300] if lines else type(error).__name__
    return errors.ModelError(f"{title} cannot {doing} the model ({said})")


# Frozen filters that can be seen from outside


@dataclass(frozen=True, kw_only=True)
class Watched:
    """Some channels of a tensor, that a copy of the model gives as one more output.

    Attributes:
        tensor: where the channels are read.
        axis: along which they lie.
        channels: of this tensor, ascending, none twice.
        output: the name of the new output.
    """

    tensor: str
    axis: int
    channels: tuple[int, ...]
    output: str


def watch(model: ModelProto, tensors: Mapping[str, tuple[int, set[int]]]) -> tuple[Watched, ...]:
    """What to watch of a model: an entry for each tensor, with a name that is not taken.

    Args:
        model: never modified.
        tensors: axis and channels by the name of a tensor.
    """
    taken = {name for node in model.graph.node for name in (*node.input, *node.output)}
    names = (f"frozen_{number}" for number in range(len(taken) + len(tensors)))
    free = (name for name in names if name not in taken)
    return tuple(
        Watched(tensor=tensor, axis=axis, channels=tuple(sorted(channels)), output=next(free))
        for tensor, (axis, channels) in tensors.items()
    )


def with_watched(model: ModelProto, watched: Sequence[Watched]) -> ModelProto:
    """A copy that also gives the watched channels, each tensor's by a `Gather` behind it.

    The whole tensor would be large where a layer has many channels and positions.
    """
    result = protos.copied(model)
    for each in watched:
        indices = f"{each.output}/channels"
        numbers = np.array(each.channels, np.int64)
        result.graph.initializer.append(numpy_helper.from_array(numbers, indices))
        inputs, name = [each.tensor, indices], f"{each.output}/Gather"
        node = helper.make_node("Gather", inputs, [each.output], name, axis=each.axis)
        result.graph.node.append(node)
        result.graph.output.append(helper.make_empty_tensor_value_info(each.output))
    return result


@dataclass(frozen=True)
class Constancy:
    """What a frozen filter gave over all images and positions: how far it ranged, and how far off.

    Attributes:
        filter: that is frozen.
        spread: the greatest difference between its values at one place of the constant.
        offset: the greatest distance from the constant.
        constant: the largest number of the constant, without its sign.
    """

    filter: filters.Filter
    spread: float
    offset: float
    constant: float


def held(frozen: filters.FrozenFilter, site: filters.Site, numbers: Sequence[Any]) -> Constancy:
    """How constant a frozen filter is.

    Args:
        frozen: the filter with its constant.
        site: its site.
        numbers: of each run, what this one channel gave: the site's tensor without the channel
            axis, as numbers and not as codes.
    """
    axis = site.value_axis
    rows = [np.asarray(n, np.float64) for n in numbers]
    if site.n_values is None or axis is None:
        columns = np.concatenate([row.reshape(-1, 1) for row in rows])
    else:
        place = axis - (site.channel_axis < axis)
        moved = [np.moveaxis(row, place, -1) for row in rows]
        columns = np.concatenate([row.reshape(-1, row.shape[-1]) for row in moved])
    wanted = np.atleast_1d(np.asarray(frozen.constant, np.float64))
    return Constancy(
        frozen.filter,
        spread=float(np.ptp(columns, axis=0).max()),
        offset=float(np.abs(columns - wanted).max()),
        constant=float(np.abs(wanted).max()),
    )
