"""Other orders of classes are what labels would be if they were read with the remedy."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest

from repairkit.data.annotations import read_classes
from repairkit.data.usual import Order, class_orders


def where(index: int) -> str:
    return f"row {index}"


def orders_of(raw: list[str], n_classes: int, classes: tuple[str, ...] = ()) -> tuple[Order, ...]:
    labels = read_classes(np.array(raw), classes, n_classes, where)
    return class_orders(labels.values, labels.class_names, labels.reading, n_classes)


@pytest.mark.parametrize(
    ("raw", "classes", "names"),
    [
        (["0", "1", "1"], (), {"the two classes swapped"}),
        (["cat", "dog"], (), {"the two classes swapped"}),
        (["zebra", "ant", "bee"], (), {"classes reversed", "classes as they first appear"}),
        (
            ["Zoo", "art", "bar"],
            (),
            {"classes reversed", "classes sorted without regard to capitals"},
        ),
        (
            ["item1", "item2", "item10"],
            (),
            {"classes reversed", "classes sorted by the numbers in their names"},
        ),
        (["b", "a", "c"], ("b", "a", "c"), {"classes reversed", "classes sorted as text"}),
        ([str(i) for i in range(12)], (), {"classes reversed", "classes sorted as text"}),
        ([str(i) for i in range(10)], (), {"classes reversed"}),
    ],
)
def test_the_remedy_of_each_order_reads_the_labels_in_it(
    raw: list[str], classes: tuple[str, ...], names: set[str]
) -> None:
    n_classes = len(set(raw))
    found = orders_of(raw, n_classes, classes)
    assert {order.name for order in found} >= names
    before = read_classes(np.array(raw), classes, n_classes, where).values
    for order in found:
        assert sorted(order.numbers.tolist()) == list(range(n_classes))
        option = re.search(r"--classes=(.*?) \(in", order.remedy)
        assert option is not None
        given = tuple(shlex.split(option[1])[0].split(","))
        after = read_classes(np.array(raw), given, n_classes, where).values
        np.testing.assert_array_equal(after, order.numbers[before])
        assert not np.array_equal(order.numbers, np.arange(n_classes))


def test_no_order_is_told_twice() -> None:
    found = orders_of(["b1", "B2", "a10", "a9"], 4)
    assert len({tuple(order.numbers.tolist()) for order in found}) == len(found)


def test_a_background_class_in_front_is_a_matter_of_columns() -> None:
    labels = np.array([0, 3, 998])
    found = class_orders(labels, (), "labels are class numbers", 1000, from_folder=True)
    further = next(order for order in found if "further" in order.name)
    np.testing.assert_array_equal(further.numbers[labels], labels + 1)
    assert "--columns 1:1000" in further.remedy


def test_many_classes_are_not_spelt_out() -> None:
    found = class_orders(np.arange(500), (), "labels are class numbers", 500)
    assert found
    assert all(len(order.remedy) < 200 for order in found)
