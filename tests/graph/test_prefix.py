"""A model cut at a tensor gives that tensor, bit for bit, and nothing behind it is left."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from repairkit.graph.kinds.sites import survey
from repairkit.graph.prefix import cut_at, with_open_image
from repairkit.graph.protos import copied
from tests.models import LAYERS
from tests.running import input_name, run


@pytest.mark.parametrize("name", sorted(LAYERS))
def test_a_cut_model_gives_its_tensors_and_is_smaller(name: str) -> None:
    model = LAYERS[name]()
    found = survey(model)
    if not found.sites:
        pytest.skip("it has no sites")
    before = model.SerializeToString(deterministic=True)
    site = found.sites[0]
    cut = cut_at(model, (site.tensor,))
    assert model.SerializeToString(deterministic=True) == before
    assert [o.name for o in cut.graph.output] == [site.tensor]
    assert len(cut.graph.node) < len(model.graph.node)
    onnx.load_from_string(cut.SerializeToString())
    feeds = {input_name(model): _image(model)}
    tapped = copied(model)
    tapped.graph.output.append(onnx.helper.make_empty_tensor_value_info(site.tensor))
    np.testing.assert_array_equal(run(cut, feeds)[0], run(tapped, feeds)[-1])


def _image(model: onnx.ModelProto) -> np.ndarray:
    value = next(i for i in model.graph.input if i.name == input_name(model))
    shape = [dim.dim_value or 2 for dim in value.type.tensor_type.shape.dim]
    dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
    return (np.random.default_rng(0).standard_normal(shape) * 3).astype(dtype)


def test_a_model_with_an_open_image_takes_another_size() -> None:
    model = LAYERS["no_bias"]()
    cut = with_open_image(cut_at(model, ("y",)), "image")
    (small,) = run(cut, {"image": np.zeros((1, 2, 4, 5), np.float32)})
    assert small.shape == (1, 4, 4, 5)
