"""Values as a JSON tree and blobs of bytes, and back, without pickle.

A checkpoint may come from a stranger. So the tree names no code: a dataclass is restored only if
its type is among those handed in, and arrays hold plain numbers. The layout of arrays, a generator
that two attributes share, and the last bit of every float are kept. An array that two attributes
share becomes two arrays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, Literal, TypeAlias

import numpy as np

from repairkit.core.suite import Array

Tree: TypeAlias = Any
"""What JSON can hold: it comes from a file, and is checked where it is decoded."""

_NUMBERS = "biufc"
_GENERATORS: dict[str, type[np.random.BitGenerator]] = {
    kind.__name__: kind
    for kind in (
        np.random.PCG64,
        np.random.PCG64DXSM,
        np.random.MT19937,
        np.random.Philox,
        np.random.SFC64,
    )
}


class Encoder:
    """Turns values into trees; what does not fit a tree is collected in `blobs` and `generators`.

    Args:
        names: by which name a dataclass stands in a tree.
    """

    def __init__(self, names: Callable[[type], str] | None = None) -> None:
        self.blobs: list[bytes] = []
        self.generators: list[Tree] = []
        self._names = name_of if names is None else names
        self._seen: dict[int, int] = {}

    def encode(self, value: object) -> Tree:
        """The tree of a value.

        Raises:
            TypeError: a value, or a part of it, is of a kind that cannot be stored.
        """
        if value is None or type(value) in (bool, int, float, str):
            return value
        if isinstance(value, np.ndarray | np.generic):
            return self._array(value)
        if isinstance(value, np.random.Generator):
            return {"generator": self._generator(value)}
        if isinstance(value, list | tuple) and type(value) in (list, tuple):
            return {type(value).__name__: [self.encode(part) for part in value]}
        if type(value) is dict:
            return {"dict": [[_key(key), self.encode(part)] for key, part in value.items()]}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = {f.name: self.encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"dataclass": self._names(type(value)), "fields": parts}
        raise TypeError(f"a {type(value).__name__} cannot be stored in a checkpoint")

    def _array(self, value: Array | np.generic) -> Tree:
        if value.dtype.kind not in _NUMBERS:
            raise TypeError(f"an array of {value.dtype} cannot be stored in a checkpoint")
        columns_first = value.flags.f_contiguous and not value.flags.c_contiguous
        self.blobs.append(value.tobytes(order="F" if columns_first else "C"))
        return {
            "array" if isinstance(value, np.ndarray) else "scalar": len(self.blobs) - 1,
            "dtype": value.dtype.str,
            "shape": list(value.shape),
            "order": "F" if columns_first else "C",
        }

    def _generator(self, value: np.random.Generator) -> int:
        if id(value) not in self._seen:
            bits = value.bit_generator
            if type(bits).__name__ not in _GENERATORS:
                raise TypeError(f"a {type(bits).__name__} cannot be stored in a checkpoint")
            seeds = getattr(bits.seed_seq, "state", None)
            tree = {"state": self.encode(bits.state), "seeds": self.encode(_plain_seeds(seeds))}
            self._seen[id(value)] = len(self.generators)
            self.generators.append(tree)
        return self._seen[id(value)]


class Decoder:
    """Turns trees back into values.

    Every method raises ValueError, TypeError, KeyError, IndexError or AttributeError for a tree
    that no `Encoder` made.
    """

    def __init__(
        self, blobs: Sequence[bytes], generators: Sequence[Tree], types: Mapping[str, type]
    ) -> None:
        self._blobs, self._trees, self._types = blobs, generators, types
        self._generators: dict[int, np.random.Generator] = {}

    def decode(self, tree: Tree) -> Any:
        if tree is None or isinstance(tree, bool | int | float | str):
            return tree
        if "array" in tree or "scalar" in tree:
            return self._array(tree)
        if "generator" in tree:
            return self._generator(tree["generator"])
        if "list" in tree:
            return [self.decode(part) for part in tree["list"]]
        if "tuple" in tree:
            return tuple([self.decode(part) for part in tree["tuple"]])
        if "dict" in tree:
            return {_key(key): self.decode(part) for key, part in tree["dict"]}
        return self._dataclass(tree)

    def _array(self, tree: Tree) -> Any:
        blob = self._blobs[tree["array"] if "array" in tree else tree["scalar"]]
        dtype, shape = np.dtype(tree["dtype"]), tuple(tree["shape"])
        if dtype.kind not in _NUMBERS or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError("it holds an array that is not of numbers")
        if math.prod(shape) * dtype.itemsize != len(blob):
            raise ValueError("it holds an array of another size than it says")
        order: Literal["F", "C"] = "F" if tree["order"] == "F" else "C"
        array: Array = np.frombuffer(blob, dtype).reshape(shape, order=order).copy(order="K")
        return array[()] if "scalar" in tree else array

    def _generator(self, index: int) -> np.random.Generator:
        if index not in self._generators:
            state = self.decode(self._trees[index]["state"])
            seeds = self.decode(self._trees[index]["seeds"])
            kind = _GENERATORS[state["bit_generator"]]
            bits = kind(0 if seeds is None else np.random.SeedSequence(**seeds))
            bits.state = state
            self._generators[index] = np.random.Generator(bits)
        return self._generators[index]

    def _dataclass(self, tree: Tree) -> object:
        kind = self._types.get(tree["dataclass"].rpartition(".")[2])
        if kind is None:
            raise ValueError(f"it holds a {tree['dataclass']}, which this estimator does not")
        names = [f.name for f in dataclasses.fields(kind)]
        if sorted(tree["fields"]) != sorted(names):
            raise ValueError(f"it holds a {kind.__name__} with other fields")
        # Not through __init__, which may compute; and past the guard of frozen ones.
        restored: object = object.__new__(kind)
        for name in names:
            object.__setattr__(restored, name, self.decode(tree["fields"][name]))
        return restored


def name_of(kind: type) -> str:
    """By which name a dataclass stands in a tree: without its module, which may move.

    A class that was renamed says in `stored_as` how it was called first. Earlier checkpoints name
    the module too; the decoder does not look at that.
    """
    name: str = vars(kind).get("stored_as", kind.__name__)
    return name


def dataclass_types(values: Iterable[object], named: Iterable[type] = ()) -> dict[str, type]:
    """The dataclasses met in values and their parts, and those of `named`, by name.

    Raises:
        TypeError: two of them have one name.
    """
    types: dict[str, type] = {}
    for kind in [*named, *_kinds(values)]:
        other = types.setdefault(name_of(kind), kind)
        if other is not kind:
            places = " and ".join(
                f"{each.__module__}.{each.__qualname__}" for each in (other, kind)
            )
            raise TypeError(
                f"two classes named {name_of(kind)}, {places}, cannot be stored in one checkpoint; "
                "rename one"
            )
    return types


def _kinds(values: Iterable[object]) -> Iterator[type]:
    for value in values:
        if isinstance(value, list | tuple):
            yield from _kinds(value)
        elif isinstance(value, dict):
            yield from _kinds(value.values())
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            yield type(value)
            yield from _kinds(getattr(value, f.name) for f in dataclasses.fields(value))


def _key(key: object) -> str | int:
    if isinstance(key, str | int) and type(key) in (str, int):
        return key
    raise TypeError(f"a dict with the key {key!r} cannot be stored in a checkpoint")


def _plain_seeds(seeds: Tree) -> Tree:
    """The state of a seed sequence, so that a restored generator spawns what it would have."""
    if seeds is None:
        return None
    entropy = seeds["entropy"]
    plain = entropy if isinstance(entropy, int) else [int(part) for part in entropy]
    return {**seeds, "entropy": plain, "spawn_key": tuple(int(k) for k in seeds["spawn_key"])}
