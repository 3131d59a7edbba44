"""A condition on images, such as `race == 'black' and age >= 30`: a small language, never run.

    condition   and, or, not, parentheses
    comparison  ==  !=  <  <=  >  >=  in (...)  not in (...)
    operand     a column, a number, a text in quotes, true, false

A column is named as it is; one whose name is no plain word stands in backquotes. A text is compared
with a column of text, a number with a column of numbers; a number that is held against a text is
compared as it is written (`code == 7` finds the text 7). A column of truth values may stand alone.
A missing number is equal to nothing, and neither less nor greater.
"""

import operator
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import SettingsError
from repairkit.core.process.text import clean, did_you_mean, listing
from repairkit.core.suite import Array
from repairkit.data.tables import as_text, as_texts

Mask = NDArray[np.bool_]
Literal = str | float | int | bool

_LONGEST = 4096
_DEEPEST = 50
_MOST_DIGITS = 18
_TOKEN = re.compile(
    r"""\s*(?:(?P<number>-?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?)(?!\w)
    |(?P<quoted>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")
    |`(?P<named>[^`]+)`
    |(?P<word>[^\W\d]\w*)
    |(?P<sign>==|!=|<=|>=|<|>|\(|\)|\[|\]|,))""",
    re.VERBOSE,
)
_COMPARE: Mapping[str, Callable[[Array, Array], Mask]] = {
    "==": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_CLOSING = {"(": ")", "[": "]"}
_KEYWORDS = ("and", "or", "not", "in")
_TRUTH = {"true": True, "false": False}


def images_where(condition: str, columns: Mapping[str, Array]) -> Mask:
    """Which images a condition holds for, (n_images,).

    Args:
        condition: see the module.
        columns: what it may speak of, at least one, (n_images,) each.

    Raises:
        SettingsError: it is no condition, names an unknown column, or compares what cannot be.
    """
    if len(condition) > _LONGEST:
        raise SettingsError(
            f"--where has {len(condition)} characters and {_LONGEST} are read; name the images "
            "with --images"
        )
    return _Parser(condition, columns).read()


@dataclass(frozen=True)
class _Token:
    """A piece of a condition: its kind (a group of `_TOKEN`, or `end`), its text and its place."""

    kind: str
    text: str
    place: int


@dataclass(frozen=True, eq=False)
class _Operand:
    """What is compared: a column, or a literal; and how it stands in the condition."""

    value: Array | Literal
    text: str

    @property
    def is_column(self) -> bool:
        return isinstance(self.value, np.ndarray)

    @property
    def is_text(self) -> bool:
        value = self.value
        return value.dtype.kind == "U" if isinstance(value, np.ndarray) else isinstance(value, str)

    def as_text(self) -> Array:
        """Its text, as an array that numpy compares with a column."""
        if isinstance(self.value, np.ndarray):
            return np.array(as_texts(self.value), np.str_)
        text = self.text if isinstance(self.value, bool) else as_text(self.value)
        return np.array(clean(text), np.str_)

    @property
    def is_number(self) -> bool:
        return np.asarray(self.value).dtype.kind in "fiub"


class _Parser:
    """Reads a condition by recursive descent: `or` binds least, then `and`, then `not`."""

    def __init__(self, condition: str, columns: Mapping[str, Array]) -> None:
        self.condition, self.columns = condition, columns
        self.n_images = len(next(iter(columns.values())))
        self.tokens = self._split()
        self.at, self.depth = 0, 0

    def read(self) -> Mask:
        mask = self._or()
        if self.next.kind != "end":
            raise self._fault(f"{self.next.text!r} was not expected")
        return mask

    @property
    def next(self) -> _Token:
        return self.tokens[self.at]

    def _split(self) -> list[_Token]:
        tokens, place, end = [], 0, len(self.condition.rstrip())
        while place < end:
            match = _TOKEN.match(self.condition, place)
            if match is None or match.end() == place:
                rest = self.condition[place:].split()[0]
                hint = "; equality is ==" if rest.startswith("=") else ""
                raise self._fault(f"{rest!r} cannot be read{hint}")
            kind = str(match.lastgroup)
            tokens.append(_Token(kind, match[kind], place))
            place = match.end()
        return [*tokens, _Token("end", "", place)]

    def _fault(self, fault: str) -> SettingsError:
        return SettingsError(
            f"--where {self.condition!r}: {fault}; write conditions such as group == 'a' and "
            f"age >= 30, over the columns {self._known()}"
        )

    def _known(self) -> str:
        return listing([name if name.isidentifier() else f"`{name}`" for name in self.columns])

    def _take(self, *texts: str) -> str:
        """The next token where it is one of these signs or words, else nothing."""
        token = self.next
        if token.kind in ("sign", "word") and token.text in texts:
            self.at += 1
            return token.text
        return ""

    def _or(self) -> Mask:
        mask = self._and()
        while self._take("or"):
            mask = mask | self._and()
        return mask

    def _and(self) -> Mask:
        mask = self._not()
        while self._take("and"):
            mask = mask & self._not()
        return mask

    def _not(self) -> Mask:
        self.depth += 1
        if self.depth > _DEEPEST:
            raise self._fault(f"it is nested deeper than {_DEEPEST} times")
        if self._take("not"):
            mask = ~self._not()
        elif self._take("("):
            mask = self._or()
            if not self._take(")"):
                raise self._fault("a parenthesis is not closed")
        else:
            mask = self._comparison()
        self.depth -= 1
        return mask

    def _comparison(self) -> Mask:
        left = self._operand()
        sign = self._take(*_COMPARE)
        if sign:
            return self._compare(left, sign, self._operand())
        inverted = bool(self._take("not"))
        if self._take("in"):
            mask = np.zeros(self.n_images, bool)
            for each in self._list():
                mask |= self._compare(left, "==", each)
            return ~mask if inverted else mask
        if inverted:
            raise self._fault("'not' stands before a condition, or before 'in'")
        value = left.value
        if isinstance(value, np.ndarray) and value.dtype.kind == "b":
            return value.astype(bool)
        raise self._fault(f"{left.text} is compared with nothing")

    def _list(self) -> list[_Operand]:
        opening = self._take(*_CLOSING)
        if not opening:
            raise self._fault("'in' needs a list in parentheses, such as ('a', 'b')")
        operands = [self._operand()]
        while self._take(","):
            operands.append(self._operand())
        if not self._take(_CLOSING[opening]):
            raise self._fault("a list is not closed")
        return operands

    def _operand(self) -> _Operand:
        token = self.next
        self.at += 1
        if token.kind == "number":
            whole = token.text.lstrip("-").isdecimal() and len(token.text) <= _MOST_DIGITS
            return _Operand(int(token.text) if whole else float(token.text), token.text)
        if token.kind == "quoted":
            return _Operand(re.sub(r"\\(.)", r"\1", token.text[1:-1]), token.text)
        if token.kind == "word" and token.text.lower() in _TRUTH:
            return _Operand(_TRUTH[token.text.lower()], token.text)
        if token.kind == "named" or (token.kind == "word" and token.text not in _KEYWORDS):
            return _Operand(self._column(token), token.text)
        self.at -= 1
        expected = "a column, a number or a text in quotes was expected"
        raise self._fault(
            f"{token.text!r}: {expected}" if token.text else f"it ends where {expected}"
        )

    def _column(self, token: _Token) -> Array:
        name = clean(token.text)
        if name not in self.columns:
            known = list(self.columns)
            raise SettingsError(
                f"--where {self.condition!r}: there is no column {name!r}"
                f"{did_you_mean(name, known)}; the columns are {self._known()}, and a text stands "
                f"in quotes: '{name}'"
            )
        return self.columns[name]

    def _compare(self, left: _Operand, sign: str, right: _Operand) -> Mask:
        if not (left.is_column or right.is_column):
            raise self._fault(f"{left.text} {sign} {right.text} names no column")
        texts = left.is_text or right.is_text
        if texts and sign not in ("==", "!="):
            which = left if left.is_text else right
            raise self._fault(f"{which.text} is text, which {sign} does not compare")
        if texts:
            return self._spread(_COMPARE[sign](left.as_text(), right.as_text()))
        for each in (left, right):
            if not each.is_number:
                raise self._fault(f"{each.text} holds neither text nor numbers")
        return self._spread(_COMPARE[sign](np.asarray(left.value), np.asarray(right.value)))

    def _spread(self, mask: Mask) -> Mask:
        return np.broadcast_to(mask, (self.n_images,))
