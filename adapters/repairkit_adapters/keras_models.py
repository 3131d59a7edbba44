"""Models trained with Keras 3 on TensorFlow: loaded, run, frozen, exported, repaired.

Nothing here imports Keras or TensorFlow before it is used.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from repairkit.core.framework import FrameworkModel, LoadOptions
from repairkit_adapters.keras_loading import APPLICATIONS, FILES, image_shape, load_model
from repairkit_adapters.keras_runtime import load_runtime

if TYPE_CHECKING:
    from repairkit_adapters.keras_network import KerasNetwork

__all__ = ["ADAPTER", "KerasAdapter", "apply_patch", "wrap"]

_OWN = ("keras", "tensorflow", "tf_keras")


class KerasAdapter:
    """Takes `.keras`, `.h5`, SavedModel folders, `keras.applications:NAME` and `module:factory`."""

    name = "keras"
    extra = "keras"

    def takes(self, source: str) -> bool:
        """Whether a source looks like Keras's; imports nothing and opens no file."""
        if source.lower().endswith(FILES) or source.startswith(APPLICATIONS):
            return True
        if (Path(source) / "saved_model.pb").is_file():
            return True
        return ":" in source and source.split(":")[0].split(".")[0] in _OWN

    def load(self, source: str, options: LoadOptions) -> FrameworkModel:
        """Load a trained model.

        Args:
            source: a `.keras` or `.h5` file, a SavedModel folder, `keras.applications:NAME`
                (built without weights), or `module:factory` (a function that is called without
                arguments, or a model that is there already).
            options: `weights` of an application or a factory; `input_shape` where the model takes
                images of any size; `trust` lets Lambda layers run.

        Raises:
            AdapterError: the source, its weights or Keras itself is missing or unfit.
        """
        runtime = load_runtime()
        if Path(source).is_dir():
            from repairkit_adapters.keras_saved import load_saved_model

            return load_saved_model(runtime, Path(source), options)
        model = load_model(runtime, source, options)
        return wrap(model, options.input_shape, opset=options.opset)


ADAPTER = KerasAdapter()


def wrap(
    model: Any, input_shape: tuple[int, ...] | None = None, *, opset: int | None = None
) -> KerasNetwork:
    """A `keras.Model` as repairkit sees it; the model itself stays as it is.

    Args:
        model: takes a batch of images, and yields scores (or several tensors, scores first).
        input_shape: of one image, such as (224, 224, 3); None where the model tells it.
        opset: of the exported ONNX; the exporter's own choice if None.

    Raises:
        AdapterError: Keras is missing or on another backend, or the model cannot take such images.
    """
    runtime = load_runtime()
    from repairkit_adapters.keras_network import KerasNetwork

    options = LoadOptions(input_shape=input_shape)
    shape = image_shape(runtime, model, options)
    return KerasNetwork(runtime, model, input_shape=shape, opset=opset)
