"""The file of common means: levels of absent filters that several owners of data share.

Values are additive over data only where an absent filter yields the same everywhere. So the levels
are computed once, or from the sums of several owners, and every owner scores with that file.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from repairkit.core import errors, filters
from repairkit.formats.documents import read_json

KIND = "repairkit means"
_SCHEMA = 1


@dataclass(frozen=True, kw_only=True)
class CommonMeans:
    """Sums of what filters yielded over `n_images`, by the names of the sites.

    `data` are the digests of the images; `sites_at` says where the filters were read.
    """

    model: str
    sites_at: str
    data: tuple[str, ...]
    n_images: int
    sums: Mapping[str, filters.Sums]

    @property
    def digest(self) -> str:
        """SHA-256 in hexadecimal of the levels, which do not depend on who summed them up."""
        digest = hashlib.sha256(f"{self.model} {self.sites_at}".encode())
        for name, sums in sorted(self.sums.items()):
            digest.update(json.dumps([name, (sums.total / sums.count).tolist()]).encode())
        return digest.hexdigest()

    def levels(
        self, sites: Sequence[filters.Site], *, model: str, sites_at: str, where: str
    ) -> filters.FilterMeans:
        """The levels of these sites.

        Raises:
            SettingsError: they are another model's, were read elsewhere, or lack a site.
        """
        if model != self.model:
            raise errors.SettingsError(
                f"{where}: holds means of another model (digest {self.model[:12]}, not "
                f"{model[:12]}); compute them anew with `repairkit means`"
            )
        if sites_at != self.sites_at:
            raise errors.SettingsError(
                f"{where}: holds means at the {self.sites_at} and filters are read at the "
                f"{sites_at}; use one --sites-at for both"
            )
        for site in sites:
            known = self.sums.get(site.name)
            if known is None or known.total.shape != site.level_shape:
                raise errors.SettingsError(
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


def read_means(path: Path) -> CommonMeans:
    """The means in a file, whose digest must be that of what it holds.

    Raises:
        RunFolderError: it is missing, of another kind, or was altered.
    """
    document = read_json(path, "means")
    fault = "it is no file of means"
    if isinstance(document, dict) and document.get("kind") == KIND:
        try:
            means = _parse(document)
            if document["schema"] == _SCHEMA and means.digest == document["digest"]:
                return means
            fault = "its digest does not match what it holds"
        except (KeyError, TypeError, ValueError) as error:
            fault = f"{type(error).__name__}: {error}"
    raise errors.RunFolderError(
        f"{path}: cannot be read as means ({fault}); compute them anew with `repairkit means`"
    )


def _parse(document: Mapping[str, Any]) -> CommonMeans:
    sums = {
        str(name): filters.Sums(np.asarray(site["sums"], np.float64), int(site["count"]))
        for name, site in document["sites"].items()
    }
    if not all(s.count > 0 and np.isfinite(s.total).all() for s in sums.values()):
        raise ValueError("a count or a sum makes no sense")
    return CommonMeans(
        model=str(document["model"]["digest"]),
        sites_at=str(document["sites_at"]),
        data=tuple(str(digest) for digest in document["data"]),
        n_images=int(document["n_images"]),
        sums=sums,
    )
