"""Change the stored numbers of a model, keep what undoing each change needs, and undo it.

What a change is about (a layer, a tree, the last layer) is not known here, only where the numbers
are stored: in an initializer, a `Constant` node, or a list attribute of a node.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from repairkit.core import errors, filters, suite
from repairkit.graph.protos import DEFAULTS_SINCE, GraphIndex, attribute, copied, fresh_name
from repairkit.graph.stored.constants import Constants, Write, stored_tensor, why_copied
from repairkit.graph.stored.tensors import array_of, runs_of, store

_FLOAT = np.dtype("<f4")


class Editor:
    """Changes a copy of the model that is indexed, and lists the edits."""

    def __init__(self, index: GraphIndex) -> None:
        self.index, self.constants = index, Constants(index)
        self.model = copied(index.model)
        self.edits: list[filters.TensorEdit] = []

    def apply(self, changes: Sequence[filters.Change]) -> None:
        """Make some changes, in order."""
        for change in changes:
            if isinstance(change, filters.AddedTensor):
                self._add(change)
            elif isinstance(change, filters.ListChange):
                self._write_list(change)
            else:
                self._write(change)

    def _write(self, change: filters.TensorChange) -> None:
        """Put values into the tensor that a node reads; a shared or computed one is cloned."""
        write = in_place(self.constants, change)
        if isinstance(write, str):
            name = self.index.nodes[change.node].input[change.slot]
            array = self.constants.array(name).copy()
            array.reshape(-1)[change.positions] = change.values
            self._add(
                filters.AddedTensor(
                    node=change.node, slot=change.slot, array=array, name=change.clone
                )
            )
            return
        tensor = stored_tensor(self.model, write.storage.kind, write.storage.name)
        assert tensor is not None
        old = store(tensor, write.positions, write.values)
        runs = tuple(runs_of(write.positions))
        self.edits.append(
            filters.TensorEdit(
                kind=write.storage.kind, tensor=write.storage.name, runs=runs, old=old
            )
        )

    def _add(self, change: filters.AddedTensor) -> None:
        """A new initializer, read by a node at `slot` instead of what it read before."""
        fresh = fresh_name(change.name, self.index.names | {edit.tensor for edit in self.edits})
        slot, reader = change.slot, self.model.graph.node[change.node]
        replaces = reader.input[slot] if len(reader.input) > slot else None
        if len(reader.input) > slot:
            reader.input[slot] = fresh
        else:
            reader.input.append(fresh)
        tensor = numpy_helper.from_array(change.array, fresh)
        self.model.graph.initializer.append(tensor)
        if (
            self.model.ir_version < DEFAULTS_SINCE
        ):  # which requires that an initializer is an input too
            self.model.graph.input.append(
                helper.make_tensor_value_info(fresh, tensor.data_type, change.array.shape)
            )
        self.edits.append(
            filters.TensorEdit(
                kind="added", tensor=fresh, node=reader.output[0], slot=slot, replaces=replaces
            )
        )

    def _write_list(self, change: filters.ListChange) -> None:
        """Put values into a list of numbers that is an attribute of a node."""
        node = self.model.graph.node[change.node]
        held = attribute(node, change.name)
        assert held is not None
        runs = tuple(runs_of(change.positions))
        old = _put(held, change.positions, change.values)
        self.edits.append(
            filters.TensorEdit(
                kind="attribute", tensor=held.name, runs=runs, old=old, node=node.output[0]
            )
        )


def in_place(constants: Constants, change: filters.TensorChange) -> Write | str:
    """What to write into the tensor that a node reads; or why a copy has to take its place."""
    name = constants.index.nodes[change.node].input[change.slot]
    write = constants.write(name, change.positions, change.values)
    if write is None or write.storage.shared:
        return why_copied(constants.index, name)
    return write


def _put(held: AttributeProto, positions: suite.Array, values: suite.Array) -> bytes:
    """Put values at flat positions of an attribute; returns the bytes that were there."""
    if held.type == AttributeProto.TENSOR:
        return store(held.t, positions.astype(np.int64), values)
    old = np.array([held.floats[p] for p in positions.tolist()], _FLOAT)
    for position, value in zip(positions.tolist(), values.tolist(), strict=True):
        held.floats[position] = value
    return old.tobytes()


# Undoing


def undo(model: ModelProto, edit: filters.TensorEdit) -> None:
    """Undo an edit in place.

    Raises:
        VerificationError: the model does not hold what the edit names.
    """
    if edit.kind == "added":
        _remove(model, edit)
    elif edit.kind == "attribute":
        _restore_list(model, edit)
    else:
        _restore(model, edit)


def _remove(model: ModelProto, edit: filters.TensorEdit) -> None:
    graph = model.graph
    node = next((n for n in graph.node if n.output and n.output[0] == edit.node), None)
    if node is None or not 0 <= edit.slot < len(node.input) or node.input[edit.slot] != edit.tensor:
        raise errors.VerificationError(
            f"the model has no added tensor {edit.tensor!r} to take back"
        )
    if edit.replaces is not None:
        node.input[edit.slot] = edit.replaces
    else:
        del node.input[edit.slot]
    for values in (graph.initializer, graph.input):
        for position in reversed(range(len(values))):
            if values[position].name == edit.tensor:
                del values[position]


def _restore(model: ModelProto, edit: filters.TensorEdit) -> None:
    tensor = _edited(model, edit)
    array = array_of(tensor)
    store(tensor, *_old_numbers(edit, array.size, array.dtype))


def _edited(model: ModelProto, edit: filters.TensorEdit) -> TensorProto:
    tensor = stored_tensor(model, edit.kind, edit.tensor)
    if tensor is None:
        raise errors.VerificationError(f"the model has no stored tensor {edit.tensor!r}")
    return tensor


def _old_numbers(
    edit: filters.TensorEdit, size: int, dtype: np.dtype[np.generic]
) -> tuple[NDArray[np.int64], suite.Array]:
    """Flat positions in a tensor or list of `size` numbers, and the numbers that stood there."""
    # Counted before anything is allocated: the patch file is not trusted.
    ends = [0, *(end for run in edit.runs for end in run)]
    n_numbers = sum(stop - start for start, stop in edit.runs)
    fits = ends == sorted(ends) and 0 < n_numbers <= size and ends[-1] <= size
    if not fits or len(edit.old) != n_numbers * dtype.itemsize:
        what = "list" if edit.kind == "attribute" else "tensor"
        raise errors.VerificationError(
            f"the old bytes kept for {edit.tensor!r} do not fit the {what}"
        )
    positions = np.concatenate([np.arange(start, stop) for start, stop in edit.runs])
    return positions.astype(np.int64), np.frombuffer(edit.old, dtype)


def _restore_list(model: ModelProto, edit: filters.TensorEdit) -> None:
    maker = next((node for node in model.graph.node if edit.node in node.output), None)
    held = None if maker is None else attribute(maker, edit.tensor)
    if held is None or held.type not in (AttributeProto.TENSOR, AttributeProto.FLOATS):
        raise errors.VerificationError(
            f"the model has no list {edit.tensor!r} in the node that makes {edit.node!r}"
        )
    is_tensor = held.type == AttributeProto.TENSOR
    old = numpy_helper.to_array(held.t) if is_tensor else np.array(held.floats, _FLOAT)
    _put(held, *_old_numbers(edit, old.size, old.dtype))


def changes_nothing(edit: filters.TensorEdit, model: ModelProto, patched: ModelProto) -> bool:
    """Whether an edit that made `patched` of `model` left every number as it was."""
    if edit.kind != "added":
        new = array_of(_edited(patched, edit)).reshape(-1)
        return b"".join(new[start:stop].tobytes() for start, stop in edit.runs) == edit.old
    before, after = (Constants(GraphIndex(m)) for m in (model, patched))
    array = after.array(edit.tensor)
    if not edit.replaces:
        return not array.tobytes().strip(b"\0")
    return before.array(edit.replaces).tobytes() == array.tobytes()
