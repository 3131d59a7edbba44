"""A bill of materials of a repaired model, in the JSON of CycloneDX 1.6 (an ML-BOM).

The model's card holds the figures after the repair, by slice and with intervals, and what the
repair does to each group. The pedigree names the model before, with its figures, and the patch.
There is no time in it, and its serial number follows from the patch, so that the same repair gives
the same bill.
"""

import uuid
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from repairkit.core.metric import SHARE, Measure
from repairkit.core.process.nouns import TREE, by_layers, in_trees, layers_of
from repairkit.formats.documents import to_json
from repairkit.report import story, wording

SCHEMA = "http://cyclonedx.org/schema/bom-1.6.schema.json"
MARK = b'"name": "repairkit",\n'
"""Stands near the start of every bill of ours: the tool that wrote it."""
MARK_WITHIN = 2000  # bytes

_KEPT = (
    "What is proven is about the file: only the changes named here were made. How good the model "
    "is on other images, only other images can tell."
)
_GROUPS_USED = (
    "Groups were looked at to choose and to judge. The repaired model takes the images alone: the "
    "attribute is not needed when it is used."
)
_SECURITY = ("robustness", "backdoor")

Json = dict[str, Any]


def bill_text(
    document: wording.Document,
    *,
    patch_file: str,
    made: Mapping[str, str],
    source: Mapping[str, str],
) -> str:
    """The bill of a repair.

    Args:
        document: what `report.json` says of the repair.
        patch_file: the name of the patch file.
        made: the SHA-256 of the patched model's files by their names, its own first.
        source: the same of the model before.
    """
    data = _data(document)
    model = {
        "type": "machine-learning-model",
        "bom-ref": "model",
        **_files(made),
        "description": _say(document, story.verdict(document)["sentence"]),
        "pedigree": _pedigree(document, patch_file, source),
        "modelCard": _card(document),
    }
    repairkit = {"name": "repairkit", "version": document["versions"]["repairkit"]}
    bill = {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": uuid.uuid5(uuid.NAMESPACE_URL, _identity(document, made)).urn,
        "version": 1,
        "metadata": {
            "tools": {"components": [{**repairkit, "type": "application"}]},
            "component": model,
        },
        "components": [data],
        "dependencies": [{"ref": "model", "dependsOn": [data["bom-ref"]]}],
    }
    return to_json(bill)


def hashes_in(bill: Any) -> tuple[str, str]:
    """The SHA-256 that a bill of ours gives of the patched model's file, and of the model before.

    Raises:
        LookupError, TypeError: it is none.
    """
    model = bill["metadata"]["component"]
    before = model["pedigree"]["ancestors"][0]
    digests = [component["hashes"][0]["content"] for component in (model, before)]
    if not all(isinstance(digest, str) for digest in digests):
        raise TypeError("a hash in it is no text")
    return digests[0], digests[1]


def _identity(document: wording.Document, made: Mapping[str, str]) -> str:
    return f"urn:repairkit:{document['patch_digest']}:{next(iter(made.values()))}"


def _say(document: wording.Document, text: str) -> str:
    """A sentence with the framework's layers and with trees where the model has them."""
    text = _plain(by_layers(text, layers_of(document)))
    return in_trees(text) if document.get("unit") == TREE else text


def _plain(text: str) -> str:
    """Text as programs compare it: with the usual space and minus."""
    return text.replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def _files(files: Mapping[str, str]) -> Json:
    """A component's name and hash, and the files of its weights."""
    (name, digest), *beside = files.items()
    weights = [
        {"type": "file", "name": other, "hashes": [{"alg": "SHA-256", "content": sha}]}
        for other, sha in beside
    ]
    hashes = [{"alg": "SHA-256", "content": digest}]
    return {"name": name, "hashes": hashes, **({"components": weights} if weights else {})}


def _properties(named: Mapping[str, object]) -> list[Json]:
    return [
        {"name": f"repairkit:{name}", "value": str(value)}
        for name, value in named.items()
        if value is not None
    ]


# Where it comes from


def _pedigree(document: wording.Document, patch_file: str, source: Mapping[str, str]) -> Json:
    objective = document["objective"]
    security = document["choice"]["how"] in _SECURITY
    issue: Json = {"type": "security" if security else "defect"}
    if objective is not None:
        issue |= {"name": objective, "description": _plain(_what_failed(document))}
    figures = _figures(document, "before")
    ancestor = {
        "type": "machine-learning-model",
        "bom-ref": "source",
        **_files(source),
        **({"modelCard": _analysis(figures)} if figures else {}),
    }
    patch = {
        "type": "unofficial",
        "diff": {"url": quote(patch_file, errors="surrogateescape")},
        "resolves": [issue],
    }
    ways = "`repairkit apply` makes it again, `repairkit revert` takes it back."
    notes = f"{story.act(document)}. {ways}"
    return {"ancestors": [ancestor], "patches": [patch], "notes": _say(document, notes)}


def _what_failed(document: wording.Document) -> str:
    objective = document["objective"]
    measure = wording.measures_of(document)[objective]
    before = document["evaluations"]["before"]
    figure = before["metrics"][objective]
    limits = wording.interval(figure, measure)
    return (
        f"Before the repair, the {measure.words} was {wording.figure(figure['value'], measure)}"
        f"{f' (95 % interval {limits})' if limits else ''} on "
        f"{wording.count(before['n_images'], 'image')} {wording.of_part(before['suite'])}."
    )


def _data(document: wording.Document) -> Json:
    """The images that chose and judged."""
    data, parts = document["data"], document["parts"]
    path = data["path"]
    counts = {name: parts[name] for name in ("calibration", "selection", "test")}
    named = {"digest": data["digest"], "parts_digest": parts.get("digest"), **counts}
    dataset = {"type": "dataset", "contents": {"properties": _properties(named)}}
    return {
        "type": "data",
        "bom-ref": "data",
        "name": "images in memory" if path is None else PurePath(path).name,
        "description": _say(
            document,
            f"Images by which filters were chosen and the repair was judged. {parts['how']}",
        ),
        "data": [dataset],
    }


# What the model does


def _card(document: wording.Document) -> Json:
    figures = [*_figures(document, "after"), *_figures(document, "difference")]
    patch = document["patch"]
    named = {
        "patch_digest": document["patch_digest"],
        "frozen": ", ".join(name for name, _ in patch["frozen"]) or None,
        "last_layer": (patch.get("head") or {}).get("kind"),
        "objective": document["objective"],
        "seed": document["choice"].get("seed"),
        "verdict": story.verdict(document)["word"],
    }
    return {
        "bom-ref": "card",
        "modelParameters": {"datasets": [{"ref": "data"}]},
        **(_analysis(figures) if figures else {}),
        "considerations": _considerations(document),
        "properties": _properties(named),
    }


def _analysis(figures: list[Json]) -> Json:
    return {"quantitativeAnalysis": {"performanceMetrics": figures}}


def _figures(document: wording.Document, when: str) -> list[Json]:
    """Figures `before`, `after` or of the `difference`, those of groups and classes too."""
    evaluations = document["evaluations"]
    before = evaluations["before"]
    images = f"{wording.count(before['n_images'], 'image')} {wording.of_part(before['suite'])}"
    figures = evaluations[when] if when == "difference" else evaluations[when]["metrics"]
    rows = [(name, images, figures[name]) for name in before["metrics"]]
    rows += [("accuracy", slice_of, row[when]) for slice_of, _, row in _slices(document)]
    columns = (document.get("fairness") or {}).get("columns", ())
    told = before["metrics"] if len(columns) == 1 else ("accuracy",)
    for column in columns:
        where, apart = f"groups of {column['name']}", column["disparities"].items()
        rows += [(name, where, row[when]) for name, row in apart if row and name not in told]
    prefix = "change of " if when == "difference" else ""
    return [
        _figure(f"{prefix}{name}", where, figure)
        for name, where, figure in rows
        if figure["value"] is not None
    ]


def _figure(name: str, where: str, figure: wording.Document) -> Json:
    row: Json = {"type": name, "value": str(figure["value"]), "slice": _plain(where)}
    if figure["ci_low"] is not None:
        ends = {"lowerBound": str(figure["ci_low"]), "upperBound": str(figure["ci_high"])}
        row["confidenceInterval"] = ends
    return row


def _slices(document: wording.Document) -> Iterator[tuple[str, bool, wording.Document]]:
    """Of each group or class its words, whether it is a group, and its figures."""
    groups = list(story.groups_told(document))
    part = wording.of_part(document["evaluations"]["before"]["suite"])
    for column, name, n, row in groups:
        words = f"{column}: {name}" if column else name
        yield f"{words}, {wording.count(n, 'image')} {part}", True, row
    for row in () if groups else document.get("classes") or ():
        yield f"class {row['name']}, {wording.count(row['n'], 'image')} {part}", False, row


def _considerations(document: wording.Document) -> Json:
    limits = [*story.overlap_warnings(document["parts"]), *document.get("notes", [])]
    limits += [*story.promise_in_words(document), _KEPT]
    grouped = [_assessed(document, where, row) for where, of, row in _slices(document) if of]
    ethics = [{"name": "sensitive attributes", "mitigationStrategy": _GROUPS_USED}]
    return {
        "technicalLimitations": [_say(document, text) for text in limits],
        "performanceTradeoffs": [_say(document, text) for text in _costs(document)],
        **({"ethicalConsiderations": ethics, "fairnessAssessments": grouped} if grouped else {}),
    }


def _costs(document: wording.Document) -> Iterator[str]:
    """What surely becomes worse, a sentence each."""
    pays, measures = story.payers_in_words(document), wording.measures_of(document)
    if pays:
        yield f"The repair {pays}.{story.payers_by_chance(document)}"
    costs = [
        f"The {measure.words} becomes worse: {_moved(moved, measure)}."
        for name, moved in document["evaluations"]["difference"].items()
        if (measure := measures.get(name)) is not None and _surely(moved, -measure.sign)
    ]
    yield from costs
    if not pays and not costs:
        yield "Of the figures and groups that were looked at, none surely becomes worse."


def _surely(moved: wording.Document, sign: float) -> bool:
    """Whether the interval of a change lies on one side of zero."""
    ends = [moved["ci_low"], moved["ci_high"]]
    return None not in ends and min(sign * end for end in ends) > 0


def _moved(moved: wording.Document, measure: Measure) -> str:
    if moved["ci_low"] is None:
        return "these images do not tell"
    limits = wording.interval(moved, measure, signed=True)
    return f"{wording.change(moved['value'], measure)} (95 % interval {limits})"


def _assessed(document: wording.Document, where: str, row: wording.Document) -> Json:
    """What the repair does to a group."""
    moved = row["difference"]
    few = "; few images, so that this is a hint" if row.get("small") else ""
    told = f"accuracy {_moved(moved, SHARE)}{few}"
    gains, loses = (_surely(moved, sign) for sign in (1, -1))
    return {
        "groupAtRisk": _plain(where),
        "benefits": _plain(f"{'surely gains' if gains else 'no gain is sure'}: {told}"),
        "harms": _plain(f"{'surely loses' if loses else 'no loss is sure'}: {told}"),
        "mitigationStrategy": _say(document, f"{story.act(document)}."),
    }
