"""How many images each player gets: by how much its marginals vary, and by what one costs.

The sum of squared errors of all values is least, for a given cost, where the samples of player i
number in proportion to sigma_i / sqrt(c_i): Neyman's allocation (1934), with costs as in Cochran,
"Sampling Techniques" (1977), section 5.5. No player gets more than all samples there are, nor fewer
than a few.
"""

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_HALVINGS = 100
_LEAST_WANTED = 1e-9  # of the greatest, below which a player counts as one that never varied


def sampling_rates(spreads: Floats, costs: Floats, *, cost: float, least: float) -> Floats:
    """The share of all samples that each player gets, (n_players,), in [least, 1].

    Args:
        spreads: standard deviation of a sample of each player, (n_players,).
        costs: of a sample of each player, (n_players,), greater than zero.
        cost: of the samples of all players together, if all got one each, times the mean rate that
            is allowed: the rates times `costs` add up to it, as far as `least` and 1 allow.
        least: in (0, 1]; the rate of a player that never varied.
    """
    wanted = spreads / np.sqrt(costs)
    if not wanted.any():
        wanted = 1 / np.sqrt(costs)
    wanted = wanted / wanted.max()
    wanted[wanted < _LEAST_WANTED] = 0.0
    low, high = 0.0, 1.0 / wanted[wanted > 0].min()
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if _bounded(middle * wanted, least) @ costs > cost:
            high = middle
        else:
            low = middle
    # At the upper end all players that vary have rate 1.
    return _bounded((high if low == 0 else low) * wanted, least)


def gain_over_even(spreads: Floats, costs: Floats, rates: Floats) -> float:
    """How many times less variance these rates leave than even ones of the same cost.

    Each player's variance is `spreads` squared over its rate; NaN where nothing varies.
    """
    even = (rates @ costs) / costs.sum()
    ours = float((spreads**2 / rates).sum())
    return float((spreads**2).sum()) / even / ours if ours > 0 else float("nan")


def taken(rates: Floats, starts: Floats, number: int) -> NDArray[np.bool_]:
    """Which players take part in sample `number` (0, 1, ...), (n_players,).

    Systematic sampling: of k samples in a row a player of rate r takes r k, up to one.

    Args:
        rates: of the players, (n_players,).
        starts: where each player's turn begins, in [0, 1), (n_players,).
        number: of the sample.
    """
    part: NDArray[np.bool_] = np.floor((number + 1) * rates + starts) > np.floor(
        number * rates + starts
    )
    return part


def _bounded(rates: Floats, least: float) -> Floats:
    bounded: Floats = np.clip(rates, least, 1.0)
    return bounded
