"""Lines of block characters, from known numbers."""

from __future__ import annotations

import io
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.cli.curve_tables import BLOCKS, fitting_blocks, sparkline

FIGURES = st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=12)


def test_known_numbers_have_known_blocks() -> None:
    assert sparkline([0, 1, 2, 3, 4, 5, 6, 7], 0, 7) == "▁▂▃▄▅▆▇█"
    assert sparkline([0.9, 0.5, 0.1], 0.1, 0.9) == "█▅▁"
    assert sparkline([1.0, None, float("nan"), 0.0], 0.0, 1.0) == "█??▁"
    assert sparkline([3.0, 3.0], 3.0, 3.0) == "██"
    assert sparkline([-5.0, 5.0], 0.0, 1.0) == "▁█"
    assert sparkline([], 0.0, 1.0) == ""


@given(FIGURES)
def test_a_greater_figure_never_has_a_lower_block(values: list[float]) -> None:
    drawn = sparkline(values, min(values), max(values))
    heights = [BLOCKS.index(character) for character in drawn]
    order = sorted(range(len(values)), key=values.__getitem__)
    assert [heights[i] for i in order] == sorted(heights)


def test_a_terminal_without_blocks_gets_plain_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    plain = fitting_blocks()
    assert plain.isascii()
    assert sparkline([0, 1], 0, 1, blocks=plain) == f"{plain[0]}{plain[-1]}"
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert fitting_blocks() == BLOCKS
