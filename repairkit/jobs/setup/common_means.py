"""Levels of absent filters that several owners of data share: sums over images, and their mean.

Values are additive over data only where an absent filter yields the same everywhere. So the levels
are computed once, or from the sums of several owners, and every owner scores with that file.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core.errors import RunFolderError, SettingsError
from repairkit.core.filters import FilterMeans, Site
from repairkit.engine.means import Sums
from repairkit.jobs.output.destination import check_replaced
from repairkit.jobs.output.files import read_json, write_json

KIND = "repairkit means"
_SCHEMA = 1


@dataclass(frozen=True)
class CommonMeans:
    """What filters yielded in all over `n_images`, by the names of the sites.

    `data` are the digests of the images; `sites_at` says where the filters were read.
    """

    model: str
    sites_at: str
    data: tuple[str, ...]
    n_images: int
    sums: Mapping[str, Sums]

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal of the levels themselves, wherever they came from."""
        digest = hashlib.sha256(f"{self.model} {self.sites_at}".encode())
        for name, sums in sorted(self.sums.items()):
            digest.update(json.dumps([name, (sums.total / sums.count).tolist()]).encode())
        return digest.hexdigest()

    def levels(
        self, sites: Sequence[Site], *, model: str, sites_at: str, where: str
    ) -> FilterMeans:
        """The levels of these sites.

        Raises:
            SettingsError: they are another model's, were read elsewhere, or lack a site.
        """
        if model != self.model:
            raise SettingsError(
                f"{where}: holds means of another model (digest {self.model[:12]}, not "
                f"{model[:12]}); compute them anew with `repairkit means`"
            )
        if sites_at != self.sites_at:
            raise SettingsError(
                f"{where}: holds means at the {self.sites_at} and filters are read at the "
                f"{sites_at}; use one --sites-at for both"
            )
        for site in sites:
            known = self.sums.get(site.name)
            if known is None or known.total.shape != site.level_shape:
                raise SettingsError(
                    f"{where}: holds no means of {site.level_shape} for the site {site.name!r}; "
                    "compute them anew for the same --sites and --include"
                )
        return {site.name: self.sums[site.name].mean(site) for site in sites}

    def to_json(self) -> dict[str, Any]:
        return {
            "schema": _SCHEMA,
            "kind": KIND,
            "model": {"digest": self.model},
            "sites_at": self.sites_at,
            "data": list(self.data),
            "n_images": self.n_images,
            "digest": self.digest,
            "sites": {
                name: {"count": sums.count, "sums": sums.total.tolist()}
                for name, sums in self.sums.items()
            },
        }


def merge_means(paths: Sequence[Path]) -> CommonMeans:
    """Add up the sums of several owners; in whatever order, the result is the same.

    Raises:
        SettingsError: they are of different models or sites, or of the same images.
        RunFolderError: a file cannot be read.
    """
    files = [read_means(path) for path in paths]
    if len(files) < 2:
        raise SettingsError("one file of means is nothing to merge; name two or more")
    first = files[0]
    for path, other in zip(paths[1:], files[1:], strict=True):
        if (other.model, other.sites_at, _shapes(other)) != (
            first.model,
            first.sites_at,
            _shapes(first),
        ):
            raise SettingsError(
                f"{path}: holds means of another model or of other sites than {paths[0]}; compute "
                "them with the same model, --sites, --sites-at and --include"
            )
    digests = [digest for file in files for digest in file.data]
    if len(set(digests)) < len(digests):
        raise SettingsError("two of the files hold means of the same images; name each owner once")
    sums = {name: _add([file.sums[name] for file in files]) for name in first.sums}
    n_images = sum(file.n_images for file in files)
    return CommonMeans(first.model, first.sites_at, tuple(sorted(digests)), n_images, sums)


def check_means_place(path: Path) -> None:
    """Before anything is computed: means may replace means alone.

    Raises:
        RunFolderError: something else is there.
    """
    check_replaced(path, f'"kind": "{KIND}"'.encode(), "file of means")


def write_means(path: Path, means: CommonMeans) -> None:
    """Write the file whole or not at all.

    Raises:
        RunFolderError: something else is there, or nothing can be written.
    """
    check_means_place(path)
    write_json(path, means.to_json())


def read_means(path: Path) -> CommonMeans:
    """Read what `write_means` wrote.

    Raises:
        RunFolderError: it is missing, of another kind, or was altered.
    """
    document = read_json(path, "means")
    fault = "it is no file of means"
    if isinstance(document, dict) and document.get("kind") == KIND:
        try:
            found = _parse(document)
            if document["schema"] == _SCHEMA and found.digest == document["digest"]:
                return found
            fault = "its digest does not match what it holds"
        except (KeyError, TypeError, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
    raise RunFolderError(
        f"{path}: cannot be read as means ({fault}); compute them anew with `repairkit means`"
    )


def _parse(document: Mapping[str, Any]) -> CommonMeans:
    sums = {
        str(name): Sums(np.asarray(site["sums"], np.float64), int(site["count"]))
        for name, site in document["sites"].items()
    }
    if not all(s.count > 0 and np.isfinite(s.total).all() for s in sums.values()):
        raise ValueError("a count or a sum makes no sense")
    return CommonMeans(
        str(document["model"]["digest"]),
        str(document["sites_at"]),
        tuple(str(digest) for digest in document["data"]),
        int(document["n_images"]),
        sums,
    )


def _shapes(means: CommonMeans) -> dict[str, tuple[int, ...]]:
    return {name: sums.total.shape for name, sums in means.sums.items()}


def _add(sums: Sequence[Sums]) -> Sums:
    """Rounded once, so that the order of the owners does not matter."""
    totals = np.stack([s.total.reshape(-1) for s in sums], axis=1)
    exact: NDArray[np.float64] = np.array([math.fsum(row) for row in totals.tolist()])
    return Sums(exact.reshape(sums[0].total.shape), sum(s.count for s in sums))
