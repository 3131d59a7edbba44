from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the plots are drawn with matplotlib")

from benchmarks.plots import save

ESTIMATES = [
    {
        "game": game, "n": 300, "method": method, "evaluations": count, "plain_passes": count * 50,
        "precision_top": 0.5, "precision_bottom": 0.4, "rank_correlation": 0.6, "r2": -1.0,
    }
    for game in ("interacting-300", "network-130")
    for method in ("auto", "tmab")
    for count in (1_000, 3_000)
]  # fmt: skip
COVERED = [
    {"game": "table-8-0", "method": "tmab", "nominal": 0.9, "covered": 0.99, "runs": 5},
]


@pytest.mark.slow
def test_the_same_rows_give_the_same_bytes_in_files_that_stay_small(tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        save([*ESTIMATES, *COVERED], folder)
    for name in ("estimators-simulated.svg", "estimators-networks.svg", "coverage.svg"):
        drawn = (first / name).read_bytes()
        assert drawn == (second / name).read_bytes()
        assert len(drawn) < 200_000
        assert b"svg" in drawn
    text = (first / "estimators-networks.svg").read_text()
    assert "network-130: rank correlation" in text
    assert "auto" in text


def test_rows_of_something_else_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no row has a column"):
        save([{"colour": "blue"}], tmp_path)
