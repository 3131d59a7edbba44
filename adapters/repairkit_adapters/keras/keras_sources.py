"""Load Keras models from files, applications and factories."""

import builtins
import importlib
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeAlias

from repairkit.core import errors, framework
from repairkit.core.process.trust import offer, refuse_untrusted
from repairkit_adapters.foreign_code import named_model, with_batch
from repairkit_adapters.keras.keras_runtime import KerasModel, Runtime, misfit, quiet, short_message

APPLICATIONS = "keras.applications:"
FILES = (".keras", ".h5", ".hdf5")
# Parts of saved models. Others are risky: `keras.utils` can download and write files.
_PARTS = {
    "activations", "applications", "constraints", "dtype_policies", "engine", "initializers",
    "layers", "losses", "metrics", "models", "ops", "optimizers", "quantizers", "random",
    "regularizers",
}  # fmt: skip
_SIZES_OF_AN_IMAGE = 3  # height, width, channels
_MOST_CONFIG = 256 << 20  # bytes

Config: TypeAlias = "dict[str, Config] | list[Config] | str | float | bool | None"
"""What a file says of its layers: JSON."""

_MISFIT = (
    ArithmeticError,
    AttributeError,
    ImportError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    zipfile.BadZipFile,
)


def load_model(runtime: Runtime, source: str, options: framework.LoadOptions) -> KerasModel:
    """A Keras model from a file, `keras.applications:NAME` or `module:factory`.

    Raises:
        AdapterError: the model is missing or unreadable, has a Lambda layer but no trust, or does
            not fit its weights.
    """
    if source.lower().endswith(FILES):
        if options.weights is not None:
            raise errors.AdapterError(
                f"{source}: holds its own weights; leave --weights out, or name what they are for "
                "(keras.applications:NAME or module:factory)"
            )
        model = _from_file(runtime, Path(source), options)
    elif source.startswith(APPLICATIONS):
        model = _application(runtime, source.removeprefix(APPLICATIONS), options)
    else:
        if not all(source.partition(":")):
            raise errors.AdapterError(
                f"{source!r} is no Keras model; give a .keras or .h5 file, a SavedModel folder, "
                "keras.applications:NAME or module:factory"
            )
        model = named_model(source, runtime.keras.Model, "keras.Model", calling=quiet())
    if options.weights is not None:
        _load_weights(runtime, model, source, options)
    return model


def _from_file(runtime: Runtime, path: Path, options: framework.LoadOptions) -> KerasModel:
    if not path.is_file():
        raise errors.AdapterError(f"{path}: there is no such file; check the path")
    config = _config(path)
    named = list(_named_code(config))
    code = [*(f"the Lambda layer {name!r}" for name in _lambdas(config)), *named]
    refuse_untrusted(errors.AdapterError, path, code, trust=options.trust)
    for name in named:
        offer(name.partition(":")[0])
    try:
        with quiet():
            return runtime.keras.models.load_model(path, compile=False, safe_mode=not options.trust)
    except _MISFIT as error:
        unknown = _unknown_class(str(error))
        if unknown:
            raise errors.AdapterError(
                f"{path}: the custom layer or object {unknown!r} is not known; give "
                "`module:factory` of your own code as the source, and the file's weights with "
                "--weights"
            ) from error
        raise errors.AdapterError(
            f"{path}: cannot be read as a Keras model ({short_message(error)})"
        ) from error


def _config(path: Path) -> Config:
    """The configuration in a file, read as data."""
    try:
        if path.suffix.lower() == ".keras":
            with zipfile.ZipFile(path) as archive:
                if archive.getinfo("config.json").file_size > _MOST_CONFIG:
                    raise ValueError("its config.json is larger than any model needs")
                content = archive.read("config.json")
        else:
            with quiet():
                h5py = importlib.import_module("h5py")
            with h5py.File(path, "r") as file:
                content = file.attrs.get("model_config")
        if content is None:
            raise ValueError(
                "it holds weights alone; give the model as the source, as "
                "`keras.applications:NAME` or `module:factory`, and this file with --weights"
            )
        config: Config = json.loads(content)
        return config
    except _MISFIT as error:
        raise errors.AdapterError(
            f"{path}: cannot be read as a Keras model ({short_message(error)})"
        ) from error


def _objects(config: Config) -> Iterator[dict[str, Config]]:
    """The JSON objects anywhere in a configuration."""
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            yield value
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


def _lambdas(config: Config) -> Iterator[str]:
    """The names of Lambda layers, and of functions stored as code."""
    for value in _objects(config):
        if value.get("class_name") in ("Lambda", "__lambda__"):
            inner = value.get("config")
            name = inner.get("name") if isinstance(inner, dict) else None
            yield str(name or value["class_name"])


def _named_code(config: Config) -> Iterator[str]:
    """Classes and functions that loading would import from modules outside Keras."""
    seen = set()
    for value in _objects(config):
        module, name = value.get("module"), value.get("class_name")
        if isinstance(module, str) and isinstance(name, str):
            inner = value.get("config")
            if name == "function" and isinstance(inner, str):
                name = inner
            if not _is_of_keras(module, name) and (module, name) not in seen:
                seen.add((module, name))
                yield f"{module}:{name}"


def _is_of_keras(module: str, name: str) -> bool:
    if module == "builtins":  # a function that was registered, or a plain type
        kind = getattr(builtins, name, None)
        return kind is None or (isinstance(kind, type) and kind not in (type, object))
    root, *parts = module.removeprefix("keras.src").removeprefix("keras").split(".") or [""]
    of_keras = module == "keras" or module.startswith("keras.")
    return of_keras and not root and (not parts or parts[0] in _PARTS)


def _unknown_class(message: str) -> str | None:
    for before in ("Could not locate class '", "Unknown layer: '", "Could not locate function '"):
        if before in message:
            return message.split(before, 1)[1].split("'", 1)[0]
    return None


def _application(runtime: Runtime, name: str, options: framework.LoadOptions) -> KerasModel:
    factory = getattr(runtime.keras.applications, name, None)
    if not callable(factory):
        known = [n for n in dir(runtime.keras.applications) if n[0].isupper()]
        raise errors.AdapterError(
            f"keras.applications has no model {name!r}; it has {', '.join(sorted(known)[:6])} and "
            "others, written as here"
        )
    shape = options.input_shape
    if shape is not None and len(shape) == _SIZES_OF_AN_IMAGE + 1:
        raise errors.AdapterError(f"{APPLICATIONS}{name}: {with_batch(shape)}")
    settings = {} if shape is None else {"input_shape": shape}
    try:
        with quiet():
            return factory(weights=None, **settings)
    except _MISFIT as error:
        raise errors.AdapterError(
            f"{APPLICATIONS}{name} cannot be built: {short_message(error)}"
        ) from error


def _load_weights(
    runtime: Runtime, model: KerasModel, source: str, options: framework.LoadOptions
) -> None:
    path = options.weights
    assert path is not None
    if not path.is_file():
        raise errors.AdapterError(f"{path}: there is no such file; check the path")
    if not model.built and options.input_shape is not None:
        model(runtime.tensorflow.zeros((1, *options.input_shape)), training=False)
    try:
        with quiet():
            model.load_weights(path)
    except _MISFIT as error:
        raise errors.AdapterError(
            f"{path}: the weights do not fit {source} ({short_message(error)})"
        ) from error


def image_shape(
    runtime: Runtime, model: KerasModel, options: framework.LoadOptions
) -> tuple[int, ...]:
    """The shape of one image, from the model or the options; builds the model if needed.

    Raises:
        AdapterError: there are several inputs, or a size is not known.
    """
    asked = options.input_shape
    if not model.built and asked is not None:
        with quiet():
            try:
                model(runtime.tensorflow.zeros((1, *asked)), training=False)
            except _MISFIT as error:
                raise misfit(asked, error) from error
    inputs = getattr(model, "inputs", None)
    if inputs is not None and len(inputs) != 1:
        raise errors.AdapterError(
            f"the model has {len(inputs)} inputs; one, of images, was expected"
        )
    stated = tuple(inputs[0].shape[1:]) if inputs else None
    if asked is None:
        if stated is None or None in stated:
            shown = "" if stated is None else f" (it says {stated})"
            raise errors.AdapterError(
                f"the model does not say the size of its images{shown}; add --input-shape, such "
                "as 224,224,3"
            )
        return tuple(int(size) for size in stated)
    if stated is not None and not fits(asked, stated):
        if fits(asked[1:], stated):
            raise errors.AdapterError(with_batch(asked))
        raise errors.AdapterError(
            f"the model takes images of shape {stated}, not {asked}; leave --input-shape out"
        )
    return asked


def fits(shape: Sequence[int], stated: Sequence[int | None]) -> bool:
    """Whether a shape fits the one that a model states, where None means any size."""
    return len(shape) == len(stated) and all(
        size in (None, given) for given, size in zip(shape, stated, strict=True)
    )
