"""How much each image counts: non-negative numbers that add up to one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from repairkit.core.arrays import Array
from repairkit.core.errors import DataError, SettingsError
from repairkit.core.suite import Annotations

Weights = NDArray[np.float64]
"""Shape (n_images,)."""


def uniform(annotations: Annotations) -> Weights:
    """Every image counts the same."""
    n_images = _n_images(annotations)
    return np.full(n_images, 1.0 / n_images)


def of_class(class_number: int, annotations: Annotations) -> Weights:
    """Images of one class share everything; DataError where there is none of them."""
    members = annotations.labels == class_number
    if not members.any():
        raise DataError(
            f"none of the {_n_images(annotations)} images is of class "
            f"{class_name(annotations, class_number)}; give this part of the data some, or ask "
            f"for the recall of another class"
        )
    weights: Weights = members / members.sum()
    return weights


def of_group(group_number: int, annotations: Annotations) -> Weights:
    """Images of one group share everything; DataError where there is none of them."""
    members = groups_of(annotations) == group_number
    if not members.any():
        raise DataError(
            f"none of the {_n_images(annotations)} images is of group "
            f"{annotations.group_names[group_number]!r}; give this part of the data some, or ask "
            f"for another group"
        )
    weights: Weights = members / members.sum()
    return weights


def over_groups(annotations: Annotations) -> Weights:
    """Groups share alike, and so do the images in each; DataError where a group is empty."""
    return _balanced(_groups_all_there(annotations))


def over_groups_and_labels(annotations: Annotations) -> Weights:
    """Every pair of group and label that occurs shares alike; DataError where a group is empty."""
    groups = _groups_all_there(annotations)
    _, labels = np.unique(annotations.labels, return_inverse=True)
    return _balanced(groups * (labels.max() + 1) + labels)


def groups_of(annotations: Annotations) -> NDArray[np.int64]:
    """Shape (n_images,): the group of each image; SettingsError where no groups are known."""
    if annotations.groups is None:
        raise SettingsError(
            "this metric compares groups and the data has none; name the column with --group"
        )
    return annotations.groups


def class_name(annotations: Annotations, class_number: int) -> str:
    """The name of a class as a message shows it."""
    names = annotations.class_names
    return repr(names[class_number]) if class_number < len(names) else str(class_number)


def _groups_all_there(annotations: Annotations) -> NDArray[np.int64]:
    n_images = _n_images(annotations)
    groups = groups_of(annotations)
    sizes = np.bincount(groups, minlength=len(annotations.group_names))
    empty = [name for name, size in zip(annotations.group_names, sizes, strict=True) if not size]
    if empty:
        raise DataError(
            f"none of the {n_images} images is of group {', '.join(map(repr, empty))}; give this "
            f"part of the data some, or leave the group out"
        )
    return groups


def _balanced(cells: Array) -> Weights:
    _, cell, sizes = np.unique(cells, return_inverse=True, return_counts=True)
    weights: Weights = 1.0 / (len(sizes) * sizes[cell])
    return weights


def _n_images(annotations: Annotations) -> int:
    if not len(annotations):
        raise DataError("this part of the data holds no images; give it at least one")
    return len(annotations)
