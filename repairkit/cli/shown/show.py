"""Tables on standard output, remarks and the progress of a scoring on standard error."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from repairkit import api
from repairkit.cli.shown.stages import show_facts
from repairkit.core.layer_map import LayerMap
from repairkit.core.metric import SHARE, Measure
from repairkit.core.patch import Constant, Evaluation, Figure, Patch
from repairkit.core.process.text import counted, printable
from repairkit.report.wording import of_part

_PLAIN = {ord("\N{NO-BREAK SPACE}"): " ", ord("\N{MINUS SIGN}"): "-"}


def printer() -> Console:
    """Standard output; as wide as it needs where that is no terminal."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=120)


def _shown(text: str) -> str:
    """Neither markup nor control characters of a name may have an effect."""
    return escape(printable(text))


def say(text: str) -> None:
    """A line for people on standard output."""
    printer().print(_shown(text), soft_wrap=True)


def remark(text: str) -> None:
    """A line for people on standard error."""
    sys.stderr.write(f"repairkit: {printable(text)}\n")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table; columns after the first are numbers unless they start with a letter."""
    shown = Table(title=_shown(title), title_justify="left", title_style="bold")
    for position, column in enumerate(columns):
        numbers = position > 0 and all(_is_number(row[position]) for row in rows)
        shown.add_column(_shown(column), justify="right" if numbers else "left", overflow="fold")
    for row in rows:
        shown.add_row(*(_shown(cell) for cell in row))
    printer().print(shown)


def _is_number(text: str) -> bool:
    return not text or not text[0].isalpha()


def plainly(text: str) -> str:
    """A sentence of a page for a terminal: plain spaces and signs."""
    return text.translate(_PLAIN)


def scoring_progress(progress: api.Progress) -> None:
    """Undecided filters, evaluations per second and time left, in the stage that scores."""
    done, left = progress.spent.evaluations, progress.evaluations_left
    show_facts(_facts(progress), done, None if left is None else done + left)


def _facts(progress: api.Progress) -> str:
    decided = "" if progress.n_undecided is None else f"{progress.n_undecided} undecided of "
    facts = (
        f"{decided}{progress.n_filters} filters, "
        f"{progress.spent.evaluations} evaluations, {progress.evaluations_per_second:.0f}/s"
    )
    if progress.seconds_left is not None:
        facts += f", at most {duration(max(progress.seconds_left, 1.0))} left"
    return facts


def duration(seconds: float) -> str:
    """Seconds for people."""
    if seconds < 1:
        return "under 1 s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    if seconds < 6000:
        return f"{seconds / 60:.0f} min"
    if seconds < 48 * 3600:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 86400:.1f} days"


def short_duration(seconds: float) -> str:
    """Less than a few seconds for people, in three digits."""
    if seconds < 1e-3:
        return f"{1e6 * seconds:.3g} us"
    return f"{1e3 * seconds:.3g} ms" if seconds < 1 else f"{seconds:.3g} s"


def figure(measure: Measure, known: Figure) -> str:
    """A figure with its 95 % interval; shares in per cent."""
    return _with_interval(measure.figure(known.value), measure, known, signed=False)


def change(measure: Measure, known: Figure) -> str:
    """A difference with its 95 % interval; of shares in points."""
    return _with_interval(measure.change(known.value), measure, known, signed=True)


def _with_interval(text: str, measure: Measure, known: Figure, *, signed: bool) -> str:
    """The interval before the unit; none where there is none."""
    if math.isnan(known.ci_low):
        return text
    low, high = (measure.number(end, signed=signed) for end in (known.ci_low, known.ci_high))
    value, _, unit = text.partition(" ")
    return f"{value} [{low}, {high}] {unit}".rstrip()


def constant(found: Constant) -> str:
    """What a frozen filter yields, in as many digits as 32-bit floats have."""
    numbers = found if isinstance(found, tuple) else (found,)
    return ", ".join(f"{n:.9g}" for n in numbers)


def agreement(verified: api.Verified) -> str:
    """How near the patched model is to what it is compared with."""
    proof = verified.proof
    if proof.tolerance:
        return (
            f"within {proof.relative:.1e} of {proof.against}, with graph optimisation and without"
        )
    if not proof.relative:
        return "equal to the masked original bit for bit, with graph optimisation and without"
    return (
        "equal to the masked original bit for bit without graph optimisation, within "
        f"{proof.relative:.1e} of the greatest output with it"
    )


def changes(patch: Patch) -> str:
    """What a patch changes, in words: `3 filters frozen and new class biases in 'fc'`."""
    told = [f"{counted(len(patch), 'filter')} frozen"] if patch.frozen else []
    if patch.head is not None:
        what = "new class biases" if patch.head.kind == "bias" else "a refitted last layer"
        told.append(f"{what} in {patch.head.layer!r}")
    return " and ".join(told)


def frozen(title: str, patch: Patch, layers: LayerMap | None) -> None:
    """Filters and constants, with the layers that they come from, if known."""
    if not patch.frozen:
        return
    rows, partly = [], any(f.gain for f in patch.frozen)
    for f in patch.frozen:
        origin = [] if layers is None else [str(layers.origin(f.filter) or "")]
        gain = [f"{100 * f.gain:g} %"] if partly else []
        rows.append([f.filter.id, *origin, constant(f.constant), *gain])
    origins, left = [] if layers is None else ["layer"], ["left"] if partly else []
    table(title, ["filter", *origins, "constant", *left], rows)


def before_after(
    before: Evaluation,
    after: Evaluation,
    moved: dict[str, Figure],
    *,
    measures: Mapping[str, Measure],
    groups: bool,
) -> None:
    """Figures per metric, and per group if wanted, of the images that report."""
    rows = [
        [
            measures[name].words,
            str(before.n_images),
            figure(measures[name], f),
            figure(measures[name], after.metrics[name]),
            change(measures[name], moved[name]),
        ]
        for name, f in before.metrics.items()
    ]
    rows += [
        [
            f"accuracy of {name}",
            str(before.group_sizes[name]),
            figure(SHARE, f),
            figure(SHARE, after.groups[name]),
            change(SHARE, moved[f"accuracy:{name}"]),
        ]
        for name, f in (before.groups.items() if groups else ())
    ]
    table(
        f"On the {before.n_images} images {of_part(before.suite)}, with 95 % intervals",
        ["figure", "images", "before", "after", "change"],
        rows,
    )


def attacks(rows: Sequence[Mapping[str, Any]]) -> None:
    """How a model fares under attack before and after, and what that is worth."""
    shown, notes = [], []
    for row in rows:
        name = f"{row['attack']} ({row['knowledge']})"
        if "note" in row:
            notes.append(f"{name}: {row['note']}")
            continue
        cells = [
            figure(SHARE, Figure(**row[when][key]))
            for key in ("attack_success", "fooled")
            for when in ("before", "after")
        ]
        shown.append([name, str(row["n_images"]), *cells])
    table(
        "Adversarial images that work, of the test part, with 95 % intervals",
        ["attack", "images", "as target before", "after", "missed before", "after"],
        shown,
    )
    for note in notes:
        say(note)
    say(
        "old images that no longer work tell of the repair; images made anew against the patched "
        "model tell how robust it is: an adversary who knows it can attack it afresh"
    )
