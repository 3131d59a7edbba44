"""Results of commands for people, a function for each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from repairkit import api
from repairkit.cli.shown import show
from repairkit.core.metric import SHARE
from repairkit.core.patch import Figure
from repairkit.core.process.text import counted

_SHOWN_NAMES = 30
_LONGEST_NAME = 40
_SHOWN_FILTERS = 10


def print_inspected(inspected: api.Inspected) -> None:
    """Inputs, outputs and sites of a model, and how the usual preprocessings do on its images."""
    model, spec = inspected.model, inspected.model.subject.spec
    shape = " x ".join("?" if size is None else str(size) for size in spec.shape)
    show.say(f"model   {model.subject.file.path}")
    show.say(
        f"input   {model.subject.input_name}: {shape} {spec.dtype.name}, {spec.layout}, "
        f"batch {model.batch}"
    )
    for further in inspected.further_inputs():
        show.say(f"beside  {further}")
    show.say(f"outputs {', '.join(model.outputs)} (judged: {model.subject.output})")
    _print_sites(inspected)
    if model.left_out:
        show.table(
            f"{counted(len(model.left_out), 'layer')} left out",
            ["layer", "kind", "why"],
            [[layer.name, layer.kind, layer.reason] for layer in model.left_out],
        )
    if model.note:
        show.say(model.note)
    _print_passes(inspected)
    for line in inspected.look_in_words():
        show.say(line)
    if isinstance(inspected.look, api.FirstLook):
        _print_look(inspected.look)


def _print_sites(inspected: api.Inspected) -> None:
    layers = inspected.model.subject.layer_map
    rows = [
        [
            facts.site.name,
            *([] if layers is None else [layers.layer_at(facts.site.name)]),
            facts.site.kind,
            str(facts.site.n_channels),
            "" if facts.share is None else f"{100 * facts.share:.1f} %",
        ]
        for facts in inspected.model.sites
    ]
    n_filters = sum(facts.site.n_channels for facts in inspected.model.sites)
    show.table(
        f"{counted(len(rows), 'site')} with {counted(n_filters, 'filter')}",
        ["site", *([] if layers is None else ["layer"]), "kind", "filters", "multiplications"],
        rows,
    )


def _print_passes(inspected: api.Inspected) -> None:
    passes = inspected.model.passes
    if passes.seconds is None:
        show.say(passes.reason)
        return
    shape = " x ".join(map(str, passes.shape))
    show.say(
        f"one pass (an image of {shape}, {passes.batch} at a time, one core): "
        f"{show.short_duration(passes.seconds)}"
    )
    if passes.n_filters:
        times = [f"{n} take {show.duration(s)}" for n, s in inspected.seconds_of_all()]
        show.say(
            f"passes for each of the {passes.n_filters} filters, on one core: {', '.join(times)}"
        )


def _print_look(look: api.FirstLook) -> None:
    for title, attempts in (("preprocessing", look.ways), ("class order", look.orders)):
        if not attempts:
            continue
        n = len(attempts[0].right)
        best = max(attempts, key=lambda attempt: attempt.rank)
        marks = {look.ways[0].name: "in use"}
        if title == "preprocessing":
            marks[best.name] = "in use, best" if best is look.ways[0] else "best"
        show.table(
            f"{counted(len(attempts), title)} on {n} {look.part} images",
            [title, "accuracy", "commonest answer", "mean likelihood", ""],
            [
                [
                    attempt.name,
                    f"{100 * attempt.accuracy:.1f} %",
                    f"{100 * attempt.share:.1f} %",
                    f"{attempt.likelihood:.3f}",
                    marks.get(attempt.name, ""),
                ]
                for attempt in attempts
            ],
        )
    if look.doubt:
        show.say(f"doubtful: {look.doubt}; {look.remedy}")


def print_instrumented(instrumented: api.Instrumented) -> None:
    """How many masks a model got, and what they are called."""
    masks = instrumented.masks
    first = next(iter(masks))
    show.say(f"{len(masks)} mask inputs, such as {first}: written to {instrumented.out}")


def print_verified(verified: api.Verified, *, original: Path, patched: Path) -> None:
    """What was proven of two models."""
    show.say(f"verified: {patched} is {original} with {show.changes(verified.patch)}")
    if verified.inferred:
        show.say("it claims no patch; what was changed was inferred from the tensors that differ")
    show.frozen("frozen filters", verified.patch, verified.layers)
    show.say(
        f"bytes: {counted(len(verified.edits), 'tensor')} changed and no other; "
        "undoing the patch gives the original back"
    )
    show.say(
        f"outputs on {counted(verified.proof.n_images, 'image')} ({verified.images}): "
        f"{show.agreement(verified)}"
    )
    if verified.unproven:
        names = [name[:_LONGEST_NAME] for name in verified.unproven[:_SHOWN_NAMES]]
        more = len(verified.unproven) - len(names)
        show.say(
            f"unproven: what the patch file says of {', '.join(names)}"
            f"{f' and {more} more' if more else ''}; two models cannot tell whether it is true"
        )


def print_applied(applied: api.Applied) -> None:
    """What a patch changed, and what was proven of the result."""
    verified = applied.verified
    show.say(f"applied: {show.changes(verified.patch)}")
    show.frozen("frozen filters", verified.patch, verified.layers)
    show.say(
        f"verified on {counted(verified.proof.n_images, 'image')} "
        f"({verified.images}); the digest is the one that the patch file promises"
    )
    show.say(f"patched model  {applied.out}")


def print_reverted(reverted: api.Reverted) -> None:
    """What was taken back, and what is still in the model."""
    patch = reverted.patch
    back = [counted(len(patch), "filter")] if patch.frozen else []
    back += [] if patch.head is None else [f"the last layer {patch.head.layer!r}"]
    show.say(f"{' and '.join(back)} back as before, and the file byte for byte: {reverted.out}")
    if reverted.left:
        many = reverted.left != 1
        show.say(f"{reverted.left} earlier patch{'es are' if many else ' is'} still in the model")


def print_agreements(pairs: Sequence[api.Agreement], n_runs: int) -> None:
    """How far every two of the runs agree."""
    show.table(
        f"Agreement of {n_runs} runs (R2: the second's values for the first's)",
        ["first", "second", "filters", "rank corr.", "correlation", "R2", "highest", "lowest"],
        [_agreement_row(agreement) for agreement in pairs],
    )
    show.say(f"highest, lowest: the share of the {pairs[0].top_k} at that end that both runs name")
    for agreement in pairs:
        for note in agreement.notes:
            show.say(f"note: {agreement.first} and {agreement.second}: {note}")


def _agreement_row(agreement: api.Agreement) -> list[str]:
    figures = (agreement.rank_correlation, agreement.correlation, agreement.r2)
    return [
        agreement.first,
        agreement.second,
        str(agreement.n_filters),
        *("-" if figure is None else f"{figure:.3f}" for figure in figures),
        f"{100 * agreement.highest:.0f} %",
        f"{100 * agreement.lowest:.0f} %",
    ]


def print_attacked(attacked: api.Attacked) -> None:
    """How an attack was made, and how the model fares under it."""
    document = attacked.document
    show.say(_attack_in_words(document))
    rows = []
    for part in ("selection", "test"):
        if part not in document["figures"]:  # no test part was wanted
            continue
        figures = document["figures"][part]
        shares = ("clean_accuracy", "attack_success", "fooled")
        rows.append(
            [
                part,
                str(figures["n_images"]),
                *(show.figure(SHARE, Figure(**figures[n])) for n in shares),
            ]
        )
    show.table(
        "How the model fares, with 95 % intervals",
        ["part", "images", "accuracy on clean ones", "taken for the target", "missed"],
        rows,
    )
    change = document["figures"]["largest_change"]
    show.say(
        f"largest change of a pixel: {255 * change:.2f} of 255; pixel range: "
        f"{document['pixel_range']['from']}"
    )
    for note in document["notes"]:
        show.say(f"note: {note}")
    show.say(f"written to {attacked.out}")


def _attack_in_words(document: Mapping[str, Any]) -> str:
    source, reach = document["source"], f"{255 * document['epsilon']:.3g}/255"
    if source["knowledge"] == "black-box":
        return (
            f"black-box attack through ONNX Runtime: {document['method']}, at most "
            f"{document['n_queries']} queries an image, within {reach}"
        )
    step = f"{255 * document['step_size']:.3g}/255"
    settings = f"{document['n_steps']} steps of {step} within {reach}"
    if source["knowledge"] == "white-box":
        return (
            f"white-box attack, {settings}: gradients of {source['name']}, which answers as the "
            f"ONNX model does (greatest difference {source['parity']:.1e})"
        )
    return (
        f"transfer attack, {settings}: gradients of {source['name']}, which answers otherwise than "
        "the ONNX model; if it was to be the same model, look at --weights and at how images are "
        "prepared"
    )


def print_exported(exported: api.Exported) -> None:
    """Which layers became which sites, and what was proven of the file."""
    layers = exported.layers
    show.table(
        f"{len(layers.layers)} layers of {layers.framework} and the sites that they became",
        ["layer", "kind", "filters", "site", "proven"],
        [
            [
                m.layer.name,
                m.layer.kind,
                str(m.layer.n_channels),
                m.site or f"none: {m.note}",
                "" if m.site is None else str(m.layer.n_channels - len(m.unproven)),
            ]
            for m in layers.layers
        ],
    )
    show.say(
        f"outputs on {exported.n_images} images ({exported.images}) equal "
        f"{layers.framework}'s within {exported.relative:.1e} of the greatest"
    )
    show.say(
        f"{exported.n_mapped} of {exported.n_filters} filters have a layer and channel, "
        f"{exported.n_proven} of them proven by freezing them in both"
    )
    if not exported.n_filters:
        show.say("note: the model has no filters that can be frozen; repairkit inspect tells why")
    if exported.without_layer:
        show.say(f"note: sites without a layer: {', '.join(exported.without_layer)}")
    if exported.images != "given images":
        show.say("note: name real images with --data to prove it on those")
    show.say(f"model  {exported.out}")
    show.say(f"map    {exported.map_file}")


def print_means(means: api.CommonMeans, place: Path) -> None:
    """How many means there are, over how many images."""
    n_filters = sum(len(sums.total) for sums in means.sums.values())
    show.say(f"means of {n_filters} filters over {means.n_images} images: {place}")
    show.say(f"digest {means.digest[:12]}; score with --means {place}")


def print_merged(merged: api.Merged, out: Path) -> None:
    """The highest and lowest values over all owners' images."""
    rows, document = merged.table(), merged.document
    metric = merged.scores.metrics[0]
    shown = (
        rows
        if len(rows) <= 2 * _SHOWN_FILTERS
        else [*rows[:_SHOWN_FILTERS], *rows[-_SHOWN_FILTERS:]]
    )
    show.table(
        f"Value of {len(rows)} filters for {metric}, highest and lowest ({document['interval']})",
        ["filter", "value", "std error", "from", "to"],
        [
            [
                row["filter"],
                *(f"{row[n]:+.5f}" for n in ("value", "std_error", "ci_low", "ci_high")),
            ]
            for row in shown
        ],
    )
    parts = document["parts"]
    show.say(f"{parts['selection']} selection images of {parts['how']}; written to {out}")
