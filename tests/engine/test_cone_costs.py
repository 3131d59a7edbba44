from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from onnx import ModelProto

from repairkit.core.filters import FilterMeans, Roster
from repairkit.core.suite import Suite
from repairkit.engine.cones.cone_costs import LEAST_SHARE, cone_shares
from repairkit.engine.runner import OpenModel
from repairkit.engine.working import Working
from repairkit.graph.coalitions.cones import Anatomy, Shape
from repairkit.graph.kinds.sites import survey
from tests import models
from tests.engine.games import suite_of


def working(model: ModelProto) -> tuple[Working, Suite]:
    output = model.graph.output[0].name
    found = survey(model, output=output)
    opened = OpenModel(model=model, image=model.graph.input[0].name, output=output)

    def levels(_: Working) -> FilterMeans:
        return {site.name: np.zeros(site.level_shape, np.float32) for site in found.sites}

    roster = Roster(found.sites)
    place = Working(opened=opened, survey=found, roster=roster, settle_levels=levels)
    return place, suite_of(models.images(3))


@pytest.mark.parametrize("make", [models.own_bias, models.normalised, models.depthwise])
def test_later_filters_have_smaller_cones(make: Callable[[], ModelProto]) -> None:
    place, suite = working(make())
    shares = cone_shares(place, suite)
    assert shares is not None
    in_order = [shares[site.name] for site in place.roster.sites]
    assert in_order == sorted(in_order, reverse=True)
    assert all(LEAST_SHARE <= share <= 1 for share in in_order)


@pytest.mark.parametrize("make", [models.own_bias, models.bias_add, models.normalised])
def test_a_share_is_the_arithmetic_of_all_that_follows(make: Callable[[], ModelProto]) -> None:
    place, suite = working(make())
    shares = cone_shares(place, suite)
    assert shares is not None
    anatomy = Anatomy(place.opened.model, place.opened.image, place.opened.output, ())
    made = place.opened.tap(anatomy.names[1:], optimise=False).run(suite.batch(np.arange(1)))
    shapes = {name: Shape(array.shape, array.dtype.name) for name, array in made.items()}
    costs = anatomy.arithmetic(shapes)
    for site in place.roster.sites:
        changed, cost = {site.tensor}, 0.0
        for node, own in zip(anatomy.nodes, costs, strict=True):
            if changed & set(node.input):
                changed |= set(node.output)
                cost += own
        assert shares[site.name] == pytest.approx(max(cost / sum(costs), LEAST_SHARE))


def test_costs_of_trees_are_not_told() -> None:
    place, suite = working(models.own_bias())
    sites = tuple(replace(site, n_values=2) for site in place.roster.sites)
    assert cone_shares(replace(place, roster=Roster(sites)), suite) is None
