"""What filters are worth to a repair, and which of them a search is to try.

Values come from a scoring of its own, from a run that is there, or from gradients. They only
screen: whether a filter is worth freezing, the search finds out by the true outputs.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, filters, framework
from repairkit.core.metric import Metric
from repairkit.core.process.stages import stage
from repairkit.core.scores import Scores
from repairkit.core.suite import Array, Indices, Suite
from repairkit.formats import effects, run_file
from repairkit.jobs.repair.objective import Objective
from repairkit.jobs.repair.repair_settings import GRADIENT
from repairkit.jobs.runs import run_document
from repairkit.jobs.score.score_settings import ScoreSettings
from repairkit.jobs.score.scored import Scored
from repairkit.jobs.setup.looking import tell_reading
from repairkit.jobs.setup.workbench import Bench
from repairkit.metrics import definition, image_metrics
from repairkit.metrics.resampling import SHARPNESS, FigureOfImages, figure_of

MOST_CANDIDATES = 24
Source = tuple[str, framework.FrameworkModel]
"""The name of the framework's model that an ONNX file came from, and the model."""

PlayerValues = NDArray[np.float64]
"""Shape (n_players,)."""

_TARGET_AND_REFERENCE = 2  # metrics
_GROUP = f"{image_metrics.LOSS_OF_GROUP.name}:"
_PASSES = 3  # that a backward pass takes, with its forward pass
_PROOF_IMAGES = 8
_MOST_IMAGES = 512  # of the selection part, by which conductance is measured
_RELATIVE = 1e-3
# With more groups than this their values are left to the figure over all groups.
_MOST_VALUES = 25
# Evaluations per filter: values only screen here. Ten times as many led to the same repairs.
_TO_SCREEN, _LEAST_ROWS = 50, 3000


@dataclass(frozen=True, kw_only=True)
class Harm:
    """Values of all filters with their intervals, (n_players, n_metrics).

    `signs` hold 1 for each metric of which more is better, else -1: where more is better, a filter
    of negative value does harm.
    """

    metrics: tuple[str, ...]
    values: NDArray[np.float64]
    ci_low: NDArray[np.float64]
    ci_high: NDArray[np.float64]
    signs: tuple[int, ...]

    @classmethod
    def of(cls, scores: Scores, signs: tuple[int, ...]) -> Harm:
        """The values of scores."""
        return cls(
            metrics=scores.metrics,
            values=scores.values,
            ci_low=scores.ci_low,
            ci_high=scores.ci_high,
            signs=signs,
        )

    def against_others(self) -> Harm:
        """The first figure, and what is left of a filter's harm to it once others are counted.

        The values are of a target and of a reference, on different images, so that errors are
        independent. A filter whose absence mends the target and costs the reference as much comes
        out at 0. Ranked by value over width of the interval, this is a statistic like Welch's t for
        a target against a reference (Shah, Ilyas & Madry, ICML 2024, section 5), with the sign of
        the reference such that its losses count against a filter.
        """
        if len(self.metrics) != _TARGET_AND_REFERENCE:
            return self
        value = self.values @ np.array(self.signs, np.float64)
        reach = np.sqrt(((self.ci_high - self.ci_low) ** 2).sum(axis=1)) / 2
        first = slice(0, 1)
        return Harm(
            metrics=(self.metrics[0], "target and reference"),
            values=np.column_stack([self.values[:, first], value]),
            ci_low=np.column_stack([self.ci_low[:, first], value - reach]),
            ci_high=np.column_stack([self.ci_high[:, first], value + reach]),
            signs=(self.signs[0], 1),
        )

    def towards_the_worst(self, losses: dict[str, float]) -> Harm:
        """The overall figure, and that of groups weighed by how badly they fare.

        A group of loss `l` counts in proportion to exp(s l), as in the softened minimum that is
        searched by (see `metrics.resampling`). Groups hold different images, so their errors are
        independent.

        Args:
            losses: of the groups, by name, on the images that the values come from.
        """
        columns = [i for i, name in enumerate(self.metrics) if name.startswith(_GROUP)]
        named = [self.metrics[i].removeprefix(_GROUP) for i in columns]
        if not columns or any(name not in losses for name in named):
            return self
        by_group = np.array([losses[name] for name in named])
        shares = np.exp(SHARPNESS * (by_group - by_group.max()))
        shares /= shares.sum()
        # A group of no weight must not bring in its unknown error.
        used = shares > 0
        chosen, shares = np.array(columns)[used], shares[used]
        value = self.values[:, chosen] @ shares
        reach = np.sqrt((self.ci_high - self.ci_low)[:, chosen] ** 2 @ shares**2) / 2
        first = slice(0, 1)
        return Harm(
            metrics=(self.metrics[0], "groups by their loss"),
            values=np.column_stack([self.values[:, first], value]),
            ci_low=np.column_stack([self.ci_low[:, first], value - reach]),
            ci_high=np.column_stack([self.ci_high[:, first], value + reach]),
            signs=(self.signs[0], self.signs[columns[0]]),
        )


def find_candidates(harm: Harm, *, most: int = MOST_CANDIDATES) -> tuple[int, ...]:
    """The filters whose values say most surely that they do harm by some metric.

    They are ranked by value over width of the interval; where no error is known (norms, random
    scores), by value. Whether a filter is worth freezing, the search finds out.

    Args:
        harm: the values; NaN where a filter was not scored.
        most: how many.
    """
    good = np.asarray(harm.signs) * harm.values
    with np.errstate(invalid="ignore"):
        harmful = (good < 0).any(axis=1)
        width = np.abs(harm.ci_high - harm.ci_low)
    key = np.where(np.isnan(good), np.inf, good)
    if np.isfinite(width).any():
        known = np.isfinite(width) & (width > 0)
        far = np.where(good == 0, 0.0, np.copysign(np.inf, good))
        scaled = np.divide(good, width, out=far, where=known)
        key = np.where(np.isnan(scaled), np.inf, scaled)
    players = np.flatnonzero(harmful)
    ranked = players[np.argsort(key[players].min(axis=1), kind="stable")]
    return tuple(map(int, ranked[:most]))


@dataclass(frozen=True, eq=False)
class FilterValues:
    """Values of all filters on the images that were scored.

    Attributes:
        harm: by all of them.
        run: what the report tells of the scoring.
        scored: the scoring, where it was made here.
    """

    harm: Harm
    run: Mapping[str, Any]
    scored: Scored | FirstOrder | None = None

    def on(self, positions: Indices) -> Harm | None:
        """By the scored images at some positions alone; None where that cannot be told."""
        scores = None if self.scored is None else self.scored.on(positions)
        return None if scores is None else Harm.of(scores, self.harm.signs)


def find_values(
    bench: Bench,
    objective: Objective,
    suite: Suite,
    *,
    run: Path | None,
    score: ScoreSettings,
    source: Source | None,
    score_filters: Callable[..., Scored],
) -> FilterValues:
    """Score the filters on `suite`, or read the run that is there.

    Args:
        bench: the workbench.
        objective: what is to be improved.
        suite: the images that score.
        run: the folder of a run; None to score.
        score: how to score.
        source: of the framework's model, for values by gradients.
        score_filters: scores filters where no run is given.

    Raises:
        RunFolderError: the run is about something else.
    """
    if run is not None:
        return _read_values(run, bench, objective, suite)
    if score.method == GRADIENT:
        table, story = first_order(bench, source, suite)
        scores = table.on(np.arange(len(suite)))
        tell_reading(bench.reading)
        return FilterValues(Harm.of(scores, _signs(bench, scores.metrics)), story, table)
    if len(bench.metric_names) > _MOST_VALUES:
        few = replace(bench.settings, metrics=bench.settings.metrics[:1])
        bench = replace(bench, settings=few)
    settings = score.towards(_signs(bench, bench.metric_names[:1])[0])
    if settings.method == "repair":
        settings = replace(settings, per_filter=max(_TO_SCREEN, _LEAST_ROWS // len(bench.roster)))
    scored = score_filters(bench, settings, suite=suite)
    harm = Harm.of(scored.scores, _signs(bench, scored.scores.metrics))
    return FilterValues(harm, scored.document, scored)


@dataclass(frozen=True, eq=False)
class Screening:
    """Which filters the values say to do harm, by the images at some positions alone.

    Attributes:
        bench: the workbench.
        values: of the filters.
        objective: what is to be improved.
        plain: the model's outputs for the selection images as it is.
        scored: positions of the scored images among the selection images.
        further: players that are tried whatever their values.
    """

    bench: Bench
    values: FilterValues
    objective: Objective
    plain: Array
    scored: Indices
    further: tuple[int, ...] = ()
    _known: dict[bytes, tuple[int, ...]] = field(default_factory=dict)

    def __call__(self, positions: Indices) -> tuple[int, ...]:
        """The players, the most surely harmful first.

        Where values cannot be told of these images alone, they are those of all scored ones.
        """
        key = positions.tobytes()
        if key not in self._known:
            chosen = np.flatnonzero(np.isin(self.scored, positions))
            harm = self.values.on(chosen) or self.values.harm
            if self.objective.is_worst_group:
                harm = harm.towards_the_worst(self._losses(positions))
            elif self.objective.beside:
                harm = harm.against_others()
            self._known[key] = tuple(dict.fromkeys((*find_candidates(harm), *self.further)))
        return self._known[key]

    def _losses(self, positions: Indices) -> dict[str, float]:
        """The mean loss of each group, of the model as it is."""
        about = self.bench.parts.selection.annotations
        assert about.groups is not None
        figure = figure_of(self.bench.metrics(("loss",))[0], about)
        assert isinstance(figure, FigureOfImages)
        losses, groups = figure.columns(self.plain)[positions], about.groups[positions]
        return {
            name: float(losses[groups == number].mean())
            for number, name in enumerate(about.group_names)
            if (groups == number).any()
        }


def _read_values(path: Path, bench: Bench, objective: Objective, suite: Suite) -> FilterValues:
    folder = run_file.RunFolder(path)
    run = folder.read()
    if run["model"]["digest"] != bench.subject.file.digest:
        raise errors.RunFolderError(
            f"{path}: holds scores of another model ({run['model']['path']})"
        )
    run = folder.read_finished()
    _check_run(path, run, bench, objective)
    seen = run.get("scored_on", {})
    if seen.get("part") == suite.name == "choosing" and seen["n_images"] != len(suite):
        raise errors.RunFolderError(
            f"{path}: was scored on {seen['n_images']} images and {len(suite)} are to choose; "
            "leave --confirm-share out"
        )
    whole = filters.Roster(bench.original.sites)  # a run may rank filters that are left out here
    kept = [whole.column(each) for each in bench.roster]
    values, low, high = (
        folder.read_values(whole, column)[kept, None] for column in ("value", "ci_low", "ci_high")
    )
    tell_reading(bench.reading)
    metrics = tuple(run["settings"]["metrics"][:1])
    signs = _signs(bench, metrics)
    harm = Harm(metrics=metrics, values=values, ci_low=low, ci_high=high, signs=signs)
    return FilterValues(harm, run)


def _signs(bench: Bench, metrics: Sequence[str]) -> tuple[int, ...]:
    return tuple(metric.measure.sign for metric in bench.metrics(metrics))


def _check_run(path: Path, run: run_file.RunDocument, bench: Bench, objective: Objective) -> None:
    """Scores must be about the images, levels and metric that this job is about.

    Otherwise the test images might have had a say, or another metric's ranking be followed.
    """
    if run["data"]["digest"] != bench.dataset.digest:
        raise errors.RunFolderError(
            f"{path}: was scored on other data ({run['data']['path']}); score on the data that the "
            "patch is to be judged on"
        )
    settings, known = bench.settings, run["settings"]
    fitting = dict.fromkeys([objective.metric, *settings.metrics[:1], *objective.plain_values])
    if known["metrics"][0] not in fitting:
        raise errors.RunFolderError(
            f"{path}: was scored with the metric {known['metrics'][0]!r}, which does not tell who "
            f"harms {objective.metric}; score with --metric {' or '.join(fitting)}, or choose "
            f"with --objective {known['metrics'][0]}"
        )
    for setting in run_document.differing(
        run_document.settings_in(run),
        run_document.settings_at(bench.settings, bench.common),
        *(effects.Affects.FILTERS, effects.Affects.FIGURE, effects.Affects.IMAGES),
        without=("parts",),
    ):
        remedy = "give both the same"
        if setting.name == "means":
            remedy = "score without --means (or, from Python, give both the same Settings.means)"
        raise errors.RunFolderError(
            f"{path}: was scored with {setting.name} {setting.first!r}, and this job has "
            f"{setting.second!r}; {remedy}"
        )
    if not run_document.same_parts(run, settings.parts, bench.parts):
        parts, options = run_document.parts_in_words(run), run_document.options_in_words(run)
        raise errors.RunFolderError(
            f"{path}: was scored with parts of other images ({parts}) than this job has "
            f"({bench.parts.summary.rstrip('.')}); give both the same{options}"
        )


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """What each image loses with each filter alone, (n_images, n_players); NaN where unknown."""

    changes: NDArray[np.float32]
    suite: Suite
    metrics: Sequence[Metric]

    def on(self, positions: Indices) -> Scores:
        """The values that the images at `positions` of the suite tell."""
        about, changes = self.suite.annotations.take(positions), self.changes[positions]
        values, deviations = [], []
        for metric in self.metrics:
            weights = metric.weights(about)
            mean = weights @ changes
            values.append(mean)
            deviations.append(np.sqrt(weights**2 @ (changes - mean) ** 2))
        names = tuple(metric.name for metric in self.metrics)
        return Scores.plain(names, np.stack(values, axis=1), np.stack(deviations, axis=1))


@stage("scoring by gradients")
def first_order(
    bench: Bench, source: Source | None, suite: Suite
) -> tuple[FirstOrder, dict[str, Any]]:
    """Values by gradients: one backward pass per image, through the model's framework.

    The change of an image's log-likelihood with one filter alone at its mean, to first order,
    stands for what the filter is worth to the image. The report's words on it come along.

    Raises:
        SettingsError: there is no source, or the values are not those of a loss.
        AdapterError: the source is another model, or gives no gradients.
    """
    if source is None:
        raise errors.SettingsError(
            "--method gradient needs the framework's model; name it with --source"
        )
    metrics = bench.metrics(bench.metric_names)
    for metric in metrics:
        if not isinstance(metric.scorer, definition.Surprises):
            raise errors.SettingsError(
                f"--method gradient tells of losses, and {metric.name} is none; leave --method out"
            )
    changes = _changes(bench, source, suite)
    table = FirstOrder(changes, suite, metrics)
    n_known = int(np.isfinite(changes).all(axis=0).sum())
    return table, {
        "settings": {"method": GRADIENT, "metrics": [metric.name for metric in metrics]},
        "finished": False,
        "n_filters": len(bench.roster),
        "n_known": n_known,
        "scored_on": {"part": suite.name, "n_images": len(suite)},
        "image_passes": _PASSES * len(suite),
    }


def _changes(bench: Bench, source: Source, suite: Suite) -> NDArray[np.float32]:
    name, model = source
    layers = layers_of(bench)
    if not isinstance(model, framework.Differentiating):
        raise errors.AdapterError(f"the adapter of {model.framework} gives no gradients at filters")
    if bench.settings.sites_at != "pre-activation":
        raise errors.SettingsError(
            "--method gradient is for --sites-at pre-activation; leave that out"
        )
    check_same(bench, model, name)
    places: dict[str, list[tuple[int, int]]] = {}
    constants: dict[str, NDArray[np.float64]] = {}
    sizes = {mapped.layer.name: mapped.layer.n_channels for mapped in layers.layers}
    for player, filter in enumerate(bench.roster.filters):
        origin = layers.origin(filter)
        if origin is None or not origin.proven:
            continue
        held = constants.setdefault(origin.layer, np.zeros(sizes[origin.layer]))
        held[origin.channel] = float(bench.working.levels[filter.site][filter.channel])
        places.setdefault(origin.layer, []).append((player, origin.channel))
    changes = np.full((len(suite), len(bench.roster)), np.nan, np.float32)
    for start in range(0, len(suite), bench.working.effort.batch_size):
        rows = np.arange(start, min(start + bench.working.effort.batch_size, len(suite)))
        by_layer = model.first_order(suite.batch(rows), suite.annotations.labels[rows], constants)
        for layer, of_layer in by_layer.items():
            players, channels = np.array(places[layer]).T
            changes[np.ix_(rows, players)] = of_layer[:, channels]
    return changes


def conductance_by(
    source: Source | None, objective: Objective
) -> Callable[[Bench], PlayerValues] | None:
    """Measures the conductance of a bench's filters; None without the framework's model."""
    if source is None:
        return None
    return partial(_conductance, source=source, weighed_as=objective.plain_values[0])


def _conductance(bench: Bench, *, source: Source, weighed_as: str) -> PlayerValues:
    """Mean conductance of every filter.

    Raises:
        AdapterError: the source is another model, or gives no conductance.
    """
    name, model = source
    layers = layers_of(bench)
    if not isinstance(model, framework.Attributing):
        raise errors.AdapterError(f"the adapter of {model.framework} cannot tell of conductance")
    suite = bench.parts.selection
    rng = np.random.default_rng(bench.settings.seed)
    few = suite.take(rng.permutation(len(suite))[:_MOST_IMAGES])
    check_same(bench, model, name)
    by_layer = model.conductance(few.batch(np.arange(len(few))), few.annotations.labels)
    (metric,) = bench.metrics((weighed_as,))
    weights = metric.weights(few.annotations)
    return by_filter(bench, layers, {layer: weights @ each for layer, each in by_layer.items()})


def by_filter(
    bench: Bench, layers: framework.LayerMap, means: Mapping[str, PlayerValues]
) -> PlayerValues:
    """Means by layer as values by player; NaN where a filter's layer has none, or is unproven."""
    values = np.full(len(bench.roster), np.nan)
    for player, filter in enumerate(bench.roster.filters):
        origin = layers.origin(filter)
        if origin is not None and origin.proven and origin.layer in means:
            values[player] = means[origin.layer][origin.channel]
    return values


def layers_of(bench: Bench) -> framework.LayerMap:
    """Which layers of the framework the filters are.

    Raises:
        AdapterError: the model does not say.
    """
    layers = bench.subject.layer_map
    if layers is None:
        raise errors.AdapterError(
            f"{bench.subject.file.path} has no map of layers; make it with repairkit export"
        )
    return layers


def check_same(bench: Bench, model: framework.FrameworkModel, source: str) -> None:
    """Refuse a framework's model that does not compute what the bench's does.

    Raises:
        AdapterError: their outputs differ.
    """
    images = bench.parts.selection.batch(np.arange(min(_PROOF_IMAGES, len(bench.parts.selection))))
    ours = bench.working.run_plain(bench.parts.selection.take(np.arange(len(images))))
    theirs = model.outputs(images).reshape(ours.shape)
    scale = float(np.abs(ours).max()) or 1.0
    if not np.allclose(theirs, ours, rtol=_RELATIVE, atol=_RELATIVE * scale):
        raise errors.AdapterError(
            f"{source} does not compute what {bench.subject.file.path} does; name the source and "
            "the --weights that it was exported from"
        )
