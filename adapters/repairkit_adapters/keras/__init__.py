"""Models of Keras 3 on TensorFlow: load, run, freeze, export and repair them.

Keras and TensorFlow are imported only when they are used.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from repairkit.core.errors import AdapterError
from repairkit.core.framework import FrameworkModel, LoadOptions
from repairkit_adapters.keras import keras_runtime, keras_sources
from repairkit_adapters.keras.keras_runtime import KerasModel
from repairkit_adapters.way_back import MapSource, PatchSource, find_channels

if TYPE_CHECKING:
    from repairkit_adapters.keras.network import KerasNetwork

__all__ = ["ADAPTER", "KerasAdapter", "apply_patch", "wrap"]

_OF_KERAS = ("keras", "tensorflow", "tf_keras")


class KerasAdapter:
    """Takes `.keras`, `.h5`, SavedModel folders, `keras.applications:NAME` and `module:factory`."""

    name = "keras"
    extra = "keras"

    def takes(self, source: str) -> bool:
        """Whether a source looks like a Keras model; imports nothing and opens no file."""
        return (
            source.lower().endswith(keras_sources.FILES)
            or source.startswith(keras_sources.APPLICATIONS)
            or (Path(source) / "saved_model.pb").is_file()
            or (":" in source and source.split(":")[0].split(".")[0] in _OF_KERAS)
        )

    def load(self, source: str, options: LoadOptions) -> FrameworkModel:
        """Load a trained model.

        Args:
            source: a `.keras` or `.h5` file, a SavedModel folder, `keras.applications:NAME`
                (built without weights), or `module:factory` (a function to call without arguments,
                or an existing model).
            options: `weights` for an application or a factory; `input_shape` if the model takes
                images of any size; `trust` lets Lambda layers run.

        Raises:
            AdapterError: the source, its weights or Keras itself is missing or unsuitable.
        """
        runtime = keras_runtime.load_runtime()
        if Path(source).is_dir():
            from repairkit_adapters.keras.saved import load_saved_model

            return load_saved_model(runtime, Path(source), options)
        model = keras_sources.load_model(runtime, source, options)
        return wrap(model, options.input_shape, opset=options.opset)


ADAPTER = KerasAdapter()


def wrap(
    model: KerasModel, input_shape: tuple[int, ...] | None = None, *, opset: int | None = None
) -> "KerasNetwork":
    """A `keras.Model` as a `FrameworkModel`; the model itself is not changed.

    Args:
        model: takes a batch of images and returns scores (or several tensors, scores first).
        input_shape: of one image, such as (224, 224, 3); None if the model says it.
        opset: of the exported ONNX; the exporter's default if None.

    Raises:
        AdapterError: Keras is missing or on another backend, or the model cannot take such images.
    """
    runtime = keras_runtime.load_runtime()
    from repairkit_adapters.keras.network import KerasNetwork

    options = LoadOptions(input_shape=input_shape)
    shape = keras_sources.image_shape(runtime, model, options)
    return KerasNetwork(runtime, model, input_shape=shape, opset=opset)


def apply_patch(
    model: KerasModel,
    patch: PatchSource,
    *,
    layers: MapSource | None = None,
    unproven: bool = False,
) -> KerasModel:
    """Freeze in a Keras model the filters that a patch freezes in its exported ONNX file.

    Args:
        model: a `keras.Model` with the weights that were exported; changed in place.
        patch: what `repairkit patch` wrote, by its path or read.
        layers: the map of layers: the exported ONNX file, the file that `export` wrote beside it,
            or the map itself; if None, the layers that the patch file names.
        unproven: also freeze filters whose layer could not be proven.

    Returns:
        The model itself. A layer without a bias may now have one: compile the model again before
        further training, which can change only the constants of frozen filters.

    Raises:
        AdapterError: Keras is missing, the map does not know a filter, or the model does not
            fit it; nothing was changed.
        RepairkitError: the patch cannot be read.
    """
    runtime = keras_runtime.load_runtime()
    if not isinstance(model, runtime.keras.Model):
        raise AdapterError(
            f"a keras.Model was expected and a {type(model).__name__} was given (of a SavedModel, "
            "repair the .keras file that it was made from)"
        )
    from repairkit_adapters.keras.filter_stages import find_stages, freeze_channels

    frozen = find_channels(patch, layers, framework="keras", unproven=unproven)
    with keras_runtime.quiet():
        stages = find_stages(runtime, model, frozen.input_shape)
        freeze_channels(runtime, model, stages, frozen.channels)
    return model
