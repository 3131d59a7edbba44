from __future__ import annotations

import pytest

from repairkit.core.errors import SettingsError
from repairkit.data.preprocessing import describe_shape
from tests.data.builders import spec


@pytest.mark.parametrize(("layout", "shape"), [("nchw", (3, 5, 7)), ("nhwc", (5, 7, 3))])
def test_sizes_are_found_in_either_layout(layout: str, shape: tuple[int, ...]) -> None:
    found = spec(*shape, layout=layout)
    assert (found.channels, found.height, found.width) == (3, 5, 7)


def test_an_input_of_another_rank_has_no_image_sizes() -> None:
    found = spec(10, layout="other")
    assert (found.channels, found.height, found.width) == (None, None, None)


def test_a_layout_override_reads_the_same_shape_anew() -> None:
    assert spec(3, 5, 7).with_layout("nhwc").channels == 7
    assert spec(3, 5, 7).with_layout(None) == spec(3, 5, 7)


def test_a_layout_for_an_input_of_another_rank_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"layout nhwc needs .* rank 4 and this one has rank 2"):
        spec(10, layout="other").with_layout("nhwc")


def test_shapes_read_well() -> None:
    assert describe_shape((3, None, 224)) == "3 x ? x 224"
    assert describe_shape(()) == "a single number"
