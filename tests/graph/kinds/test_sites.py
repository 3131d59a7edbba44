"""What is a site, what it is called, and what is said of the rest."""

import numpy as np
import onnx
import pytest
from onnx import helper

from repairkit.core.errors import ModelError, SettingsError
from repairkit.graph.kinds.sites import find_sites, select_sites, survey
from tests import models


def test_a_site_is_taken_behind_the_bias_and_the_normalisation() -> None:
    assert [s.tensor for s in find_sites(models.own_bias())] == ["y"]
    assert [s.tensor for s in find_sites(models.bias_add())] == ["y"]
    assert [s.tensor for s in find_sites(models.both_biases())] == ["y"]
    assert [s.tensor for s in find_sites(models.normalised())] == ["y"]


def test_an_add_of_another_activation_is_no_bias() -> None:
    model = models.own_bias()
    model.graph.node.insert(1, helper.make_node("Add", ["y", "y"], ["doubled"], "double"))
    model.graph.node[2].input[0] = "doubled"
    assert [s.tensor for s in find_sites(model)] == ["y"]


def test_a_bias_is_not_taken_where_something_else_reads_the_layer_too() -> None:
    model = models.bias_add()
    model.graph.node.append(helper.make_node("Relu", ["x"], ["other"], "other"))
    model.graph.output.append(helper.make_empty_tensor_value_info("other"))
    assert [s.tensor for s in survey(model, output="logits").sites] == ["x"]


def test_filters_are_counted_by_output_channels() -> None:
    assert [s.n_channels for s in find_sites(models.transposed_grouped())] == [6]
    assert [s.n_channels for s in find_sites(models.depthwise())] == [4]


def test_a_site_is_named_by_its_node_or_else_by_its_first_output() -> None:
    assert [s.name for s in find_sites(models.own_bias())] == ["conv"]
    assert [s.name for s in find_sites(models.unnamed_nodes())] == ["first", "second", "third"]
    twins = models.unnamed_nodes()
    for node in twins.graph.node[:2]:
        node.name = "same"
    assert [s.name for s in find_sites(twins)] == ["first", "second", "third"]


def test_a_name_that_is_another_layers_output_is_not_used() -> None:
    model = models.unnamed_nodes()
    model.graph.node[0].name = "second"  # and the next node, without a name, makes "second"
    assert [s.name for s in find_sites(model)] == ["first", "second", "third"]


def test_a_matmul_whose_rank_is_not_known_is_left_out() -> None:
    model = models.dense_units()
    model.graph.node[0].input[1] = "shape_input"
    model.graph.input.append(onnx.helper.make_tensor_value_info("shape_input", 7, [None]))
    found = survey(model, include=["dense"])
    assert ("first", "the rank of its output is not known") in [
        (x.name, x.reason) for x in found.left_out
    ]


def test_the_layer_that_makes_the_output_is_no_site() -> None:
    model = models.own_bias()
    kept = [n for n in model.graph.node if n.name in ("conv", "act", "pool")]
    del model.graph.node[:]
    model.graph.node.extend(kept)
    model.graph.node[-1].output[0] = "logits"
    found = survey(model)
    assert found.sites == ()
    assert [(x.name, x.reason) for x in found.left_out] == [("conv", "it makes the model's output")]
    with pytest.raises(ModelError, match="no filter that could be frozen: it makes the model's"):
        select_sites(found, [])


def test_layers_inside_a_body_are_listed_and_left_alone() -> None:
    weights = {"w": np.ones((4, 2, 3, 3), np.float32), "yes": np.array(True)}
    branch = [
        helper.make_graph(
            [helper.make_node("Conv", ["image", "w"], [f"o{i}"], f"inner{i}")],
            f"branch{i}",
            [],
            [helper.make_empty_tensor_value_info(f"o{i}")],
        )
        for i in range(2)
    ]
    node = helper.make_node(
        "If", ["yes"], ["y"], "choice", then_branch=branch[0], else_branch=branch[1]
    )
    found = survey(models.model_of([node, *models.head("y", weights, 4)], weights))
    assert found.sites == ()
    assert {(x.name, x.reason) for x in found.left_out} >= {
        ("inner0", "it lies inside a If"),
        ("inner1", "it lies inside a If"),
    }


def test_weights_that_come_from_the_input_are_listed_with_the_reason() -> None:
    model = models.own_bias()
    model.graph.node.insert(0, helper.make_node("GlobalAveragePool", ["image"], ["mean"], "m"))
    model.graph.node.insert(1, helper.make_node("ReduceSum", ["mean"], ["one"], "s", keepdims=0))
    model.graph.node.insert(2, helper.make_node("Mul", ["w", "one"], ["scaled"], "scale"))
    model.graph.node[3].input[0], model.graph.node[3].input[1] = "image", "scaled"
    found = survey(model)
    assert ("conv", "its weights are computed at run time") in [
        (x.name, x.reason) for x in found.left_out
    ]


def test_sites_are_selected_by_pattern() -> None:
    found = survey(models.unnamed_nodes())
    assert [s.name for s in select_sites(found, ["f*", "third"])] == ["first", "third"]
    with pytest.raises(SettingsError, match="no site matches 'conv9'; the sites are first, second"):
        select_sites(found, ["conv9"])


def test_unknown_outputs_levels_and_kinds_are_refused() -> None:
    model = models.own_bias()
    with pytest.raises(SettingsError, match="no output 'x'; its outputs are logits"):
        survey(model, output="x")
    with pytest.raises(SettingsError, match="choose pre-activation or activation"):
        survey(model, at="somewhere")
    with pytest.raises(SettingsError, match="further kinds are dense, heads, mlp"):
        survey(model, include=["attention"])
