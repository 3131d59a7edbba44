"""Which filters two classes share: sure signs, and a network built so that they are known."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from repairkit import api
from repairkit.core.errors import SettingsError
from repairkit.jobs.atlas.sharing import LEVEL, shared_filters, sure_signs
from repairkit.jobs.atlas.values_by import ValueColumn, ValuesBy


def holm(chances: list[float]) -> list[bool]:
    """Holm's step-down, as his paper words it: the least chance beside level / n, and so on."""
    left, sure = sorted(range(len(chances)), key=lambda i: chances[i]), [False] * len(chances)
    for step, number in enumerate(left):
        if chances[number] > LEVEL / (len(chances) - step):
            break
        sure[number] = True
    return sure


@given(
    st.lists(
        st.tuples(st.floats(-5, 5), st.floats(0.01, 3) | st.just(math.inf) | st.just(0.0)),
        min_size=1,
        max_size=12,
    )
)
def test_signs_are_sure_by_holms_step_down(pairs: list[tuple[float, float]]) -> None:
    values, errors = np.array(pairs).T
    tiny = 1e-9 * np.abs(values).max()
    chances = [
        1.0
        if abs(v) <= tiny or math.isinf(e)
        else 0.0
        if e == 0
        else math.erfc(abs(v) / e / math.sqrt(2))
        for v, e in pairs
    ]
    expected = [
        int(np.sign(v)) if sure else 0 for v, sure in zip(values, holm(chances), strict=True)
    ]
    assert sure_signs(values, errors).tolist() == expected


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=20)
def test_every_filter_is_of_one_kind(seed: int) -> None:
    rng = np.random.default_rng(seed)
    columns = tuple(
        ValueColumn(
            kind="class",
            name=name,
            n_images=10,
            values=rng.standard_normal(9),
            errors=rng.uniform(0.05, 0.5, 9),
        )
        for name in "xyz"
    )
    known = ValuesBy(filters=tuple(f"c:{n}" for n in range(9)), columns=columns, words="")
    shared = shared_filters(known, ["z", "x"])
    assert shared is not None
    assert (shared["a"]["name"], shared["b"]["name"]) == ("z", "x")
    assert sum(shared["counts"].values()) == 9
    for row in shared["filters"]:
        assert (
            row["of"]
            == {
                (True, True): "both",
                (True, False): "a",
                (False, True): "b",
                (False, False): "neither",
            }[row["sign_a"] > 0, row["sign_b"] > 0]
        )
    for wrong in (["x"], ["x", "x"], ["x", "w"]):
        with pytest.raises(SettingsError, match="--between"):
            shared_filters(known, wrong)


def built_for_classes(folder: Path) -> tuple[Path, Path]:
    """A network of four filters over images of three colour planes, and images of three classes.

    Plane 0 is lit in images of class 0 and plane 1 in those of class 1; plane 2 in both. Filter 0
    sees plane 0, filter 1 plane 1 and filter 2 plane 2: class 0 needs filters 0 and 2, class 1
    filters 1 and 2. Filter 3 sees nothing.
    """
    kernel = np.zeros((4, 3, 1, 1), np.float32)
    kernel[[0, 1, 2], [0, 1, 2]] = 1
    dense = np.zeros((4, 3), np.float32)
    dense[0, 0] = dense[1, 1] = 4
    dense[2] = [2, 2, 0]
    weights = {"k": kernel, "w": dense, "b": np.array([0, 0, 5.75], np.float32)}
    nodes = [
        helper.make_node("Conv", ["image", "k"], ["maps"], "conv"),
        helper.make_node("GlobalAveragePool", ["maps"], ["means"]),
        helper.make_node("Flatten", ["means"], ["flat"]),
        helper.make_node("Gemm", ["flat", "w", "b"], ["scores"], "fc"),
    ]
    graph = helper.make_graph(
        nodes,
        "built",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", 3, 4, 4])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    opset = helper.make_opsetid("", 17)
    onnx.save(helper.make_model(graph, opset_imports=[opset], ir_version=8), folder / "built.onnx")
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    x = 0.05 * rng.random((120, 3, 4, 4)).astype(np.float32)
    for label, plane in ((0, 0), (1, 1), (0, 2), (1, 2)):
        x[y == label, plane] += 1
    np.savez(folder / "built.npz", x=x, y=y)
    return folder / "built.onnx", folder / "built.npz"


def test_filters_built_for_one_class_both_or_none_are_told_apart(tmp_path: Path) -> None:
    model, data = built_for_classes(tmp_path)
    run = tmp_path / "run"
    api.score(model, data, metric=("accuracy", "recall:*"), method="exact", out=run, curve=False)
    document = api.atlas(run, between=("0", "1"), dreams=False).document
    shared = document["shared"]
    assert shared is not None
    kinds = {row["filter"]: row["of"] for row in shared["filters"]}
    assert kinds == {"conv:0": "a", "conv:1": "b", "conv:2": "both", "conv:3": "neither"}
    assert shared["counts"] == {"both": 1, "a": 1, "b": 1, "neither": 1}
    assert document["by_source"] == "value"


def test_without_values_by_class_the_atlas_says_what_to_run(tmp_path: Path) -> None:
    model, data = built_for_classes(tmp_path)
    run = tmp_path / "run"
    api.score(model, data, metric=("accuracy",), method="exact", out=run, curve=False)
    document = api.atlas(run, dreams=False).document
    assert document["shared"] is None
    assert "--keep-rows" in document["shared_words"]
    assert document["by_source"] == "effect"
    # Freezing a filter of class 0 alone loses images of class 0 and of no other.
    first = next(card for card in document["filters"] if card["filter"] == "conv:0")
    by = {row["name"]: row for row in first["by"]}
    assert by["0"]["sign"] == "helps"
    assert by["1"]["value"] == 0
    with pytest.raises(SettingsError, match="no values are known"):
        api.atlas(run, between=("0", "1"), dreams=False)


def test_kept_rows_tell_of_classes(tmp_path: Path) -> None:
    model, data = built_for_classes(tmp_path)
    run = tmp_path / "run"
    api.score(
        model,
        data,
        metric=("accuracy",),
        method="regression",
        max_evaluations=1500,
        keep_rows=True,
        out=run,
        curve=False,
    )
    document = api.atlas(run, between=("0", "1"), dreams=False).document
    asked = api.ask(run, metric=("recall:0", "recall:1"))
    shared = document["shared"]
    assert shared is not None
    values = {row["filter"]: (row["a"]["value"], row["b"]["value"]) for row in shared["filters"]}
    for number, each in enumerate(asked.filters):
        assert values[each.id] == pytest.approx(tuple(asked.scores.values[number]))
    assert {row["of"] for row in shared["filters"]} == {"a", "b", "both", "neither"}
