"""A trigger for each class, found from clean images, and the class whose trigger is far too small.

The images that choose are all that is looked at. Nobody has seen the true trigger: what is found is
some small change that leads to the class, and a sound class may have one, too.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit import backdoors
from repairkit.core import errors, framework, suite
from repairkit.core.process.stages import stage
from repairkit.data import preprocessing as prep
from repairkit.jobs.setup.workbench import Bench

_STREAM = 41  # of the seed
_MOST_IMAGES = 96
_PROOF_IMAGES = 8
_SAME = 1e-3
Source = tuple[str, framework.FrameworkModel]
"""The name of the framework's model that an ONNX file came from, and the model."""


@dataclass(frozen=True, eq=False)
class Named:
    """The class that stands out, its trigger, a digest, and what a report tells of all classes."""

    target: int
    trigger: backdoors.Trigger
    digest: str
    story: dict[str, Any]


@dataclass(frozen=True, eq=False)
class _Pixels:
    """Between pixels of 0 to 1, colours last, and what the model takes.

    Attributes:
        low: what the darkest pixel becomes: one number, or one for each colour.
        high: what the brightest pixel becomes.
        first: whether the model takes colours first.
        dtype: of the model's input.
    """

    low: NDArray[np.float64]
    high: NDArray[np.float64]
    first: bool
    dtype: np.dtype[Any]

    @classmethod
    def of(cls, bench: Bench) -> _Pixels:
        spec = bench.subject.spec.with_layout(bench.settings.preprocessing.layout)
        ends = prep.pixel_ends(bench.dataset.images, spec, bench.settings.preprocessing, None)
        low, high = (np.asarray(end, np.float64) for end in (ends.low, ends.high))
        return cls(low, high, spec.layout == "nchw", spec.dtype)

    def units(self, inputs: suite.Array) -> backdoors.Unit:
        """Pixels from what the model takes."""
        last = inputs.transpose(0, 2, 3, 1) if self.first else inputs
        return (last.astype(np.float64) - self.low) / (self.high - self.low)

    def inputs(self, units: backdoors.Unit, *, first: bool) -> suite.Array:
        """What a model takes, with colours first or last."""
        values = self.low + units * (self.high - self.low)
        whole = np.rint(values) if self.dtype.kind in "iu" else values
        return np.ascontiguousarray(whole.transpose(0, 3, 1, 2) if first else whole)


def reverse(bench: Bench, source: Source | None, search: backdoors.Reversal | None = None) -> Named:
    """The class whose reversed trigger is an outlier.

    Args:
        bench: of clean images.
        source: of gradients; by forward passes of the ONNX model alone if None.
        search: settings; the usual ones if None.

    Raises:
        TargetNotMetError: no class stands out.
        AdapterError: the source is another model.
        SettingsError: there are too few classes to compare.
    """
    if bench.n_classes < 4:
        raise errors.SettingsError(
            f"a reversed trigger is compared with those of other classes, and {bench.n_classes} "
            "classes are too few; give the trigger with --trigger, or mark images by --triggered"
        )
    found = reverse_all(bench, source, search or backdoors.Reversal())
    sizes = np.array([each.trigger.size if each.success >= 0.5 else np.inf for each in found])
    away = backdoors.anomalies(sizes)
    about = bench.dataset.annotations
    rows = [
        {
            "class": about.class_name(number),
            "size": each.trigger.size,
            "success": each.success,
            "deviations": float(away[number]),
        }
        for number, each in enumerate(found)
    ]
    outlier = backdoors.Outlier.of(sizes)
    target = outlier.target
    told = ", ".join(f"{row['class']} {row['size']:.1f}" for row in rows)
    if not outlier.is_named:
        reason = (
            f"no class's reversed trigger stands out: {about.class_name(target)!r}, the most "
            f"conspicuous, lies {outlier.deviations:.1f} robust deviations below the median size "
            f"and is {outlier.ratio:.1f} times smaller than the next, and over "
            f"{backdoors.LEAST_DEVIATIONS:g} and {backdoors.LEAST_RATIO:g} are asked for (pixels "
            f"by class: {told}); if you know the trigger, give it with --trigger"
        )
        raise errors.TargetNotMetError(
            f"no repair: {reason}; nothing was written", {"reversed": rows}
        )
    trigger = found[target].trigger
    stored = np.concatenate([trigger.picture.ravel(), trigger.share.ravel()])
    digest = hashlib.sha256(stored.round(6).tobytes()).hexdigest()
    told_of = {
        "how": "reversed trigger",
        "by": "passes" if source is None else "gradients",
        "size": trigger.size,
        "reversed": rows,
        "note": (
            f"nobody has seen the true trigger: the one that was reversed for class "
            f"{about.class_name(target)!r} stands for it, and all figures of success are about it"
        ),
    }
    return Named(target, trigger, digest, told_of)


def reverse_all(
    bench: Bench, source: Source | None, search: backdoors.Reversal
) -> list[backdoors.Reversed]:
    """A reversed trigger for each class, in their order; the same for any number of workers."""
    pixels, selection = _Pixels.of(bench), bench.parts.selection
    shape = bench.dataset.images.batch(np.arange(1)).shape[1:]
    framed = None if source is None else _checked(bench, source, pixels, shape)
    found = []
    with stage("reversing triggers", total=bench.n_classes) as tell:
        for target in range(bench.n_classes):
            others = np.flatnonzero(selection.annotations.labels != target)
            few = selection.take(others).thinned(_MOST_IMAGES)
            images = pixels.units(few.batch(np.arange(len(few))))
            rng = np.random.default_rng([bench.settings.seed, _STREAM, target])
            if framed is not None:
                slopes = _slopes(framed, pixels, target, shape)
                found.append(backdoors.reverse_by_gradients(images, slopes, search, rng))
            else:
                losses = _losses(bench, pixels, target)
                found.append(backdoors.reverse_by_passes(images, losses, search, rng))
            tell(target + 1)
    return found


def _losses(bench: Bench, pixels: _Pixels, target: int) -> backdoors.Losses:
    """The loss for a class, by the ONNX model."""
    form, opened, size = bench.form, bench.working.opened, bench.working.effort.batch_size
    assert form is not None

    def ask(units: backdoors.Unit) -> NDArray[np.float64]:
        inputs = pixels.inputs(units, first=pixels.first).astype(pixels.dtype)
        parts = [opened.run(inputs[i : i + size]) for i in range(0, len(inputs), size)]
        return -form.log_probabilities(np.concatenate(parts))[:, target]

    return ask


def _slopes(
    model: framework.FrameworkModel, pixels: _Pixels, target: int, shape: tuple[int, ...]
) -> backdoors.Slopes:
    """The loss for a class and its gradients, by the framework's model."""
    same = tuple(model.input_shape) == shape
    first = pixels.first if same else not pixels.first

    def ask(units: backdoors.Unit) -> tuple[NDArray[np.float64], backdoors.Unit]:
        inputs = pixels.inputs(units, first=first).astype(np.float32)
        labels = np.full(len(inputs), target, np.intp)
        losses, gradients = model.loss_gradients(inputs, labels)
        last = gradients.transpose(0, 2, 3, 1) if first else gradients
        return losses.astype(np.float64), last.astype(np.float64) * (pixels.high - pixels.low)

    return ask


def _checked(
    bench: Bench, source: Source, pixels: _Pixels, shape: tuple[int, ...]
) -> framework.FrameworkModel:
    """The framework's model, which answers as the ONNX model does.

    Raises:
        AdapterError: it takes other images, or answers otherwise.
    """
    name, model = source
    turned = shape[1:] + shape[:1] if pixels.first else shape[2:] + shape[:2]
    few = bench.parts.selection.take(np.arange(min(_PROOF_IMAGES, len(bench.parts.selection))))
    fits = tuple(model.input_shape) in (shape, turned)
    if fits:
        ours = bench.working.run_plain(few)
        first = pixels.first if tuple(model.input_shape) == shape else not pixels.first
        units = pixels.units(few.batch(np.arange(len(few))))
        theirs = model.outputs(pixels.inputs(units, first=first).astype(np.float32))
        scale = float(np.abs(ours).max()) or 1.0
        fits = np.allclose(theirs.reshape(ours.shape), ours, rtol=_SAME, atol=_SAME * scale)
    if not fits:
        raise errors.AdapterError(
            f"{name} does not compute what {bench.subject.file.path} does; name the source and the "
            "--weights that it was exported from"
        )
    return model
