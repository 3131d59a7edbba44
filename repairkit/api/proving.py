"""Verify patched models: in ONNX Runtime, in other runtimes, and quantised."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Unpack

from repairkit.api.job_settings import (
    JobKeywords,
    Metric,
    check_keywords,
    for_proof,
    metric_names,
    open_job,
)
from repairkit.core import results
from repairkit.data.given import GivenAs
from repairkit.formats.patch_file import read_patch_file
from repairkit.graph.stored.model_files import read_model
from repairkit.jobs.proof import (
    agreeing,
    beside,
    kept_gain,
    overlay_file,
    quantising,
    undoing,
    verifying,
)
from repairkit.jobs.setup.workbench import Settings


class VerifyKeywords(JobKeywords, total=False):
    """Further arguments of `verify`: in what else the patched file is checked.

    Attributes:
        runtime: other runtimes in which outputs must agree and frozen filters be constant: one
            name, or several of `openvino`, `onnxruntime-node`, `onnxruntime-web`, `tensorrt` and
            `coreml`.
        node_modules: a folder where `npm install` put the JavaScript packages; the working folder
            if left out.
        tolerance: how far outputs may differ there, relative to the largest number; each runtime's
            own if left out.
        quantised: a quantised copy of the patched file; it is told whether frozen filters are
            constant in it and, with labelled data, whether it keeps the gain.
        quantised_original: a quantised copy of the original, made in the same way, to compare with.
        metric: that tells of the gain; that of the patch file if left out, else the first of the
            settings.
        trust: run code that `repairkit.toml` or the patch file names.
        accept_preprocessing: judge the gain although images or classes look unlike what the model
            expects.
    """

    runtime: str | Sequence[str]
    node_modules: str | Path | None
    tolerance: float | None
    quantised: str | Path | None
    quantised_original: str | Path | None
    metric: Metric | None
    trust: bool
    accept_preprocessing: bool


def verify(
    original: str | Path,
    patched: str | Path,
    data: GivenAs | None = None,
    *,
    patch_file: str | Path | None = None,
    settings: Settings | None = None,
    noise: bool = False,
    **words: Unpack[VerifyKeywords],
) -> results.Verified:
    """Prove that `patched` is `original` with exactly the claimed changes.

    Args:
        original: the model before.
        patched: the model after, or an overlay of `overlay`, a safetensors file.
        patch_file: its patch file; if None, proves the claims inside `patched` or, without any,
            the frozen filters that its tensors show.
        data: outputs are compared on the first of these images; those of the settings if None, or
            noise without any.
        settings: preprocessing, inputs and outputs; see `score`.
        noise: compare on noise alone, whatever data the settings or `repairkit.toml` name.
        words: see `VerifyKeywords`.

    Raises:
        VerificationError: anything is not as claimed.
        DeviceError: another runtime is not installed, or not on this kind of machine.
        RepairkitError: a file cannot be read.
    """
    check_keywords("verify", words, VerifyKeywords)
    elsewhere, copies = _elsewhere(words), _copies(words, patch_file)
    opened, job = open_job(original, data, settings, words)
    subject, images, feeds = for_proof(opened, replace(job, data=None) if noise else job)
    file = None if patch_file is None else read_patch_file(Path(patch_file))
    after = Path(patched)
    if after.suffix.lower() == overlay_file.ENDING:
        made = undoing.lay_over(subject.file, overlay_file.read_overlay(after), after)
    else:
        made = read_model(after)
    verified = verifying.verify(subject, made, file=file, images=images, feeds=feeds)
    near = beside.check_beside(subject.file, made, None if file is None else Path(str(patch_file)))
    if elsewhere.names:
        verified = agreeing.agree(
            subject, made.model, verified, elsewhere, images=images, feeds=feeds
        )
    if copies.patched is not None:
        judged = kept_gain.GainData(opened, file, None if noise or job.data is None else job)
        copy = quantising.judge_copy(
            subject, made, verified, copies, images=images, feeds=feeds, judged=judged
        )
        verified = replace(verified, quantised=copy)
    return replace(verified, layers=subject.layer_map, beside=near)


def _copies(given: VerifyKeywords, patch_file: str | Path | None) -> kept_gain.QuantisedCopies:
    """The quantised copies that keywords name."""
    patched, original = given.get("quantised"), given.get("quantised_original")
    return kept_gain.QuantisedCopies(
        patched=None if patched is None else Path(patched),
        original=None if original is None else Path(original),
        metric=next(iter(metric_names(given.get("metric"))), None),
        patch_path=None if patch_file is None else Path(patch_file),
    )


def _elsewhere(given: VerifyKeywords) -> agreeing.Elsewhere:
    """The other runtimes that keywords name."""
    names, folder = given.get("runtime") or (), given.get("node_modules")
    return agreeing.Elsewhere(
        (names,) if isinstance(names, str) else tuple(names),
        None if folder is None else Path(folder),
        given.get("tolerance"),
    )
