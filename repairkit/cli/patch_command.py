"""`repairkit patch`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from repairkit.cli import options, show
from repairkit.cli.score_command import (
    Epsilon,
    MaxEvaluations,
    Method,
    Metrics,
    TimeLimit,
    TopK,
    TruncateAt,
    has_side,
    how_to_score,
)
from repairkit.core.filters import Filter
from repairkit.engine.precision import IN_WORDS
from repairkit.workflows.patching import Patched, PatchSettings, patch
from repairkit.workflows.reporting import repair_pages


def patch_command(
    context: typer.Context,
    model: options.Model = None,
    fairness: Annotated[
        bool, typer.Option("--fairness", help="Freeze what harms the worst group.")
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
    at_most: Annotated[
        int, typer.Option("--at-most", min=1, help="Filters frozen at the most.")
    ] = 16,
    max_drop: Annotated[
        float, typer.Option("--max-drop", min=0.0, max=1.0, help="Overall accuracy that may go.")
    ] = 0.01,
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
    output: options.Output = None,
    columns: options.Columns = None,
    threshold: options.Threshold = None,
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
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
) -> None:
    """Choose filters, freeze them, prove the result and write the patched model."""
    plan = PatchSettings(
        tuple(Filter.parse(i) for i in options.split_names(remove) or ()),
        scores,
        fairness,
        at_most,
        max_drop,
        how_to_score(
            method,
            top_k=top_k,
            side="lowest" if has_side(method) else None,
            epsilon=epsilon,
            delta=delta,
            truncate_at=truncate_at,
            max_evaluations=max_evaluations,
            time_limit=time_limit,
        ),
    )
    subject, settings = options.settle_job(context.params)
    target = out or Path(f"{subject.file.path.stem}.patched.onnx")
    with show.scoring_progress(quiet=quiet) as on_progress:
        done = patch(subject, settings, plan, out=target, on_progress=on_progress)
    if as_json:
        show.print_json(to_json(done))
    elif not quiet:
        print_patched(done)


def to_json(done: Patched) -> dict[str, object]:
    """What `--json` prints."""
    return {
        "patched_model": str(done.out),
        "patch_file": str(done.patch_file),
        "report": str(done.report_file),
        "page": str(repair_pages(done.out)[0]),
        "model_card": str(repair_pages(done.out)[1]),
        "frozen": [{"filter": f.filter.id, "constant": f.constant} for f in done.patch.frozen],
        **done.document,
    }


def print_patched(done: Patched) -> None:
    """The story of a patch, for people."""
    show.say(f"frozen: {', '.join(f.id for f in done.patch.filters)}")
    if done.trials:
        plain = done.trials[0]
        best = next(t for t in done.trials if t.patch == done.patch)
        show.say(
            f"chosen among {len(done.trials) - 1} patches on the selection images: "
            f"{done.objective} {plain.objective:.4f} -> {best.objective:.4f}"
            + (
                ""
                if plain.accuracy is None or best.accuracy is None
                else f", accuracy {plain.accuracy:.4f} -> {best.accuracy:.4f}"
            )
        )
    if done.promise is not None:
        show.say(f"promised there: {done.objective} {show.change(done.objective, done.promise)}")
    tried = done.document["tried"]
    if tried is not None and tried["precision"] != "float32":
        show.say(
            f"coalitions were evaluated on {tried['device']} in {IN_WORDS[tried['precision']]}; "
            "the figures and the proof are in 32 bits"
        )
    show.before_after(done.before, done.after, done.change)
    for note in done.document["notes"]:
        show.say(f"note: {note}")
    for pair in done.document["parts"]["overlaps"]:
        show.say(f"note: the parts {pair[0]} and {pair[1]} share images")
    proof = done.verified.proof
    show.say(
        f"verified on {proof.n_images} images: equal to the masked original bit for bit without "
        f"graph optimisation, within {proof.relative:.1e} with it; undoing gives the original back"
    )
    show.say(f"patched model  {done.out}")
    show.say(f"patch file     {done.patch_file}")
    page, card = repair_pages(done.out)
    show.say(f"report         {done.report_file}")
    show.say(f"page           {page}")
    show.say(f"model card     {card}")
