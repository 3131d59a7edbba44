"""The bar in a notebook's cell: what it shows, when, and that it is gone at the end."""

from __future__ import annotations

import re
from collections.abc import Callable

import nbformat
import pytest

from repairkit.core.process.stages import listening, stage
from repairkit.notebook.progress import BETWEEN_SECONDS, FIRST_SECONDS, CellBar, shown_in_cell
from tests.worked_jobs.pairs import run


class Pages:
    """An output that remembers what it showed."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def show(self, page: str) -> None:
        self.shown.append(page)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def work(bar: CellBar, clock: Clock, seconds: float, n_images: int) -> None:
    with listening(bar), stage("measuring means", total=n_images) as tell:
        for done in range(1, n_images + 1):
            clock.now += seconds / n_images
            tell(done)
    bar.close()


def test_a_long_stage_shows_a_growing_share_and_leaves_nothing() -> None:
    pages, clock = Pages(), Clock()
    work(CellBar(pages, clock), clock, seconds=10, n_images=100)
    *bars, last = pages.shown
    shares = [float(re.search(r'value="([\d.]+)"', page)[1]) for page in bars]  # type: ignore[index]
    assert shares == sorted(shares)
    assert len(shares) == len(set(shares)) > 10
    assert all("measuring means: " in page and " of 100 images" in page for page in bars)
    assert last == ""


def test_a_quick_job_shows_nothing() -> None:
    pages, clock = Pages(), Clock()
    work(CellBar(pages, clock), clock, seconds=FIRST_SECONDS * 0.9, n_images=50)
    assert pages.shown == []


def test_the_bar_is_not_drawn_more_often_than_eyes_can_follow() -> None:
    pages, clock = Pages(), Clock()
    work(CellBar(pages, clock), clock, seconds=5, n_images=10_000)
    assert len(pages.shown) <= 5 / BETWEEN_SECONDS + 1


def test_names_of_stages_are_text_and_not_html() -> None:
    pages, clock = Pages(), Clock()
    bar = CellBar(pages, clock)
    clock.now = 1.0
    with listening(bar), stage("<script>alert(1)</script>"):
        pass
    assert "<script>" not in "".join(pages.shown)
    assert "&lt;script&gt;" in pages.shown[0]


def test_outside_a_notebook_a_job_is_called_as_it_is() -> None:
    @shown_in_cell
    def job(number: int, *, progress: bool = True) -> tuple[int, bool]:
        return number, progress

    assert job(7) == (7, True)
    assert job(7, progress=False) == (7, False)


CELLS = """
import time
import repairkit
from repairkit.core.process.stages import stage
from repairkit.notebook import progress

progress.FIRST_SECONDS = 0.0

@progress.shown_in_cell
def job(fail=False, progress=True):
    with stage("measuring", total=2) as tell:
        tell(1)
        time.sleep(0.3)
        tell(2)
        if fail:
            raise ValueError("as told")
"""


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], list[str]]:
    """The HTML that each cell is left with, after all have run in a kernel."""
    cells = [
        CELLS,
        "job()",
        "job(progress=False)",
        "try:\n    job(fail=True)\nexcept ValueError:\n    pass",
    ]
    cells.append(
        "seen = []\nshow = progress.CellOutput.show\n"
        "progress.CellOutput.show = lambda self, page: (seen.append(page), show(self, page))\n"
        "job()\nprint(len(seen), 'measuring' in seen[0])"
    )
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in cells])
    done = run(book, tmp_path_factory.mktemp("kernel"))
    return lambda number: done.cells[number].outputs


@pytest.mark.filterwarnings("default")
def test_in_a_kernel_the_bar_appears_and_is_gone_at_the_end(
    executed: Callable[[int], list[dict]],
) -> None:
    assert [output["data"]["text/html"] for output in executed(1)] == [""]
    assert executed(2) == []
    assert [output["data"]["text/html"] for output in executed(3)] == [""]
    text = next(output["text"] for output in executed(4) if output.output_type == "stream")
    assert re.fullmatch(r"[2-9] True\n", text)
