"""Other usual ways to prepare images and to number classes."""

from __future__ import annotations

import re
import shlex

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from repairkit.data.annotations import read_classes
from repairkit.data.preprocessing import InputSpec, Preprocessing
from repairkit.data.sources.arrays import load_array
from repairkit.data.usual import Order, Way, class_orders, usual_ways

FEW = np.arange(4)


def spec_of(layout: str, channels: int, dtype: str = "float32", side: int = 8) -> InputSpec:
    shape = (channels, side, side) if layout == "nchw" else (side, side, channels)
    return InputSpec(layout, shape, np.dtype(dtype))


def pixels(channels: int, *, most: int = 256, side: int = 8) -> NDArray[np.uint8]:
    rng = np.random.default_rng(channels + side)
    found = rng.integers(0, most, (4, side, side, channels), np.uint8)
    found[0, 0, 0], found[0, 0, 1] = most - 1, 0
    return found


def followed(way: Way, told: dict[str, object]) -> Preprocessing:
    """What was told with the options that the remedy names, read as a user would give them."""
    options = dict(re.findall(r"--(\w+) (\S+)", way.remedy))
    lists = {k: v.split(",") if k in ("mean", "std") else v for k, v in options.items()}
    return Preprocessing.from_mapping({**told, **lists}, "options")


TOLD = st.fixed_dictionaries(
    {},
    optional={
        "scale": st.sampled_from(["1", "1/255", "1/127.5", "1/16", 0.01]),
        "mean": st.sampled_from([[0.5], [0.1, 0.2, 0.3], [1.0], [103.939, 116.779, 123.68]]),
        "std": st.sampled_from([[0.5], [0.2, 0.3, 0.4], [1.0]]),
        "color": st.sampled_from(["rgb", "bgr"]),
    },
)


@given(told=TOLD, layout=st.sampled_from(["nchw", "nhwc"]), side=st.sampled_from([8, 32]))
@settings(deadline=None, max_examples=30)
def test_each_way_gives_the_images_that_its_remedy_gives(
    told: dict[str, object], layout: str, side: int
) -> None:
    spec, x = spec_of(layout, 3, side=side), pixels(3, side=side)
    preprocessing = Preprocessing.from_mapping(told, "told")
    ways = usual_ways(load_array(x, spec, preprocessing, "x").images, spec, preprocessing, FEW)
    assert len(ways) >= 10
    assert len({way.name for way in ways}) == len(ways)
    batches = [way.images.batch(FEW) for way in ways]
    assert ways[0].remedy == ""
    for way, batch in zip(ways[1:], batches[1:], strict=True):
        again = load_array(x, spec, followed(way, told), "x").images.batch(FEW)
        np.testing.assert_allclose(batch, again, rtol=1e-6)
        assert not np.array_equal(batch, batches[0])


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("scale", "mean"), [(1.0, 0.0), (1 / 255, 0.0), (1 / 127.5, 1.0), (1 / 255, 0.5)]
)
def test_arrays_that_are_ready_are_read_back_as_pixels(
    layout: str, scale: float, mean: float
) -> None:
    spec = spec_of(layout, 3)
    stored = pixels(3) if layout == "nhwc" else pixels(3).transpose(0, 3, 1, 2)
    x = (stored * scale - mean).astype(np.float32)
    ways = usual_ways(load_array(x, spec, Preprocessing(), "x").images, spec, Preprocessing(), FEW)
    np.testing.assert_array_equal(ways[0].images.batch(FEW), x)
    for way in ways[1:]:
        code = re.search(r"x = (.*?\"\))", way.first)
        assert code is not None
        saved = eval(code[1], {"x": x})  # the line that the user is told to run
        again = load_array(saved, spec, followed(way, {}), "x").images.batch(FEW)
        np.testing.assert_allclose(way.images.batch(FEW), again, rtol=2e-3, atol=0.02)


def test_imagenet_arrays_are_told_by_their_range() -> None:
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    spec, unit = spec_of("nhwc", 3), pixels(3) / 255
    x = ((unit - mean) / std).astype(np.float32)
    ways = usual_ways(load_array(x, spec, Preprocessing(), "x").images, spec, Preprocessing(), FEW)
    assert ways[0].name == "ImageNet mean and std, RGB"
    plain = next(way for way in ways if way.name == "1/255, RGB")
    np.testing.assert_allclose(plain.images.batch(FEW), unit, atol=1e-5)


def test_what_says_nothing_of_its_range_is_tried_with_its_channels_turned_alone() -> None:
    spec = spec_of("nchw", 3)
    x = np.random.default_rng(0).standard_normal((4, 3, 8, 8)).astype(np.float32) * 50
    ways = usual_ways(load_array(x, spec, Preprocessing(), "x").images, spec, Preprocessing(), FEW)
    assert [way.name for way in ways] == ["as told", "channels the other way round"]
    np.testing.assert_array_equal(ways[1].images.batch(FEW), x[:, ::-1])
    assert "x[:, ::-1]" in ways[1].remedy


def test_images_without_colour_have_no_order_of_colours() -> None:
    spec = spec_of("nchw", 3)
    gray = np.repeat(pixels(1), 3, axis=-1)
    ways = usual_ways(
        load_array(gray, spec, Preprocessing(), "x").images, spec, Preprocessing(), FEW
    )
    assert not any("BGR" in way.name for way in ways)


@pytest.mark.parametrize(("dtype", "names"), [("uint8", 2), ("int8", 4)])
def test_integer_inputs_take_no_scale(dtype: str, names: int) -> None:
    spec = spec_of("nchw", 3, dtype)
    told = Preprocessing(mean=(128.0,)) if dtype == "int8" else Preprocessing()
    images = load_array(pixels(3), spec_of("nchw", 3), told, "x").images
    images = type(images)(images.pixels, images.table.astype(dtype), images.channels_first)  # type: ignore[attr-defined]
    assert len(usual_ways(images, spec, told, FEW)) == names


def test_pixels_that_end_early_are_scaled_by_the_largest() -> None:
    spec = spec_of("nchw", 1)
    images = load_array(pixels(1, most=17), spec, Preprocessing(), "x").images
    ways = {way.name: way for way in usual_ways(images, spec, Preprocessing(), FEW)}
    found = ways["1/16, the largest pixel"]
    assert found.images.batch(FEW).max() == 1.0
    assert "--scale 1/16" in found.remedy
    assert 'scale = "1/16"' in found.remedy


def where(index: int) -> str:
    return f"row {index}"


def orders_of(raw: list[str], n_classes: int, classes: tuple[str, ...] = ()) -> tuple[Order, ...]:
    labels = read_classes(np.array(raw), classes, n_classes, where)
    return class_orders(labels.values, labels.class_names, labels.reading, n_classes)


@pytest.mark.parametrize(
    ("raw", "classes", "names"),
    [
        (["0", "1", "1"], (), {"the two classes swapped"}),
        (["cat", "dog"], (), {"the two classes swapped"}),
        (["zebra", "ant", "bee"], (), {"classes reversed", "classes as they first appear"}),
        (
            ["Zoo", "art", "bar"],
            (),
            {"classes reversed", "classes sorted without regard to capitals"},
        ),
        (
            ["item1", "item2", "item10"],
            (),
            {"classes reversed", "classes sorted by the numbers in their names"},
        ),
        (["b", "a", "c"], ("b", "a", "c"), {"classes reversed", "classes sorted as text"}),
        ([str(i) for i in range(12)], (), {"classes reversed", "classes sorted as text"}),
        ([str(i) for i in range(10)], (), {"classes reversed"}),
    ],
)
def test_the_remedy_of_each_order_reads_the_labels_in_it(
    raw: list[str], classes: tuple[str, ...], names: set[str]
) -> None:
    n_classes = len(set(raw))
    found = orders_of(raw, n_classes, classes)
    assert {order.name for order in found} >= names
    before = read_classes(np.array(raw), classes, n_classes, where).values
    for order in found:
        assert sorted(order.numbers.tolist()) == list(range(n_classes))
        option = re.search(r"--classes=(.*?) \(in", order.remedy)
        assert option is not None
        given = tuple(shlex.split(option[1])[0].split(","))
        after = read_classes(np.array(raw), given, n_classes, where).values
        np.testing.assert_array_equal(after, order.numbers[before])
        assert not np.array_equal(order.numbers, np.arange(n_classes))


def test_no_order_is_told_twice() -> None:
    found = orders_of(["b1", "B2", "a10", "a9"], 4)
    assert len({tuple(order.numbers.tolist()) for order in found}) == len(found)


def test_a_background_class_in_front_is_a_matter_of_columns() -> None:
    labels = np.array([0, 3, 998])
    found = class_orders(labels, (), "labels are class numbers", 1000, from_folder=True)
    further = next(order for order in found if "further" in order.name)
    np.testing.assert_array_equal(further.numbers[labels], labels + 1)
    assert "--columns 1:1000" in further.remedy


def test_many_classes_are_not_spelt_out() -> None:
    found = class_orders(np.arange(500), (), "labels are class numbers", 500)
    assert found
    assert all(len(order.remedy) < 200 for order in found)
