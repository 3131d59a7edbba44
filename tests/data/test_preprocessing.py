from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.errors import SettingsError
from repairkit.data.preprocessing import Preprocessing, value_table

FLOAT32 = np.dtype(np.float32)


def read(**mapping: Any) -> Preprocessing:
    return Preprocessing.from_mapping(mapping, "repairkit.toml")


def test_settings_are_read_as_numbers_or_as_text() -> None:
    as_text = read(
        resize="256", crop="224x224", color="BGR", scale="1/255", mean="0.5,0.4,0.3", std="1/2",
        layout="NHWC",
    )  # fmt: skip
    as_values = read(
        resize=256, crop=224, color="bgr", scale=1 / 255, mean=[0.5, "0.4", 0.3], std=0.5,
        layout="nhwc",
    )  # fmt: skip
    assert as_text == as_values
    assert as_text == Preprocessing(
        256, (224, 224), "bgr", 1 / 255, (0.5, 0.4, 0.3), (0.5,), "nhwc"
    )
    assert read(resize=[10, 20]).resize == (10, 20)
    assert read() == Preprocessing()


@pytest.mark.parametrize(
    ("mapping", "message"),
    [
        ({"men": 1}, "unknown key 'men'; did you mean 'mean'"),
        ({"scale": "1/0"}, "scale is '1/0'; expected a number, or a fraction"),
        ({"scale": "much"}, "scale is 'much'; expected"),
        ({"scale": True}, "scale is True; expected"),
        ({"scale": 0}, r"scale is 0\.0; expected a number above 0"),
        ({"scale": float("nan")}, "scale is nan"),
        ({"mean": ["a"]}, "mean is 'a'; expected a number"),
        ({"mean": [float("inf")]}, "mean is .*expected finite"),
        ({"mean": {"a": 1}}, "mean is {'a': 1}; expected"),
        ({"std": [0.5, 0.0, 0.5]}, "std is .*expected numbers above 0"),
        ({"resize": 0}, "resize is 0; expected at least 1 pixel"),
        ({"resize": [1, 2, 3]}, r"resize is \[1, 2, 3\]; expected one size, or \[height, width\]"),
        ({"resize": 1.5}, r"resize is 1\.5; expected one size"),
        ({"crop": "big"}, "crop is 'big'; expected one size"),
        ({"crop": True}, "crop is True; expected one size"),
        ({"color": "brg"}, "color is 'brg'; expected one of rgb, bgr, gray; did you mean"),
        ({"color": 3}, "color is 3; expected a word"),
        ({"layout": "chw"}, "layout is 'chw'; expected one of nchw, nhwc"),
    ],
)
def test_settings_that_make_no_sense_are_refused(mapping: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError, match=f"^repairkit.toml: {message}"):
        read(**mapping)


@given(
    scale=st.floats(1e-3, 10),
    mean=st.lists(st.floats(-10, 10), min_size=3, max_size=3),
    std=st.lists(st.floats(0.1, 10), min_size=3, max_size=3),
)
def test_a_table_holds_the_formula_rounded_once(
    scale: float, mean: list[float], std: list[float]
) -> None:
    table = value_table(Preprocessing(scale=scale, mean=tuple(mean), std=tuple(std)), 3, FLOAT32)
    for channel in range(3):
        exact = (np.arange(256) * scale - mean[channel]) / std[channel]
        assert np.array_equal(table[channel], exact.astype(np.float32))


def test_integer_inputs_are_rounded_and_clipped() -> None:
    table = value_table(Preprocessing(scale=0.6, mean=(100.0,)), 1, np.dtype(np.int8))
    assert table.dtype == np.int8
    assert table[0, [0, 1, 1, 255]].tolist() == [-100, -99, -99, 53]
    assert value_table(Preprocessing(scale=10), 1, np.dtype(np.uint8))[0, 255] == 255


def test_one_mean_serves_every_channel_and_other_counts_are_refused() -> None:
    assert value_table(Preprocessing(mean=(1.0,)), 3, FLOAT32).shape == (3, 256)
    with pytest.raises(SettingsError, match=r"mean has 3 values and the model takes 1 channel"):
        value_table(Preprocessing(mean=(1.0, 1.0, 1.0)), 1, FLOAT32)


def test_values_that_the_model_cannot_hold_are_refused() -> None:
    with pytest.raises(SettingsError, match="beyond the range of the model's float16"):
        value_table(Preprocessing(scale=1000), 1, np.dtype(np.float16))
    with pytest.raises(SettingsError, match="takes complex64"):
        value_table(Preprocessing(), 1, np.dtype(np.complex64))
