"""Groups that pay for a repair more than was allowed."""

from __future__ import annotations

from collections.abc import Mapping

from repairkit.core.arrays import Array
from repairkit.core.patch import Figure
from repairkit.core.suite import Annotations
from repairkit.metrics.outputs import OutputForm
from repairkit.metrics.statistics.intervals import difference

_ROUNDING = 1e-12


def groups_beyond(
    before: Array,
    after: Array,
    annotations: Annotations,
    most: float,
    *,
    form: OutputForm | None,
    seed: int,
) -> dict[str, Figure]:
    """Groups whose accuracy surely falls, and by more than `most`; see `falls_beyond`.

    Args:
        before: the model's outputs, (n_images, ...).
        after: those of the repaired model for the same images, best of a choice that these images
            had no part in.
        annotations: of the images.
        most: what the accuracy of a group may lose, in [0, 1].
        form: how outputs are read.
        seed: of the bootstrap.

    Returns:
        The change of each such group, the worst first; empty where the data has no groups.
    """
    if annotations.groups is None:
        return {}
    changes = difference(before, after, annotations, (), form=form, seed=seed)
    return falls_beyond(changes, most)


def falls_beyond(changes: Mapping[str, Figure], most: float) -> dict[str, Figure]:
    """The changes of the groups that surely lose accuracy, and more than `most` of it.

    A loss is sure where its interval lies below 0. So a group of 8 images of which one is lost
    forbids nothing, though that is 12 points, and a group of 200 that loses 16 of them does.

    Args:
        changes: as `difference` gives them, those of groups as `accuracy:GROUP`.
        most: what the accuracy of a group may lose, in [0, 1].
    """
    beyond = {
        name.removeprefix("accuracy:"): change
        for name, change in changes.items()
        if name.startswith("accuracy:") and change.ci_high < 0 and -change.value > most + _ROUNDING
    }
    return dict(sorted(beyond.items(), key=lambda item: item[1].value))


def told_beyond(beyond: dict[str, Figure], most: float) -> str:
    """The groups of `falls_beyond` in words, for a refusal."""
    told = ", ".join(
        f"{name!r} by {100 * change.value:+.1f} points ({100 * change.ci_low:+.1f} to "
        f"{100 * change.ci_high:+.1f})"
        for name, change in beyond.items()
    )
    return (
        f"the accuracy of {len(beyond)} group{'s' if len(beyond) > 1 else ''} surely falls by more "
        f"than the {100 * most:g} points that --max-group-drop allows: {told}"
    )
