"""Checkpoints: runs on disk, from which a killed run resumes.

The file is an uncompressed zip, written to a temporary name and renamed. `checkpoint.json` in it is
a tree of the run's attributes, and every array is a member. The game's facts and the estimator's
settings are not stored: a freshly started run has them.

A checkpoint may come from a stranger, so nothing is unpickled and the tree names no code. A
dataclass is restored only if its type is among those handed in, and arrays hold plain numbers. The
layout of arrays, a generator that two attributes share, and the last bit of every float are kept.
An array that two attributes share becomes two arrays.
"""

import dataclasses
import hashlib
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Literal, TypeAlias

import numpy as np

from repairkit.core import errors, game, scores, suite
from repairkit.core.process.text import first_line
from repairkit.core.process.writing import together

_FORMAT = "repairkit checkpoint 1"
_TREE = "checkpoint.json"
# Modules in `repairkit` at the time when keys still named them. These entries never change.
_EARLIER_MODULES = {
    "GameFacts": "core.game",
    "ImagePool": "core.game",
    "Auto": "estimators.auto",
    "Exact": "estimators.exact",
    "LeaveOneOut": "estimators.leave_one_out",
    "Marginals": "estimators.marginals",
    "Permutation": "estimators.permutation",
    "RandomScores": "estimators.random_scores",
    "Regression": "estimators.regression",
    "RepairRegression": "estimators.regression",
    "Tmab": "estimators.tmab",
}

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


@dataclasses.dataclass(frozen=True)
class CheckpointStore:
    """One checkpoint at `path`, renewed every `every_seconds`.

    A user's own run names dataclasses that it does not hold from its start in a class attribute
    `stored_types`.
    """

    path: Path
    every_seconds: float = 5.0

    def save(self, run: scores.Run, spent: scores.Spent, key: str) -> None:
        """Replace the checkpoint, whole or not at all.

        Raises:
            RunFolderError: the file cannot be written.
            TypeError: the run holds what a checkpoint cannot, such as two classes of one name.
        """
        learnt, encoder = _learnt(run), Encoder()
        _types(run, learnt)  # refuses two of one name
        tree = {name: encoder.encode(value) for name, value in learnt.items()}
        document = {
            "format": _FORMAT,
            "key": key,
            "spent": dataclasses.asdict(spent),
            "generators": encoder.generators,
            "run": tree,
        }
        try:
            with together() as drafts, drafts.open(self.path) as file:
                _write(file, json.dumps(document), encoder.blobs)
        except OSError as error:
            raise errors.RunFolderError(
                f"{self.path}: cannot be written ({error.strerror or error}); free space or "
                "choose another place"
            ) from error

    def rounds_saved(self) -> int:
        """How many rounds the saved run was told; 0 without a checkpoint that can be read."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                return int(_read(archive)[0]["spent"]["rounds"])
        except Exception:  # noqa: BLE001 - `load` tells what is wrong with a damaged file
            return 0

    def load(
        self, run: scores.Run, key: str | None, earlier_key: str | None = None
    ) -> scores.Spent | None:
        """Restore a freshly started run from the checkpoint; None without a checkpoint.

        Args:
            run: just started.
            key: of `settings_key`; None to restore a run of any game, by which only its rows are
                read again.
            earlier_key: of `earlier_settings_key`, under which older checkpoints were written.

        Raises:
            RunFolderError: the file is damaged, or was written with other settings.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                document, blobs = _read(archive)
            foreign = key is not None and document["key"] not in (key, earlier_key)
            if document["format"] == _FORMAT and foreign:
                raise errors.RunFolderError(
                    f"{self.path}: belongs to a run with other settings, another seed or another "
                    "game; repeat those, or delete it to start again"
                )
            learnt, spent = _restore(run, document, blobs)
        except FileNotFoundError:
            return None
        except errors.RunFolderError:
            raise
        except OSError as error:
            raise errors.RunFolderError(
                f"{self.path}: cannot be read ({error.strerror or error}); choose another place"
            ) from error
        except Exception as error:
            # A damaged file can fail in any of a dozen ways.
            raise errors.RunFolderError(
                f"{self.path}: cannot be read as a checkpoint ({first_line(error)}); delete it to "
                "start again"
            ) from error
        vars(run).update(learnt)
        return spent


def settings_key(estimator: scores.Estimator, facts: game.GameFacts, seed: int) -> str:
    """A digest of everything that determines a run.

    Settings of an unknown kind count by their type alone.
    """
    return _digest(estimator, facts, seed, name_of)


def earlier_settings_key(estimator: scores.Estimator, facts: game.GameFacts, seed: int) -> str:
    """The key of older checkpoints, in which types counted by their modules too."""
    return _digest(estimator, facts, seed, _earlier_name)


def _digest(
    estimator: scores.Estimator, facts: game.GameFacts, seed: int, names: Callable[[type], str]
) -> str:
    encoder = Encoder(names)
    settings = {}
    for name, value in _attributes(estimator).items():
        try:
            settings[name] = encoder.encode(value)
        except TypeError:
            settings[name] = names(type(value))
    told = {f.name: encoder.encode(getattr(facts, f.name)) for f in dataclasses.fields(facts)}
    if not facts.auxiliaries:  # keys from before there were any stay as they are
        del told["auxiliaries"]
    of_game = {"dataclass": names(type(facts)), "fields": told}
    tree = [names(type(estimator)), settings, of_game, seed]
    digest = hashlib.sha256(json.dumps([tree, encoder.generators], sort_keys=True).encode())
    for blob in encoder.blobs:
        digest.update(blob)
    return digest.hexdigest()


def _earlier_name(kind: type) -> str:
    """A type's name with its module at the time when keys named modules."""
    module = kind.__module__
    if module.startswith("repairkit."):
        earlier = _EARLIER_MODULES.get(kind.__name__)
        module = module if earlier is None else f"repairkit.{earlier}"
    return f"{module}.{kind.__qualname__}"


def _attributes(estimator: scores.Estimator) -> dict[str, object]:
    if dataclasses.is_dataclass(estimator) and not isinstance(estimator, type):
        return {f.name: getattr(estimator, f.name) for f in dataclasses.fields(estimator)}
    return dict(getattr(estimator, "__dict__", {}))


def _learnt(run: scores.Run) -> dict[str, object]:
    return {
        name: value
        for name, value in vars(run).items()
        if not isinstance(value, game.GameFacts) and not hasattr(value, "start")
    }


def _types(run: scores.Run, learnt: Mapping[str, object]) -> dict[str, type]:
    """The dataclasses that a checkpoint of a run may hold, by name."""
    return dataclass_types(learnt.values(), getattr(type(run), "stored_types", ()))


def _write(file: BinaryIO, tree: str, blobs: list[bytes]) -> None:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(_TREE), tree)
        for index, blob in enumerate(blobs):
            archive.writestr(zipfile.ZipInfo(str(index)), blob)


def _read(archive: zipfile.ZipFile) -> tuple[Tree, list[bytes]]:
    # A compressed member could be a bomb; ours are as large as the file.
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise ValueError("it is compressed")
    if (
        sum(member.file_size for member in archive.infolist())
        > Path(archive.filename or "").stat().st_size
    ):
        raise ValueError("its parts overlap")
    document = json.loads(archive.read(_TREE))
    blobs = [archive.read(str(index)) for index in range(len(archive.namelist()) - 1)]
    return document, blobs


def _restore(
    run: scores.Run, document: Tree, blobs: list[bytes]
) -> tuple[dict[str, object], scores.Spent]:
    """What the run had learnt and spent, after a check against the fresh run."""
    if document["format"] != _FORMAT:
        raise ValueError(f"its format is not {_FORMAT!r}")
    fresh = _learnt(run)
    decoder = Decoder(blobs, document["generators"], _types(run, fresh))
    learnt = {name: decoder.decode(tree) for name, tree in document["run"].items()}
    if dataclasses.is_dataclass(run):
        learnt = _usual(type(run)) | learnt
    if learnt.keys() != fresh.keys():
        raise ValueError("it holds a run of another kind")
    for name, value in fresh.items():
        _check_alike(name, value, learnt[name])
    spent = document["spent"]
    rounds, evaluations, passes = (
        int(spent[name]) for name in ("rounds", "evaluations", "image_passes")
    )
    return learnt, scores.Spent(rounds, evaluations, passes, float(spent["seconds"]))


def _check_alike(name: str, fresh: object, restored: object) -> None:
    if fresh is None or restored is None:
        return
    alike = type(fresh) is type(restored)
    if isinstance(fresh, np.ndarray) and isinstance(restored, np.ndarray):
        alike = fresh.dtype == restored.dtype and fresh.ndim == restored.ndim
    if not alike:
        raise ValueError(f"its {name} is of another kind than the run's")


class Encoder:
    """Turns values into trees; arrays go into `blobs`, random generators into `generators`.

    Args:
        names: gives the name of a dataclass in a tree; `name_of` if None.
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

    def _array(self, value: suite.Array | np.generic) -> Tree:
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
        array: suite.Array = np.frombuffer(blob, dtype).reshape(shape, order=order).copy(order="K")
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
        parts = _usual(kind) | {name: self.decode(part) for name, part in tree["fields"].items()}
        if parts.keys() != {f.name for f in dataclasses.fields(kind)}:
            raise ValueError(f"it holds a {kind.__name__} with other fields")
        # Not through __init__, which may compute; and past the guard of frozen ones.
        restored: object = object.__new__(kind)
        for name, part in parts.items():
            object.__setattr__(restored, name, part)
        return restored


def _usual(kind: type) -> dict[str, Any]:
    """The defaults of a dataclass: what earlier checkpoints, without a field, stand for."""
    usual = {}
    for f in dataclasses.fields(kind):
        if f.default is not dataclasses.MISSING:
            usual[f.name] = f.default
        elif f.default_factory is not dataclasses.MISSING:
            usual[f.name] = f.default_factory()
    return usual


def name_of(kind: type) -> str:
    """The name of a dataclass in a tree: without its module, which may move.

    A renamed class keeps its first name in `stored_as`. Earlier checkpoints name the module too,
    which the decoder ignores.
    """
    name: str = vars(kind).get("stored_as", kind.__name__)
    return name


def dataclass_types(values: Iterable[object], named: Iterable[type] = ()) -> dict[str, type]:
    """The dataclasses in values and their parts, and those of `named`, by name.

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
