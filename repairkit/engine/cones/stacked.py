"""Rows stacked along the batch, for devices that need much work at once.

Weights on such a device cannot be edited lane by lane, so filters are turned off by masks, a row of
masks for every image. Rows on the same images share the tensors of one base coalition, which
stay on the device: rows whose filters lie in the same sites run one cone together, repeated along
the batch. A stack has a fixed number of rows, the last one filled up, so that shapes are fixed; it
is halved when the device runs out of memory. Runs of another size may round differently.
"""

import logging
from collections import OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, game
from repairkit.core.suite import Array, Indices, Suite
from repairkit.engine import ort
from repairkit.engine.cones.compiled import Compiled
from repairkit.engine.cones.routes import NOTHING_HELD, Routes, Row, SiteDifference
from repairkit.engine.evaluator import Reduce
from repairkit.graph.coalitions.cones import COUNT, Slice, base_name, extract, stack_inputs

logger = logging.getLogger(__name__)

_MOST_SESSIONS = 64


@dataclass(frozen=True)
class _Cone:
    """A session of a slice: `fed` live tensors, `masks` and `constants` are its inputs."""

    session: Any
    fed: tuple[str, ...]
    masks: tuple[str, ...]
    constants: tuple[str, ...]


class _FullError(Exception):
    """The device has no room for a run."""


class _Cones:
    """Cones on a device, run with a row of masks for every image.

    Args:
        compiled: the model.
        routes: of the model.
        device: see `StackedEvaluator`.
        tf32: see `open_session`.
    """

    def __init__(self, compiled: Compiled, routes: Routes, device: str, *, tf32: bool) -> None:
        self.compiled, self.routes, self.device, self.tf32 = compiled, routes, device, tf32
        self._cones: OrderedDict[Slice, _Cone] = OrderedDict()
        self._constants: dict[str, Any] = {}

    def close(self) -> None:
        """Free the memory that the sessions hold."""
        self._cones.clear()

    def run(
        self, piece: Slice, live: dict[str, Any], rows: game.Coalitions, n_images: int
    ) -> dict[str, Any]:
        """A run of stacked rows; the outputs as values, the judged one in main memory."""
        try:
            cone = self._cone(piece)
            binding = cone.session.io_binding()
            # Held until the run is over: the binding alone does not keep their memory.
            inputs = self._inputs(cone, live, rows, n_images)
            for name, value in inputs.items():
                binding.bind_ortvalue_input(name, value)
            for name in piece.outputs:
                at = "cpu" if name == self.routes.anatomy.output else self.device
                binding.bind_output(name, at)
            cone.session.run_with_iobinding(binding)
            values = ort.owned_outputs(binding)
        except Exception as error:
            if ort.out_of_memory(error):
                raise _FullError(str(error).strip().splitlines()[0]) from error
            complaint = ort.runtime_complaint(error)
            if complaint is None:
                raise
            raise errors.ModelError(f"ONNX Runtime fails on {self.device} ({complaint})") from error
        return dict(zip(piece.outputs, values, strict=True))

    def _inputs(
        self, cone: _Cone, live: dict[str, Any], rows: game.Coalitions, n_images: int
    ) -> dict[str, Any]:
        """Everything that a cone is fed, by name."""
        fed = {base_name(name): live[name] for name in cone.fed}
        for name in cone.constants:
            if name not in self._constants:
                held = self.compiled.constants[name].numpy()
                self._constants[name] = self.put(held)
            fed[name] = self._constants[name]
        roster = self.compiled.roster
        for switch in self.compiled.switches:
            if switch.bias in cone.masks:
                present = rows[:, roster.slices[switch.site]].repeat(n_images, axis=0)
                fed[switch.bias] = self.put(present.reshape(len(present), *switch.mask[1:]))
        count = np.array([len(rows)], np.int64)
        fed[COUNT] = ort.as_value(count)
        return fed

    def _cone(self, piece: Slice) -> _Cone:
        if piece in self._cones:
            self._cones.move_to_end(piece)
            return self._cones[piece]
        compiled, anatomy = self.compiled, self.routes.anatomy
        model, names = extract(anatomy, piece, compiled.shapes)
        fed = tuple(anatomy.names_of_all(piece.fed))
        masks = {switch.bias for switch in compiled.switches}
        stacked = stack_inputs(model, fed, compiled.shapes)
        self._cones[piece] = _Cone(
            ort.open_session(stacked, device=self.device, tf32=self.tf32),
            fed,
            tuple(name for name in names if name in masks),
            tuple(name for name in names if name not in masks and name not in fed),
        )
        while len(self._cones) > _MOST_SESSIONS:
            self._cones.popitem(last=False)
        return self._cones[piece]

    def put(self, array: Array) -> Any:
        """An array as a value on the device."""
        return ort.as_value(np.ascontiguousarray(array), self.device)


class StackedEvaluator:
    """A compiled model whose switches are masks, and a suite.

    Args:
        compiled: the model.
        suite: the images.
        device: `cuda`, or `cpu` to take the same steps without a card.
        batch_size: images of one row in a run at the most.
        stack_memory: bytes that a stack may take on the device; a quarter of the card's memory, or
            of the free main memory, if None.
        tf32: see `open_session`.
    """

    def __init__(
        self,
        compiled: Compiled,
        suite: Suite,
        *,
        device: str,
        batch_size: int = 128,
        stack_memory: int | None = None,
        tf32: bool = False,
    ) -> None:
        assert not any(switch.kernel for switch in compiled.switches)
        self.compiled, self.routes = compiled, compiled.routes(overwriting=False)
        self.suite, self.device = suite, device
        self.cones = _Cones(compiled, self.routes, device, tf32=tf32)
        self.batch_size = batch_size
        self.stack_memory = _quarter_of_memory(device) if stack_memory is None else stack_memory
        self.path = f"stacked masks and cones on {device}"
        self._limits: dict[Slice, int] = {}

    def answer(
        self, coalitions: game.Coalitions, images: NDArray[np.intp] | None, reduce: Reduce
    ) -> Array:
        """See `engine.evaluator.Evaluator`.

        Raises:
            DeviceError: not even one row has room on the device.
        """
        all_images = np.arange(len(self.suite))
        groups: dict[bytes, list[int]] = defaultdict(list)
        for number in range(len(coalitions)):
            groups[b"" if images is None else images[number].tobytes()].append(number)
        answers: list[Array | None] = [None] * len(coalitions)
        for numbers in groups.values():
            positions = all_images if images is None else images[numbers[0]]
            parts = [
                self._on_images(coalitions[numbers], piece, reduce)
                for piece in self._pieces(positions)
            ]
            for number, *row in zip(numbers, *parts, strict=True):
                answers[number] = np.concatenate(row)
        return np.stack([answer for answer in answers if answer is not None])

    def _pieces(self, positions: Indices) -> list[Indices]:
        size = self.batch_size
        return [positions[i : i + size] for i in range(0, len(positions), size)]

    def _on_images(self, rows: game.Coalitions, positions: Indices, reduce: Reduce) -> list[Array]:
        """Rows on the same images: the base first, then cone by cone."""
        routes = self.routes
        live = {routes.anatomy.image: self.cones.put(self.suite.batch(positions))}
        alone = len(rows) == 1
        base: Row = np.logical_or.reduce(rows)
        if not alone:
            route = routes.route(NOTHING_HELD, 0, routes.worth_keeping)
            live |= self._with_room(route.piece, live, base[None], len(positions))
        cones: dict[Slice, list[int]] = defaultdict(list)
        for number, row in enumerate(rows):
            difference = NOTHING_HELD
            if not alone:
                difference = SiteDifference(routes.difference(base, row).changed, 0)
            cached = 0 if alone else routes.worth_keeping
            cones[routes.route(difference, cached, 0).piece].append(number)
        answers: dict[int, Array] = {}
        for piece, numbers in cones.items():
            outputs = self._stacks(piece, live, rows[numbers], len(positions))
            kept = [reduce(part, positions) for part in outputs]
            answers |= dict(zip(numbers, kept, strict=True))
        return [answers[number] for number in range(len(rows))]

    def _stacks(
        self, piece: Slice, live: dict[str, Any], rows: game.Coalitions, n_images: int
    ) -> list[Array]:
        """The outputs of every row, from runs of as many rows as the device can hold."""
        outputs: list[Array] = []
        while len(outputs) < len(rows):
            size = self._size(piece, len(rows), n_images)
            stack = rows[len(outputs) : len(outputs) + size]
            real = len(stack)
            filled = np.concatenate([stack, np.repeat(stack[-1:], size - real, axis=0)])
            try:
                values = self._with_room(piece, live, filled, n_images)
            except _FullError:
                self._limits[piece] = size // 2
                logger.info("out of memory: %d rows in a stack in place of %d", size // 2, size)
                continue
            whole = values[self.routes.anatomy.output].numpy()
            outputs += list(whole.reshape(size, -1, *whole.shape[1:]))[:real]
        return outputs

    def _size(self, piece: Slice, n_rows: int, n_images: int) -> int:
        """Rows in a stack: a power of two, so that few shapes occur."""
        if piece not in self._limits:
            made = self.routes.anatomy.made_by(piece)
            needed = max(self.routes.bytes_of(made) * n_images, 1)
            self._limits[piece] = max(1, self.stack_memory // needed)
        wanted = min(self._limits[piece], n_rows)
        return 1 << (wanted.bit_length() - 1)

    def _with_room(
        self, piece: Slice, live: dict[str, Any], rows: game.Coalitions, n_images: int
    ) -> dict[str, Any]:
        """A run; where there is no room for it, the memory that other sessions hold is freed first.

        Raises:
            _FullError: there is still none, and the rows can be fewer.
            DeviceError: there is still none, and it is one row.
        """
        try:
            return self.cones.run(piece, live, rows, n_images)
        except _FullError:
            self.cones.close()
        try:
            return self.cones.run(piece, live, rows, n_images)
        except _FullError as error:
            if len(rows) > 1:
                raise
            raise errors.DeviceError(
                f"{self.device} has no memory for one coalition of {n_images} images "
                f"({error}); use a smaller --batch, or --device cpu"
            ) from error


def _quarter_of_memory(device: str) -> int:
    return ort.quarter_of_card_memory() if device == "cuda" else ort.quarter_of_free_memory()
