"""After a choice: which images were mended, and whether a forgotten class is still in the features.

A model can fail to name a class and still hold all that tells it: then a new last layer finds it
again. A linear probe measures that (Alain & Bengio 2017): a logistic regression on what enters the
last layer, of the class against all others. It is fitted on selection images and judged on test
images; without a test part on folds of the selection images that it was not fitted to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from repairkit.core import errors, marked, suite
from repairkit.core.process.stages import stage
from repairkit.engine.proof import HeadReader
from repairkit.engine.runner import OpenModel
from repairkit.graph.kinds.class_head import find_head
from repairkit.graph.protos import GraphIndex
from repairkit.jobs.repair.objective import Objective
from repairkit.jobs.repair.repair_settings import PatchSettings
from repairkit.jobs.setup.preparing import outputs_of
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics.evaluation import wilson
from repairkit.metrics.resampling import figures_with_intervals
from repairkit.repairs.crossfit import assign_folds
from repairkit.repairs.cure import FinalFigures, Story
from repairkit.repairs.refit import Directions, balanced_weights, refit_path

_PENALTIES = (1.0, 0.1, 0.01, 0.001)
_FOLDS, _RESAMPLES = 5, 1000
_STREAM = 11  # of the seed


@stage("looking at what became of it")
def aims_story(
    bench: Bench,
    asked: PatchSettings,
    objective: Objective,
    final: FinalFigures,
    patched: tuple[ModelProto, OpenModel],
) -> Story:
    """The report's entries `fixed` and `forgotten`, where `--fix` or `--forget` asked for them.

    Args:
        bench: the workbench.
        asked: the settings.
        objective: what was to be improved.
        final: what images that chose nothing say of the patched model.
        patched: the patched model, and the same ready to run.
    """
    if asked.fix is not None:
        return {"fixed": _fixed(bench, final)}
    if asked.forget is not None:
        return {"forgotten": _forgotten(bench, asked.forget, objective, final, patched)}
    return {}


def _fixed(bench: Bench, final: FinalFigures) -> Story:
    """What became of the images to fix, and of all others, on the images that report."""
    judging = bench.parts.test if len(bench.parts.test) else bench.parts.selection
    about, form = judging.annotations, bench.form
    assert form is not None
    before, after = (form.predictions(o) == about.labels for o in final.outputs)
    wanted = marked.to_fix(about)
    rows = {}
    for name, members in (("to_fix", wanted), ("elsewhere", ~wanted)):
        rows[name] = {
            "n": int(members.sum()),
            "wrong": int((members & ~before).sum()),
            "mended": int((members & ~before & after).sum()),
            "broken": int((members & before & ~after).sum()),
        }
    n_wrong, n_mended = rows["to_fix"]["wrong"], rows["to_fix"]["mended"]
    share = None
    if n_wrong:
        low, high = wilson(n_mended, n_wrong)
        share = {"value": n_mended / n_wrong, "ci_low": low, "ci_high": high}
    return {"suite": final.before.suite, **rows, "mended_share": share}


def _forgotten(
    bench: Bench,
    name: str,
    objective: Objective,
    final: FinalFigures,
    patched: tuple[ModelProto, OpenModel],
) -> Story:
    """What is left of a class: its recall, and how well a linear probe tells it from the others."""
    (metric,) = bench.metrics((objective.metric,))
    selection = bench.parts.selection.annotations
    number = int(selection.labels[metric.weights(selection) > 0][0])
    model, opened = patched
    original = (bench.subject.model, bench.working.opened)
    probes = [_probe(bench, number, *way) for way in (original, (model, opened))]
    return {
        "class": selection.class_name(number) if selection.class_names else name,
        "chance": 1 / bench.n_classes,
        "recall": final.after.metrics[objective.metric].to_json(),
        "suite": final.before.suite,
        "probe": {
            "on": probes[1].on,
            "judged_on": probes[1].judged_on,
            "n_images": probes[1].n_images,
            "before": probes[0].figure,
            "after": probes[1].figure,
        },
    }


@dataclass(frozen=True)
class _Probed:
    """Balanced accuracy of a probe with its interval; on what it rests, and how it was judged."""

    figure: Story
    on: str
    judged_on: str
    n_images: int


def _probe(bench: Bench, number: int, model: ModelProto, opened: OpenModel) -> _Probed:
    """How well a class can be told from all others by what enters the last layer."""
    choosing, test = bench.parts.selection, bench.parts.test
    features, on = _features(bench, model, opened, choosing)
    of_class = choosing.annotations.labels == number
    if len(test):
        rows, _ = _features(bench, model, opened, test)
        truth = test.annotations.labels == number
        said, judged_on = fit_probe(features, of_class, bench.settings.seed, rows), "test"
    else:
        truth, judged_on = of_class, "selection, out of fold"
        said = np.empty(len(truth), bool)
        rng = np.random.default_rng([bench.settings.seed, _STREAM])
        folds = assign_folds(of_class.astype(np.int64), _FOLDS, rng)
        for part, rest in zip(folds.parts, folds.rest, strict=True):
            said[part] = fit_probe(
                features[rest], of_class[rest], bench.settings.seed, features[part]
            )
    right = (said == truth).astype(np.float64)

    def balanced(draws: suite.Indices) -> NDArray[np.float64]:
        drawn, members = right[draws], truth[draws]
        recalls = [(drawn * part).sum(1) / part.sum(1) for part in (members, ~members)]
        return np.asarray(sum(recalls) / 2)[:, None]

    (figure,) = figures_with_intervals(
        balanced,
        truth.astype(np.int64),
        n_resamples=_RESAMPLES,
        confidence=0.95,
        seed=bench.settings.seed,
    )
    return _Probed(figure.to_json(), on, judged_on, len(truth))


def _features(
    bench: Bench, model: ModelProto, opened: OpenModel, images: suite.Suite
) -> tuple[suite.Array, str]:
    """What enters the last layer, (n_images, n_features); class scores where it cannot be read."""
    try:
        head = find_head(GraphIndex(model), bench.subject.output)
        if head.fixed_weight:
            raise errors.ModelError(head.fixed_weight)
        reader, parts = HeadReader(opened, head), []
        step = bench.working.effort.batch_size
        for start in range(0, len(images), step):
            places = np.arange(start, min(start + step, len(images)))
            read = reader.read(images.batch(places), images.feeds(places)).features
            assert read is not None
            parts.append(read.astype(np.float64))
        return np.concatenate(parts), "the last features"
    except errors.ModelError as error:
        assert bench.form is not None
        scores = bench.form.class_scores(outputs_of(bench, opened, images)).astype(np.float64)
        return scores, f"the class scores, because the last layer cannot be read: {error}"


def fit_probe(
    features: suite.Array, of_class: NDArray[np.bool_], seed: int, rows: suite.Array
) -> NDArray[np.bool_]:
    """Fit a logistic regression, class and others counting alike, and say which rows are of it.

    How strong the penalty is, cross-validation on the images of the fit decides.

    Args:
        features: of the images to fit, (n_images, n_features).
        of_class: whether each is of the class.
        seed: of the folds.
        rows: features of the images to answer for.
    """
    labels = of_class.astype(np.int64)
    folds = assign_folds(labels, _FOLDS, np.random.default_rng([seed, _STREAM]))
    losses = np.zeros(len(_PENALTIES))
    for part, rest in zip(folds.parts, folds.rest, strict=True):
        scores = _scores(features[rest], labels[rest], features[part])
        away = np.logaddexp(0.0, np.where(labels[part] == 1, -1.0, 1.0) * scores)
        losses += away @ balanced_weights(labels[part])
    best = int(losses.argmin())
    return np.asarray(_scores(features, labels, rows)[best] > 0)


def _scores(
    features: suite.Array, labels: NDArray[np.int64], rows: suite.Array
) -> NDArray[np.float64]:
    """Log-odds of the class for each penalty and each of the rows, (n_penalties, n_rows)."""
    ways = Directions.of(features)
    asked = np.hstack([(rows - ways.center) @ ways.axes.T, np.ones((len(rows), 1))])
    nothing = np.zeros((len(labels), 1))
    path = refit_path(ways.rows, nothing, labels, balanced_weights(labels), _PENALTIES)
    return np.stack([(asked @ fitted)[:, 0] for fitted in path])
