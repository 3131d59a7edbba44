"""Open a model: an ONNX file with its image input, or a framework's model by its adapter.

Adapters are found by entry points, and chosen by name or by the source that they take.
"""

import logging
import math
import time
from collections.abc import Callable, Iterable, Sequence
from functools import wraps
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Concatenate, ParamSpec, TypeVar

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from repairkit.core import errors, suite
from repairkit.core.framework import Adapter, FrameworkModel, LayerMap, LoadOptions
from repairkit.core.process.nouns import learn
from repairkit.core.process.stages import stage
from repairkit.data.preprocessing import FurtherInput, InputSpec, is_tabular
from repairkit.graph.kinds.ensembles import is_ensemble, spread_over_thresholds, zipped_outputs
from repairkit.graph.kinds.image_axes import image_axes
from repairkit.graph.protos import GraphIndex, dims_of, with_open_sizes
from repairkit.graph.stored.model_files import ModelFile, read_model
from repairkit.graph.stored.other_formats import name_format
from repairkit.jobs.setup.workbench import Subject

_CHANNELS = (1, 3, 4)
_LAYOUTS = {1: "nchw", 3: "nhwc"}
_IMAGE_TYPES = (
    TensorProto.FLOAT,
    TensorProto.FLOAT16,
    TensorProto.DOUBLE,
    TensorProto.UINT8,
    TensorProto.INT8,
)
_SCORES = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16)
# Sides of known models, then any: a model with a dense layer after its features takes only one.
_KNOWN = (64, 224, 128, 256, 320, 299, 384, 416, 512, 640, 32, 28, 96, 48, 112, 160, 192, 227, 240)
SMALL_FIRST = (*_KNOWN, *(side for side in range(8, 385) if side not in _KNOWN))
"""Sides tried in turn where a model leaves its sizes open: cheap ones first."""
USUAL_FIRST = (224, *(side for side in SMALL_FIRST if side != 224))
"""Sides tried in turn, the one of most image models first."""
_TRIAL_SECONDS = 8.0
_MOST_NUMBERS = 1 << 26
_MOST_OF_AN_OPEN_INPUT = 1 << 22  # a volume gets a smaller side than a picture
GROUP = "repairkit.adapters"
_NEEDED = ("name", "extra", "takes", "load")  # of an adapter
_P = ParamSpec("_P")
_R = TypeVar("_R")

logger = logging.getLogger(__name__)


@stage("opening the model")
def read_subject(
    path: Path,
    *,
    output: str | None = None,
    layout: str | None = None,
    image_input: str | None = None,
) -> Subject:
    """Open a model and find its image input.

    Raises:
        ModelError: the file cannot be read, or the model takes no images.
        SettingsError: the model has no such output or input.
    """
    return subject_of(read_model(path), output=output, layout=layout, image_input=image_input)


def subject_of(
    file: ModelFile,
    *,
    output: str | None = None,
    layout: str | None = None,
    image_input: str | None = None,
) -> Subject:
    """Find the image input of a model that was read; see `read_subject`."""
    path, index = file.path, GraphIndex(file.model)
    if output is not None and output not in index.outputs:
        raise errors.SettingsError(
            f"{path}: there is no output {output!r}; the outputs are {', '.join(index.outputs)}"
        )
    value = _image_input(path, index, image_input)
    subject = Subject(
        file,
        value.name,
        _spec(value, index, layout),
        output or _first_judged(index),
        _further(index, value),
    )
    learn_words(subject.model, subject.layer_map)
    return subject


def learn_words(model: ModelProto, layers: LayerMap | None) -> None:
    """Let sentences call the model's filters what people call them: trees, or layers' channels."""
    learn(
        of_trees=any(is_ensemble(node) for node in model.graph.node),
        layers=None if layers is None else layers.by_site,
    )


def _first_judged(index: GraphIndex) -> str:
    """The first output; of tree ensembles, which give labels first, the first with scores."""
    if not index.outputs:
        raise errors.ModelError("the model has no output; export it with the scores as its output")
    if any(is_ensemble(node) for node in index.nodes):
        zipped = zipped_outputs(index)
        for value in index.graph.output:
            if value.name in zipped or value.type.tensor_type.elem_type in _SCORES:
                return str(value.name)
    return index.outputs[0]


def _image_input(path: Path, index: GraphIndex, wanted: str | None) -> ValueInfoProto:
    """The input that takes images: the named one, the only one, or the likeliest."""
    values = [i for i in index.graph.input if i.name in index.inputs]
    named = ", ".join(v.name for v in values) or "none"
    if not values:
        raise errors.ModelError(
            f"{path}: the model takes no input; export it with the images as its input"
        )
    if wanted is not None:
        chosen = [v for v in values if v.name == wanted]
        if not chosen:
            raise errors.SettingsError(
                f"{path}: there is no input {wanted!r}; the inputs are {named}"
            )
    else:
        chosen = values if len(values) == 1 else _likeliest(values)
    if not chosen:
        raise errors.ModelError(
            f"{path}: none of the inputs ({named}) looks like images; name the one that takes them "
            "with --image-input"
        )
    if not chosen[0].type.HasField("tensor_type"):
        raise errors.ModelError(
            f"{path}: its input {chosen[0].name!r} takes no images but another type"
        )
    return chosen[0]


def _likeliest(values: Sequence[ValueInfoProto]) -> list[ValueInfoProto]:
    """The inputs that may be images, the likeliest first: by rank, size and number of channels."""
    tensors = [v for v in values if v.type.HasField("tensor_type")]
    numbers = [v for v in tensors if v.type.tensor_type.elem_type in _IMAGE_TYPES]
    ranked = [v for v in numbers if len(dims_of(v) or ()) in (4, 3, 5)]

    def unlikeliness(value: ValueInfoProto) -> tuple[int, bool, bool]:
        dims = dims_of(value) or ()
        a_number_each = dims[1:].count(1) > 1
        return (4, 3, 5).index(len(dims)), a_number_each, not {dims[1], dims[-1]} & set(_CHANNELS)

    return sorted(ranked, key=unlikeliness)


def _further(index: GraphIndex, image: ValueInfoProto) -> tuple[FurtherInput, ...]:
    """The inputs beside the images that have no default value."""
    further = []
    for value in index.graph.input:
        if value.name not in index.inputs or value.name == image.name:
            continue
        if not value.type.HasField("tensor_type"):
            raise errors.ModelError(
                f"the input {value.name!r} is no tensor, and nothing can be fed to it; export the "
                "model without it"
            )
        kind = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        dims = tuple(dims_of(value) or ())
        further.append(FurtherInput(value.name, dims, dtype, _per_image(value, image)))
    return tuple(further)


def _per_image(value: ValueInfoProto, image: ValueInfoProto) -> bool:
    """Whether the first axis of an input counts images, as far as its declaration says."""
    dims, images = value.type.tensor_type.shape.dim, image.type.tensor_type.shape.dim
    if not dims or not images:
        return False
    fixed, wanted = dims[0].dim_value, images[0].dim_value
    if fixed > 0 or wanted > 0:
        return bool(fixed == wanted)
    names = dims[0].dim_param, images[0].dim_param
    return not all(names) or names[0] == names[1]


def _spec(value: ValueInfoProto, index: GraphIndex, layout: str | None) -> InputSpec:
    """The input as declared; open sizes are filled in if the graph fixes them."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    declared = dims_of(value)
    rank = None if declared is None else len(declared)
    axes = image_axes(index, value.name, rank)
    open_dims: list[int | None] = [None] * (axes.rank if axes else 0)
    dims = open_dims if declared is None else list(declared)
    if axes is not None:
        if dims[axes.channel_axis] in (None, axes.n_channels):
            dims[axes.channel_axis] = axes.n_channels
        else:
            axes = None
    shape = tuple(dims[1:])
    if len(shape) != 3:
        return InputSpec("other", shape, dtype)
    if layout is None and axes is not None and axes.channel_axis in _LAYOUTS:
        layout = _LAYOUTS[axes.channel_axis]
    return InputSpec(layout or _layout(value.name, shape, index), shape, dtype)


def _layout(name: str, dims: tuple[int | None, ...], index: GraphIndex) -> str:
    """The layout: from the number of channels, else from a Transpose after the input."""
    first, last = dims[0] in _CHANNELS, dims[2] in _CHANNELS
    if first != last:
        return "nchw" if first else "nhwc"
    for reader in index.readers.get(name, []):
        node = index.nodes[reader.node]
        if node.op_type == "Transpose":
            order = next((list(a.ints) for a in node.attribute if a.name == "perm"), [])
            if order == [0, 3, 1, 2]:
                return "nhwc"
    return "nchw"


def noise_images(
    subject: Subject, n_images: int = 8, *, sides: Sequence[int] = SMALL_FIRST
) -> suite.Array:
    """Noise of the model's input shape, for proofs without real images.

    Args:
        subject: the model.
        n_images: at most.
        sides: for the sizes that the model leaves open; the first that it runs on is taken.

    Raises:
        ModelError: the input takes no numbers, or more than an image holds, or the model runs on
            none of the sides.
    """
    # This also refuses floats of 8 bits or fewer, which NumPy does not know.
    if not issubclass(subject.spec.dtype.type, np.floating | np.integer):
        raise errors.ModelError(
            f"the input {subject.input_name!r} takes {subject.spec.dtype}, and images are numbers "
            "of 16 bits and more, or whole; export the model with such an input"
        )
    shape = _settled(subject, sides)
    n_numbers = math.prod(shape)
    if n_numbers > _MOST_NUMBERS:
        raise errors.ModelError(
            f"the input {subject.input_name!r} takes {n_numbers} numbers of {subject.spec.dtype} "
            "per image, which is more than an image holds"
        )
    n_images = max(1, min(n_images, _MOST_NUMBERS // max(1, n_numbers)))
    return _noise(subject, shape, n_images)


def _noise(subject: Subject, shape: tuple[int, ...], n_images: int) -> suite.Array:
    rng = np.random.default_rng(0)
    if np.issubdtype(subject.spec.dtype, np.floating):
        noise = rng.standard_normal((n_images, *shape)).astype(subject.spec.dtype)
        if is_tabular(subject.spec):
            return spread_over_thresholds(subject.model, subject.input_name, noise, rng)
        return noise
    limits = np.iinfo(subject.spec.dtype)
    return rng.integers(limits.min, limits.max, (n_images, *shape), subject.spec.dtype)


def _settled(subject: Subject, sides: Sequence[int]) -> tuple[int, ...]:
    """The input's shape; open sizes get the first side on which the model runs."""
    spec = subject.spec
    shapes = [tuple(size or side for size in spec.shape) for side in sides]
    if None not in spec.shape:
        return shapes[0]
    fitting = [s for s in shapes if math.prod(s) <= _MOST_OF_AN_OPEN_INPUT] or shapes[:1]
    runner = subject.opened(seconds=_TRIAL_SECONDS).as_written()
    started = time.monotonic()
    for shape in fitting:
        try:
            for _ in runner.raw(np.zeros((1, *shape), spec.dtype)):  # outputs of any kind
                pass
        except errors.ModelError as error:
            fault = error
        else:
            return shape
        if time.monotonic() - started > _TRIAL_SECONDS:
            break
    raise errors.ModelError(
        "the model leaves the size of its images open and runs on none of the sizes that were "
        f"tried; give images of its size with --data ({fault})"
    ) from fault


def judging_the_model(
    job: Callable[Concatenate[Subject, _P], _R],
) -> Callable[Concatenate[Subject, _P], _R]:
    """A job that blames unexpected errors on its model if ONNX's checker rejects the model.

    An invalid model can fail anywhere, in any way. A model that passes the checker must not fail:
    then the error is a defect of repairkit and is raised unchanged.
    """

    @wraps(job)
    def judged(subject: Subject, /, *args: _P.args, **kwargs: _P.kwargs) -> _R:
        try:
            return job(subject, *args, **kwargs)
        except (errors.RepairkitError, OSError, MemoryError):
            raise
        except Exception as error:
            fault = _fault(subject.model)
            if not fault:
                raise
            raise errors.ModelError(
                f"{subject.file.path}: is not valid: {fault}; export the model anew"
            ) from error

    return judged


def _fault(model: ModelProto) -> str:
    """The first fault that ONNX's checker reports of a model; empty if none."""
    try:
        onnx.checker.check_model(with_open_sizes(model), full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    except ValueError:  # a model over 2 GB, which the checker does not take
        return ""
    return ""


@stage("loading the model")
def load_framework_model(
    source: str,
    options: LoadOptions | None = None,
    *,
    framework: str | None = None,
    adapters: Sequence[Adapter] | None = None,
) -> FrameworkModel:
    """A trained model from a framework.

    Args:
        source: such as `module:factory` or the path of a saved model.
        options: how the source becomes a model.
        framework: an adapter's name; the adapter that takes the source if None.
        adapters: to choose from; all that are installed if None.

    Raises:
        SettingsError: there is no adapter of that name.
        AdapterError: no adapter takes the source, or the adapter cannot load it.
    """
    return choose_adapter(source, framework, adapters).load(source, options or LoadOptions())


def choose_adapter(
    source: str, framework: str | None = None, adapters: Sequence[Adapter] | None = None
) -> Adapter:
    """The adapter of that name, or the only one that takes the source; see above."""
    known = find_adapters() if adapters is None else tuple(adapters)
    names = ", ".join(a.name for a in known) or "none"
    if framework is not None:
        named = [a for a in known if a.name == framework]
        if not named:
            raise errors.SettingsError(f"there is no framework {framework!r}; known are {names}")
        return named[0]
    takers = [a for a in known if a.takes(source)]
    if len(takers) == 1:
        return takers[0]
    if takers:
        several = " and ".join(a.name for a in takers)
        raise errors.SettingsError(
            f"{source}: both {several} may take it; say which with --framework"
        )
    if source.lower().endswith(".onnx") and Path(source).is_file():
        raise errors.AdapterError(
            f"{source}: is an ONNX file already and needs no export; give it to the other commands"
        )
    fault = name_format(Path(source), expected="a model that PyTorch or Keras loads whole")
    if fault:
        raise errors.AdapterError(f"{source}: {fault}")
    missing = "" if ":" in source or Path(source).exists() else ", and there is no such file"
    raise errors.AdapterError(
        f"{source}: no adapter takes it{missing}; give module:factory or a saved model, or say "
        f"with --framework whose it is (known are {names})"
    )


def find_adapters(points: Iterable[EntryPoint] | None = None) -> tuple[Adapter, ...]:
    """Every installed adapter, in the order of names; no framework is imported.

    An adapter that cannot be imported is left out with a warning.
    """
    adapters_by_name: dict[str, Adapter] = {}
    given = entry_points(group=GROUP) if points is None else points
    for point in sorted(set(given), key=lambda p: (p.name, p.value)):
        try:
            adapter = point.load()
        except Exception as error:  # noqa: BLE001 - whatever a third party's module raises
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            logger.warning("the adapter %s (%s) is left out: %s", point.name, point.value, reason)
            continue
        lacking = [name for name in _NEEDED if not hasattr(adapter, name)]
        if lacking:
            logger.warning(
                "the adapter %s (%s) is left out: it has no %s",
                point.name,
                point.value,
                ", ".join(lacking),
            )
        elif adapter.name in adapters_by_name and adapters_by_name[adapter.name] is not adapter:
            logger.warning(
                "the adapter %s (%s) is left out: another has that name", point.name, point.value
            )
        else:
            adapters_by_name[adapter.name] = adapter
    return tuple(adapters_by_name.values())
