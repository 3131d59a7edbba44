"""What a patch file and a report say of a patch, beside the patch itself."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from onnx import ModelProto

from repairkit.core import errors, filters, metric, results
from repairkit.core.process.text import counted
from repairkit.core.process.trust import without
from repairkit.engine.ort import versions
from repairkit.formats.patch_file import RUNTIME
from repairkit.formats.run_file import RunFolder
from repairkit.graph.kinds.sites import select_sites
from repairkit.graph.new_weights import needs_of_sites, runtime_facts
from repairkit.jobs.look.changed_images import changed_block
from repairkit.jobs.output.destination import Places
from repairkit.jobs.repair.repair_settings import FREEZE, GRADIENT, PatchSettings, wanted_repair
from repairkit.jobs.runs import run_document
from repairkit.jobs.setup.settings import Again, named_in, said_again
from repairkit.jobs.setup.workbench import Bench, Settings
from repairkit.metrics.catalogue import measure_of
from repairkit.repairs.cure import ChosenPatch, FinalFigures, Story
from repairkit.report.story import find_payers

ENOUGH_IMAGES = 2_000
"""From so many images on, a test part is advised."""


_ENDING, _MOST_NAMED = "; nothing was written", 6


def patch_story(
    bench: Bench,
    asked: PatchSettings,
    chosen: ChosenPatch,
    objective: str | None,
    final: FinalFigures,
    verified: results.Verified,
    model: ModelProto,
) -> Story:
    """Versions, choice, data, selection, figures on the test part, proof, what runtimes must know.

    `objective` is None where no metric could be computed; there are no figures then.
    """
    path_of, data = Places.here().relative, bench.settings.data
    figures = {
        "evaluations": {
            "before": final.before.to_json(),
            "after": final.after.to_json(),
            "difference": {name: figure.to_json() for name, figure in final.change.items()},
        },
        "fairness": final.fairness,
        "classes": final.classes,
    }
    measures = run_document.told_measures(bench, final.before.metrics)
    # Levels that were chosen by themselves are no rounded ones.
    rounded = [] if asked.level == "best" else _rounding(bench, verified.patch)
    # In which coalitions were tried; the figures and the proof are in 32 bits.
    tried = {"device": bench.working.device, "precision": bench.working.precision}
    return {
        "versions": versions(),
        "objective": objective,
        "less_is_better": run_document.less_is_better(measures),
        "measures": {**measures, **_disparity_measures(final.fairness)},
        "choice": _choice_story(bench.settings, asked, chosen.promise),
        "data": {
            "path": path_of(data) if isinstance(data, Path) else data and str(data),
            "digest": bench.dataset.digest or None,
        },
        "parts": run_document.told_parts(bench.parts),
        "read": bench.reading,
        "notes": _notes(bench, asked, chosen, verified, rounded),
        "rounding": rounded,
        **bench.roster.unit,
        "layers": _origins(bench, verified.patch),
        "tried": None if chosen.selection is None else tried,
        "selection": chosen.selection,
        **figures,
        "payers": find_payers(figures),
        "changed": changed_block(bench, final),
        "baselines": None,
        "verification": verified.to_json(),
        RUNTIME: runtime_facts(bench.original.index, model, verified.edits).to_json(),
        "scoring": None if chosen.scoring is None else _scoring_story(chosen.scoring, path_of),
    }


def _choice_story(
    settings: Settings, asked: PatchSettings, promise: results.Figure | None
) -> Story:
    """What was asked for, and what was promised."""
    return {
        **asked.to_json(),
        "absent": settings.absent,
        "seed": settings.seed,
        "preprocessing": run_document.plain(settings.preprocessing),
        "class_names": list(settings.class_names),
        "image_input": settings.image_input,
        "inputs": dict(settings.inputs),
        "promised_on_selection": None if promise is None else promise.to_json(),
    }


def patch_again(model: Path, settings: Settings, asked: PatchSettings) -> Again:
    """The command that makes the same repair."""
    # Only with values by gradients does the source affect what is chosen.
    lacks = ("--source",) if asked.score.method == GRADIENT else ()
    return said_again(
        "patch",
        model,
        settings,
        asked,
        usual=PatchSettings(fairness=True),
        budget=asked.score.budget,
        lacks=lacks,
    )


def with_the_runs_code(asked: PatchSettings, settings: Settings) -> Settings:
    """The settings, with the code that only files name: the run's metrics too."""
    named_by = dict(settings.named_by)
    if asked.scores is not None:
        folder = RunFolder(asked.scores)
        named_by |= named_in(folder.run_file, folder.read_metrics())
        # Without a project file the settings' metrics were given as options.
        named_by = without(named_by, () if settings.named_by else settings.metrics)
    given = [asked.objective or "", *(target.metric for target in asked.targets)]
    return replace(settings, named_by=without(named_by, given))


def _scoring_story(scoring: Mapping[str, Any], path_of: Callable[[Path], str]) -> Story:
    """The run of the scores, with its paths as reports show them."""
    places = {name: scoring[name] for name in ("model", "data") if name in scoring}
    return {
        **scoring,
        **{name: {**place, "path": path_of(Path(place["path"]))} for name, place in places.items()},
    }


def _notes_on_top(bench: Bench, asked: PatchSettings) -> list[str]:
    """What readers must know of filters that are the top of a run."""
    if asked.remove_top is None or asked.scores is None:
        return []
    run = Places.here().relative(asked.scores)
    notes = [
        f"the filters are the {asked.remove_top} of highest value in {run}: nothing was chosen"
    ]
    if not len(bench.parts.test) and not bench.unjudged:
        notes.append(
            "there is no test part: the images that report are those that scored the filters, so "
            "that the figures flatter the ranking"
        )
    return notes


def _note_on_left_out(bench: Bench, asked: PatchSettings) -> list[str]:
    """What readers must know of filters that `refit_safe` left out of a search."""
    if not asked.refit_safe or asked.remove or asked.remove_top:
        return []
    needs, kept = needs_of_sites(bench.original), {site.name for site in bench.roster.sites}
    wanted = select_sites(bench.original, bench.settings.sites)
    gone = [site for site in wanted if site.name in needs and site.name not in kept]
    if not gone:
        return []
    n_filters = counted(sum(site.n_channels for site in gone), "filter")
    shown = ", ".join(site.name for site in gone[:_MOST_NAMED])
    more = f" and {len(gone) - _MOST_NAMED} more" if len(gone) > _MOST_NAMED else ""
    return [
        f"--refit-safe left out {n_filters} of {counted(len(gone), 'site')} ({shown}{more}), whose "
        f"freezing needs more than new weights: one of {gone[0].name} {needs[gone[0].name].reason}"
    ]


def _notes(
    bench: Bench,
    asked: PatchSettings,
    chosen: ChosenPatch,
    verified: results.Verified,
    rounded: Sequence[Story],
) -> list[str]:
    """What readers must know, a sentence each."""
    on_test = _notes_on_top(bench, asked) or _note_on_test(bench, chosen.selection is not None)
    notes = [*bench.notes, *_note_on_left_out(bench, asked), *chosen.notes, *on_test]
    if not verified.proof.changed:
        notes.append(
            f"freezing changed no output on the {verified.proof.n_images} images of the proof: on "
            "these the patched model cannot be told from the original"
        )
    if rounded:
        worst = max(rounded, key=lambda row: float(abs(row["constant"] - row["wanted"])))
        step = "" if worst["step"] is None else f", a step being {worst['step']:.4g}"
        notes.append(
            f"{len(rounded)} constants are rounded to what the model's numbers can hold; at most "
            f"{worst['filter']}, at {worst['constant']:.6g} for {worst['wanted']:.6g}{step}"
        )
    if chosen.saw_confirmation:
        notes.append(
            "the run's values come from all selection images, those that confirm among them; score "
            "with --for-patch for a confirmation that is independent throughout"
        )
    if chosen.n_confirmations > 1:
        notes.append(
            f"{counted(chosen.n_confirmations - 1, 'larger change')} cost more than allowed on the "
            f"images that confirm, so that these were asked {chosen.n_confirmations} times"
        )
    return notes


def _origins(bench: Bench, patch: filters.Patch) -> Story | None:
    """Where the frozen filters come from, by their ids; None where the model does not say."""
    layers = bench.subject.layer_map
    if layers is None:
        return None
    frozen = {f.id: layers.origin(f) for f in patch.filters}
    return {
        "framework": layers.framework,
        "input_shape": list(layers.input_shape),
        "sites": layers.by_site,
        "frozen": {name: asdict(origin) for name, origin in frozen.items() if origin is not None},
    }


def _rounding(bench: Bench, patch: filters.Patch) -> list[Story]:
    """The frozen filters whose constant is not just the level that was wanted, and how far off.

    `step` is the scale of a site of integer codes, None at the others.
    """
    # The leaves of trees hold means as they are, but for the last bits.
    scales = {site.name: site.scale for site in bench.roster.sites if site.yields_one_number}
    rows = []
    for frozen in patch.frozen:
        if frozen.filter.site not in scales:
            continue
        wanted = float(bench.working.wanted_levels[frozen.filter.site][frozen.filter.channel])
        if wanted != frozen.constant:
            rows.append(
                {
                    "filter": frozen.filter.id,
                    "wanted": wanted,
                    "constant": frozen.constant,
                    "step": scales[frozen.filter.site],
                }
            )
    return rows


def _note_on_test(bench: Bench, chosen: bool) -> list[str]:
    """What readers must know of figures without a test part; nothing where there is one."""
    if len(bench.parts.test) or bench.unjudged:
        return []
    if not chosen:
        return ["no image chose the filters, so that all of them report: there is no test part"]
    n_images = len(bench.parts.selection)
    note = (
        "there is no test part: the figures are cross-fitted, so they tell what choosing like this "
        "is worth on images that did not choose, and not of this very patch"
    )
    if n_images < ENOUGH_IMAGES:
        return [note]
    return [f"{note}; with {n_images:,} images a test part is advised (--test 0.3)"]


def _disparity_measures(block: Mapping[str, Any] | None) -> dict[str, metric.MeasureFacts]:
    """How the figures of `disparities` are to be understood, by the metric's name."""
    columns = [] if block is None else block["columns"]
    return {
        name: measure_of(name).to_json() for column in columns for name in column["disparities"]
    }


def with_hint(
    bench: Bench, asked: PatchSettings, error: errors.TargetNotMetError, advice: str = ""
) -> errors.TargetNotMetError:
    """The error with advice, or with what `--test none` would add where that may be missing.

    Args:
        bench: the workbench.
        asked: the settings.
        error: says why nothing is promised.
        advice: from before the search; it takes the place of other hints.
    """
    if advice:
        return _hinted(error, f"; {advice}")
    if (asked.fix is not None or asked.forget is not None) and wanted_repair(asked) == FREEZE:
        return _hinted(error, "; --repair best lets class biases and a refitted last layer compete")
    if asked.choose == "plain" or asked.confirm_share is not None or asked.scores is not None:
        return error  # these need a test part
    parts = bench.parts
    n_images = len(bench.dataset.annotations)
    if not len(parts.test) or n_images >= ENOUGH_IMAGES or "selection" not in parts.left_open:
        return error
    promise = error.found.get("promise")
    if promise is not None and promise["reached"] is not None:  # a limit or a target stands against
        return error
    return _hinted(error, f"; --test none would add {len(parts.test):,} images to choose on")


def _hinted(error: errors.TargetNotMetError, hint: str) -> errors.TargetNotMetError:
    reason = str(error).removesuffix(_ENDING)
    story = dict(error.found)
    if story.get("declined"):
        story["declined"] += hint
    return errors.TargetNotMetError(f"{reason}{hint}{_ENDING}", story)
