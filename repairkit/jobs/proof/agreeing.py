"""Check a proven patched model in other runtimes: equal outputs, and frozen filters constant there.

Outputs of the very file are compared with ONNX Runtime's on the CPU. Frozen filters are read from a
temporary copy with one more output per site, the frozen channels of the site's tensor. A runtime
cannot fuse what it must give, so the outputs of the copy are compared as well.

A runtime may refuse a patched model. If it runs the original, that is a failure of the proof; if
not, the runtime takes no such model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from onnx import ModelProto, TensorProto

from repairkit.core import errors, filters, results, suite
from repairkit.core.process import stages, text
from repairkit.engine import proof, runner
from repairkit.engine.runtimes import foreign, in_python, javascript
from repairkit.graph import metadata, structure
from repairkit.graph.kinds.ensembles import without_zipmaps
from repairkit.graph.kinds.sites import survey
from repairkit.jobs.setup.subject import noise_images
from repairkit.jobs.setup.workbench import Subject

_MOST_OF_A_TIE = 0.02
"""Of the largest score: a smaller lead may turn into another answer where tolerances are wide."""
_CODES = 255.0

RUNTIMES: Mapping[str, Callable[[Path | None], foreign.ForeignRuntime]] = {
    "openvino": lambda _: in_python.OpenVino(),
    "onnxruntime-node": lambda folder: javascript.NodeRuntime("onnxruntime-node", folder),
    "onnxruntime-web": lambda folder: javascript.NodeRuntime("onnxruntime-web", folder),
    "tensorrt": lambda _: in_python.TENSORRT,
    "coreml": lambda _: in_python.COREML,
}
"""By the names that `--runtime` takes; each is made with the folder of JavaScript packages."""


@dataclass(frozen=True)
class Elsewhere:
    """In which other runtimes to check a patched model.

    Attributes:
        names: of `RUNTIMES`.
        node_modules: the folder where JavaScript packages are; the working folder if None.
        tolerance: of outputs, relative to the largest number; each runtime's own if None.
    """

    names: tuple[str, ...] = ()
    node_modules: Path | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        for name in self.names:
            if name not in RUNTIMES:
                raise errors.SettingsError(
                    f"there is no runtime {name!r}; choose {', '.join(RUNTIMES)}"
                )
        if self.tolerance is not None and not 0 < self.tolerance < 1:
            raise errors.SettingsError(
                f"a tolerance of {self.tolerance:g} makes no sense; give a share of the largest "
                "output between 0 and 1, such as 0.0001"
            )
        if not self.names and (self.tolerance, self.node_modules) != (None, None):
            raise errors.SettingsError(
                "a tolerance or a folder of JavaScript packages was given and no runtime to check; "
                "add --runtime"
            )

    def runtimes(self) -> tuple[foreign.ForeignRuntime, ...]:
        """Each once, in the order in which they were named."""
        return tuple(RUNTIMES[name](self.node_modules) for name in dict.fromkeys(self.names))


@dataclass(frozen=True)
class ReferenceRuns:
    """What ONNX Runtime on the CPU gives for each run, and what was fed."""

    opened: runner.OpenModel
    feeds: tuple[foreign.Feeds, ...]
    real: tuple[int, ...]
    outputs: tuple[list[Any], ...]

    @classmethod
    def of(
        cls, opened: runner.OpenModel, images: suite.Array, feeds: runner.Feeds
    ) -> ReferenceRuns:
        """Run all images; one at a time where the model takes any number and fails on several."""
        try:
            return cls._of(opened, images, feeds)
        except errors.ModelError:
            if opened.step is not None:
                raise
        return cls._of(replace(opened, step=1), images, feeds)

    @classmethod
    def _of(
        cls, opened: runner.OpenModel, images: suite.Array, feeds: runner.Feeds
    ) -> ReferenceRuns:
        fed = tuple(runner.runs_of(images, feeds, opened.step))
        outputs = tuple(answer for _, answer in opened.runner().raw(images, feeds=feeds))
        return cls(
            opened,
            tuple({opened.image: batch, **more} for _, batch, more in fed),
            tuple(real for real, _, _ in fed),
            outputs,
        )

    @property
    def n_images(self) -> int:
        return sum(self.real)


def agree(
    subject: Subject,
    patched: ModelProto,
    verified: results.Verified,
    elsewhere: Elsewhere,
    *,
    images: suite.Array | None = None,
    feeds: runner.Feeds | None = None,
) -> results.Verified:
    """Check a proven model in other runtimes.

    Args:
        subject: the original.
        patched: the model after.
        verified: what was proven of it.
        elsewhere: which runtimes.
        images: real images, shape (n, *input); generated noise if None.
        feeds: what the model takes beside each of the images, by the names of inputs.

    Returns:
        `verified`, with what was found.

    Raises:
        VerificationError: a runtime gives other outputs, a frozen filter varies there, or it
            refuses the patched model and runs the original.
        DeviceError: a runtime is not installed, or not on this kind of machine.
        ModelError: a runtime takes neither model.
    """
    rows = noise_images(subject) if images is None else images
    whole = subject.opened().variant(without_zipmaps(subject.runnable(patched)))
    expected = ReferenceRuns.of(whole, rows, feeds or {})
    places = frozen_places(patched, verified.patch, verified.inferred)
    found = []
    for runtime in elsewhere.runtimes():
        with stages.stage(f"running in {runtime.title}"):
            check = _Check(runtime, expected, places, elsewhere.tolerance)
            found.append(check.agreement(subject, verified.patch, rows, feeds or {}))
    return replace(verified, runtimes=tuple(found))


def frozen_places(
    patched: ModelProto, patch: filters.Patch, inferred: bool
) -> dict[filters.Filter, filters.Site]:
    """The sites of the wholly frozen filters whose values some tensor shows."""
    claims: list[dict[str, Any]] = [] if inferred else metadata.read_claims(patched)
    # The last one first: what it froze is what holds.
    ways = [{n: c[n] for n in ("output", "include")} | {"at": c["sites_at"]} for c in claims[::-1]]
    wanted = [f.filter for f in patch.frozen if not f.gain]
    places: dict[filters.Filter, filters.Site] = {}
    for way in ways or [{"include": ["dense"]}]:
        sites = {site.name: site for site in survey(patched, **way).sites}
        for each in wanted:
            site = sites.get(each.site)
            if site is not None and site.in_tensor and each.channel < site.n_channels:
                places.setdefault(each, site)
    return {each: places[each] for each in wanted if each in places}


def watched_tensors(
    places: Mapping[filters.Filter, filters.Site],
) -> dict[str, tuple[int, set[int]]]:
    """What to watch: axis and channels by the name of a tensor."""
    tensors: dict[str, tuple[int, set[int]]] = {}
    for each, site in places.items():
        tensors.setdefault(site.tensor, (site.channel_axis, set()))[1].add(each.channel)
    return tensors


@dataclass(frozen=True)
class _Check:
    """One runtime beside the answers that it is to give."""

    runtime: foreign.ForeignRuntime
    expected: ReferenceRuns
    places: Mapping[filters.Filter, filters.Site]
    wish: float | None

    @property
    def model(self) -> ModelProto:
        return self.expected.opened.model

    @property
    def tolerance(self) -> float:
        own = foreign.tolerance_for(self.runtime, self.model)
        return own if self.wish is None else self.wish

    def agreement(
        self, subject: Subject, patch: filters.Patch, images: suite.Array, feeds: runner.Feeds
    ) -> results.RuntimeAgreement:
        """What was found; raises if it is not as it must be."""
        try:
            plain = self.runtime.run(self.model, self.expected.feeds)
        except errors.ModelError as error:
            raise self._whose_fault(subject, error) from error
        self._check_shapes(plain.runs)
        relative, others = self._off(plain.runs), self._other_answers(plain.runs)
        if not relative <= self.tolerance or others:
            raise self._difference(subject, relative, others, images, feeds)
        kept, again = self._held(patch)
        relative = max(relative, again)
        if not relative <= self.tolerance:
            raise errors.VerificationError(
                f"in {self.runtime.title} the outputs change by {relative:.3g} of the largest "
                f"number once frozen filters are read; {self.tolerance:g} is allowed"
            )
        return results.RuntimeAgreement(
            runtime=self.runtime.name,
            version=plain.version,
            how=plain.how,
            n_images=self.expected.n_images,
            relative=relative,
            tolerance=self.tolerance,
            other_answers=others,
            n_constant=len(kept),
            unread=tuple(f.id for f in patch.filters if f not in self.places),
            spread=max((each.spread for each in kept), default=0.0),
            offset=max((each.offset for each in kept), default=0.0),
        )

    def _off(self, runs: Sequence[Sequence[Any]]) -> float:
        """The largest difference of any output, relative to its largest number in a run."""
        least = [least_scale(self.model, output.name) for output in self.model.graph.output]
        gaps = [
            relative_gap(mine, theirs, scale)
            for ours, expected in zip(runs, self.expected.outputs, strict=True)
            for mine, theirs, scale in zip(ours, expected, least, strict=True)
        ]
        return max(gaps, default=0.0)

    def _check_shapes(self, runs: Sequence[Sequence[Any]]) -> None:
        for ours, expected in zip(runs, self.expected.outputs, strict=True):
            shapes = [[np.shape(output) for output in outputs] for outputs in (ours, expected)]
            if shapes[0] != shapes[1]:
                raise errors.VerificationError(
                    f"in {self.runtime.title} the patched model's outputs have the shapes "
                    f"{shapes[0]}, in ONNX Runtime {shapes[1]}"
                )

    def _other_answers(self, runs: Sequence[Sequence[Any]]) -> int:
        """Images for which another class is clearly ahead."""
        tie = min(2 * self.tolerance, _MOST_OF_A_TIE)
        other = 0
        for ours, expected, real in zip(
            runs, self.expected.outputs, self.expected.real, strict=True
        ):
            # One that is wrong in any of the outputs is counted once.
            rows = np.zeros(real, bool)
            for mine, theirs in zip(ours, expected, strict=True):
                if _are_scores(theirs, real):
                    rows |= clearly_other(np.asarray(mine)[:real], np.asarray(theirs)[:real], tie)
            other += int(rows.sum())
        return other

    def _held(self, patch: filters.Patch) -> tuple[list[foreign.Constancy], float]:
        """How constant the frozen filters are there, and how far the copy's outputs are off."""
        if not self.places:
            return [], 0.0
        watched = foreign.watch(self.model, watched_tensors(self.places))
        copy = foreign.with_watched(self.model, watched)
        answered = self.runtime.run(copy, self.expected.feeds)
        n_plain = len(self.model.graph.output)
        relative = self._off([run[:n_plain] for run in answered.runs])
        kept = []
        for frozen in patch.frozen:
            site = self.places.get(frozen.filter)
            if site is None:
                continue
            number = next(k for k, each in enumerate(watched) if each.tensor == site.tensor)
            place = watched[number].channels.index(frozen.filter.channel)
            columns = [
                site.numbers(np.take(run[n_plain + number], place, axis=site.channel_axis))
                for run in answered.runs
            ]
            kept.append(foreign.held(frozen, site, columns))
            self._check_held(kept[-1], site)
        return kept, relative

    def _check_held(self, kept: foreign.Constancy, site: filters.Site) -> None:
        allowed = self.tolerance * kept.constant + (site.scale or 0.0)
        if not max(kept.spread, kept.offset) <= allowed:
            raise errors.VerificationError(
                f"in {self.runtime.title} the frozen filter {kept.filter.id} is not held: its "
                f"values range over {kept.spread:.3g} and are up to {kept.offset:.3g} away from "
                f"its constant; {allowed:.3g} is allowed"
            )

    def _whose_fault(self, subject: Subject, error: errors.ModelError) -> errors.RepairkitError:
        """What it means that the runtime refuses the patched model."""
        original = without_zipmaps(subject.working)
        try:
            self.runtime.run(original, self.expected.feeds)
        except errors.ModelError:
            return errors.ModelError(
                f"{error}; it refuses the original as well, so nothing can be checked there"
            )
        return errors.VerificationError(f"{error}, and it runs the original")

    def _difference(
        self,
        subject: Subject,
        relative: float,
        others: int,
        images: suite.Array,
        feeds: runner.Feeds,
    ) -> errors.VerificationError:
        """The error for outputs that differ, with what the runtime does to the original."""
        opened = self.expected.opened.variant(without_zipmaps(subject.working))
        before = replace(self, expected=ReferenceRuns.of(opened, images, feeds))
        try:
            runs = self.runtime.run(before.model, before.expected.feeds).runs
            said = f"the original's by {before._off(runs):.3g}"
        except errors.ModelError as error:
            said = f"and the original does not run there ({error})"
        answers = f", and {text.counted(others, 'image')} get another answer" if others else ""
        return errors.VerificationError(
            f"in {self.runtime.title} the patched model's outputs differ from those of ONNX "
            f"Runtime by {relative:.3g} of the largest number ({self.tolerance:g} is allowed)"
            f"{answers}; {said}"
        )


def least_scale(model: ModelProto, output: str) -> float:
    """The size that an output's numbers have at the least, to which differences are relative.

    A sigmoid's are shares of 1: where all of them are tiny, rounding in front of it is magnified.
    Codes of 8 bits are shares of 255.
    """
    if (structure.ending_of(model, output) or ("",))[0] == "sigmoid":
        return 1.0
    kinds = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}
    return _CODES if kinds[output] in (TensorProto.INT8, TensorProto.UINT8) else 0.0


def relative_gap(mine: Any, theirs: Any, least: float) -> float:
    """The largest difference of two outputs, relative to the largest number or to `least`.

    Infinite where one of them alone is no number; 1 where they differ in kind.
    """
    a, b = np.asarray(mine), np.asarray(theirs)
    if a.dtype.kind == b.dtype.kind == "f" and not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    gap = proof.relative_difference(mine, theirs)
    if not least or b.dtype.kind not in "fiu":
        return gap
    largest = float(np.abs(b.astype(np.float64)).max(initial=0.0))
    return gap * (largest or 1.0) / max(largest, least)


def _are_scores(output: Any, n_images: int) -> bool:
    """Whether an output looks like a score per image and class: (n, k), or with axes of 1."""
    shape = np.shape(output)
    if len(shape) < 2 or shape[0] < n_images or np.asarray(output).dtype.kind not in "fiu":
        return False
    return shape[1] > 1 and int(np.prod(shape[2:])) == 1


def clearly_other(mine: suite.Array, theirs: suite.Array, tie: float) -> Any:
    """For each image whether another class has the largest score and was not in a tie.

    Args:
        mine: scores to judge, (n, k) or with further axes of size 1.
        theirs: scores to judge by.
        tie: the lead, relative to the largest score of all, that counts as none.
    """
    a, b = (np.asarray(x, np.float64).reshape(len(x), -1) for x in (mine, theirs))
    rows = np.arange(len(b))
    first, second = b.argmax(axis=1), a.argmax(axis=1)
    scale = float(np.abs(b).max(initial=0.0)) or 1.0
    return (first != second) & (b[rows, first] - b[rows, second] > tie * scale)
