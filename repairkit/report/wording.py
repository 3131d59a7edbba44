"""Figures, counts, lists and shell commands in the words of a page."""

import math
import shlex
from collections.abc import Mapping
from typing import Any

from repairkit.core.metric import NUMBER, UNKNOWN, Measure
from repairkit.core.process.text import printable

_MINUS = "\N{MINUS SIGN}"
_SPACE = "\N{NO-BREAK SPACE}"
_MOST_TIMES = 1000  # the budget; more is as good as never

Document = Mapping[str, Any]
"""A finished document, or a block of one, as JSON has it; each part says which keys it reads."""


def visible(text: object) -> str:
    """Text of one line in which every character shows; spaces that keep words together stay."""
    parts = str(text).replace("\n", " ").split(_SPACE)
    return _SPACE.join(printable(part) for part in parts)


def of_part(suite: str) -> str:
    """Which images a figure is of: `of the test part`, or `(selection, cross-fitted)`."""
    return f"({suite})" if is_cross_fitted(suite) else f"of the {suite} part"


def is_cross_fitted(suite: str) -> bool:
    """Whether there is no test part, and each image was judged under a cure it did not choose."""
    return "," in suite


def measures_of(document: Document) -> dict[str, Measure]:
    """How the figures of a document's metrics are to be understood, by the metric's name."""
    return {name: Measure.from_json(entry) for name, entry in document["measures"].items()}


def number(value: float | None, measure: Measure = NUMBER, *, signed: bool = False) -> str:
    """A figure without its unit; a dash where it is not known."""
    return _typeset(measure.number(value, signed=signed))


def figure(value: float | None, measure: Measure) -> str:
    """A figure with its unit."""
    return _typeset(measure.figure(value))


def change(value: float | None, measure: Measure) -> str:
    """A difference with its sign and unit: of shares, points."""
    return _typeset(measure.change(value))


def interval(
    figure: Mapping[str, float | None], measure: Measure = NUMBER, *, signed: bool = False
) -> str:
    """`61.0 to 64.2`, of a figure as JSON has it; empty where there is none."""
    if figure.get("value") is None and figure.get("ci_low") is None:
        return ""
    low, high = (number(figure.get(end), measure, signed=signed) for end in ("ci_low", "ci_high"))
    return f"{low} to {high}"


def _typeset(text: str) -> str:
    """A true minus sign, and a space that keeps number and unit together."""
    return text if text == UNKNOWN else text.replace("-", _MINUS).replace(" ", _SPACE)


def count(number_of: int, noun: str, plural: str | None = None) -> str:
    """`1 filter`, `2 filters`, `1,000 filters`."""
    word = noun if number_of == 1 else plural or f"{noun}s"
    return f"{number_of:,}{_SPACE}{word}"


def listing(names: list[str]) -> str:
    """`a, b and c`."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


_NOTHING = {"scale": 1.0}


def shell(*words: str) -> str:
    """A line for bash, of characters that show. A `~/` at the start of a word stays the home."""
    return " ".join(_word(word) for word in ("repairkit", *words))


def _word(word: str) -> str:
    if not word.isprintable():
        return f"$'{''.join(_escaped(character) for character in word)}'"
    if word.startswith("~/"):
        return f"~/{shlex.quote(word[2:])}"
    return shlex.quote(word)


def _escaped(character: str) -> str:
    if character in "'\\":
        return f"\\{character}"
    if character.isprintable():
        return character
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte of a file name that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 128 else f"\\U{code:08x}"


def known_sentences(run: Document) -> list[str]:
    """What a run says surely, and what is noise at its budget; nothing without joint bounds.

    Args:
        run: `run.json` of a finished run; `known`, `n_filters` and `n_undecided` are read.
    """
    known = run.get("known")
    if known is None:
        return []
    above, below, n = known["above"], known["below"], run["n_filters"]
    share = f"{100 * known['confidence']:g}{_SPACE}%"
    signs = [
        f"{count(above, 'filter')} {'is' if above == 1 else 'are'} surely above zero",
        f"{below:,} surely below",
        f"the sign of {n - above - below:,} is open",
    ]
    sentences = [f"{', '.join(signs)} ({share} for all together)."]
    settled = {end: max(known[f"settled_{end}"], default=0) for end in ("highest", "lowest")}
    sure = [f"the {k:,} {end}" for end, k in settled.items() if k]
    if sure:
        verb = "are" if len(sure) == 2 or max(settled.values()) > 1 else "is"
        rest = "" if max(settled.values()) >= min(n - 1, 100) else "; the order behind is open"
        sentences.append(f"{' and '.join(sure)} {verb} sure{rest}.".capitalize())
    else:
        sentences.append("No top of the ranking is sure: its order is noise at this budget.")
    k, times = known["top_k"], known["times_the_budget"]
    if k < n:
        common = known["expected_overlap"]
        of_images = known.get("errors_over") == "images"
        another = "As many other images" if of_images else "Another seed"
        sentences.append(f"{another} would share about {common:.0f} of the top {k}.")
        if times is not None and 1 < times < _MOST_TIMES:
            more = math.ceil(times) if times < 10 else round(times, -1)
            what = "as many images" if of_images else "this budget"
            sentences.append(f"About {more:.0f} times {what} would settle the top {k}.")
    return sentences


def runtime_in_words(runtime: Document) -> list[str]:
    """What a patch means for a compiled model, in sentences.

    Args:
        runtime: the entry of a patch file or report.
    """
    n_tensors, n_bytes, needs = len(runtime["tensors"]), runtime["bytes"], runtime["needs"]
    if runtime["refit"]:
        size = "" if n_bytes is None else f" of {count(n_bytes, 'byte')}"
        verdict = (
            f"New weights are enough for a compiled model: {count(n_tensors, 'tensor')}{size} "
            f"{'changes' if n_tensors == 1 else 'change'}, and no node, name, shape or type."
        )
    else:
        more = f", and there are {len(needs) - 1:,} more such changes" if len(needs) > 1 else ""
        verdict = f"A model has to be compiled anew: the patch {needs[0]['reason']}{more}."
    return [
        verdict,
        *(
            f"The patched model keeps the metadata entry {key}, so that a runtime may take what it "
            "compiled from the model before: delete that, or change the entry."
            for key in runtime["cache_keys"]
        ),
    ]


def stale_in_words(stale: list[str], current: str) -> str:
    """Which compiled files a patch makes stale.

    Args:
        stale: digests of the models before.
        current: digest of the patched model.
    """
    known = listing([f"sha256 {digest[:12]}" for digest in stale])
    return (
        f"All that was compiled from the model before ({known}) is stale: ORT-format and optimised "
        "files, EPContext models, TensorRT engines, OpenVINO blobs, Core ML caches. Refit it where "
        f"new weights are enough, or make it anew from the patched model (sha256 {current[:12]})."
    )


def command_again(again: Mapping[str, Any] | None, out: str) -> str:
    """The command that does a job again; empty where the document does not say how."""
    return "" if not again else shell(again["command"], *again["words"], "-o", out)


def reading_words(preprocessing: Mapping[str, Any] | None) -> list[str]:
    """`--scale=0.5` and so on for what differs from the defaults.

    Args:
        preprocessing: by name, as `run.json` has it; documents of other versions may have none.
    """
    words = []
    for name, value in (preprocessing or {}).items():
        if value in (None, [], ()) or value == _NOTHING.get(name):
            continue
        written = ",".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
        words.append(f"--{name}={written}")
    return words


def why_shown(reason: Document, entry: Document) -> str:
    """Why a filter is shown, such as `no. 2 of the most valuable`.

    Args:
        reason: `of` which end of the ranking, or the best of its `layer`, and the `place`.
        entry: of the filter; `sign` says whether it surely harms, where that is known.
    """
    place = reason["place"]
    if reason["of"] == "layer":
        return "best of its layer"
    if reason["of"] == "valuable":
        return "most valuable" if place == 1 else f"no. {place} of the most valuable"
    end = "harmful" if entry.get("sign") == "harms" else "harmful or least valuable"
    return f"most {end}" if place == 1 else f"no. {place} of the most {end}"
