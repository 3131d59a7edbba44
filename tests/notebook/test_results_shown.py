"""Results in a line, in a notebook's cell, as a DataFrame and as a picture."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from repairkit import api
from repairkit.core import filters
from repairkit.core.errors import SettingsError
from repairkit.core.results import Evaluation, Figure, Proof, Verified
from repairkit.core.scores import Scores
from tests.report.documents import HOSTILE, curve, overlay, repair, scoring
from tests.report.test_curves import attacked
from tests.report.test_page import read

pyplot = pytest.importorskip("matplotlib.pyplot")
pandas = pytest.importorskip("pandas")


@pytest.fixture(autouse=True)
def _no_windows() -> Iterator[None]:
    pyplot.switch_backend("Agg")
    yield
    pyplot.close("all")


def asked(n_filters: int = 40, *, site: str = "conv", **more: Any) -> api.Asked:
    """Values that fall from one filter to the next, with a removal curve."""
    values = 0.01 * (n_filters / 2 - np.arange(n_filters))[:, None]
    return api.Asked(
        scores=Scores.plain(("accuracy",), values, np.full(values.shape, 0.02)),
        filters=tuple(filters.Filter(site, n) for n in range(n_filters)),
        document={**scoring(n_filters)["run"], "curve": curve(), **more},  # type: ignore[typeddict-item]
        folder=Path("runs") / site,
    )


def patched(
    document: dict[str, Any], frozen: tuple[str, ...] = ("conv:1", "conv:2")
) -> api.Patched:
    known = [filters.Filter.parse(name) for name in frozen]
    patch = filters.Patch(tuple(filters.FrozenFilter(each, 0.5) for each in known))
    proof = Proof(n_images=64, exact=True, relative=0.0, same_answer=True)
    nothing = Evaluation(suite="test", n_images=1, metrics={}, groups={}, group_sizes={})
    return api.Patched(
        out=Path(f"{frozen[0]}.onnx"),
        patch_file=Path("a.json"),
        report_file=Path("b.json"),
        patch=patch,
        verified=Verified(patch=patch, edits=(), proof=proof, images="given images"),
        promise=Figure(0.1, 0.0, 0.2),
        objective=document["objective"],
        before=nothing,
        after=nothing,
        change={},
        document=document,
    )


@pytest.mark.parametrize("n_filters", [1, 2, 11, 12, 3000])
def test_a_line_and_a_cell_are_short_however_many_filters_there_are(n_filters: int) -> None:
    result = asked(n_filters)
    text = repr(result)
    assert len(text.splitlines()) <= 3
    assert len(text) < 400
    assert f"conv:{n_filters - 1} " in text
    assert f"{n_filters:,} filter" in text
    cell = result._repr_html_()
    assert len(cell) < 30_000
    shown = read(cell)
    assert shown.tags.count("tr") == 1 + min(n_filters, 11)
    assert {"conv:0", f"conv:{n_filters - 1}"} <= shown.shown
    assert len(repr(result.scores)) < 300
    everything = patched(repair(), tuple(f"conv:{n}" for n in range(n_filters)))
    assert len(repr(everything)) < 600
    assert len(repr(everything).splitlines()) <= 3
    assert len(everything._repr_html_()) < 30_000
    assert len(repr(everything.verified)) < 300


@pytest.mark.long
@pytest.mark.parametrize("evil", [*HOSTILE, r"$\frac{1$ and $x_"])
def test_names_are_text_and_nothing_else(evil: str) -> None:
    shown = evil.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b")
    # An answer's folder, model and filters have the name; of a repair, its groups too.
    result = asked(site=evil, model={"path": evil, "digest": "b" * 64})
    document = repair([evil, "other"], frozen=[f"{evil}:1"])
    done = patched(document, (f"{evil}:1",))
    curves = api.Curves(None, overlay(evil))
    for each in (result, done, curves):
        cell = read(each._repr_html_())
        assert shown in cell.text
        assert set(cell.tags) <= {
            "div", "style", "p", "strong", "table", "caption", "thead", "tbody", "tr", "th", "td",
            "svg", "title", "rect", "path", "circle", "line", "text",
        }  # fmt: skip
        assert repr(each).replace("\n", "").isprintable()
    for axes in (result.plot(), done.plot(), curves.plot()):
        axes.figure.canvas.draw()


def test_a_cell_has_a_style_that_holds_in_it_alone() -> None:
    for result in (asked(), patched(repair()), api.Curves(None, overlay())):
        cell = result._repr_html_()
        styles = [part.partition("</style>")[0] for part in cell.split("<style>")[1:]]
        assert len(styles) == 2
        for style in styles:
            rules = [rule.partition("{")[0] for rule in style.split("}") if rule.strip()]
            selectors = [one.strip() for rule in rules for one in rule.split(",")]
            assert all(one.startswith(".repairkit-cell ") for one in selectors)
        assert cell.startswith('<div class="repairkit-cell">')


def test_the_cell_of_a_repair_leads_with_the_verdict_of_its_page() -> None:
    done = patched(repair(gain=0.1))
    shown = read(done._repr_html_())
    assert done.verdict["word"] == "Improved"
    sentence = done.verdict["sentence"]
    after_style = shown.text[shown.text.index("Improved.") :]
    assert after_style.startswith(f"Improved. {sentence}")
    assert "Improved: Freezing 2" in repr(done)


def test_a_cell_of_a_forest_speaks_of_trees() -> None:
    done = patched({**repair(gain=0.1), "unit": "tree"}, ("forest:1", "forest:2"))
    cell = read(done._repr_html_()).text
    sentence = cell[cell.index("Improved.") :]
    assert "trees" in sentence
    assert "filter" not in sentence
    assert "2 trees frozen" in repr(done)
    assert "filter" not in repr(done)
    values = asked(30)
    values.document["unit"] = "tree"
    cell = read(values._repr_html_()).text
    assert "30\N{NO-BREAK SPACE}trees" in cell or "30 trees" in cell
    assert "30 trees" in repr(values)


def test_a_frame_is_the_table() -> None:
    result = asked(30)
    frame = result.to_pandas()
    assert frame.to_dict("records") == result.table()
    assert list(frame["filter"])[::29] == ["conv:0", "conv:29"]
    curves = api.Curves(None, overlay()).to_pandas()
    assert len(curves) == sum(len(line["figures"]) for line in overlay()["lines"])
    moved = patched(repair(["dark", "light"], gain=0.1)).to_pandas().set_index("name")
    assert list(moved.loc["dark", ["of", "before", "after"]]) == ["group", 0.6, 0.7]
    assert moved.loc["accuracy", "difference_low"] == pytest.approx(0.05)


def test_values_are_drawn_at_both_ends_with_their_intervals() -> None:
    result = asked(100)
    axes = result.plot()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == [
        *(f"conv:{n}" for n in range(10)),
        "80 more",
        *(f"conv:{n}" for n in range(90, 100)),
    ]
    assert axes.get_xlabel() == "value: what the filter adds to the accuracy, points"
    rows = result.table()
    intervals = [line.get_xdata() for line in axes.lines if len(line.get_xdata()) == 2][:20]
    expected = [[100 * row["ci_low"], 100 * row["ci_high"]] for row in rows[:10] + rows[-10:]]
    np.testing.assert_allclose(intervals, expected)
    # The highest value stands on top.
    low, high = axes.get_ylim()
    assert low > high


def test_curves_and_trade_offs_are_drawn_with_every_figure() -> None:
    axes = asked().plot_curve()
    assert axes.get_ylabel() == "accuracy, %"
    assert axes.get_xlabel() == "filters frozen"
    drawn = {line.get_label(): list(line.get_ydata()) for line in axes.lines}
    assert drawn["highest values first"] == pytest.approx([90, 50, 20])
    assert len(axes.collections) == 3  # bands
    other = pyplot.figure().add_subplot()
    assert api.Curves(None, overlay()).plot(other) is other
    steps = [
        {"n_frozen": n, "clean_accuracy": 0.8 - n / 100, "attack_success": 0.9 - n / 10}
        for n in range(3)
    ]
    against = patched(attacked(steps)).plot()
    assert against.get_xlabel() == "clean accuracy, %"
    assert against.get_ylabel() == "attack success, %"
    assert list(against.lines[0].get_ydata()) == pytest.approx([90, 80, 70])
    assert patched(repair()).plot().get_xlabel() == "overall accuracy, %"


def test_what_cannot_be_drawn_is_said_in_one_line() -> None:
    bare = asked()
    del bare.document["curve"]
    with pytest.raises(SettingsError, match=r"no removal curve; repairkit.curve\(RUN\)"):
        bare.plot_curve()
    with pytest.raises(SettingsError, match="no figures for 'loss'; it has them for accuracy"):
        asked().plot_curve(metric="loss")
    with pytest.raises(SettingsError, match="fewer than two sets"):
        patched(repair(trials=[])).plot()
    assert "<svg" not in patched(repair(trials=[]))._repr_html_().partition("</table>")[2]


@pytest.mark.parametrize(
    ("module", "extra", "call"),
    [("pandas", "pandas", "to_pandas"), ("matplotlib.pyplot", "plot", "plot")],
)
def test_a_missing_library_is_told_with_its_extra(
    module: str, extra: str, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    for result in (asked(), patched(repair()), api.Curves(None, overlay())):
        with pytest.raises(SettingsError, match=rf"pip install 'repairkit\[{extra}\]'") as error:
            getattr(result, call)()
        assert "\n" not in str(error.value)
