"""Judge a quantised copy of a patched model: are frozen filters constant, is the gain still there?

Quantising changes every layer, so a copy cannot be proven to be the patched model. Two things can
be measured. A frozen filter has a kernel of zero, which codes hold exactly; its constant is rounded
to codes. And the figure that the patch improved is judged anew on test images.

A layer is found in the copy by the name of its tensor, which quantisers keep (onnxruntime's does):
as it is, behind a pair of QuantizeLinear and DequantizeLinear, or as codes of the name with
`_quantized`. The Relu or Clip that follows a layer may be fused into the range of the codes: then
the copy gives what the patched model gives behind that operator.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, results, suite
from repairkit.core.process import stages
from repairkit.engine import runner
from repairkit.engine.runtimes import foreign
from repairkit.graph import protos
from repairkit.graph.stored import constants, model_files
from repairkit.jobs.proof import kept_gain
from repairkit.jobs.proof.agreeing import ReferenceRuns, frozen_places
from repairkit.jobs.setup.subject import noise_images
from repairkit.jobs.setup.workbench import Subject

_FUSED = ("Relu", "Clip")
_CODED = "_quantized"  # at the end of the name of a tensor's codes
# Where a node that gives codes reads their scale; the zero point comes next.
_SCALE_AT = {"QuantizeLinear": 1, "QLinearConv": 6, "QLinearMatMul": 6, "QLinearAdd": 6, "QGemm": 7}
_ROUNDING = 1e-5  # of the constant, where a tensor holds floats
_REMEDY = (
    "with one scale per channel a frozen channel gets a coarse one, since its kernel is all zero; "
    "quantise with one scale per tensor (per_channel=False), or leave the layer out "
    "(nodes_to_exclude)"
)


@dataclass(frozen=True)
class Counterpart:
    """Where the channels of a site are found in a copy.

    Attributes:
        expected: the tensor of the patched model that holds the same numbers.
        tensor: of the copy.
        step: between two codes; 0 where the tensor holds floats that were never codes.
        zero: the code of 0, where the tensor holds codes; None where it holds numbers.
    """

    expected: str
    tensor: str
    step: float
    zero: int | None

    def numbers(self, stored: Any) -> NDArray[np.float64]:
        """The numbers that the tensor's contents mean."""
        values = np.asarray(stored, np.float64)
        return values if self.zero is None else np.asarray((values - self.zero) * self.step)


@stages.stage("judging the quantised copy")
def judge_copy(
    subject: Subject,
    patched: model_files.ModelFile,
    verified: results.Verified,
    copies: kept_gain.QuantisedCopies,
    *,
    images: suite.Array | None = None,
    feeds: runner.Feeds | None = None,
    judged: kept_gain.GainData | None = None,
) -> results.QuantisedCopy:
    """What a quantised copy of a proven model keeps.

    Args:
        subject: the original.
        patched: the model after.
        verified: what was proven of it.
        copies: the copies.
        images: real images on which frozen filters are read; generated noise if None.
        feeds: what the model takes beside each of the images, by the names of inputs.
        judged: by what the gain is judged; it is not judged if None.

    Raises:
        VerificationError: a frozen filter varies in the copy or is further off than a step, or the
            gain is surely lost.
        ModelError: the copy is not one of this model, or ONNX Runtime cannot run it.
        SettingsError: there is nothing to judge.
        RepairkitError: anything else about data and settings that the user can mend.
    """
    assert copies.patched is not None
    copy = kept_gain.read_copy(copies.patched, subject)
    rows = noise_images(subject) if images is None else images
    places = frozen_places(patched.model, verified.patch, verified.inferred)
    read = {f: site for f, site in places.items() if site.yields_one_number}
    kept = _kept_filters(subject, patched, copy, read, rows, feeds or {})
    gain = None
    if judged is not None and judged.settings is not None:
        gain = kept_gain.judge_gain(judged, judged.settings, patched, copy, copies)
    if not kept and gain is None:
        raise errors.SettingsError(
            f"{copy.path}: nothing of it can be judged: the patch freezes no filter wholly, and no "
            "labelled images were given; give --data"
        )
    return results.QuantisedCopy(
        path=str(copy.path),
        digest=copy.digest,
        n_images=len(rows),
        filters=kept,
        unread=tuple(f.id for f in verified.patch.filters if f not in read),
        gain=gain,
        no_gain="" if gain else "no labelled images were given",
    )


# The freeze


def find_counterpart(
    site: filters.Site, before: protos.GraphIndex, copy: protos.GraphIndex
) -> Counterpart | None:
    """Where the copy has the channels of a site; None where no tensor of its name is left.

    Args:
        site: of the patched model.
        before: the patched model.
        copy: the quantised one.
    """
    chain = [site.tensor]
    while (following := _fused_behind(chain[-1], before)) is not None:
        chain.append(following)
    forms = [_form_in(copy, name) for name in chain]
    first = next((k for k, form in enumerate(forms) if form is not None), None)
    if first is None:
        return None
    last = first
    while last + 1 < len(chain) and not _is_applied(copy, chain[last + 1]):
        last += 1
    form = forms[first]
    assert form is not None
    return replace(form, expected=chain[last])


def _fused_behind(tensor: str, index: protos.GraphIndex) -> str | None:
    """What an operator makes of a tensor, if it alone reads it and may be fused into codes."""
    readers = index.readers.get(tensor, [])
    if len(readers) != 1 or readers[0].slot != 0 or tensor in index.outputs:
        return None
    node = index.nodes[readers[0].node]
    return str(node.output[0]) if node.op_type in _FUSED else None


def _is_applied(index: protos.GraphIndex, name: str) -> bool:
    """Whether a copy makes a tensor by an operator of its own, which codes did not take in.

    Where they did, a tensor of that name may still be left: the numbers of the same codes.
    """
    makers = [index.producers[n] for n in (name, f"{name}{_CODED}") if n in index.producers]
    return any(index.nodes[position].op_type in _FUSED for position in makers)


def _form_in(index: protos.GraphIndex, name: str) -> Counterpart | None:
    """The form in which a copy has a tensor; its `expected` is the tensor's own name."""
    held = constants.Constants(index)
    if name in index.producers:
        readers = [index.nodes[reader.node] for reader in index.readers.get(name, [])]
        if readers and all(node.op_type == "QuantizeLinear" for node in readers):
            codes = str(readers[0].output[0])
            for reader in index.readers.get(codes, []):
                node = index.nodes[reader.node]
                step = held.numbers(node, 1)
                if node.op_type == "DequantizeLinear" and step is not None and step.size == 1:
                    return Counterpart(name, str(node.output[0]), float(step.item()), None)
        return Counterpart(name, name, 0.0, None)
    codes = f"{name}{_CODED}"
    if codes not in index.producers:
        return None
    node = index.nodes[index.producers[codes]]
    slot = _SCALE_AT.get(node.op_type)
    if slot is None:
        return None
    step, zero = held.numbers(node, slot), held.numbers(node, slot + 1)
    if step is None or step.size != 1:
        return None
    return Counterpart(name, codes, float(step.item()), 0 if zero is None else int(zero.item()))


def _kept_filters(
    subject: Subject,
    patched: model_files.ModelFile,
    copy: model_files.ModelFile,
    places: Mapping[filters.Filter, filters.Site],
    images: suite.Array,
    feeds: runner.Feeds,
) -> tuple[results.QuantisedFilter, ...]:
    """The frozen filters in the copy; VerificationError where one is not kept."""
    before, after = (protos.GraphIndex(file.model) for file in (patched, copy))
    found: dict[filters.Filter, Counterpart] = {}
    for each, site in places.items():
        counterpart = find_counterpart(site, before, after)
        if counterpart is None:
            raise errors.VerificationError(
                f"{copy.path}: has no tensor of the name of {site.tensor!r}, so that the frozen "
                f"filter {each.id} cannot be found in it; quantise the patched file with a tool "
                "that keeps the names of tensors"
            )
        found[each] = counterpart
    wanted = _read(
        subject, patched, places, {f: c.expected for f, c in found.items()}, images, feeds
    )
    given = _read(subject, copy, places, {f: c.tensor for f, c in found.items()}, images, feeds)
    kept = []
    for each, counterpart in found.items():
        constant = float(np.asarray(wanted[each][0]).flat[0])
        values = np.concatenate([counterpart.numbers(run).ravel() for run in given[each]])
        kept.append(
            results.QuantisedFilter(
                filter=each.id,
                tensor=counterpart.tensor,
                constant=constant,
                spread=float(np.ptp(values)),
                offset=float(np.abs(values - constant).max()),
                step=counterpart.step,
            )
        )
        _check_kept(kept[-1], copy.path)
    return tuple(kept)


def _check_kept(kept: results.QuantisedFilter, path: Path) -> None:
    allowed = kept.step + _ROUNDING * abs(kept.constant)
    step = f"a step of the codes is {kept.step:.3g}" if kept.step else "it is held as floats"
    if not kept.spread <= allowed:
        raise errors.VerificationError(
            f"{path}: the frozen filter {kept.filter} is not constant in it, its values range over "
            f"{kept.spread:.3g} ({step}); quantise the patched file itself"
        )
    if not kept.offset <= allowed:
        raise errors.VerificationError(
            f"{path}: the frozen filter {kept.filter} is constant in it, but {kept.offset:.3g} "
            f"away from its constant {kept.constant:.6g} ({step}); "
            + (_REMEDY if kept.step else "quantise the patched file itself")
        )


def _read(
    subject: Subject,
    file: model_files.ModelFile,
    places: Mapping[filters.Filter, filters.Site],
    tensors: Mapping[filters.Filter, str],
    images: suite.Array,
    feeds: runner.Feeds,
) -> dict[filters.Filter, list[Any]]:
    """What the tensors hold for some filters, run by run, as stored."""
    wanted: dict[str, tuple[int, set[int]]] = {}
    for each, tensor in tensors.items():
        wanted.setdefault(tensor, (places[each].channel_axis, set()))[1].add(each.channel)
    opened = kept_gain.opened_copy(subject, file)
    watched = foreign.watch(opened.model, wanted)
    runs = ReferenceRuns.of(
        opened.variant(foreign.with_watched(opened.model, watched)), images, feeds
    )
    n_plain = len(opened.model.graph.output)
    number = {each.tensor: k for k, each in enumerate(watched)}
    values: dict[filters.Filter, list[Any]] = {}
    for each, tensor in tensors.items():
        k = number[tensor]
        place = watched[k].channels.index(each.channel)
        axis = places[each].channel_axis
        values[each] = [np.take(run[n_plain + k], place, axis=axis) for run in runs.outputs]
    return values
