"""Other orders in which a model may have numbered its classes, than the one that was read."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.data.labels import HOW_NUMBERED, HOW_NUMBERS, HOW_TRUTH

_MOST_SPELT = 30  # classes that a message may name one by one
_FEWEST_ODD = 11  # from so many on, numbers sorted as text are in another order


@dataclass(frozen=True, eq=False)
class Order:
    """Another order of the classes.

    Attributes:
        name: for people.
        numbers: (n_classes,): the number that each class has in this order.
        remedy: what the user has to do, with the very option.
    """

    name: str
    numbers: NDArray[np.intp]
    remedy: str


def class_orders(
    labels: Array,
    class_names: Sequence[str],
    how: str,
    n_classes: int,
    *,
    from_folder: bool = False,
    first_column: int = 0,
) -> tuple[Order, ...]:
    """The usual orders that differ from the one in use, and from one another.

    Args:
        labels: class numbers of all images, (n_images,).
        class_names: in the order in use; empty or too few where not known.
        how: how labels were read; see `Labels`.
        n_classes: of the model.
        from_folder: whether classes are folders, which have no order of their own.
        first_column: the first column of the output that is judged.
    """
    names = [str(i) for i in range(n_classes)] if how == HOW_NUMBERS else list(class_names)
    orders = list(_sorted_otherwise(names, labels, how, from_folder)) if n_classes > 1 else []
    found: list[Order] = []
    seen = {tuple(range(n_classes))}
    for name, order in orders if len(names) == n_classes else ():
        place = {known: i for i, known in enumerate(order)}
        numbers = np.array([place[known] for known in names], np.intp)
        if tuple(numbers.tolist()) not in seen:
            seen.add(tuple(numbers.tolist()))
            found.append(Order(name, numbers, _remedy(name, order, how)))
    if n_classes > 2 and int(labels.max(initial=0)) < n_classes - 1:
        further = np.minimum(np.arange(n_classes) + 1, n_classes - 1)
        first, last = first_column + 1, first_column + n_classes
        columns = f'give --columns {first}:{last} (in repairkit.toml: columns = "{first}:{last}")'
        found.append(Order("every class one further, as behind a background", further, columns))
    return tuple(found)


def _sorted_otherwise(
    names: list[str], labels: Array, how: str, from_folder: bool
) -> Iterator[tuple[str, list[str]]]:
    yield ("the two classes swapped" if len(names) == 2 else "classes reversed"), names[::-1]
    if how == HOW_TRUTH:
        return
    if how != HOW_NUMBERS or len(names) >= _FEWEST_ODD:
        yield "classes sorted as text", sorted(names)
    if how == HOW_NUMBERS:
        return
    yield "classes sorted by the numbers in their names", sorted(names, key=_natural)
    yield "classes sorted without regard to capitals", sorted(names, key=lambda n: (n.lower(), n))
    if how == HOW_NUMBERED and not from_folder:
        first = {int(k): i for i, k in reversed(list(enumerate(labels.tolist())))}
        if len(first) == len(names):
            yield "classes as they first appear", [names[k] for k in sorted(first, key=first.get)]  # type: ignore[arg-type]  # every key is there


def _natural(name: str) -> list[tuple[int, int, str]]:
    parts = re.split(r"(\d+)", name)
    return [(0, int(p), "") if p.isdecimal() else (1, 0, p) for p in parts if p]


def _remedy(name: str, order: list[str], how: str) -> str:
    if how == HOW_TRUTH:
        return "write the labels the other way round (0 for true, 1 for false)"
    if len(order) > _MOST_SPELT or any("," in known for known in order):
        return f"give the names as classes in repairkit.toml in this order: {name}"
    listed = ", ".join(f'"{known}"' for known in order)
    option = shlex.quote(",".join(order))
    return f"give --classes={option} (in repairkit.toml: classes = [{listed}])"
