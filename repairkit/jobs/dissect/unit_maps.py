"""Maps of units: what the filters of sites and their random copies respond, place by place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors
from repairkit.core.filters import Site
from repairkit.core.suite import Array, Indices, Suite
from repairkit.engine.activations import in_chunks
from repairkit.engine.runner import OpenModel
from repairkit.graph.kinds.kind import Survey
from repairkit.graph.protos import GraphIndex
from repairkit.graph.random_layers import RandomCopies, with_random_layers
from repairkit.graph.structure import find_rounding

_CHUNK_BYTES = 24 * 2**20
_IMAGE_RANK = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class UnitMaps:
    """Gives the maps of the filters of some sites, and behind them those of random copies.

    Attributes:
        sites: whose filters are read.
        n_copies: random copies of each site, by name.
    """

    opened: OpenModel
    survey: Survey
    sites: Sequence[Site]
    n_copies: dict[str, int]
    seed: int

    def n_units(self, site: Site) -> int:
        """The filters of a site and of its copies."""
        return site.n_channels * (1 + self.n_copies[site.name])

    def stream(self, suite: Suite) -> Iterator[tuple[Indices, dict[str, NDArray[np.float32]]]]:
        """Images in order with their maps, by site: (n_images, n_units, height, width).

        The first `n_channels` units are the filters, then copy after copy. A site whose responses
        have no two axes of places has maps of (places, 1) or (1, 1).

        Raises:
            ModelError: ONNX Runtime fails on the model or the images, or a filter yields NaN.
        """
        model, copies = with_random_layers(self.survey, self.n_copies, seed=self.seed)
        read = {s.name: (s, *copies[s.name].sites) for s in self.sites}
        tensors = tuple(dict.fromkeys(one.tensor for each in read.values() for one in each))
        rounded = find_rounding(GraphIndex(self.opened.model), tuple(s.tensor for s in self.sites))
        runner = self.opened.variant(model).tap(tensors, optimise=rounded is None)
        for positions, answers in in_chunks(runner, suite, tensors, _CHUNK_BYTES):
            yield (
                positions,
                {
                    name: _stacked([_maps(one, answers[one.tensor]) for one in each], copies[name])
                    for name, each in read.items()
                },
            )


def _maps(site: Site, stored: Array) -> NDArray[np.float32]:
    """What a site's tensor holds, as (n_images, n_channels, height, width)."""
    numbers = np.moveaxis(site.numbers(stored), site.channel_axis % stored.ndim, 1)
    if numbers.ndim != _IMAGE_RANK:
        numbers = numbers.reshape(*numbers.shape[:2], -1, 1)
    maps = numbers.astype(np.float32, copy=False)
    if np.isnan(maps).any():
        raise errors.ModelError(
            f"site {site.name!r} yields values that are no numbers on these images; check how they "
            "are prepared (--scale, --mean, --std), or leave the site out (--sites)"
        )
    return maps


def _stacked(maps: Sequence[NDArray[np.float32]], copies: RandomCopies) -> NDArray[np.float32]:
    own, *random = maps
    signs = copies.signs[:, None, None]
    return np.concatenate([own, *(each * signs for each in random)], axis=1)


def has_maps(site: Site) -> bool:
    """Whether the filters of a site respond at places with a height and a width."""
    return site.yields_one_number and site.rank == _IMAGE_RANK
