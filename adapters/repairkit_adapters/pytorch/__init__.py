"""PyTorch models: load, run, freeze channels, export and repair them.

PyTorch is imported only when it is used.
"""

import importlib
from typing import TYPE_CHECKING

from repairkit.core.errors import AdapterError
from repairkit.core.framework import LoadOptions
from repairkit_adapters.way_back import MapSource, PatchSource, find_channels

if TYPE_CHECKING:
    from torch.nn import Module

    from repairkit_adapters.pytorch.model import PyTorchModel

__all__ = ["ADAPTER", "PyTorchAdapter", "apply_patch", "wrap"]

_ENDINGS = (".pt2", ".pt", ".pth", ".ts", ".torchscript", ".jit")
_OF_OTHERS = ("keras", "tensorflow", "tf_keras", "jax", "flax")


class PyTorchAdapter:
    """Takes `module:factory`, `torch.export` programs and TorchScript files."""

    name = "pytorch"
    extra = "pytorch"

    def takes(self, source: str) -> bool:
        """Whether a source looks like a PyTorch model; imports nothing and opens no file."""
        if source.lower().endswith(_ENDINGS):
            return True
        module, colon, factory = source.partition(":")
        names = [*module.split("."), *factory.split(".")]
        return bool(colon) and all(n.isidentifier() for n in names) and names[0] not in _OF_OTHERS

    def load(self, source: str, options: LoadOptions) -> "PyTorchModel":
        """Load a trained model.

        Args:
            source: `module:factory` (a function or class to call without arguments, or an existing
                module), a `torch.export` program or a TorchScript file.
            options: `weights` for a factory (safetensors, or a state dict by `torch.save`), and
                `input_shape` of one image, which is only stored in programs.

        Raises:
            AdapterError: the source, its weights or PyTorch itself is missing or unsuitable.
        """
        _require_torch()
        from repairkit_adapters.pytorch import model, torch_sources

        loaded = torch_sources.load_source(source, options)
        return model.PyTorchModel(
            loaded.module,
            loaded.input_shape,
            opset=options.opset,
            step=loaded.step,
            source=loaded.source,
        )


ADAPTER = PyTorchAdapter()


def wrap(
    module: "Module",
    input_shape: tuple[int, ...],
    *,
    opset: int | None = None,
    source: str = "model",
) -> "PyTorchModel":
    """A module as a `FrameworkModel`; the module itself is not changed.

    Args:
        module: an `nn.Module` that takes a batch of images, on any device.
        input_shape: of one image, such as (3, 224, 224).
        opset: of the exported ONNX; the exporter's default if None.
        source: what messages call it.

    Raises:
        AdapterError: PyTorch is missing, or the module cannot take such images.
    """
    _require_torch()
    from repairkit_adapters.pytorch.model import PyTorchModel

    return PyTorchModel(module, tuple(input_shape), opset=opset, source=source)


def apply_patch(
    model: "Module",
    patch: PatchSource,
    *,
    layers: MapSource | None = None,
    parametrize: bool = False,
    unproven: bool = False,
) -> "Module":
    """Freeze in a module the filters that a patch freezes in its exported ONNX file.

    Args:
        model: an `nn.Module` with the weights that were exported; changed in place.
        patch: a patch file, by its path or read.
        layers: the map that `export` wrote, by its path or read; if None, that of the patch file.
        parametrize: keep the filters frozen during further training, with
            `torch.nn.utils.parametrize`; otherwise only the current numbers are changed.
        unproven: also freeze filters whose layer could not be proven.

    Returns:
        The module itself. A layer without a bias may now have one: create optimisers afterwards.

    Raises:
        AdapterError: PyTorch is missing, the map does not know a filter, or the module does not
            fit it; nothing was changed.
        RepairkitError: the patch or the map cannot be read.
    """
    _require_torch()
    from repairkit_adapters.pytorch import modules, trace

    frozen = find_channels(patch, layers, framework="pytorch", unproven=unproven)
    ready = modules.ready_module(model, frozen.input_shape, step=None, source="the model")
    traced = trace.trace_layers(ready)
    trace.freeze_channels(
        modules.unwrapped(model), traced, frozen.channels, parametrize=parametrize
    )
    return model


def _require_torch() -> None:
    try:
        importlib.import_module("torch")
    except ImportError as error:
        raise AdapterError(
            f"PyTorch cannot be imported ({error}); install it with `pip install "
            "'repairkit[pytorch]'`"
        ) from error
