"""Bars for the shape of the code base, which `benchmarks/house.py` measures."""

from __future__ import annotations

import pytest

from benchmarks.house import PACKAGES
from benchmarks.modules import Module, circles, import_graph, read_modules


@pytest.fixture(scope="module")
def modules() -> tuple[Module, ...]:
    return read_modules(*PACKAGES)


def test_no_modules_import_each_other_in_a_circle(modules: tuple[Module, ...]) -> None:
    graph = import_graph(modules)
    assert len(graph) > 100
    assert circles(graph) == []
