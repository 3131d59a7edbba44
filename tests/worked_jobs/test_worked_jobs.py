"""The worked jobs: pages and notebooks are in step, and each runs as written."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.worked_jobs.pairs import JOBS, PICTURES, job_pages, notebook_of, outputs_of, run, text_of

NEEDS = {
    "attack": ("torch", "sklearn"),
    "forest": ("skl2onnx", "sklearn"),
    "owners": (),
    "shortcut": ("torch", "sklearn"),
    "weak_class": ("tensorflow", "tf2onnx", "sklearn"),
}
FAST = {"forest", "owners"}


@pytest.mark.parametrize("page", job_pages(), ids=lambda page: page.stem)
def test_a_notebook_has_the_cells_of_its_page(page: Path) -> None:
    written = page.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert written == text_of(notebook_of(page)), "make notebooks writes it anew"


def test_every_job_has_a_page_and_a_notebook() -> None:
    assert {page.stem for page in job_pages()} == NEEDS.keys()
    assert {book.stem for book in JOBS.glob("*.ipynb")} == NEEDS.keys()


def test_the_site_has_a_picture_for_every_cell_that_draws() -> None:
    drawn = {
        f"{page.stem}-{number}.png"
        for page in job_pages()
        for number in range(1, page.read_text(encoding="utf-8").count("plt.show()") + 1)
    }
    assert {picture.name for picture in PICTURES.iterdir()} == drawn
    assert sum(picture.stat().st_size for picture in PICTURES.iterdir()) < 150_000


@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, marks=[] if page.stem in FAST else pytest.mark.slow)
        for page in job_pages()
    ],
    ids=lambda page: page.stem,
)
@pytest.mark.filterwarnings("default")
def test_a_job_runs_as_written(page: Path, tmp_path: Path) -> None:
    missing = [name for name in NEEDS[page.stem] if find_spec(name) is None]
    if missing:
        pytest.skip(f"{' and '.join(missing)} is not installed")
    executed = run(notebook_of(page), tmp_path)
    assert outputs_of(executed, "image/png"), "a job shows a picture"
    assert outputs_of(executed, "text/html"), "a job shows a table"
    assert 10 <= len(executed.cells) <= 30
    last = [cell for cell in executed.cells if cell.cell_type == "code"][-1]
    assert "onnxruntime.InferenceSession" in last.source
    assert "assert" in last.source
