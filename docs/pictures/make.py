"""Make the pictures of README, atlas, slices and change record anew from the sample, in Chromium.

    .venv/bin/python docs/pictures/make.py [REPORT.html]

Without a page, the sample is repaired first. Look at the pictures before they are committed.
`REPAIRKIT_CHROMIUM` names another browser than `chromium`.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import FloatRect, Page, sync_playwright

FOLDER = Path(__file__).parent
CARD = 2  # of the cards of the atlas
METRICS = ("accuracy", "recall:*", "group_accuracy:*")
CULPRIT = 4  # of the frozen filters on the page
WIDTH, HEIGHT = 960, 820  # of the window, in points of the page
SHEET = 690, 1000  # what the margins leave of a sheet of A4
PADDING = 16
COLOURS = 64


def repair(folder: Path) -> Path:
    """The page of the repaired sample."""
    code = "from repairkit.cli import main; main()"
    command = [sys.executable, "-c", code, "demo", "-o", "digits", "--quiet"]
    subprocess.run(command, cwd=folder, check=True)
    return folder / "digits" / "model.patched.report.html"


def draw_atlas(folder: Path) -> Path:
    """The atlas of the sample, scored for every class and group."""
    code = "from repairkit.cli import main; main()"
    metrics = [word for name in METRICS for word in ("--metric", name)]
    jobs = (
        ["score", "model.onnx", *metrics, "--method", "regression", "-o", "run"],
        ["dissect", "model.onnx", "-o", "concepts"],
        ["atlas", "run", "--dissection", "concepts"],
    )
    for words in jobs:
        command = [sys.executable, "-c", code, *words, "--quiet"]
        subprocess.run(command, cwd=folder / "digits", check=True)
    return folder / "digits" / "run" / "atlas.html"


def find_groups(folder: Path) -> Path:
    """The page of a repair of the sample whose groups nobody named."""
    code = "from repairkit.cli import main; main()"
    words = ["model.onnx", "--group", "auto", "--fairness", "--repair", "bias", "-o", "found.onnx"]
    command = [sys.executable, "-c", code, "patch", *words, "--quiet"]
    subprocess.run(command, cwd=folder / "digits", check=True)
    return folder / "digits" / "found.report.html"


def shoot_change(page: Page) -> None:
    """The whole change record, as it is printed."""
    page.emulate_media(media="print")
    page.set_viewport_size({"width": SHEET[0], "height": SHEET[1]})
    page.evaluate(f"document.body.style.padding = '{PADDING}px'")
    save(page.screenshot(full_page=True), "change.png", colours=32)


def shoot_slices(page: Page) -> None:
    """The slices of errors, with their images."""
    save(page.locator("section:has(#slices)").screenshot(), "slices.png")


def shoot_atlas(page: Page) -> None:
    """A card, and the filters that two groups share."""
    card = box_of(page, f"#card-{CARD}")
    after = box_of(page, f"#card-{CARD + 1}")
    block = FloatRect(
        x=card["x"] - PADDING,
        y=card["y"] - PADDING,
        width=card["width"] + 2 * PADDING,
        height=after["y"] - card["y"] - PADDING,
    )
    save(page.screenshot(clip=block, full_page=True), "atlas.png")
    page.locator("section:has(#shared) .beside").scroll_into_view_if_needed()
    save(page.locator("section:has(#shared) .beside").screenshot(), "shared.png")


def save(picture: bytes, name: str, colours: int = COLOURS) -> None:
    """Write a picture with few colours, which keeps the repository small."""
    image = Image.open(io.BytesIO(picture)).convert("RGB")
    few = image.quantize(colours, dither=Image.Dither.NONE)
    few.save(FOLDER / name, optimize=True)


def box_of(page: Page, place: str) -> FloatRect:
    """Where an element stands on the page."""
    box = page.locator(place).bounding_box()
    assert box is not None, place
    return box


def shoot(page: Page) -> None:
    """The top of the page down to its chart, and the block of one frozen filter."""
    chart = box_of(page, "section:has(#trade-off)")
    height = chart["y"] + chart["height"]
    top = FloatRect(x=0, y=0, width=WIDTH, height=height)
    save(page.screenshot(clip=top, full_page=True), "page.png")
    title, after = (box_of(page, f"#filter-{number}") for number in (CULPRIT, CULPRIT + 1))
    block = FloatRect(
        x=title["x"] - PADDING,
        y=title["y"] - PADDING,
        width=title["width"] + 2 * PADDING,
        height=after["y"] - title["y"] - PADDING,
    )
    save(page.screenshot(clip=block, full_page=True), "filter.png")


def main() -> None:
    """Repair the sample, open its page, and write both pictures."""
    browser = os.environ.get("REPAIRKIT_CHROMIUM") or shutil.which("chromium")
    with tempfile.TemporaryDirectory() as place, sync_playwright() as started:
        opened = started.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        page = opened.new_page(
            viewport={"width": WIDTH, "height": HEIGHT},
            device_scale_factor=2,
            color_scheme="light",
        )
        report = Path(sys.argv[1]) if sys.argv[1:] else repair(Path(place))
        page.goto(report.resolve().as_uri())
        shoot(page)
        if not sys.argv[1:]:
            page.goto(report.with_name("model.patched.change.html").resolve().as_uri())
            shoot_change(page)
            page.emulate_media(media="screen")
            page.set_viewport_size({"width": WIDTH, "height": HEIGHT})
            page.goto(draw_atlas(Path(place)).resolve().as_uri())
            shoot_atlas(page)
            page.goto(find_groups(Path(place)).resolve().as_uri())
            shoot_slices(page)
        opened.close()


if __name__ == "__main__":
    main()
