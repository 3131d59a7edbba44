"""A convolution on few positions as a matrix product of a whole batch.

A runtime convolves image by image and reads all weights anew for each. Where the last feature maps
have one or four positions, as at the end of a ResNet on small images, that reading is most of the
work. There a convolution is also a product of the flattened images, (N, C H W), with a dense matrix
(O H' W', C H W), which is read once for all images of a run: row (o, y, x) holds the kernel of
filter o where the output at (y, x) reads the input, and zeros elsewhere. The rows of a filter lie
one after another, so that it is turned off as in a convolution.

Which layers are rewritten follows from sizes alone, so that it is the same on every machine.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import NodeProto, helper

from repairkit.graph import protos

_MOST_GROWTH = 2  # elements of the matrix over those of the kernel
Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Sweep:
    """How a convolution without groups goes over its input, (rows, columns) each."""

    sizes: tuple[int, int]
    taps: tuple[int, int]
    strides: tuple[int, int]
    dilations: tuple[int, int]
    begins: tuple[int, int]
    ends: tuple[int, int]

    @property
    def made(self) -> tuple[int, int]:
        """The sizes of the output; below one where nothing fits."""
        return self._made(0), self._made(1)

    def _made(self, axis: int) -> int:
        padded = self.begins[axis] + self.sizes[axis] + self.ends[axis]
        span = self.dilations[axis] * (self.taps[axis] - 1) + 1
        return (padded - span) // self.strides[axis] + 1

    def reads(self, axis: int) -> Iterator[tuple[int, int, int]]:
        """Along one axis: an output, a tap, and the input that it reads; none of the padding."""
        for out in range(self._made(axis)):
            for tap in range(self.taps[axis]):
                place = out * self.strides[axis] + tap * self.dilations[axis] - self.begins[axis]
                if 0 <= place < self.sizes[axis]:
                    yield out, tap, place

    def as_matrix(self, kernel: Floats) -> Floats:
        """The matrix (O H' W', C H W) by which a kernel (O, C, ...) multiplies."""
        n_out, n_in = kernel.shape[:2]
        matrix = np.zeros((n_out, *self.made, n_in, *self.sizes), np.float32)
        for y, top, row in self.reads(0):
            for x, left, column in self.reads(1):
                matrix[:, y, x, :, row, column] = kernel[:, :, top, left]
        return matrix.reshape(n_out * math.prod(self.made), -1)


@dataclass(frozen=True)
class Product:
    """What takes the place of a convolution.

    `matrix` is (O H' W', C H W), `made` the sizes (H', W') of the output.
    """

    matrix: Floats
    made: tuple[int, int]


def product_of(
    node: NodeProto, dims: Sequence[int | None], kernel: Floats, *, most_elements: int
) -> Product | None:
    """The product for a convolution of an input of these sizes, None where it stays as it is.

    That is where it has groups, where its padding is not written out, where not all sizes are
    known, or where the matrix would be large: over twice the kernel, or `most_elements`.
    """
    sweep = _sweep(node, dims, kernel.shape)
    if sweep is None or min(sweep.made) < 1:
        return None
    n_reads, n_taps = math.prod(sweep.made) * math.prod(sweep.sizes), math.prod(sweep.taps)
    if n_reads > _MOST_GROWTH * n_taps or kernel.size // n_taps * n_reads > most_elements:
        return None
    return Product(sweep.as_matrix(kernel), sweep.made)


def _sweep(
    node: NodeProto, dims: Sequence[int | None], kernel_shape: tuple[int, ...]
) -> Sweep | None:
    padding = protos.attribute(node, "auto_pad")
    written_out = padding is None or padding.s in (b"", b"NOTSET")
    if not written_out or protos.int_attribute(node, "group", 1) != 1 or len(dims) != 4:
        return None
    rows, columns = dims[2:]
    if rows is None or columns is None or dims[1] != kernel_shape[1]:
        return None
    top, left, bottom, right = protos.ints_attribute(node, "pads") or [0] * 4
    strides = protos.ints_attribute(node, "strides") or [1, 1]
    dilations = protos.ints_attribute(node, "dilations") or [1, 1]
    return Sweep(
        sizes=(rows, columns),
        taps=(kernel_shape[2], kernel_shape[3]),
        strides=(strides[0], strides[1]),
        dilations=(dilations[0], dilations[1]),
        begins=(top, left),
        ends=(bottom, right),
    )


def product_nodes(node: NodeProto, matrix: str, bias: str, shape: str) -> list[NodeProto]:
    """The nodes in place of a convolution; the last makes its tensor.

    Args:
        node: the convolution.
        matrix: the initializer of `Sweep.as_matrix`.
        bias: the initializer of the bias, an element for every row of the matrix.
        shape: the initializer of the sizes of what the convolution makes, 0 for the images.
    """
    flat, product = f"{matrix}/flat", f"{matrix}/product"
    return [
        helper.make_node("Flatten", [node.input[0]], [flat], flat, axis=1),
        helper.make_node("Gemm", [flat, matrix, bias], [product], product, transB=1),
        helper.make_node("Reshape", [product, shape], node.output, node.name),
    ]
