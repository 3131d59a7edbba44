"""Bars for the estimators, and by how much they miss them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.ranking import TOP

IMAGES_PER_EVALUATION = 128
# Both of these were asked for; the first is what `score` and `patch` use by themselves.
CANDIDATES = ("auto", "regression")
_SLACK = 1 / TOP + 1e-9


@dataclass(frozen=True)
class Line:
    """One method on one game after so many evaluations; means over repeats."""

    game: str
    n: int
    method: str
    evaluations: float
    plain_passes: float
    precision_top: float
    precision_bottom: float
    rank_correlation: float
    r2: float


def shortfall(line: Line, other: Line) -> float:
    """By how much the worse of both precisions is below the other's; negative if above."""
    return max(
        other.precision_top - line.precision_top, other.precision_bottom - line.precision_bottom
    )


def at(lines: list[Line], game: str, method: str, evaluations: float) -> Line | None:
    """The line nearest below that number of evaluations, if it is near."""
    near = [
        line
        for line in lines
        if (line.game, line.method) == (game, method)
        and 0.6 * evaluations <= line.evaluations <= 1.02 * evaluations
    ]
    return max(near, key=lambda line: line.evaluations, default=None)


def print_bars(lines: list[Line], masks: Mapping[str, float]) -> None:
    """Print every bar; `masks` are plain passes per image with mask nodes, by game."""
    games = list(dict.fromkeys(line.game for line in lines))
    if not games:
        return
    print(f"\nThe bars, on {', '.join(games)}; one of {TOP} filters is allowed for noise.")
    for tuned, factor in (("tmab", 10), ("tmab-16", 2)):
        for method in CANDIDATES:
            print_precision_bar(lines, games, (method, tuned), factor)
    print_engine_bar(lines, games, masks)
    print_rank_bar(lines, games)


def print_precision_bar(
    lines: list[Line], games: list[str], pair: tuple[str, str], factor: int
) -> None:
    """Compare a method with tmab, read at `factor` times as many passes."""
    method, tuned = pair
    met, verdicts = 0, []
    for game in games:
        theirs = [line for line in lines if (line.game, line.method) == (game, tuned)]
        gaps = [
            (shortfall(ours, their), ours, their)
            for their in theirs
            if (ours := at(lines, game, method, their.evaluations / factor)) is not None
        ]
        if not gaps:
            verdicts.append(f"{game}: nothing to compare")
            continue
        worst, ours, their = max(gaps, key=lambda gap: gap[0])
        if worst <= _SLACK:
            met += 1
        else:
            verdicts.append(
                f"{game} by {worst:.2f} (top {ours.precision_top:.2f}, bottom "
                f"{ours.precision_bottom:.2f} after {ours.evaluations:,.0f}, against "
                f"{their.precision_top:.2f} and {their.precision_bottom:.2f} after "
                f"{their.evaluations:,.0f})"
            )
    word = "met" if met >= max(len(games) - 1, 1) else "missed"
    print(
        f"{method} reaches {tuned}'s precision with 1/{factor} of its passes on {met} of "
        f"{len(games)} games: {word}" + "".join(f"\n    short on {line}" for line in verdicts)
    )


def print_engine_bar(lines: list[Line], games: list[str], masks: Mapping[str, float]) -> None:
    """Plain passes of the cheapest line that reaches the longest run of tmab under mask nodes."""
    for method in CANDIDATES:
        met, verdicts = 0, []
        for game in games:
            theirs = [line for line in lines if (line.game, line.method) == (game, "tmab")]
            ours = [line for line in lines if (line.game, line.method) == (game, method)]
            if not theirs or not ours:
                verdicts.append(f"{game}: nothing to compare")
                continue
            target = max(theirs, key=lambda line: line.evaluations)
            good = [line for line in ours if shortfall(line, target) <= _SLACK]
            if not good:
                least = min(shortfall(line, target) for line in ours)
                verdicts.append(f"{game}: not reached, {least:.2f} short at best")
                continue
            passes = target.evaluations * IMAGES_PER_EVALUATION * masks[game]
            factor = passes / min(line.plain_passes for line in good)
            met += factor >= 20
            verdicts.append(f"{game}: 1/{factor:.0f}" + ("" if factor >= 20 else ", missed"))
        word = "met" if met == len(games) else "missed"
        print(
            f"{method} takes 1/20 of the plain passes of the longest tmab with mask nodes on {met} "
            f"of {len(games)} games: {word}\n    {'; '.join(verdicts)}"
        )


def print_rank_bar(lines: list[Line], games: list[str]) -> None:
    """Rank correlation where a player has had its thousand image passes."""
    for game in games:
        for method in CANDIDATES:
            enough = [
                line
                for line in lines
                if (line.game, line.method) == (game, method)
                and line.evaluations * IMAGES_PER_EVALUATION >= 800 * line.n
            ]
            if not enough:
                continue
            line = min(enough, key=lambda line: line.evaluations)
            short = 0.9 - line.rank_correlation
            word = "met" if short <= 0 else f"missed by {short:.3f}"
            per_player = line.evaluations * IMAGES_PER_EVALUATION / line.n
            print(
                f"{game}: {method} at {per_player:,.0f} image passes per player: rank correlation "
                f"{line.rank_correlation:.3f} (0.90; paper .988), R2 {line.r2:.3f} (paper .975): "
                f"{word}"
            )
