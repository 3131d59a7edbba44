"""A PyTorch model as repairkit sees it; the user's module stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Images, Layer
from repairkit.core.layer_map import LayerMap
from repairkit_adapters.pytorch import gradients
from repairkit_adapters.pytorch.frozen_modules import freeze_channels
from repairkit_adapters.pytorch.modules import ready_module
from repairkit_adapters.pytorch.onnx import write_onnx
from repairkit_adapters.pytorch.trace import (
    Overwriting,
    TracedLayer,
    modules_of_layers,
    trace_layers,
)
from repairkit_adapters.way_back import PatchSource, find_channels


class PyTorchModel:
    """A trained module in evaluation mode; keeps `FrameworkModel`.

    Args:
        module: an `nn.Module`, TorchScript included, or the module of an exported program.
        input_shape: of one image.
        opset: of the exported ONNX; the exporter's own choice if None.
        step: the number of images that one call must have; None where any number goes.
        source: what messages call it.
    """

    framework = "pytorch"

    def __init__(
        self,
        module: torch.nn.Module,
        input_shape: tuple[int, ...],
        *,
        opset: int | None = None,
        step: int | None = None,
        source: str = "model",
    ) -> None:
        self.opset = opset
        self._ready = ready_module(module, input_shape, step=step, source=source)
        self._frozen: tuple[int, NDArray[np.intp], Images] | None = None

    @property
    def input_shape(self) -> tuple[int, ...]:
        return self._ready.input_shape

    @property
    def step(self) -> int | None:
        """The number of images that one call must have; None where any number goes."""
        return self._ready.step

    @cached_property
    def traced(self) -> tuple[TracedLayer, ...]:
        """The layers, and where each is called."""
        return trace_layers(self._ready)

    @property
    def layers(self) -> tuple[Layer, ...]:
        """Convolutions, in the order of calls."""
        return tuple(each.layer for each in self.traced)

    def outputs(self, images: Images) -> Images:
        """The model's first output, shape (n_images, ...).

        Raises:
            AdapterError: the module cannot take the images.
        """
        parts: list[Images] = []
        for rows, n_real in self._ready.batches(len(images)):
            changed = nullcontext()
            if self._frozen is not None:
                call, channels, constants = self._frozen
                changed = Overwriting(call, channels[rows], constants[rows])
            with self._ready.evaluation(), torch.no_grad(), changed:
                answer = self._ready(self._ready.tensor(images[rows]))
            parts.append(answer[:n_real].float().cpu().numpy())
        return np.concatenate(parts)

    @contextmanager
    def freezing(self, layer: str, channels: NDArray[np.intp], constants: Images) -> Iterator[None]:
        """While open, image i of a batch has channel `channels[i]` of a layer at `constants[i]`."""
        traced = next((each for each in self.traced if each.layer.name == layer), None)
        if traced is None:
            raise AdapterError(f"{self._ready.source}: there is no layer {layer!r} of filters")
        before = self._frozen
        self._frozen = (
            traced.read_call,
            np.asarray(channels),
            np.asarray(constants, np.float32),
        )
        try:
            yield
        finally:
            self._frozen = before

    def loss_gradients(
        self, images: Images, labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], Images]:
        """See `gradients.loss_gradients`."""
        return gradients.loss_gradients(self._ready, images, labels)

    def conductance(
        self, images: Images, labels: NDArray[np.intp]
    ) -> dict[str, NDArray[np.float64]]:
        """See `gradients.layer_conductance`, which needs Captum."""
        modules = modules_of_layers(self._ready.module, self.traced)
        return gradients.layer_conductance(self._ready, modules, images, labels)

    def first_order(
        self,
        images: Images,
        labels: NDArray[np.intp],
        constants: Mapping[str, NDArray[np.float64]],
    ) -> dict[str, NDArray[np.float32]]:
        """See `gradients.first_order_changes`."""
        modules = modules_of_layers(self._ready.module, self.traced)
        return gradients.first_order_changes(self._ready, modules, images, labels, constants)

    def patched(self, patch: PatchSource, layers: LayerMap) -> PyTorchModel:
        """A copy with the filters of a patch frozen; the module itself stays as it is.

        Args:
            patch: the patch.
            layers: which channel of which layer each filter is; unproven ones are frozen too, so
                compare outputs afterwards.

        Raises:
            AdapterError: the map does not know a filter, or the module does not fit it.
        """
        channels = find_channels(patch, layers, framework=self.framework, unproven=True).channels
        module = copy.deepcopy(self._ready.module)
        freeze_channels(module, self.traced, channels, parametrize=False)
        return PyTorchModel(
            module,
            self.input_shape,
            opset=self.opset,
            step=self.step,
            source=self._ready.source,
        )

    def export(self, path: Path) -> None:
        """Write the model as ONNX with a free batch size.

        Raises:
            ExportError: a layer cannot be exported; the message names it and says what to do.
        """
        with self._ready.evaluation():
            write_onnx(self._ready, path, opset=self.opset)
