"""Games with a metric of sets, such as the accuracy of the worst group.

Such a metric is no mean over images. One image has no worst group, and a small batch has one by
chance, so that a mean over batches is not V: it is too low for a worst group and too high for a
difference between groups, and differently so for every coalition. So every coalition is tried on
all images of the game. A run sees a pool of one image, which stands for all of them: whatever it
draws, it is told V. What it estimates is then uncertain by the coalitions alone.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from repairkit.core.game import GameFacts, ImagePool, Outcomes, Round


def seen_by_run(facts: GameFacts) -> GameFacts:
    """The facts of a game as its run is given them."""
    if not facts.of_sets:
        return facts
    return replace(facts, pool=ImagePool.uniform(1), images_of=())


def as_played(round: Round, facts: GameFacts) -> Round:
    """What is played where a run asks for `round`; `facts` are the game's own."""
    return Round(round.coalitions) if facts.of_sets else round


def as_told(outcomes: Outcomes, asked: Round, facts: GameFacts) -> Outcomes:
    """What the run is told: a row that it asked for with images of its own gets one score, V."""
    if not facts.of_sets or asked.images is None:
        return replace(outcomes, asked=asked)
    values = outcomes.values[:, None, :]
    n_images = asked.images.shape[1]
    return Outcomes(np.broadcast_to(values, (len(values), n_images, values.shape[2])), asked)
