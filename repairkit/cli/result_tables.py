"""Tables and lines for the results of scoring, inspecting, comparing, attacks and exports."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from repairkit.cli import printing, stage_display
from repairkit.cli.diff_tables import print_patches
from repairkit.core import metric, results, suite
from repairkit.core.process.nouns import worded
from repairkit.core.process.text import counted
from repairkit.core.scores import Scores
from repairkit.formats.means_file import CommonMeans
from repairkit.report.wording import Document, known_sentences, measures_of

_SHOWN_FILTERS = 10
_MOST_METRICS = 10
_PER_METRIC = 3


def print_scored(
    rows: Sequence[dict[str, Any]],
    scores: Scores,
    document: Document,
    details: Document,
    *,
    ids: Sequence[str],
    excluded: Collection[int],
) -> None:
    """Print the highest and lowest filters, what they were estimated from, and notes.

    Args:
        rows: of `scores.csv`.
        scores: of all filters.
        document: what `run.json` says.
        details: of `statistics.json`; empty where they were not asked for.
        ids: of the filters, in the order of the scores.
        excluded: positions of filters that are left out of the ranking.
    """
    measures = measures_of(document)
    measure = measures[scores.metrics[0]]
    shown = _both_ends(rows, {})
    layer = ["layer"] if "layer" in rows[0] else []
    printing.table(
        f"Value of {len(rows)} filters for {measure.words}{_direction(measure)}, highest and lowest"
        f"{_interval(document)}",
        [*layer, "filter", "value", "std error", "from", "to", "samples", "decided"],
        [_row(row, layer) for row in shown],
    )
    if len(scores.metrics) > 1:
        _print_tops(scores, measures, ids, excluded)
    _print_origin(document, measures)
    for note in document["notes"]:
        printing.say(f"note: {note}")
    for sentence in known_sentences(document):
        printing.say(printing.plainly(sentence))
    if document["n_undecided"] and "score_size" not in document:
        limit = "--time-limit" if "time limit" in document["reason"] else "--max-evaluations"
        more = "score again with a larger" if "asked" in document else "raise"
        printing.say(f"{more} {limit} to tell more")
    if details:
        _print_statistics(details)


def _print_origin(document: Document, measures: Mapping[str, metric.Measure]) -> None:
    """Print what the values rest on: V(all) and V(none), the device, and the images."""
    metrics = list(document["metrics"].items())
    for name, ends in metrics[:_MOST_METRICS]:
        whole, nothing = (measures[name].figure(ends[key]) for key in ("all", "none"))
        printing.say(f"V(all) = {whole}, V(none) = {nothing} for {measures[name].words}")
    if len(metrics) > _MOST_METRICS:
        printing.say(f"and {len(metrics) - _MOST_METRICS} more metrics in run.json and scores.csv")
    if "device" in document:
        precision = suite.IN_WORDS[document["precision"]]
        printing.say(f"evaluated on {document['device']} in {precision}: {document['engine']}")
    parts = document["parts"]
    means = document["read"]["means"]
    by_design = f" ({means})" if means else ""
    printing.say(
        f"{parts['calibration']} calibration{by_design} and {parts['selection']} selection images; "
        f"{document['evaluations']} evaluations in {document['seconds']:.1f} s; "
        f"{document['reason']}"
    )


def _both_ends(rows: Sequence[dict[str, Any]], *between: dict[str, Any]) -> list[dict[str, Any]]:
    """The first and the last rows of a long table, with others between them."""
    if len(rows) <= 2 * _SHOWN_FILTERS:
        return list(rows)
    return [*rows[:_SHOWN_FILTERS], *between, *rows[-_SHOWN_FILTERS:]]


def _print_tops(
    scores: Scores,
    measures: Mapping[str, metric.Measure],
    ids: Sequence[str],
    excluded: Collection[int],
) -> None:
    """The filters worth most for each metric."""
    rows = []
    for column, name in enumerate(scores.metrics[:_MOST_METRICS]):
        ranked = scores.ranking(column).tolist()
        if not measures[name].greater_is_better:
            ranked.reverse()
        best = [p for p in ranked if p not in excluded][:_PER_METRIC]
        values = scores.values[:, column]
        rows.append(
            [measures[name].words, ", ".join(f"{worded(ids[p])} ({values[p]:+.4f})" for p in best)]
        )
    printing.table(f"The {_PER_METRIC} filters worth most for each", ["metric", "filters"], rows)


def _interval(document: Document) -> str:
    """The confidence of `from` and `to`; `run.json` says what the intervals are based on."""
    confidence = document["confidence"]
    return "" if confidence is None else f" (from, to: {100 * confidence:g} % intervals)"


def _direction(measure: metric.Measure) -> str:
    return "" if measure.greater_is_better else " (less is better: a filter above 0 harms)"


def _print_statistics(details: Document) -> None:
    """Print the latest convergence, and the bias of truncation; statistics.json has the rest."""
    trace = details.get("convergence", [])
    if trace:
        steps = ", ".join(f"{correlation:.3f} after {n:,.0f}" for n, correlation in trace[-4:])
        printing.say(f"rank correlation of two halves of the samples: {steps} evaluations")
    for name, bias in details.get("truncation", {}).get("bias", {}).items():
        printing.say(f"truncation leaves out {bias:+.4f} of the sum of values for {name}")


def _row(row: dict[str, Any], layer: list[str]) -> list[str]:
    if not row:
        return ["...", *([""] * (6 + len(layer)))]
    return [
        *(row[name] for name in layer),
        row["filter"],
        f"{row['value']:+.5f}",
        f"{row['std_error']:.5f}",
        f"{row['ci_low']:+.5f}",
        f"{row['ci_high']:+.5f}",
        str(row["samples"]),
        "yes" if row["decided"] else "no",
    ]


def print_means(means: CommonMeans, place: Path) -> None:
    """Print how many means there are, and over how many images."""
    n_filters = sum(len(sums.total) for sums in means.sums.values())
    printing.say(f"means of {n_filters} filters over {means.n_images} images: {place}")
    printing.say(f"digest {means.digest[:12]}; score with --means {place}")


def print_merged(
    rows: Sequence[dict[str, Any]], document: Document, measure: str, out: Path
) -> None:
    """Print the highest and lowest values over the images of all owners."""
    printing.table(
        f"Value of {len(rows)} filters for {measure}, highest and lowest ({document['interval']})",
        ["filter", "value", "std error", "from", "to"],
        [
            [
                worded(row["filter"]),
                *(f"{row[n]:+.5f}" for n in ("value", "std_error", "ci_low", "ci_high")),
            ]
            for row in _both_ends(rows)
        ],
    )
    parts = document["parts"]
    printing.say(f"{parts['selection']} selection images of {parts['how']}; written to {out}")


def print_inspected(
    document: Document,
    *,
    has_layers: bool,
    further_inputs: Iterable[str],
    look: Iterable[str],
    seconds_of_all: Iterable[tuple[int, float]],
) -> None:
    """Print inputs, outputs and sites of a model, and how usual preprocessings do on its images.

    Args:
        document: what `--json` prints.
        has_layers: whether a map of a framework's layers is known.
        further_inputs: descriptions of the inputs beside the images.
        look: lines about the first look at the images.
        seconds_of_all: the time for all filters, by the number of passes per filter.
    """
    images = document["input"]
    shape = " x ".join("?" if size is None else str(size) for size in images["shape"])
    printing.say(f"model   {document['model']['path']}")
    printing.say(
        f"input   {images['name']}: {shape} {images['dtype']}, {images['layout']}, "
        f"batch {images['batch']}"
    )
    for further in further_inputs:
        printing.say(f"beside  {further}")
    outputs, judged = ", ".join(document["outputs"]), document["judged_output"]
    printing.say(f"outputs {outputs} (judged: {judged})")
    _print_sites(document, has_layers=has_layers)
    print_patches(document)
    if document["note"]:
        printing.say(document["note"])
    _print_passes(document, seconds_of_all)
    for line in look:
        printing.say(line)
    if "suspects" in document:
        _print_suspects(document["suspects"])
    first_look = document.get("first_look")
    if first_look is not None and first_look["metric"] == "accuracy":
        _print_look(first_look)


def _print_suspects(rows: Sequence[Document]) -> None:
    n_outliers = sum(row["outlier"] for row in rows)
    printing.table(
        "Filters whose weights look most like a backdoor's (channel Lipschitzness, no data)",
        ["filter", "bound", "deviations above its layer's mean"],
        [
            [row["filter"], f"{row['bound']:.3g}", f"{row['deviations']:+.1f}"]
            for row in rows[:_SHOWN_FILTERS]
        ],
    )
    printing.say(
        f"{n_outliers} of {counted(len(rows), 'filter')} lie over 3 deviations above; sound models "
        "have such filters, too: it says where to look, and not that there is a backdoor"
    )


def _print_sites(document: Document, *, has_layers: bool) -> None:
    rows = [
        [
            *([site["layer"]] if has_layers else []),
            site["site"],
            site["kind"],
            str(site["filters"]),
            "" if site["share"] is None else f"{100 * site['share']:.1f} %",
        ]
        for site in document["sites"]
    ]
    printing.table(
        f"{counted(len(rows), 'site')} with {counted(document['n_filters'], 'filter')}",
        [*(["layer"] if has_layers else []), "site", "kind", "filters", "multiplications"],
        rows,
    )
    if document["left_out"]:
        printing.table(
            f"{counted(len(document['left_out']), 'layer')} left out",
            ["layer", "kind", "why"],
            [[each["layer"], each["kind"], each["reason"]] for each in document["left_out"]],
        )
    needing = [site for site in document["sites"] if site["needs"] is not None]
    if needing:
        printing.say(
            f"{counted(len(needing), 'site')} of {len(rows)} cannot be frozen by new weights alone "
            f"(patch --refit-safe): freezing one of {needing[0]['site']} "
            f"{needing[0]['needs']['reason']}"
        )


def _print_passes(document: Document, seconds_of_all: Iterable[tuple[int, float]]) -> None:
    passes, n_filters = document["passes"], document["n_filters"]
    if passes["seconds"] is None:
        printing.say(passes["note"])
        return
    shape = " x ".join(map(str, passes["image"]))
    printing.say(
        f"one pass (an image of {shape}, {passes['batch']} at a time, one core): "
        f"{printing.short_duration(passes['seconds'])}"
    )
    if n_filters:
        times = [f"{n} take {stage_display.duration(s)}" for n, s in seconds_of_all]
        printing.say(f"passes for each of the {n_filters} filters, on one core: {', '.join(times)}")


def _print_look(look: Document) -> None:
    in_use, best = look["in_use"], look["best"]
    for title, key in (("preprocessing", "preprocessings"), ("class order", "class_orders")):
        attempts = look[key]
        if not attempts:
            continue
        marks = {in_use: "in use"}
        if title == "preprocessing":
            marks[best] = "in use, best" if best == in_use else "best"
        printing.table(
            f"{counted(len(attempts), title)} on {attempts[0]['n_images']} {look['part']} images",
            [title, "accuracy", "commonest answer", "mean likelihood", ""],
            [
                [
                    attempt["name"],
                    f"{100 * attempt['accuracy']:.1f} %",
                    f"{100 * attempt['commonest_answer']:.1f} %",
                    f"{attempt['mean_likelihood']:.3f}",
                    marks.get(attempt["name"], ""),
                ]
                for attempt in attempts
            ],
        )
    if look["doubt"]:
        printing.say(f"doubtful: {look['doubt']}; {look['remedy']}")


def print_instrumented(masks: Mapping[str, int], out: Path) -> None:
    """Print how many masks a model got, and the name of one."""
    printing.say(f"{len(masks)} mask inputs, such as {next(iter(masks))}: written to {out}")


def print_agreements(pairs: Sequence[Document], n_runs: int) -> None:
    """Print how far each pair of runs agrees; see `Agreement` in `jobs.runs.comparing`."""
    printing.table(
        f"Agreement of {n_runs} runs (R2: the second's values for the first's)",
        ["first", "second", "filters", "rank corr.", "correlation", "R2", "highest", "lowest"],
        [_agreement_row(pair) for pair in pairs],
    )
    printing.say(
        f"highest, lowest: the share of the {pairs[0]['top_k']} at that end that both runs name"
    )
    for pair in pairs:
        for note in pair["notes"]:
            printing.say(f"note: {pair['first']} and {pair['second']}: {note}")


def _agreement_row(pair: Document) -> list[str]:
    figures = (pair[name] for name in ("rank_correlation", "correlation", "r2"))
    return [
        pair["first"],
        pair["second"],
        str(pair["n_filters"]),
        *("-" if figure is None else f"{figure:.3f}" for figure in figures),
        *(f"{100 * pair[end]:.0f} %" for end in ("highest", "lowest")),
    ]


def print_attacked(attacked: results.Attacked) -> None:
    """Print how an attack was made, and what it does to the model."""
    document = attacked.document
    printing.say(_attack_in_words(document))
    rows = []
    for part in ("selection", "test"):
        if part not in document["figures"]:  # there is no test part
            continue
        figures = document["figures"][part]
        shares = ("clean_accuracy", "attack_success", "fooled")
        rows.append(
            [
                part,
                str(figures["n_images"]),
                *(printing.figure(metric.SHARE, results.Figure(**figures[n])) for n in shares),
            ]
        )
    printing.table(
        "How the model fares, with 95 % intervals",
        ["part", "images", "accuracy on clean ones", "taken for the target", "missed"],
        rows,
    )
    change = document["figures"]["largest_change"]
    printing.say(
        f"largest change of a pixel: {255 * change:.2f} of 255; pixel range: "
        f"{document['pixel_range']['from']}"
    )
    for note in document["notes"]:
        printing.say(f"note: {note}")
    printing.say(f"written to {attacked.out}")


def _attack_in_words(document: Document) -> str:
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


def print_exported(exported: results.Exported) -> None:
    """Print which layers became which sites, and what was proven about the file."""
    layers = exported.layers
    printing.table(
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
    printing.say(
        f"outputs on {exported.n_images} images ({exported.images}) equal "
        f"{layers.framework}'s within {exported.relative:.1e} of the greatest"
    )
    printing.say(
        f"{exported.n_mapped} of {exported.n_filters} filters have a layer and channel, "
        f"{exported.n_proven} of them proven by freezing them in both"
    )
    if layers.groups is not None:
        groups = layers.groups
        printing.say(
            f"{layers.n_one_by_one} of these were frozen one by one, the others twice in groups "
            f"({groups.n_groups} groups in all); on {groups.n_images} images, each of the others "
            f"holds the numbers of its channel in {layers.framework}, and no other filter does"
        )
        printing.say(
            f"of {groups.n_swaps} pairs of filters that were swapped on purpose, the groups showed "
            f"{groups.n_seen}: with 95% confidence they show at least {groups.share_seen:.1%} of "
            "all swaps (--one-by-one proves every filter alone)"
        )
    for mapped in layers.layers:
        if mapped.site is not None and mapped.note:
            printing.say(f"note: {mapped.layer.name}: {len(mapped.unproven)} filters {mapped.note}")
    if not exported.n_filters:
        printing.say(
            "note: the model has no filters that can be frozen; repairkit inspect tells why"
        )
    if exported.without_layer:
        printing.say(f"note: sites without a layer: {', '.join(exported.without_layer)}")
    if exported.images != "given images":
        printing.say("note: name real images with --data to prove it on those")
    printing.say(f"model  {exported.out}")
    printing.say(f"map    {exported.map_file}")
