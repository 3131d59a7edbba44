"""Tables of results as pandas DataFrames; pandas comes with the extra `pandas`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from repairkit.core.errors import SettingsError
from repairkit.formats.curve_file import CurveDocument, curve_rows

if TYPE_CHECKING:
    from pandas import DataFrame


def needed(module: str, extra: str, purpose: str) -> ModuleType:
    """An optional library.

    Args:
        module: to import.
        extra: of repairkit's, that has it.
        purpose: what needs it, for the message.

    Raises:
        SettingsError: it is not installed.
    """
    try:
        return import_module(module)
    except ImportError as error:
        library = module.partition(".")[0]
        raise SettingsError(
            f"{purpose} needs {library}, which is not installed; run: pip install "
            f"'repairkit[{extra}]'"
        ) from error


def frame(rows: Iterable[Mapping[str, Any]], columns: Sequence[str] | None = None) -> DataFrame:
    """Rows as a DataFrame; `columns` are needed where there may be no row.

    Raises:
        SettingsError: pandas is not installed.
    """
    pandas = needed("pandas", "pandas", "to_pandas()")
    return pandas.DataFrame(list(rows), columns=None if columns is None else list(columns))


def curve_frame(curve: CurveDocument) -> DataFrame:
    """A removal curve: a row for each line, size and metric, with the columns of `curve.csv`.

    Raises:
        SettingsError: pandas is not installed.
    """
    known = [row for line in curve["lines"] for row in curve_rows(line, curve["sizes"])]
    numbers = ("value", "low", "high")
    return frame(
        {**row, **{name: float(str(row[name]) or "nan") for name in numbers}} for row in known
    )


def overlay_frame(overlay: Mapping[str, Any]) -> DataFrame:
    """Curves of several runs: a row for each line and size that was judged.

    Raises:
        SettingsError: pandas is not installed.
    """
    return frame(
        {
            "label": line["label"],
            "line": line["name"],
            "frozen": size,
            "metric": overlay["metric"],
            **{name: figure[name] for name in ("value", "low", "high")},
        }
        for line in overlay["lines"]
        for size, figure in zip(overlay["sizes"], line["figures"], strict=True)
        if figure is not None
    )


def moved_frame(evaluations: Mapping[str, Any]) -> DataFrame:
    """Metrics and accuracies of groups before and after a repair, and their differences.

    Raises:
        SettingsError: pandas is not installed.
    """
    return frame(moved_rows(evaluations), ("of", "name", *_moved_columns()))


def _moved_columns() -> list[str]:
    return [
        f"{when}{end}"
        for when in ("before", "after", "difference")
        for end in ("", "_low", "_high")
    ]


def moved_rows(evaluations: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of `moved_frame`; figures that are not known are None."""
    before, after, moved = (evaluations[when] for when in ("before", "after", "difference"))
    rows = []
    for kind, prefix in (("metrics", ""), ("groups", "accuracy:")):
        for name, figure in before[kind].items():
            three = figure, after[kind][name], moved.get(f"{prefix}{name}", {})
            ends = [each.get(end) for each in three for end in ("value", "ci_low", "ci_high")]
            rows.append(
                {
                    "of": "metric" if kind == "metrics" else "group",
                    "name": name,
                    **dict(zip(_moved_columns(), ends, strict=True)),
                }
            )
    return rows
