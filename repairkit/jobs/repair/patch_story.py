"""What a patch file and a report say of a patch, beside the patch itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from repairkit.core.filters import Filter
from repairkit.core.patch import Patch
from repairkit.core.process.text import counted
from repairkit.engine.ort.runtime import versions
from repairkit.jobs.output.places import Places
from repairkit.jobs.proof.verifying import Verified
from repairkit.jobs.repair.confirm.without_test import note_on_test
from repairkit.jobs.repair.deciding import Made
from repairkit.jobs.repair.judge.fairness import disparity_measures
from repairkit.jobs.repair.judge.judging import Judged
from repairkit.jobs.runs.part_records import told_parts
from repairkit.jobs.runs.run_document import less_is_better, told_measures
from repairkit.jobs.runs.run_settings import plain
from repairkit.jobs.setup.bench import Bench
from repairkit.report import find_payers


def patch_story(
    bench: Bench,
    choice: Mapping[str, Any],
    made: Made,
    objective: str | None,
    judged: Judged,
    verified: Verified,
) -> dict[str, Any]:
    """Versions, choice, data, selection, figures on the test part, proof.

    `objective` is None where no metric could be computed; there are no figures then.
    """
    told = Places.here().told
    figures = {
        "evaluations": {
            "before": judged.before.to_json(),
            "after": judged.after.to_json(),
            "difference": {name: figure.to_json() for name, figure in judged.change.items()},
        },
        "fairness": judged.fairness,
        "classes": judged.classes,
    }
    # Constants that were chosen by themselves are no rounded levels.
    measures = told_measures(bench, judged.before.metrics)
    rounded = [] if choice["level"] == "best" else rounding(bench, verified.patch)
    return {
        "versions": versions(),
        "objective": objective,
        "less_is_better": less_is_better(measures),
        "measures": {**measures, **disparity_measures(judged.fairness)},
        "choice": {
            **choice,
            "absent": bench.settings.absent,
            "seed": bench.settings.seed,
            "preprocessing": plain(bench.settings.preprocessing),
            "class_names": list(bench.settings.class_names),
            "image_input": bench.settings.image_input,
            "inputs": dict(bench.settings.inputs),
            "promised_on_selection": None if made.promise is None else made.promise.to_json(),
        },
        "data": {
            "path": None if bench.settings.data is None else told(bench.settings.data),
            "digest": bench.dataset.digest or None,
        },
        "parts": told_parts(bench.parts),
        "read": bench.reading,
        "notes": [
            *bench.notes,
            *made.notes,
            *note_on_test(bench, chosen=made.selection is not None),
            *_effect_note(verified),
            *_rounding_note(rounded),
            *_confirmation_note(made.selection),
        ],
        "rounding": rounded,
        "layers": origins(bench, verified.patch),
        # In which coalitions were tried; the figures and the proof below are in 32 bits.
        "tried": None
        if made.selection is None
        else {"device": bench.working.device, "precision": bench.working.precision},
        "selection": made.selection,
        **figures,
        "payers": find_payers(figures),
        "baselines": None,
        "verification": verified.to_json(),
        "scoring": None if made.scoring is None else _told_scoring(made.scoring, told),
    }


def _told_scoring(scoring: Mapping[str, Any], told: Callable[[Path], str]) -> dict[str, Any]:
    """The run of the scores, with its paths as a report tells them."""
    places = {name: scoring[name] for name in ("model", "data") if name in scoring}
    return {
        **scoring,
        **{name: {**place, "path": told(Path(place["path"]))} for name, place in places.items()},
    }


def _effect_note(verified: Verified) -> list[str]:
    """Whether the outputs on the images of the proof tell the patched model from the original."""
    if verified.proof.changed:
        return []
    return [
        f"freezing changed no output on the {verified.proof.n_images} images of the proof: on "
        "these the patched model cannot be told from the original"
    ]


def filters_named(bench: Bench, wanted: Sequence[Filter]) -> tuple[Filter, ...]:
    """Filters by their ids, or by `LAYER:CHANNEL` of the framework that the model came from."""
    layers = bench.subject.layer_map
    if layers is None:
        return tuple(wanted)
    sites = {site.name for site in bench.roster.sites}
    return tuple(f if f.site in sites else layers.filter_named(f) for f in wanted)


def origins(bench: Bench, patch: Patch) -> dict[str, Any] | None:
    """Where the frozen filters come from, by their ids; None where the model does not say."""
    layers = bench.subject.layer_map
    if layers is None:
        return None
    found = {f.id: layers.origin(f) for f in patch.filters}
    return {
        "framework": layers.framework,
        "input_shape": list(layers.input_shape),
        "frozen": {name: asdict(origin) for name, origin in found.items() if origin is not None},
    }


def rounding(bench: Bench, patch: Patch) -> list[dict[str, Any]]:
    """The frozen filters whose constant is not just the level that was wanted, and how far off.

    `step` is the scale of a site of integer codes, None at the others.
    """
    # The leaves of trees hold means as they are, but for the last bits.
    scales = {site.name: site.scale for site in bench.roster.sites if site.n_values is None}
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


def _rounding_note(rounded: Sequence[Mapping[str, Any]]) -> list[str]:
    if not rounded:
        return []
    worst = max(rounded, key=lambda row: abs(row["constant"] - row["wanted"]))
    step = "" if worst["step"] is None else f", a step being {worst['step']:.4g}"
    return [
        f"{len(rounded)} constants are rounded to what the model's numbers can hold; at most "
        f"{worst['filter']}, at {worst['constant']:.6g} for {worst['wanted']:.6g}{step}"
    ]


def _confirmation_note(selection: Mapping[str, Any] | None) -> list[str]:
    notes = []
    if selection is not None and selection.get("scores_saw_confirmation"):
        notes.append(
            "the run's values come from all selection images, those that confirm among them; score "
            "with --for-patch for a confirmation that is independent throughout"
        )
    looks = 0 if selection is None else selection.get("confirmation_looks", 0)
    if looks > 1:
        notes.append(
            f"{counted(looks - 1, 'larger change')} cost more than allowed on the images that "
            f"confirm, so that these were asked {looks} times"
        )
    return notes
