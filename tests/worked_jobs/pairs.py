"""The worked jobs: each page `docs/jobs/NAME.md` has a notebook `NAME.ipynb` of the same cells.

    python -m tests.worked_jobs.pairs             # write the notebooks, without outputs
    python -m tests.worked_jobs.pairs --run NAME  # run a job; write it as HTML, and its pictures

The page is the source. It is written in jupytext's Markdown, so that sites show it as it is.
"""

from __future__ import annotations

import argparse
import base64
import html
import io
import tempfile
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient
from PIL import Image

JOBS = Path(__file__).parents[2] / "docs" / "jobs"
PICTURES = JOBS / "pictures"
SECONDS_PER_CELL = 600


def job_pages() -> list[Path]:
    """The pages that are notebooks; an index is none."""
    pages = sorted(JOBS.glob("*.md"))
    return [page for page in pages if page.read_text(encoding="utf-8").startswith("---\njupyter:")]


def notebook_of(page: Path) -> Any:
    """The notebook of a page: no outputs, and the same ids of cells each time."""
    book = jupytext.read(page)
    for number, cell in enumerate(book.cells, 1):
        cell["id"] = f"cell-{number}"
    # How the page is written, and jupytext's version, say nothing to who opens the notebook.
    book.metadata = {"kernelspec": dict(book.metadata["kernelspec"])}
    book.nbformat, book.nbformat_minor = 4, 5
    return book


def text_of(book: Any) -> str:
    """What stands in the `.ipynb` file."""
    return f"{nbformat.writes(book)}\n"


def run(book: Any, folder: Path) -> Any:
    """Execute all cells in a kernel that works in `folder`.

    Raises:
        CellExecutionError: a cell raised an error, such as a failed assertion.
    """
    client = NotebookClient(
        book,
        timeout=SECONDS_PER_CELL,
        kernel_name="python3",
        resources={"metadata": {"path": str(folder)}},
    )
    return client.execute()


def outputs_of(book: Any, kind: str) -> list[str]:
    """All outputs of one MIME type, in order."""
    return [
        output["data"][kind]
        for cell in book.cells
        for output in cell.get("outputs", ())
        if kind in output.get("data", {})
    ]


def write_pictures(name: str, book: Any) -> None:
    """Write what the cells of a job drew, for the site, as `pictures/NAME-1.png` and so on."""
    PICTURES.mkdir(exist_ok=True)
    for number, picture in enumerate(outputs_of(book, "image/png"), 1):
        drawn = Image.open(io.BytesIO(base64.b64decode(picture))).convert("RGB")
        drawn.quantize(64).save(PICTURES / f"{name}-{number}.png", optimize=True)


def page_of(book: Any) -> str:
    """An executed notebook as plain HTML, for a look at it in a browser."""
    parts = ["<!doctype html><meta charset=utf-8><body style='max-width:50em;margin:2em auto'>"]
    for cell in book.cells:
        if cell.cell_type == "markdown":
            parts.append(
                f"<pre style='white-space:pre-wrap;font:1em serif'>{_text(cell.source)}</pre>"
            )
            continue
        parts.append(f"<pre style='background:#eee;padding:.5em'>{_text(cell.source)}</pre>")
        parts += [_shown(output) for output in cell.outputs]
    return "\n".join(parts)


def _shown(output: Any) -> str:
    data = output.get("data", {})
    if "image/png" in data:
        return f"<img alt='' src='data:image/png;base64,{data['image/png']}'>"
    if "text/html" in data:
        return str(data["text/html"])
    return f"<pre>{_text(data.get('text/plain', output.get('text', '')))}</pre>"


def _text(text: str) -> str:
    return html.escape(text, quote=False)


def main() -> None:
    parser = argparse.ArgumentParser(description="Write or run the notebooks of the worked jobs.")
    parser.add_argument("--run", nargs="+", metavar="NAME", default=[], help="run these jobs")
    parser.add_argument("-o", type=Path, default=Path(), help="the folder for pages of jobs run")
    given = parser.parse_args()
    for page in job_pages():
        if page.stem in given.run:
            with tempfile.TemporaryDirectory() as folder:
                executed = run(notebook_of(page), Path(folder))
            (given.o / f"{page.stem}.html").write_text(page_of(executed), encoding="utf-8")
            write_pictures(page.stem, executed)
        elif not given.run:
            page.with_suffix(".ipynb").write_text(text_of(notebook_of(page)), encoding="utf-8")


if __name__ == "__main__":
    main()
