"""How the text of a cell, a name or a folder is read; the same from every source.

Two spellings that look alike are one: composed and decomposed letters (NFC), blanks at the ends, a
no-break space for a space, marks without width. Nothing else is: `07`, `7` and `007` are three
codes, and so are `a` and `A`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import numpy as np

from repairkit.core.arrays import Array
from repairkit.core.process.text import clean

_PLAIN_INTEGER = re.compile(r"0|-?[1-9][0-9]*")
_PLAIN_WHOLE = re.compile(r"(0|-?[1-9][0-9]*)(\.0*)?")
# An exponent with its sign, as programs write it: 12E3 is a code.
_PLAIN_NUMBER = re.compile(
    r"(?!-0\Z)-?(0|[1-9][0-9]*)(\.[0-9]*)?([eE][+-][0-9]+)?|-?\.[0-9]+([eE][+-][0-9]+)?"
    r"|[+-]?inf(inity)?|nan",
    re.IGNORECASE,
)
_MOST_DIGITS = 18


def clean_column(texts: Array) -> Array:
    """A column of text, cleaned; a column of another type as it is."""
    if texts.dtype.kind != "U":
        return texts
    cleaned = {text: clean(text) for text in set(texts.tolist())}
    if all(text == read for text, read in cleaned.items()):
        return texts
    return np.array([cleaned[text] for text in texts.tolist()], dtype=np.str_)


def as_text(value: Any) -> str:
    """One value as it would be written; a whole number without a point, empty where missing."""
    if isinstance(value, float):
        if value != value:
            return ""
        return str(int(value)) if value.is_integer() else str(value)
    return clean(str(value))


def as_texts(column: Array) -> list[str]:
    """A column of any type as text, see `as_text`."""
    return [as_text(value) for value in column.tolist()]


def text_column(column: Array) -> Array:
    """A column of any type as a column of text; one of text as it is."""
    if column.dtype.kind == "U":
        return column
    return np.array(as_texts(column), dtype=np.str_)


def whole_number(text: str) -> int | None:
    """The number that `7`, `-1` or `7.0` is; None for `07`, `+7`, `7e0` and all else."""
    found = _PLAIN_WHOLE.fullmatch(text) if len(text) <= _MOST_DIGITS else None
    return int(found[1]) if found is not None else None


def typed_column(texts: Array) -> Array:
    """A cleaned column of text as int64 or float64 where it holds plain numbers, else as it is.

    An empty cell of a column of numbers is a missing value, NaN.

    A number is plain as a program writes it: no zero in front, no plus, an exponent only with its
    sign. Codes such as `007` or `12E3` stay text, and so does a column that writes one number in
    two ways (`1` and `1.0`): there the spelling tells values apart.
    """
    values = texts.tolist()
    unique = set(values) - {""}
    if not unique or not all(_PLAIN_NUMBER.fullmatch(text) for text in unique):
        return texts
    numbers = {text: float(text) for text in unique}
    if len(set(map(_key, numbers.values()))) < len(unique):
        return texts
    if all(_PLAIN_INTEGER.fullmatch(text) for text in unique):
        if not all(len(text) <= _MOST_DIGITS for text in unique):
            # Beyond 2**53 floats would make different codes one.
            return texts
        if "" not in values:
            return np.array([int(text) for text in values], dtype=np.int64)
    return np.array([numbers.get(text, np.nan) for text in values])


def _key(number: float) -> str:
    return "nan" if number != number else repr(number + 0.0)


def n_respelt(before: Iterable[str], after: Iterable[str]) -> int:
    """How many texts were read otherwise than they are spelt."""
    return sum(one != other for one, other in zip(before, after, strict=True))
