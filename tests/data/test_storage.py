from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DataError
from repairkit.data.images import allocate_pixels


def test_few_pixels_stay_in_memory() -> None:
    pixels = allocate_pixels((2, 3, 3, 1))
    assert not isinstance(pixels, np.memmap)
    assert not pixels.any()


def test_many_pixels_go_to_a_file_that_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    pixels = allocate_pixels((2, 3, 3, 1), in_memory_bytes=10)
    assert isinstance(pixels, np.memmap)
    pixels[1] = 7
    assert pixels.sum() == 7 * 9
    del pixels
    assert not list(tmp_path.iterdir())


def test_more_pixels_than_there_is_room_for_are_refused() -> None:
    with pytest.raises(DataError, match=r"the images need .* GiB and .* point TMPDIR elsewhere"):
        allocate_pixels((1 << 40, 1 << 20, 3))
