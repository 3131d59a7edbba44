"""The model under study: its file, the image input that it is fed and the output that is judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, ValueInfoProto

from repairkit.core.arrays import Array
from repairkit.core.errors import ModelError, SettingsError
from repairkit.core.layer_map import LayerMap
from repairkit.core.process.stages import stage
from repairkit.data.preprocessing import FurtherInput, InputSpec
from repairkit.engine.runner import OpenModel
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.coalitions.tree_tail import zipped_outputs
from repairkit.graph.fixing import with_constants
from repairkit.graph.index import GraphIndex, dims_of
from repairkit.graph.kinds.ensembles import class_labels, is_ensemble
from repairkit.graph.kinds.image_axes import image_axes
from repairkit.graph.metadata import read_layer_map
from repairkit.graph.stored.model_files import ModelFile, read_model

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


@dataclass(frozen=True)
class Subject:
    """A model file, the name and shape of its image input, and the output that is judged.

    `further` are the inputs beside the images, and `constants` what those of them hold that are
    not fed with each image.
    """

    file: ModelFile
    input_name: str
    spec: InputSpec
    output: str
    further: tuple[FurtherInput, ...] = ()
    constants: Mapping[str, Array] = field(default_factory=dict)

    @property
    def n_classes(self) -> int | None:
        """The classes that the judged output's shape promises; None where it fixes none."""
        index = GraphIndex(self.model)
        if self.output in zipped_outputs(index):
            return len(class_labels([index.nodes[index.producers[self.output]]])) or None
        value = next(o for o in self.model.graph.output if o.name == self.output)
        dims = (dims_of(value) or ())[1:]
        widths = [size for size in dims if size != 1]
        one_row = len(dims) == 1 or dims[1:] == (1, 1)
        return widths[0] if one_row and len(widths) == 1 else None

    @property
    def class_names(self) -> tuple[str, ...]:
        """The labels that a tree ensemble gives, in the order of its scores.

        Empty where they are the numbers from 0 on, which need no names, or are not known.
        """
        trees = [node for node in self.model.graph.node if is_ensemble(node)]
        labels = class_labels(trees)
        return () if labels == tuple(map(str, range(len(labels)))) else labels

    @cached_property
    def layer_map(self) -> LayerMap | None:
        """Where the filters come from, if the model says so."""
        return read_layer_map(self.model)

    @property
    def model(self) -> ModelProto:
        return self.file.model

    def runnable(self, model: ModelProto) -> ModelProto:
        """A model with the subject's inputs, itself or a copy whose constant inputs are fixed."""
        if not self.constants:
            return model
        repeated = {wanted.name for wanted in self.further if wanted.per_image}
        return with_constants(model, self.constants, image=self.input_name, repeated=repeated)

    @cached_property
    def working(self) -> ModelProto:
        """The model as it runs on images alone, or with what is fed with each image."""
        return self.runnable(self.model)

    def opened(self, *, device: str = "cpu", seconds: float | None = None) -> OpenModel:
        """The model as it runs, with the batch that its input declares.

        Args:
            device: where it runs.
            seconds: after which a run is broken off; None for no limit.
        """
        return OpenModel(
            model=self.working,
            image=self.input_name,
            output=self.output,
            step=fixed_batch(self.model, self.input_name),
            device=device,
            seconds=seconds,
        )


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
    file = read_model(path)
    index = GraphIndex(file.model)
    if output is not None and output not in index.outputs:
        raise SettingsError(
            f"{path}: there is no output {output!r}; the outputs are {', '.join(index.outputs)}"
        )
    value = _image_input(path, index, image_input)
    return Subject(
        file,
        value.name,
        _spec(value, index, layout),
        output or _first_judged(index),
        _further(index, value),
    )


def _first_judged(index: GraphIndex) -> str:
    """The first output; of tree ensembles, which give labels first, the first with scores."""
    if not index.outputs:
        raise ModelError("the model has no output; export it with the scores as its output")
    if any(is_ensemble(node) for node in index.nodes):
        zipped = zipped_outputs(index)
        for value in index.graph.output:
            if value.name in zipped or value.type.tensor_type.elem_type in _SCORES:
                return str(value.name)
    return index.outputs[0]


def _image_input(path: Path, index: GraphIndex, wanted: str | None) -> ValueInfoProto:
    """The input that is fed with images: the one named, the only one, or the likeliest."""
    values = [i for i in index.graph.input if i.name in index.inputs]
    named = ", ".join(v.name for v in values) or "none"
    if not values:
        raise ModelError(
            f"{path}: the model takes no input; export it with the images as its input"
        )
    if wanted is not None:
        chosen = [v for v in values if v.name == wanted]
        if not chosen:
            raise SettingsError(f"{path}: there is no input {wanted!r}; the inputs are {named}")
    else:
        chosen = values if len(values) == 1 else _likeliest(values)
    if not chosen:
        raise ModelError(
            f"{path}: none of the inputs ({named}) looks like images; name the one that takes them "
            "with --image-input"
        )
    if not chosen[0].type.HasField("tensor_type"):
        raise ModelError(f"{path}: its input {chosen[0].name!r} takes no images but another type")
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
    found = []
    for value in index.graph.input:
        if value.name not in index.inputs or value.name == image.name:
            continue
        if not value.type.HasField("tensor_type"):
            raise ModelError(
                f"the input {value.name!r} is no tensor, and nothing can be fed to it; export the "
                "model without it"
            )
        kind = value.type.tensor_type
        dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind.elem_type))
        dims = tuple(dims_of(value) or ())
        found.append(FurtherInput(value.name, dims, dtype, _per_image(value, image)))
    return tuple(found)


def _per_image(value: ValueInfoProto, image: ValueInfoProto) -> bool:
    """Whether the first axis of an input is the images', as far as its declaration tells."""
    own, images = value.type.tensor_type.shape.dim, image.type.tensor_type.shape.dim
    if not own or not images:
        return False
    fixed, wanted = own[0].dim_value, images[0].dim_value
    if fixed > 0 or wanted > 0:
        return bool(fixed == wanted)
    names = own[0].dim_param, images[0].dim_param
    return not all(names) or names[0] == names[1]


def _spec(value: ValueInfoProto, index: GraphIndex, layout: str | None) -> InputSpec:
    """The input as declared; what it leaves open is filled in where the graph tells it."""
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
    declared = dims_of(value)
    rank = None if declared is None else len(declared)
    told = image_axes(index, value.name, rank)
    open_dims: list[int | None] = [None] * (told.rank if told else 0)
    dims = open_dims if declared is None else list(declared)
    if told is not None:
        if dims[told.channel_axis] in (None, told.n_channels):
            dims[told.channel_axis] = told.n_channels
        else:
            told = None
    shape = tuple(dims[1:])
    if len(shape) != 3:
        return InputSpec("other", shape, dtype)
    if layout is None and told is not None and told.channel_axis in _LAYOUTS:
        layout = _LAYOUTS[told.channel_axis]
    return InputSpec(layout or _layout(value.name, shape, index), shape, dtype)


def _layout(name: str, dims: tuple[int | None, ...], index: GraphIndex) -> str:
    """Where the channels stand: told by their number, else by a Transpose behind the input."""
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
