"""A PyTorch model as repairkit sees it; the user's module stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Images, Layer
from repairkit.core.layer_map import LayerMap
from repairkit.formats.patch_file import PatchFile
from repairkit_adapters.pytorch.onnx import write_onnx
from repairkit_adapters.pytorch.plain import in_32_bits, unwrapped
from repairkit_adapters.pytorch.trace import Overwriting, TracedLayer, trace_layers

_TINY = float(np.finfo(np.float32).tiny)


class PyTorchModel:
    """A trained module in evaluation mode, put back into its own mode after every call.

    `module` is the user's own without wrappers, or a copy in 32 bits (`pytorch_plain`).

    Args:
        module: an `nn.Module`, TorchScript included, or the module of an exported program.
        input_shape: of one image.
        opset: of the exported ONNX.
        step: the number of images that one call must have; None where any number goes.
        source: what messages call it.
    """

    framework = "pytorch"

    def __init__(
        self,
        module: Any,
        input_shape: tuple[int, ...],
        *,
        opset: int | None = None,
        step: int | None = None,
        source: str = "model",
    ) -> None:
        self.input_shape = input_shape
        self.opset = opset
        self.step = step
        self.source = source
        self.module = unwrapped(module)
        with self._evaluation():
            self.module = in_32_bits(self.module, self._tensor(self._example()), source)
        self._frozen: tuple[int, NDArray[np.intp], Images] | None = None

    @cached_property
    def traced(self) -> tuple[TracedLayer, ...]:
        """The layers, and where each is called."""
        with self._evaluation():
            return trace_layers(self.module, self._tensor(self._example()))

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Convolutions, in the order of calls."""
        return tuple(t.layer for t in self.traced)

    def outputs(self, images: Images) -> Images:
        """The model's first output, shape (n_images, ...).

        Raises:
            AdapterError: the module cannot take the images.
        """
        if self.step is None:
            return self._outputs(images, slice(0, len(images)))
        parts = []
        for start in range(0, len(images), self.step):
            rows = slice(start, min(start + self.step, len(images)))
            parts.append(self._outputs(images, rows))
        return np.concatenate(parts)

    def _outputs(self, images: Images, rows: slice) -> Images:
        """Outputs of some images, filled up to what one call must have."""
        n_images = rows.stop - rows.start
        wanted = np.arange(rows.start, rows.start + (self.step or n_images))
        chosen = np.minimum(wanted, rows.stop - 1)
        mode: Any = nullcontext()
        if self._frozen is not None:
            call, channels, constants = self._frozen
            mode = Overwriting(call, channels[chosen], constants[chosen])
        with self._evaluation(), torch.no_grad(), mode:
            answer = self._call(self._tensor(images[chosen]))
        found: Images = answer[:n_images].float().cpu().numpy()
        return found

    @contextmanager
    def freezing(self, layer: str, channels: NDArray[np.intp], constants: Images) -> Iterator[None]:
        """While open, image i of a batch has channel `channels[i]` of a layer at `constants[i]`."""
        traced = next((t for t in self.traced if t.layer.name == layer), None)
        if traced is None:
            raise AdapterError(f"{self.source}: there is no layer {layer!r} of filters")
        before = self._frozen
        call = traced.call if traced.norm_call is None else traced.norm_call
        self._frozen = (call, np.asarray(channels), np.asarray(constants, np.float32))
        try:
            yield
        finally:
            self._frozen = before

    def loss_gradients(
        self, images: Images, labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], Images]:
        """Each image's cross-entropy for a label, shape (n_images,), and its gradient.

        Outputs that are no less than 0 and add up to 1 are taken for probabilities, others for
        logits. A single output is that of class 1.
        """
        step = self.step or len(images)
        losses, gradients = [], []
        for start in range(0, len(images), step):
            part, wanted = images[start : start + step], labels[start : start + step]
            real = len(part)
            rows = np.minimum(np.arange(step), real - 1)
            with self._evaluation(), torch.enable_grad():
                tensor = self._tensor(part[rows]).requires_grad_()
                answer = self._call(tensor)
                target = torch.from_numpy(np.asarray(wanted[rows], np.int64)).to(answer.device)
                loss = _cross_entropy(answer, target)
                (gradient,) = torch.autograd.grad(loss[:real].sum(), tensor)
            losses.append(loss.detach()[:real].double().cpu().numpy())
            gradients.append(gradient[:real].float().cpu().numpy())
        return np.concatenate(losses), np.concatenate(gradients)

    def conductance(
        self, images: Images, labels: NDArray[np.intp]
    ) -> dict[str, NDArray[np.float64]]:
        """See `pytorch_conductance.layer_conductance`, which needs Captum."""
        from repairkit_adapters.pytorch.conductance import layer_conductance

        return layer_conductance(self, images, labels)

    def first_order(
        self,
        images: Images,
        labels: NDArray[np.intp],
        constants: Mapping[str, NDArray[np.float64]],
    ) -> dict[str, NDArray[np.float32]]:
        """See `pytorch_gradients.first_order_changes`."""
        from repairkit_adapters.pytorch.gradients import first_order_changes

        return first_order_changes(self, images, labels, constants)

    def patched(self, file: PatchFile, layers: LayerMap) -> PyTorchModel:
        """A copy with the filters of a patch frozen; the module itself stays as it is.

        Args:
            file: the patch.
            layers: which channel of which layer each filter is; unproven ones are frozen too, so
                compare outputs afterwards.

        Raises:
            AdapterError: the map does not tell of a filter, or the module does not fit it.
        """
        from repairkit_adapters.pytorch.patch import freeze_patch  # it needs this class

        module = freeze_patch(
            copy.deepcopy(self.module), file, layers, parametrize=False, unproven=True
        )
        return PyTorchModel(
            module, self.input_shape, opset=self.opset, step=self.step, source=self.source
        )

    def export(self, path: Path) -> None:
        """Write the model as ONNX with a free batch size.

        Raises:
            ExportError: a layer cannot be exported; the message names it and says what to do.
        """
        with self._evaluation():
            write_onnx(
                self.module,
                self._tensor(self._example()),
                path,
                opset=self.opset,
                fixed=self.step is not None,
                source=self.source,
            )

    def _example(self) -> Images:
        rng = np.random.default_rng(0)
        return rng.standard_normal((self.step or 2, *self.input_shape)).astype(np.float32)

    def _call(self, tensor: Any) -> Any:
        """The first output, with one row per image."""
        try:
            answer = self.module(tensor)
        except (RuntimeError, TypeError, ValueError, IndexError, NotImplementedError) as error:
            line = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise AdapterError(
                f"{self.source}: cannot take images of shape {self.input_shape} ({line}); give "
                "the right --input-shape, without the batch"
            ) from error
        leaves = torch.utils._pytree.tree_leaves(answer)
        found = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
        if not found or found[0].dim() == 0 or len(found[0]) != len(tensor):
            raise AdapterError(
                f"{self.source}: gives no tensor with one row per image as its first output"
            )
        return found[0]

    def _tensor(self, images: Images) -> Any:
        weights = next(self.module.parameters(), None)
        tensor = torch.from_numpy(np.ascontiguousarray(images, np.float32))
        return tensor if weights is None else tensor.to(weights.device)

    @contextmanager
    def _evaluation(self) -> Iterator[None]:
        """While open, every part of the module is in evaluation mode, and nothing is compiled."""
        parts = [part for part in self.module.modules() if part.training]
        for part in parts:
            part.training = False
        try:
            with torch.compiler.set_stance("force_eager"):
                yield
        finally:
            for part in parts:
                part.training = True


def _cross_entropy(answer: Any, labels: Any) -> Any:
    """Per image; see `PyTorchModel.loss_gradients`."""
    scores = answer.reshape(len(answer), -1)
    if scores.shape[1] == 1:
        column, wanted = scores[:, 0], labels.to(scores.dtype)
        if bool(((column >= 0) & (column <= 1)).all()):
            right = torch.where(labels == 1, column, 1 - column)
            return -torch.log(right.clamp_min(_TINY))
        return torch.nn.functional.binary_cross_entropy_with_logits(
            column, wanted, reduction="none"
        )
    sums = scores.detach().sum(1)
    if bool((scores >= 0).all()) and bool((sums - 1).abs().max() < 1e-3):
        right = scores.gather(1, labels[:, None])[:, 0]
        return -torch.log(right.clamp_min(_TINY))
    return torch.nn.functional.cross_entropy(scores, labels, reduction="none")
