"""What a change of each filter costs, known before anything is timed.

The cone of a filter is the part of the graph that its change can reach. Its share of a pass follows
from the arithmetic of the model's graph and the shapes of its tensors, so it is the same on every
machine: an allocation that uses it gives the same answers everywhere. Filters of one site have the
same cone.
"""

import logging
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import RepairkitError
from repairkit.core.process.stages import stage
from repairkit.core.suite import Suite
from repairkit.engine.working import Working
from repairkit.graph.coalitions.cones import Anatomy, Shape

logger = logging.getLogger(__name__)

Shares = Mapping[str, float]
"""Site name to what a change of one of its filters costs, as a share of a pass."""

LEAST_SHARE = 0.01
"""Of a pass, which a run costs beside its arithmetic."""


@stage("reckoning what a change of each filter costs")
def cone_shares(working: Working, suite: Suite) -> Shares | None:
    """The share of a pass that a change of one filter of each site costs.

    Args:
        working: the model and its filters.
        suite: images, of which the first gives the shapes of all tensors.

    Returns:
        By site name, in (0, 1]; None where the graph does not tell: trees, inner tensors that the
        runtime does not give, a judged output that depends on no filter.
    """
    read = _anatomy_of(working, suite)
    if read is None:
        return None
    anatomy, shapes = read
    sites = working.roster.sites
    return shares_of(anatomy, {site.name: site.tensor for site in sites}, shapes)


def arithmetic_of(working: Working, suite: Suite) -> float | None:
    """Multiplications of a pass of one image; None where the graph does not tell."""
    read = _anatomy_of(working, suite)
    if read is None:
        return None
    anatomy, shapes = read
    return float(sum(anatomy.arithmetic(shapes)))


def _anatomy_of(working: Working, suite: Suite) -> tuple[Anatomy, dict[str, Shape]] | None:
    """The graph and the shapes of its tensors for the first image; None where they are unknown."""
    sites = working.roster.sites
    if not len(suite) or not all(site.in_tensor for site in sites):
        return None
    opened = working.opened
    anatomy = Anatomy(opened.model, opened.image, opened.output, ())
    first = np.arange(1)
    names = [name for name in anatomy.names if name != opened.image]
    try:
        images = suite.batch(first)
        made = opened.tap(names, optimise=False).run(images, feeds=suite.feeds(first))
    except RepairkitError as error:
        logger.info("costs of cones are not known: %s", error)
        return None
    made[opened.image] = images
    shapes = {
        name: Shape(array.shape, array.dtype.name)
        for name, array in made.items()
        if isinstance(array, np.ndarray)
    }
    return anatomy, shapes


def shares_of(
    anatomy: Anatomy, tensors: Mapping[str, str], shapes: dict[str, Shape]
) -> Shares | None:
    """See `cone_shares`.

    Args:
        anatomy: of the graph.
        tensors: where the filters of each site are read, by site name.
        shapes: of the graph's tensors, for one image.
    """
    costs = anatomy.arithmetic(shapes)
    outputs = (anatomy.output,)

    def cost(available: int) -> float:
        return sum(costs[position] for position in anatomy.slice(available, outputs).nodes)

    whole = cost(anatomy.set_of([anatomy.image]))
    if not whole > 0:
        return None
    shares = {}
    for name, tensor in tensors.items():
        reached = anatomy.reached(anatomy.set_of([tensor]))
        share = cost(anatomy.everything & ~reached) / whole
        shares[name] = min(max(share, LEAST_SHARE), 1.0)
    return shares


def per_filter(working: Working, shares: Shares) -> NDArray[np.float64]:
    """The same for every filter of the roster, (n_players,)."""
    sites = working.roster.sites
    return np.repeat([shares[site.name] for site in sites], [site.n_channels for site in sites])
