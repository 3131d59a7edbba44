"""What a model takes beside its images: constants by name, or rows of the data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from onnx import helper

from repairkit.core.arrays import Array
from repairkit.core.errors import SettingsError
from repairkit.data.dataset import Dataset
from repairkit.data.preprocessing import FurtherInput, describe_shape
from repairkit.graph.index import dims_of
from repairkit.jobs.setup.settings import Settings
from repairkit.jobs.setup.subject import Subject

_TRUTH = {"true": True, "false": False, "1": True, "0": False}


def with_inputs(subject: Subject, settings: Settings, dataset: Dataset | None) -> Subject:
    """The subject with a constant for each further input that the data does not feed.

    Args:
        subject: as it was opened.
        settings: whose `inputs` come first; constants of the data come next.
        dataset: what feeds the other inputs; if None, values are made up for what is not named:
            ones, and False for truth values.

    Raises:
        SettingsError: an input has no value, or one that it does not take.
    """
    wanted = {i.name: i for i in (*_with_defaults(subject, settings.inputs), *subject.further)}
    for name in settings.inputs:
        if name not in wanted:
            others = ", ".join(i.name for i in subject.further) or "none"
            raise SettingsError(
                f"--input {name}: the model has no such input; beside {subject.input_name} it "
                f"takes {others}"
            )
    constants = {n: read_value(wanted[n], text) for n, text in settings.inputs.items()}
    missing = [i for i in subject.further if i.name not in constants]
    if dataset is None:
        constants |= {i.name: _made_up(i) for i in missing}
    else:
        constants |= {
            i.name: dataset.constants[i.name] for i in missing if i.name in dataset.constants
        }
        lacking = [i for i in missing if i.name not in {*constants, *dataset.further}]
        if lacking:
            told = ", ".join(f"{i.name} ({describe_shape(i.single)} {i.dtype})" for i in lacking)
            raise SettingsError(
                f"the model takes {told} beside its images ({subject.input_name}); give each with "
                "--input NAME=VALUE, as an array of that name in the .npz, or as a column of the "
                "manifest"
            )
    further = tuple(wanted[n] for n in constants if n not in {i.name for i in subject.further})
    return replace(subject, constants=constants, further=(*subject.further, *further))


def _with_defaults(subject: Subject, inputs: Mapping[str, str]) -> list[FurtherInput]:
    """The inputs of those names that an initializer gives a value."""
    stored = {tensor.name for tensor in subject.model.graph.initializer}
    found = []
    for value in subject.model.graph.input:
        if value.name in inputs and value.name in stored:
            dtype = np.dtype(helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))
            found.append(FurtherInput(value.name, tuple(dims_of(value) or ()), dtype, False))
    return found


def read_value(wanted: FurtherInput, text: str) -> Array:
    """A constant from text: one value for all elements, or one per element, comma-separated.

    Raises:
        SettingsError: it is none, or not as many as the input takes.
    """
    words = [word.strip() for word in text.split(",")]
    try:
        values = np.array([_read_word(word, wanted.dtype) for word in words], wanted.dtype)
    except (ValueError, OverflowError) as error:
        raise SettingsError(
            f"--input {wanted.name}={text}: {error}; give {wanted.dtype} values, comma-separated"
        ) from error
    sizes = list(wanted.single)
    known = math.prod(size for size in sizes if size is not None)
    n_open = sizes.count(None)
    if len(values) == 1 and len(words) == 1:
        return np.full([size or 1 for size in sizes], values[0], wanted.dtype)
    if n_open <= 1 and known and (len(values) == known or (n_open and not len(values) % known)):
        return values.reshape([-1 if size is None else size for size in sizes])
    raise SettingsError(
        f"--input {wanted.name}: {len(values)} values and the input takes "
        f"{describe_shape(wanted.single)}; give one value for all, or one for each element"
    )


def _read_word(word: str, dtype: np.dtype[Any]) -> Any:
    if dtype.kind == "b":
        if word.lower() not in _TRUTH:
            raise ValueError(f"{word!r} is neither true nor false")
        return _TRUTH[word.lower()]
    if dtype.kind == "f":
        return float(word)
    if dtype.kind in "iu":
        return int(word)
    return word


def _made_up(wanted: FurtherInput) -> Array:
    value: Any = False if wanted.dtype.kind == "b" else "" if wanted.dtype.kind == "O" else 1
    return np.full([size or 1 for size in wanted.single], value, wanted.dtype)
