"""Bars for the shape of the code base, which `benchmarks/house.py` measures."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest

from benchmarks import house
from benchmarks.house import PACKAGES, Offender
from benchmarks.modules import Module, circles, import_graph, longest_chain, read_modules

MOST_IN_A_CHAIN = 14
MOST_IMPORT_LINES = 0.05
MOST_ANY = 10.0  # per 1,000 lines


@pytest.fixture(scope="module")
def modules() -> tuple[Module, ...]:
    return read_modules(*PACKAGES)


def test_no_modules_import_each_other_in_a_circle(modules: tuple[Module, ...]) -> None:
    graph = import_graph(modules)
    assert len(graph) > 100
    assert circles(graph) == []


def test_chains_of_imports_are_short(modules: tuple[Module, ...]) -> None:
    chain = longest_chain(import_graph(modules))
    assert len(chain) <= MOST_IN_A_CHAIN, " > ".join(chain)


def test_few_lines_are_imports_and_few_types_are_any(modules: tuple[Module, ...]) -> None:
    assert house.n_import_lines(modules) <= MOST_IMPORT_LINES * house.n_lines(modules)
    uses = sum(offender.size for offender in house.uses_of_any(modules))
    assert house.per_thousand(uses, modules) <= MOST_ANY


@pytest.mark.parametrize(
    "measure",
    [
        house.wide_constructions,
        house.many_parameters,
        house.full_folders,
        house.long_files,
        house.lonely_files,
        house.long_classes,
        house.repeated_files,
        house.repeated_classes,
    ],
)
def test_nothing_is_too_large_or_named_twice(
    modules: tuple[Module, ...], measure: Callable[[Sequence[Module]], list[Offender]]
) -> None:
    offenders = measure(modules)
    assert offenders == [], [str(offender) for offender in offenders]
