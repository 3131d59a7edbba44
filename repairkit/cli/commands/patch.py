"""`repairkit patch`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from repairkit.cli.commands.score import (
    Epsilon,
    MaxEvaluations,
    Method,
    Metrics,
    TimeLimit,
    TopK,
    TruncateAt,
    how_to_score,
)
from repairkit.cli.options import options, source_options
from repairkit.cli.options.started import began
from repairkit.cli.shown import show
from repairkit.cli.shown.baseline_tables import baseline_table
from repairkit.cli.shown.fairness_tables import classes_table, fairness_tables
from repairkit.core.attacked import FreshAttacks
from repairkit.core.filters import Filter
from repairkit.core.layer_map import Origin
from repairkit.core.process.text import counted
from repairkit.engine.precision import IN_WORDS
from repairkit.formats.patch_file import claimed_patch
from repairkit.jobs.output.destination import Companions
from repairkit.jobs.proof.verifying import told_filter
from repairkit.jobs.repair.confirm.promises import PROMISES
from repairkit.jobs.repair.objective import Target
from repairkit.jobs.repair.patching import Patched, PatchSettings, patch
from repairkit.report.facts.promise import (
    cure_metrics,
    cure_rows,
    cures_caption,
    promise_in_words,
    search_in_words,
    shown_cures,
)
from repairkit.report.facts.verdict import verdict


def patch_command(
    context: typer.Context,
    model: options.Model = None,
    fairness: Annotated[
        bool, typer.Option("--fairness", help="Freeze what harms the worst group.")
    ] = False,
    robustness: Annotated[
        bool,
        typer.Option("--robustness", help="Freeze what serves an adversary; --data of an attack."),
    ] = False,
    scores: Annotated[
        Path | None, typer.Option("--scores", help="A run folder whose values rank candidates.")
    ] = None,
    remove: Annotated[
        str | None, typer.Option("--remove", help="Freeze just these filters: ID,ID,...")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The patched model; MODEL.patched.onnx.")
    ] = None,
    data: options.Data = None,
    source: source_options.Source = None,
    weights: source_options.Weights = None,
    framework: source_options.Framework = None,
    input_shape: source_options.InputShape = None,
    trust: options.Trust = False,
    transfer: Annotated[
        list[Path] | None,
        typer.Option("--transfer", help="Another model's attack, .npz, to be judged; may repeat."),
    ] = None,
    at_most: Annotated[
        int, typer.Option("--at-most", min=1, help="Filters frozen at the most.")
    ] = 8,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0.0, max=1.0, help="Overall accuracy that may go.")
    ] = 0.01,
    max_group_drop: Annotated[
        float,
        typer.Option(
            "--max-group-drop", min=0.0, max=1.0, help="Accuracy that any group may lose."
        ),
    ] = 0.05,
    objective: Annotated[
        str | None, typer.Option("--objective", help="The metric to improve.")
    ] = None,
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="METRIC>=NUMBER",
            help="A figure that must be reached, or <=; may repeat.",
        ),
    ] = None,
    choose: Annotated[
        str,
        typer.Option("--choose", help="joint, or plain for the lowest-ranked that look best."),
    ] = "joint",
    beam: Annotated[
        int, typer.Option("--beam", min=1, help="Sets of each size that the search goes on from.")
    ] = 1,
    level: Annotated[
        str | None,
        typer.Option("--level", help="Freeze at mean, zero, bias, or best on selection images."),
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines", help="Judge simpler cures beside the chosen one.")
    ] = False,
    confirm_share: Annotated[
        float | None,
        typer.Option(
            "--confirm-share",
            help="Share of the selection images that only confirm; else all choose and confirm.",
        ),
    ] = None,
    repair: Annotated[
        str,
        typer.Option(
            "--repair", help="freeze filters, bias, last-layer, or best of them; see the guide."
        ),
    ] = "freeze",
    promise: Annotated[
        str,
        typer.Option(
            "--promise", help="The least that must be sure: objective, smooth or likelihood."
        ),
    ] = PROMISES[-1],
    metric: Metrics = None,
    method: Method = "repair",
    top_k: TopK = None,
    epsilon: Epsilon = None,
    delta: Annotated[
        float | None, typer.Option("--delta", help="Probability of a wrong top set.")
    ] = None,
    truncate_at: TruncateAt = None,
    max_evaluations: MaxEvaluations = None,
    time_limit: TimeLimit = None,
    group: options.Groups = None,
    classes: options.Classes = None,
    features: options.Features = None,
    image_input: options.ImageInput = None,
    inputs: options.Inputs = None,
    output: options.Output = None,
    columns: options.Columns = None,
    threshold: options.Threshold = None,
    outputs_are: options.OutputsAre = None,
    sites: options.Sites = None,
    sites_at: options.SitesAt = "pre-activation",
    include: options.Include = None,
    absent: options.Absent = "mean",
    batch: options.Batch = 128,
    device: options.Device = "auto",
    tf32: options.Tf32 = False,
    half: options.Half = False,
    workers: options.Workers = None,
    cache_memory: options.CacheMemory = None,
    seed: options.Seed = None,
    calibration: options.Calibration = None,
    selection: options.Selection = None,
    test: options.Test = None,
    resize: options.Resize = None,
    crop: options.Crop = None,
    color: options.Color = None,
    scale: options.Scale = None,
    mean: options.Mean = None,
    std: options.Std = None,
    layout: options.Layout = None,
    details: Annotated[
        bool,
        typer.Option(
            "--details", help="Also print groups by each column alone, their rates, and classes."
        ),
    ] = False,
    accept_preprocessing: options.AcceptPreprocessing = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Choose filters, freeze them, prove the result and write the patched model."""
    subject, settings = options.settle_job(context.params)
    loaded = source_options.load_source(context.params, subject)
    plan = PatchSettings(
        tuple(Filter.parse(i) for i in options.split_names(remove) or ()),
        scores,
        fairness,
        at_most,
        max_drop,
        how_to_score(
            method,
            top_k=top_k,
            side=None,
            epsilon=epsilon,
            delta=delta,
            truncate_at=truncate_at,
            max_evaluations=max_evaluations,
            time_limit=time_limit,
            began=began(context),
        ),
        objective,
        tuple(Target.parse(text) for text in target or ()),
        choose,
        beam,
        level,
        confirm_share,
        baselines,
        robustness,
        FreshAttacks(loaded, tuple(transfer or ())),
        max_group_drop=max_group_drop,
        promise=promise,
        repair=repair,
    )
    place = out or Path(f"{subject.file.path.stem}.patched.onnx")
    done = patch(subject, settings, plan, out=place, on_progress=show.scoring_progress)
    if as_json:
        show.print_json(to_json(done))
    elif not quiet:
        print_patched(done, details=details)


def to_json(done: Patched) -> dict[str, object]:
    """What `--json` prints."""
    places = Companions.of(done.out)
    return {
        "patched_model": str(done.out),
        "patch_file": str(done.patch_file),
        "report": str(done.report_file),
        "page": str(places.page),
        "model_card": str(places.card),
        "verdict": _verdict(done),
        "frozen": [told_filter(f) for f in done.patch.frozen],
        **done.document,
    }


def _verdict(done: Patched) -> dict[str, str]:
    return verdict({**done.document, "patch": claimed_patch(done.patch)})


def _named(found: str, layers: Mapping[str, Any]) -> str:
    """A filter's id, and the layer and channel that it comes from, if known."""
    return f"{found} ({Origin(**layers[found])})" if found in layers else found


def print_patched(done: Patched, *, details: bool = False) -> None:
    """The story of a patch, for people; the verdict first, who pays in its first sentence."""
    told = _verdict(done)
    show.say(show.plainly(f"{told['word']}: {told['sentence']}"))
    layers = (done.document["layers"] or {}).get("frozen", {})
    if done.patch.head is not None:
        show.say(f"changed: {show.changes(done.patch)}")
    if done.patch.frozen:
        show.say(f"frozen: {', '.join(_named(f.id, layers) for f in done.patch.filters)}")
    selection = done.document["selection"]
    if selection is not None:
        show.say(show.plainly(search_in_words(selection)))
        for sentence in promise_in_words(done.document):
            show.say(show.plainly(sentence))
        rows = cure_rows(done.document)
        if rows:
            columns = ["cure", *cure_metrics(done.document), "promise"]
            cells = [[show.plainly(cell) for cell in row] for row in shown_cures(rows)]
            show.table(show.plainly(cures_caption(selection)), columns, cells)
            for row in rows:
                if row["note"]:
                    show.say(show.plainly(f"{row['cure']}: {row['note']}"))
    tried = done.document["tried"]
    if tried is not None and tried["precision"] != "float32":
        show.say(
            f"coalitions were evaluated on {tried['device']} in {IN_WORDS[tried['precision']]}; "
            "the figures and the proof are in 32 bits"
        )
    if done.before.metrics:
        grouped = done.document["fairness"] is not None
        show.before_after(done.before, done.after, done.change, groups=not grouped)
    if done.document["fairness"] is not None:
        fairness_tables(done.document["fairness"], details=details)
    if done.document["classes"] and details:
        classes_table(done.document["classes"], done.before.suite)
    if done.document["baselines"] and done.objective is not None:
        baseline_table(done.document["baselines"], done.objective, done.before.n_images)
    if "attacks" in done.document:
        show.attacks(done.document["attacks"])
    for note in done.document["notes"]:
        show.say(f"note: {note}")
    for first, second in done.document["parts"]["overlaps"]:
        if second == "test":
            show.say(f"note: the parts {first} and test share images")
    proof = done.verified.proof
    show.say(
        f"verified on {counted(proof.n_images, 'image')} ({done.verified.images}), all outputs: "
        f"{show.agreement(proof)}; undoing gives the original back"
    )
    show.say(f"patched model  {done.out}")
    show.say(f"patch file     {done.patch_file}")
    places = Companions.of(done.out)
    show.say(f"report         {done.report_file}")
    show.say(f"page           {places.page}")
    show.say(f"model card     {places.card}")
