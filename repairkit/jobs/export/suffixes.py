"""Run only the part of a model behind a site, for several ways to freeze the site's filters.

What lies before the site is computed once for each image, and kept. Frozen filters are written into
the site's tensor, as its mask would do. A suffix is used only if it gives the output of the whole
model for an unfrozen image; some models have none, such as those for one fixed batch size.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters
from repairkit.core.suite import Array
from repairkit.engine import ort
from repairkit.engine.runner import OpenModel
from repairkit.graph.coalitions.cones import Anatomy, Shape, Slice, extract
from repairkit.graph.protos import refill

_MOST_ROWS = 16  # of one run

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Suffix:
    """The part of a model behind one site.

    Attributes:
        session: of that part.
        output: the model's output.
        site: whose filters are frozen.
        kept: what the session is fed for each image alone, by name.
        per_image: names of kept arrays that have a row per image.
        step: the number of rows of one run; None where any number goes.
    """

    session: Any
    output: str
    site: filters.Site
    kept: Sequence[dict[str, Array]]
    per_image: frozenset[str]
    step: int | None

    def outputs(self, image: int, frozen: NDArray[np.bool_], constants: Array) -> Array:
        """The outputs for one image, with other filters frozen in each row.

        Args:
            image: its position among the kept ones.
            frozen: (n_rows, n_channels).
            constants: (n_channels,), or a row for each row of `frozen`.

        Raises:
            ModelError: ONNX Runtime fails.
        """
        levels = np.broadcast_to(self.site.stored(constants), frozen.shape)
        size = self.step or _MOST_ROWS
        parts = [
            self._run(image, frozen[start : start + size], levels[start : start + size])
            for start in range(0, len(frozen), size)
        ]
        return np.concatenate(parts)

    def _run(self, image: int, frozen: NDArray[np.bool_], levels: Array) -> Array:
        fed = {
            name: np.repeat(kept, len(frozen), axis=0) if name in self.per_image else kept
            for name, kept in self.kept[image].items()
        }
        values = np.moveaxis(fed[self.site.tensor], self.site.channel_axis, 1)
        values[frozen] = levels[frozen].reshape(-1, *(1,) * (values.ndim - 2))
        with ort.as_model_errors("cannot run the part of the model behind a layer"):
            answers: list[Array] = self.session.run([self.output], fed)
        return answers[0]


class Suffixes:
    """The suffixes of a model on a few images; None for a site that has none.

    Args:
        opened: the model.
        sites: those whose filters are frozen.
        images: two or more, shape (n_images, *input).
        tolerance: the relative difference up to which outputs count as equal.
    """

    def __init__(
        self,
        opened: OpenModel,
        sites: Sequence[filters.Site],
        images: Array,
        *,
        tolerance: float,
    ) -> None:
        self._opened, self._images, self._tolerance = opened, images, tolerance
        self._sites = [site for site in sites if site.yields_one_number]

    @cached_property
    def _anatomy(self) -> Anatomy:
        return Anatomy(self._opened.model, self._opened.image, self._opened.output, ())

    @cached_property
    def _pieces(self) -> dict[str, Slice]:
        """The nodes behind each site; without sites that are not before the output."""
        anatomy = self._anatomy
        pieces = {}
        for site in self._sites:
            place = anatomy.set_of([site.tensor])
            before = anatomy.everything & ~anatomy.reached(place)
            piece = anatomy.slice(before, (self._opened.output,))
            if anatomy.number.get(site.tensor) in piece.fed:
                pieces[site.name] = piece
        return pieces

    @cached_property
    def _kept(self) -> tuple[list[dict[str, Array]], set[str], set[str]]:
        """Tensors before the sites for each image alone, and how they depend on a batch.

        Returns:
            For each image, tensors by name; names of those that have a row per image; and of those
            that are the same for any batch.
        """
        numbers = sorted({number for piece in self._pieces.values() for number in piece.fed})
        image = self._opened.image
        names = [name for name in self._anatomy.names_of_all(numbers) if name != image]
        runner = self._opened.tap(names)

        def run(images: Array) -> dict[str, Array]:
            return {**runner.run(images), image: images}

        together = run(self._images[:2])
        single = [run(self._images[i : i + 1]) for i in range(len(self._images))]
        per_image, same = set(), set()
        for name, pair in together.items():
            alone = [answers[name] for answers in single]
            if pair.shape[:1] == (2,) and all(a.shape == (1, *pair.shape[1:]) for a in alone):
                per_image.add(name)
            elif all(np.array_equal(a, pair) for a in alone):
                same.add(name)
        return single, per_image, same

    def behind(self, site: filters.Site) -> Suffix | None:
        """The suffix of a site; it is not kept here."""
        try:
            return self._behind(site)
        except errors.ModelError as error:
            logger.info("%s: no suffix (%s)", site.name, error)
            return None

    def _behind(self, site: filters.Site) -> Suffix | None:
        piece = self._pieces.get(site.name)
        if piece is None or self._opened.step not in (None, 1):
            return None
        single, per_image, same = self._kept
        names = self._anatomy.names_of_all(piece.fed)
        if site.tensor not in per_image:
            return None
        shapes = {n: Shape(a.shape, a.dtype.name) for n, a in single[0].items()}
        model, _ = extract(self._anatomy, piece, shapes)
        # `extract` makes large weights inputs; as constants the runtime can rearrange them.
        stored, wanted = self._anatomy.index.initializers, set(names)
        weights = [i.name for i in model.graph.input if i.name not in wanted]
        model.graph.initializer.extend(stored[name] for name in weights)
        refill(model.graph.input, [i for i in model.graph.input if i.name in wanted])
        free = self._opened.step is None and wanted <= per_image | same
        suffix = Suffix(
            session=ort.open_session(model),
            output=self._opened.output,
            site=site,
            kept=[{name: kept[name] for name in names} for kept in single],
            per_image=frozenset(per_image & wanted),
            # Tensors that hold the number of images, such as shapes, are those of one image.
            step=None if free else 1,
        )
        return suffix if self._agrees(suffix) else None

    @cached_property
    def _whole(self) -> Array:
        return self._opened.run(self._images)

    def _agrees(self, suffix: Suffix) -> bool:
        """Whether a suffix gives the output of the whole model for two unfrozen rows."""
        nothing = np.zeros((2, suffix.site.n_channels), bool)
        constants = np.zeros(suffix.site.n_channels, np.float32)
        for image, whole in enumerate(self._whole):
            answers = suffix.outputs(image, nothing, constants)
            limit = self._tolerance * (float(np.abs(whole).max()) or 1.0)
            if answers.shape != (2, *whole.shape) or not np.abs(answers - whole).max() <= limit:
                return False
        return True
