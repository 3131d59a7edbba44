"""The page of an atlas: bounded in size, each picture once, one script admitted and no other."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import partial

import pytest

from repairkit.core.errors import RunFolderError
from repairkit.formats.documents import fault_of
from repairkit.formats.looks.atlas_file import AtlasDocument
from repairkit.jobs.atlas.making_atlas import MOST_BYTES, album_of, fitting_page
from repairkit.report.atlas_page import DETAILS, render_atlas
from tests.report.atlases import atlas_document, originals
from tests.report.documents import HOSTILE


def page_of(document: AtlasDocument, most: int = MOST_BYTES) -> str:
    return fitting_page(document, partial(album_of, document, originals(document)), most=most)


def test_the_document_is_of_its_record() -> None:
    assert fault_of(atlas_document(), AtlasDocument) == ""


@pytest.mark.parametrize("most", [10_000_000, 150_000, 100_000, 30_000])
def test_a_page_is_never_larger_than_allowed(most: int) -> None:
    document = atlas_document(8)
    text = page_of(document, most)
    assert len(text.encode()) <= most
    said = "the page holds" in text
    whole = render_atlas(document, album_of(document, originals(document), DETAILS[0]))
    assert said == (len(whole.encode()) > most)
    assert text.count("<article") == 8 or "first" in text


def test_a_page_that_has_no_room_for_a_filter_is_refused() -> None:
    with pytest.raises(RunFolderError, match="give shorter ones"):
        page_of(atlas_document(4), 5_000)


def test_each_picture_stands_once_however_many_filters_show_it() -> None:
    document = atlas_document(30, n_rows=12)
    text = page_of(document)
    shown = re.findall(r'<image id="i(\d+)"', text)
    assert len(shown) == len(set(shown)) == 12
    assert text.count('<use href="#i') == 30 * 8
    uris = re.findall(r'href="(data:[^"]+)"', text)
    assert len(uris) < 12 + 30 * 8 + 15 + 1


def test_the_policy_admits_the_script_and_no_other() -> None:
    text = page_of(atlas_document(sites=HOSTILE, classes=HOSTILE[:2], groups=HOSTILE[2:4]))
    scripts = re.findall(r"<script>(.*?)</script>", text, re.DOTALL)
    assert len(scripts) == 1
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]*)"', text)
    assert policy is not None
    assert policy[1].replace("&#39;", "'") == (
        "default-src 'none'; base-uri 'none'; form-action 'none'; img-src data:; "
        f"style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    )
    assert not re.search(r"<[^>]*\son\w+=", text)


def test_a_page_without_pictures_dreams_or_shared_filters_is_whole() -> None:
    document = atlas_document(3)
    for card in document["filters"]:
        card["dream"], card["concepts"], card["by"], card["effect"] = None, [], [], None
        for name in ("most", "least", "map", "sees", "classes", "groups", "response"):
            del card[name]  # type: ignore[misc]
    document["shared"], document["shared_words"] = None, "score with --keep-rows"
    album = album_of(document, originals(atlas_document(3)), DETAILS[-1])
    text = render_atlas(document, album)
    assert "score with --keep-rows" in text
    assert "<use " not in text
