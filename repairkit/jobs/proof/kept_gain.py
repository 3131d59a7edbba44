"""Judge whether a quantised copy of a patched model keeps what the patch gained.

The figure that the patch improved is taken anew of the original, the patched model and the copy,
on test images. Those must have chosen nothing: on the data of the patch, its file shows it by the
digest of the parts.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from repairkit.core import errors, results, suite
from repairkit.core.process.trust import without
from repairkit.engine import runner
from repairkit.formats.patch_file import PatchFile
from repairkit.graph import protos
from repairkit.graph.coalitions.rebatch import fixed_batch
from repairkit.graph.kinds.ensembles import without_zipmaps
from repairkit.graph.stored import model_files
from repairkit.jobs.setup import looking, preparing
from repairkit.jobs.setup.workbench import Bench, Settings, Subject
from repairkit.metrics.catalogue import is_user_metric
from repairkit.metrics.evaluation import difference, evaluate


@dataclass(frozen=True, kw_only=True)
class QuantisedCopies:
    """Which quantised copies to judge, and by what.

    Attributes:
        patched: a quantised copy of the patched model; nothing is judged if None.
        original: a quantised copy of the original, to compare with.
        metric: that is judged; that of the patch file if None, else the settings' first.
        patch_path: the patch file, for messages.
    """

    patched: Path | None = None
    original: Path | None = None
    metric: str | None = None
    patch_path: Path | None = None

    def __post_init__(self) -> None:
        if self.patched is None and (self.original is not None or self.metric is not None):
            raise errors.SettingsError(
                "a metric or a quantised copy of the original was given, and no quantised copy of "
                "the patched model to judge; add --quantised"
            )


@dataclass(frozen=True)
class GainData:
    """What a gain is judged by: the patch file, and settings that name data; None for each without.

    The gain is that of the original, as it was opened, and not of a proof's subject, whose further
    inputs are made up where there is no data.
    """

    original: Subject
    file: PatchFile | None = None
    settings: Settings | None = None


def read_copy(path: Path, subject: Subject) -> model_files.ModelFile:
    """A quantised copy; ModelError where it does not take and give what the model does."""
    copy = model_files.read_model(path)
    index, wanted = protos.GraphIndex(copy.model), protos.GraphIndex(subject.model)
    for what, ours, theirs in (
        ("takes", index.inputs, wanted.inputs),
        ("gives", index.outputs, wanted.outputs),
    ):
        if ours != theirs:
            raise errors.ModelError(
                f"{path}: {what} {', '.join(ours)}, and the model {what} {', '.join(theirs)}; "
                "quantise the patched file itself, and keep inputs and outputs as they are"
            )
    return copy


def opened_copy(subject: Subject, file: model_files.ModelFile) -> runner.OpenModel:
    """A model with the subject's inputs, which runs as it declares.

    A copy whose scales are computed at run time runs image by image: they are those of the whole
    batch, and an answer would depend on the other images in it.
    """
    model = without_zipmaps(subject.runnable(file.model))
    dynamic = any(node.op_type == "DynamicQuantizeLinear" for node in protos.all_nodes(model.graph))
    step = 1 if dynamic else fixed_batch(file.model, subject.input_name)
    return replace(subject.opened().variant(model), step=step)


def judge_gain(
    judged: GainData,
    settings: Settings,
    patched: model_files.ModelFile,
    copy: model_files.ModelFile,
    copies: QuantisedCopies,
) -> results.KeptGain | None:
    """The figure of all models on the test part; None where the data has no labels."""
    subject, file = judged.original, judged.file
    name = _metric_name(settings, copies, file)
    given = (name,) if copies.metric is not None else ()
    named_by = without(settings.named_by, given)
    if not given and file is not None and is_user_metric(name):
        named_by |= {name: str(copies.patch_path)}
    settings = replace(settings, metrics=(name,), named_by=named_by)
    if not preparing.read_any(subject, settings).labelled:
        return None
    bench = looking.looked_at(preparing.prepare(subject, settings), None)
    test = bench.parts.test
    if not len(test):
        raise errors.SettingsError(
            "the gain is judged on images that chose nothing, and there is no test part; give one, "
            "such as --test 0.3"
        )
    unseen = _check_unseen(bench, file)
    outputs = {
        "original": bench.working.run_plain(test),
        "patched": preparing.outputs_of(bench, preparing.opened_beside(bench, patched.model), test),
        "quantised": preparing.outputs_of(bench, opened_copy(bench.subject, copy), test),
    }
    if copies.original is not None:
        other = opened_copy(bench.subject, read_copy(copies.original, subject))
        outputs["quantised_original"] = preparing.outputs_of(bench, other, test)
    return _kept_gain(bench, name, outputs, unseen, copy.path)


def _metric_name(settings: Settings, copies: QuantisedCopies, file: PatchFile | None) -> str:
    objective = None if file is None else file.story.get("objective")
    if copies.metric is not None:
        return copies.metric
    return objective if isinstance(objective, str) and objective else settings.metrics[0]


def _check_unseen(bench: Bench, file: PatchFile | None) -> bool | None:
    """Whether the patch file shows that the test images chose nothing.

    None where there is no patch file, or it was chosen on other data. False where the parts are
    those of the patch and share images.

    Raises:
        SettingsError: the data is that of the patch, and the parts are others.
    """
    story: Mapping[str, Any] = {} if file is None else file.story
    data, parts = (story.get(name) for name in ("data", "parts"))
    if not isinstance(data, Mapping) or not isinstance(parts, Mapping):
        return None
    if not bench.dataset.digest or data.get("digest") != bench.dataset.digest:
        return None
    if parts.get("digest") == bench.parts.digest:
        return not any(set(pair) == {"selection", "test"} for pair in bench.parts.overlaps)
    choice = story.get("choice")
    seed = choice.get("seed") if isinstance(choice, Mapping) else None
    raise errors.SettingsError(
        "the data is that on which the patch was chosen, and its parts are others, so that test "
        f"images may have chosen the patch; give --seed {seed} and the parts of the patch "
        f"({parts.get('how')})"
    )


def _kept_gain(
    bench: Bench,
    name: str,
    outputs: Mapping[str, suite.Array],
    unseen: bool | None,
    path: Path,
) -> results.KeptGain:
    """Figures and differences, and the verdict; VerificationError where the gain is lost."""
    about, seed = bench.parts.test.annotations, bench.settings.seed
    (metric,) = bench.metrics([name])
    common: dict[str, Any] = {"form": bench.form, "seed": seed}
    figures = {
        model: evaluate(o, about, (metric,), suite="test", **common).metrics[metric.name]
        for model, o in outputs.items()
    }

    def change(before: str, after: str) -> results.Figure:
        return difference(outputs[before], outputs[after], about, (metric,), **common)[metric.name]

    changes = {
        "patch": change("original", "patched"),
        "quantised": change("original", "quantised"),
        "quantisation": change("patched", "quantised"),
    }
    if "quantised_original" in outputs:
        changes["among_quantised"] = change("quantised_original", "quantised")
    sign = metric.measure.sign
    verdict, why = gain_verdict({key: _oriented(c, sign) for key, c in changes.items()})
    gain = results.KeptGain(
        metric=name,
        measure=metric.measure,
        verdict=verdict,
        why=why,
        suite="test",
        n_images=len(bench.parts.test),
        seed=seed,
        figures=figures,
        changes=changes,
        unseen=unseen,
    )
    if verdict == "lost":
        measure = metric.measure
        raise errors.VerificationError(
            f"{path}: the gain of the patch is lost in it: {measure.words or name}, of the "
            f"original {measure.figure(figures['original'].value)}, of the patched model "
            f"{measure.figure(figures['patched'].value)}, of the copy "
            f"{measure.figure(figures['quantised'].value)}, on {gain.n_images} test images; {why}"
        )
    return gain


def _oriented(change: results.Figure, sign: int) -> results.Figure:
    """A change by which more is better."""
    ends = sorted((sign * change.ci_low, sign * change.ci_high))
    return results.Figure(sign * change.value, *ends)


def gain_verdict(changes: Mapping[str, results.Figure]) -> tuple[str, str]:
    """`kept`, `partly`, `lost` or `undecided`, and why.

    Args:
        changes: `patch` (patched less original), `quantised` (copy less original), `quantisation`
            (copy less patched), and `among_quantised` (copy less the quantised original) where that
            was given, which then decides in place of `quantised`. More is better.
    """
    than = "the quantised original" if "among_quantised" in changes else "the original"
    gain = changes.get("among_quantised", changes["quantised"])
    worse = changes["quantisation"].ci_high < 0
    if gain.ci_low > 0:
        if worse:
            return "partly", f"it is surely better than {than}, and worse than the patched model"
        return "kept", f"it is surely better than {than}"
    if not changes["patch"].ci_low > 0:
        return "undecided", "the patched model itself is not surely better on these images"
    if worse:
        return (
            "lost",
            f"it is surely worse than the patched model and not surely better than {than}",
        )
    return "undecided", f"it may be no better than {than}; more test images would tell"
