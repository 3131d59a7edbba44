"""A PyTorch model as a `FrameworkModel`, with its gradients; the module is not changed."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from repairkit.core.errors import AdapterError
from repairkit.core.framework import Images, Layer, LayerMap
from repairkit_adapters.pytorch import trace
from repairkit_adapters.pytorch.modules import ImageModule, ready_module, write_onnx
from repairkit_adapters.way_back import PatchSource, find_channels

_STEPS = 20  # of the path that conductance is integrated on
_BATCH = 32
_TINY = float(np.finfo(np.float32).tiny)


class PyTorchModel:
    """A trained module in evaluation mode, as a `FrameworkModel`.

    Args:
        module: an `nn.Module`, TorchScript included, or the module of an exported program.
        input_shape: of one image.
        opset: of the exported ONNX; the exporter's default if None.
        step: the required number of images per call; None if any number works.
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
        self.input_shape, self.step = input_shape, step
        self._ready = ready_module(module, input_shape, step=step, source=source)
        self._frozen: tuple[int, NDArray[np.bool_], Images] | None = None

    @cached_property
    def traced(self) -> tuple[trace.TracedLayer, ...]:
        """The layers and their calls."""
        return trace.trace_layers(self._ready)

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
                call, frozen, constants = self._frozen
                changed = trace.overwriting(call, frozen[rows], constants[rows])
            with self._ready.evaluation(), torch.no_grad(), changed:
                answer = self._ready(self._ready.tensor(images[rows]))
            parts.append(answer[:n_real].float().cpu().numpy())
        return np.concatenate(parts)

    def channel_values(self, images: Images) -> dict[str, Images]:
        """See `channel_values`."""
        return channel_values(self._ready, self.traced, images)

    def freezing(
        self, layer: str, channels: NDArray[np.intp], constants: Images
    ) -> AbstractContextManager[None]:
        """While open, image i of a batch has channel `channels[i]` of a layer at `constants[i]`."""
        frozen = np.asarray(channels)[:, None] == np.arange(self._traced(layer).layer.n_channels)
        return self._holding(layer, frozen, np.asarray(constants, np.float32)[:, None])

    def freezing_many(
        self, layer: str, frozen: NDArray[np.bool_], constants: Images
    ) -> AbstractContextManager[None]:
        """While open, some channels of each image are at their constants; see `Readable`."""
        return self._holding(layer, frozen, np.asarray(constants, np.float32)[None])

    @contextmanager
    def _holding(self, layer: str, frozen: NDArray[np.bool_], constants: Images) -> Iterator[None]:
        before = self._frozen
        call = self._traced(layer).read_call
        self._frozen = (call, frozen, np.broadcast_to(constants, frozen.shape))
        try:
            yield
        finally:
            self._frozen = before

    def _traced(self, layer: str) -> trace.TracedLayer:
        traced = next((each for each in self.traced if each.layer.name == layer), None)
        if traced is None:
            raise AdapterError(f"{self._ready.source}: there is no layer {layer!r} of filters")
        return traced

    def loss_gradients(
        self, images: Images, labels: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], Images]:
        """See `loss_gradients`."""
        return loss_gradients(self._ready, images, labels)

    def conductance(
        self, images: Images, labels: NDArray[np.intp]
    ) -> dict[str, NDArray[np.float64]]:
        """See `layer_conductance`, which needs Captum."""
        modules = trace.modules_of_layers(self._ready.module, self.traced)
        return layer_conductance(self._ready, modules, images, labels)

    def first_order(
        self,
        images: Images,
        labels: NDArray[np.intp],
        constants: Mapping[str, NDArray[np.float64]],
    ) -> dict[str, NDArray[np.float32]]:
        """See `first_order_changes`."""
        modules = trace.modules_of_layers(self._ready.module, self.traced)
        return first_order_changes(self._ready, modules, images, labels, constants)

    def excitations(
        self, images: Images, layer: str, channels: NDArray[np.intp], *, at: str
    ) -> tuple[NDArray[np.float64], Images]:
        """See `channel_slopes`, and `Exciting`."""
        modules = trace.modules_of_layers(self._ready.module, self.traced)
        module = modules.get(self._traced(layer).layer.name)
        return channel_slopes(self._ready, module, images, channels, at=at)

    def patched(self, patch: PatchSource, layers: LayerMap) -> "PyTorchModel":
        """A copy with the filters of a patch frozen; the module itself is not changed.

        Args:
            patch: the patch.
            layers: which channel of which layer each filter is; unproven ones are frozen too, so
                compare outputs afterwards.

        Raises:
            AdapterError: the map does not know a filter, or the module does not fit it.
        """
        channels = find_channels(patch, layers, framework=self.framework, unproven=True).channels
        module = copy.deepcopy(self._ready.module)
        trace.freeze_channels(module, self.traced, channels, parametrize=False)
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


def channel_values(
    model: ImageModule, layers: Sequence[trace.TracedLayer], images: Images
) -> dict[str, Images]:
    """What the channels of each layer hold, (n_images, n_channels, ...) by layer's name.

    Without layers that see several parts of each image.
    """
    names = {each.read_call: each.layer.name for each in layers}
    values: dict[str, list[Images]] = {}
    for rows, n_real in model.batches(len(images)):
        kept: dict[int, Images] = {}

        def keep(call: int, out: torch.Tensor, kept: dict[int, Images] = kept) -> None:
            if call in names:
                kept[call] = out.float().cpu().numpy().copy()  # it may be overwritten later

        with model.evaluation(), torch.no_grad(), trace.at_layers(keep):
            model(model.tensor(images[rows]))
        for call, numbers in kept.items():
            if len(numbers) == len(rows):
                values.setdefault(names[call], []).append(numbers[:n_real])
    return {name: np.concatenate(parts) for name, parts in values.items()}


def loss_gradients(
    model: ImageModule, images: Images, labels: NDArray[np.intp]
) -> tuple[NDArray[np.float64], Images]:
    """Each image's cross-entropy for a label, shape (n_images,), and its gradient.

    Outputs that are at least 0 and add up to 1 count as probabilities, others as logits. A single
    output belongs to class 1.
    """
    losses, gradients = [], []
    for rows, n_real in model.batches(len(images)):
        with model.evaluation(), torch.enable_grad():
            tensor = model.tensor(images[rows]).requires_grad_()
            loss = _losses(model(tensor), labels[rows])
            (gradient,) = torch.autograd.grad(loss[:n_real].sum(), tensor)
        losses.append(loss.detach()[:n_real].double().cpu().numpy())
        gradients.append(gradient[:n_real].float().cpu().numpy())
    return np.concatenate(losses), np.concatenate(gradients)


def first_order_changes(
    model: ImageModule,
    modules: Mapping[str, torch.nn.Module],
    images: Images,
    labels: NDArray[np.intp],
    constants: Mapping[str, NDArray[np.float64]],
) -> dict[str, NDArray[np.float32]]:
    """The change of an image's log-likelihood if one channel were held at a constant.

    It is the sum over positions of (constant - output) times the gradient: the first term of a
    Taylor expansion (as in Molchanov et al., "Pruning convolutional neural networks for resource
    efficient inference", 2017, section 2.2). One backward pass gives it for all channels.

    Args:
        model: the model.
        modules: by layer's name, the modules whose outputs are the filters.
        images: as the model takes them.
        labels: class numbers, (n_images,).
        constants: (n_channels,) by layer's name.

    Returns:
        Shape (n_images, n_channels), for layers that have both a module and constants.
    """
    read = {name: module for name, module in modules.items() if name in constants}
    changes: dict[str, list[NDArray[np.float32]]] = {name: [] for name in read}
    for rows, n_real in model.batches(len(images), _BATCH):
        outputs: dict[str, torch.Tensor] = {}
        with model.evaluation(), torch.enable_grad(), ExitStack() as stack:
            for name, module in read.items():
                stack.callback(module.register_forward_hook(_keeping(outputs, name)).remove)
            # Without it, there are no gradients if no parameter requires one.
            answer = model(model.tensor(images[rows]).requires_grad_())
            loss = _losses(answer, labels[rows])[:n_real].sum()
            called = list(outputs)
            gradients = torch.autograd.grad(loss, [outputs[n] for n in called], allow_unused=True)
        for name, gradient in zip(called, gradients, strict=True):
            change = _first_order(outputs[name].detach(), gradient, constants[name])[:n_real]
            changes[name].append(change.float().cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in changes.items() if parts}


def channel_slopes(
    model: ImageModule,
    module: torch.nn.Module | None,
    images: Images,
    channels: NDArray[np.intp],
    *,
    at: str,
) -> tuple[NDArray[np.float64], Images]:
    """The response of one channel of a module to each image, and its gradient by the image.

    Args:
        model: the model.
        module: whose output holds the channels, (n_images, n_channels, ...).
        images: as the model takes them.
        channels: one for each image.
        at: `centre` or `channel`; see `Exciting`.

    Raises:
        AdapterError: there is no module.
    """
    if module is None:
        raise AdapterError(
            f"{model.source}: a layer is no module of its own, or is used several times, and has "
            "no gradient here; leave --source out"
        )
    responses, slopes = [], []
    for rows, n_real in model.batches(len(images), _BATCH):
        kept: dict[str, torch.Tensor] = {}
        with model.evaluation(), torch.enable_grad(), ExitStack() as stack:
            stack.callback(module.register_forward_hook(_keeping(kept, "maps")).remove)
            tensor = model.tensor(images[rows]).requires_grad_()
            model(tensor)
            wanted = torch.from_numpy(np.asarray(channels[rows], np.int64))
            own = kept["maps"][torch.arange(len(rows)), wanted.to(tensor.device)]
            for _ in range(own.dim() - 1 if at == "centre" else 0):
                own = own[:, own.shape[1] // 2]
            response = own.flatten(1).mean(1) if own.dim() > 1 else own
            (slope,) = torch.autograd.grad(response[:n_real].sum(), tensor)
        responses.append(response.detach()[:n_real].double().cpu().numpy())
        slopes.append(slope[:n_real].float().cpu().numpy())
    return np.concatenate(responses), np.concatenate(slopes)


def _first_order(
    out: torch.Tensor, gradient: torch.Tensor | None, constants: NDArray[np.float64]
) -> torch.Tensor:
    """The first-order change of the log-likelihood, (n_images, n_channels), for one layer."""
    if gradient is None:
        gradient = torch.zeros_like(out)
    level = torch.from_numpy(np.asarray(constants)).to(out)
    moved = level.reshape(1, -1, *(1,) * (out.dim() - 2)) - out
    return -(moved * gradient).flatten(2).sum(2)


def layer_conductance(
    model: ImageModule,
    modules: Mapping[str, torch.nn.Module],
    images: Images,
    labels: NDArray[np.intp],
) -> dict[str, NDArray[np.float64]]:
    """The part of an image's score for its label that flows through each channel, by Captum.

    Conductance (Dhamdhere, Sundararajan & Yan, "How important is a neuron?", 2019) along the
    straight path from an image of zeros, summed over positions. If everything flows through a
    layer, its channels add up to the difference from the score of zeros.

    Args:
        model: the model.
        modules: by layer's name, the modules whose outputs are the filters.
        images: as the model takes them.
        labels: class numbers, (n_images,).

    Returns:
        Shape (n_images, n_channels) by layer.

    Raises:
        AdapterError: Captum is missing, or the model does not take such images.
    """
    try:
        from captum.attr import LayerConductance
    except ImportError as error:
        raise AdapterError(
            "neuron conductance needs Captum; pip install 'repairkit[conductance]'"
        ) from error
    size = model.step or _BATCH
    shares: dict[str, list[NDArray[np.float64]]] = {name: [] for name in modules}
    with model.evaluation(), torch.enable_grad():
        for start in range(0, len(images), size):
            tensor = model.tensor(images[start : start + size])
            wanted = torch.from_numpy(np.asarray(labels[start : start + size], np.int64))
            for name, module in modules.items():
                attribution = LayerConductance(_score_of(model), module).attribute(
                    tensor, additional_forward_args=wanted.to(tensor.device), n_steps=_STEPS
                )
                channels = attribution.detach().double().flatten(2).sum(2)
                shares[name].append(channels.cpu().numpy())
    return {name: np.concatenate(parts) for name, parts in shares.items()}


def _score_of(model: ImageModule) -> Callable[[torch.Tensor, torch.Tensor], torch.Tensor]:
    """A function from images and labels to scores; a single output is the score of class 1."""

    def score(images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        scores = model(images).flatten(1)
        if scores.shape[1] == 1:
            return torch.where(labels == 1, scores[:, 0], -scores[:, 0])
        return scores.gather(1, labels[:, None])[:, 0]

    return score


def _keeping(
    outputs: dict[str, torch.Tensor], name: str
) -> Callable[[torch.nn.Module, object, torch.Tensor], torch.Tensor]:
    """A hook that keeps a module's output and passes on a copy, which later code may overwrite."""

    def keep(module: torch.nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        del module, given
        outputs[name] = out
        return out.clone()

    return keep


def _losses(answer: torch.Tensor, labels: NDArray[np.intp]) -> torch.Tensor:
    """The cross-entropy per image; see `loss_gradients`."""
    target = torch.from_numpy(np.asarray(labels, np.int64)).to(answer.device)
    scores = answer.reshape(len(answer), -1)
    if scores.shape[1] == 1:
        column, wanted = scores[:, 0], target.to(scores.dtype)
        if bool(((column >= 0) & (column <= 1)).all()):
            right = torch.where(target == 1, column, 1 - column)
            return -torch.log(right.clamp_min(_TINY))
        return torch.nn.functional.binary_cross_entropy_with_logits(
            column, wanted, reduction="none"
        )
    sums = scores.detach().sum(1)
    if bool((scores >= 0).all()) and bool((sums - 1).abs().max() < 1e-3):
        right = scores.gather(1, target[:, None])[:, 0]
        return -torch.log(right.clamp_min(_TINY))
    return torch.nn.functional.cross_entropy(scores, target, reduction="none")
