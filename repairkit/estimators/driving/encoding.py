"""Values as a JSON tree and blobs of bytes, and back, without pickle.

A checkpoint may come from a stranger. So the tree names no code: a dataclass is restored only if
its type is among those handed in, and arrays hold plain numbers. Layouts of arrays, generators
shared by two owners, and the last bit of every float survive. Two names of one array become two
arrays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from repairkit.core.arrays import Array

_NUMBERS = "biufc"
_GENERATORS: dict[str, type[Any]] = {
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
    """Turns values into trees; what does not fit a tree gathers in `blobs` and `generators`."""

    def __init__(self) -> None:
        self.blobs: list[bytes] = []
        self.generators: list[Any] = []
        self._seen: dict[int, int] = {}

    def encode(self, value: Any) -> Any:
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
        if type(value) in (list, tuple):
            return {type(value).__name__: [self.encode(part) for part in value]}
        if type(value) is dict:
            return {"dict": [[_key(key), self.encode(part)] for key, part in value.items()]}
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            parts = {f.name: self.encode(getattr(value, f.name)) for f in dataclasses.fields(value)}
            return {"dataclass": name_of(type(value)), "fields": parts}
        raise TypeError(f"a {type(value).__name__} cannot be stored in a checkpoint")

    def _array(self, value: Array | np.generic) -> dict[str, Any]:
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
            bits: Any = value.bit_generator
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
        self, blobs: Sequence[bytes], generators: Sequence[Any], types: Mapping[str, type]
    ) -> None:
        self._blobs, self._trees, self._types = blobs, generators, types
        self._generators: dict[int, np.random.Generator] = {}

    def decode(self, tree: Any) -> Any:
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

    def _array(self, tree: Mapping[str, Any]) -> Any:
        blob = self._blobs[tree["array"] if "array" in tree else tree["scalar"]]
        dtype, shape = np.dtype(tree["dtype"]), tuple(tree["shape"])
        if dtype.kind not in _NUMBERS or any(type(n) is not int or n < 0 for n in shape):
            raise ValueError("it holds an array that is not of numbers")
        if math.prod(shape) * dtype.itemsize != len(blob):
            raise ValueError("it holds an array of another size than it says")
        order: Any = "F" if tree["order"] == "F" else "C"
        array = np.frombuffer(blob, dtype).reshape(shape, order=order).copy(order="K")
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

    def _dataclass(self, tree: Mapping[str, Any]) -> Any:
        kind = self._types.get(tree["dataclass"].rpartition(".")[2])
        if kind is None:
            raise ValueError(f"it holds a {tree['dataclass']}, which this estimator does not")
        names = [f.name for f in dataclasses.fields(kind)]
        if sorted(tree["fields"]) != sorted(names):
            raise ValueError(f"it holds a {kind.__name__} with other fields")
        # Not through __init__, which may compute; and past the guard of frozen ones.
        restored: Any = object.__new__(kind)
        for name in names:
            object.__setattr__(restored, name, self.decode(tree["fields"][name]))
        return restored


def name_of(kind: type) -> str:
    """By which name a type stands in a tree: without its module, which may move.

    Earlier checkpoints name the module too; it is not looked at.
    """
    return kind.__name__


def dataclass_types(values: Iterable[Any]) -> dict[str, type]:
    """The dataclasses met in values and their parts, by name."""
    found: dict[str, type] = {}
    for value in values:
        if isinstance(value, list | tuple):
            found |= dataclass_types(value)
        elif isinstance(value, dict):
            found |= dataclass_types(value.values())
        elif dataclasses.is_dataclass(value) and not isinstance(value, type):
            found[name_of(type(value))] = type(value)
            found |= dataclass_types(getattr(value, f.name) for f in dataclasses.fields(value))
    return found


def _key(key: Any) -> str | int:
    if type(key) not in (str, int):
        raise TypeError(f"a dict with the key {key!r} cannot be stored in a checkpoint")
    return key  # type: ignore[no-any-return]  # one of the two types, as just checked


def _plain_seeds(seeds: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The state of a seed sequence, so that a restored generator spawns what it would have."""
    if seeds is None:
        return None
    entropy = seeds["entropy"]
    plain = entropy if isinstance(entropy, int) else [int(part) for part in entropy]
    return {**seeds, "entropy": plain, "spawn_key": tuple(int(k) for k in seeds["spawn_key"])}
