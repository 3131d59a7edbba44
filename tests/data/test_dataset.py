from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from repairkit.data.dataset import LoadedImages, Records, digest_array, digest_records


def load() -> LoadedImages:
    raise AssertionError("a digest needs no images")


RECORDS = Records(
    labels=np.array([0, 1]),
    locate=str,
    load=load,
    split=np.array(["a", "b"]),
    attributes={"age": np.array([1.5, 2.5]), "sex": np.array(["f", "m"])},
)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": np.array([1, 0])},
        {"labels": np.array([0.0, 1.0])},
        {"split": None},
        {"split": np.array(["b", "a"])},
        {"attributes": {"age": np.array([1.5, 2.5])}},
        {"attributes": {"age": np.array([1.5, 2.5]), "gender": np.array(["f", "m"])}},
    ],
)
def test_the_digest_changes_with_all_that_was_read(change: dict[str, Any]) -> None:
    assert digest_records(replace(RECORDS, **change), "x") != digest_records(RECORDS, "x")
    assert digest_records(RECORDS, "y") != digest_records(RECORDS, "x")


def test_the_digest_ignores_the_order_of_columns_and_the_width_of_text() -> None:
    turned = {
        "sex": RECORDS.attributes["sex"].astype("U9"),
        "age": RECORDS.attributes["age"],
    }
    same = replace(RECORDS, attributes=turned, notes=("a",), class_names=("b",))
    assert digest_records(same, "x") == digest_records(RECORDS, "x")


def test_arrays_of_one_content_and_other_shapes_differ() -> None:
    digests = set()
    for shape in [(6,), (2, 3), (3, 2)]:
        digest = hashlib.sha256()
        digest_array(digest, np.arange(6).reshape(shape))
        digests.add(digest.hexdigest())
    assert len(digests) == 3
