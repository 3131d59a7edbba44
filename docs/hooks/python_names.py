"""Pages of the site about repairkit as a Python package: which names they show, and in what order.

The text comes from the docstrings, through mkdocstrings.
"""

import inspect

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

import repairkit
from repairkit import api
from repairkit.core import errors

FOLDER = "reference/python"
ADAPTERS = ("pytorch", "keras")
# What a metric, an estimator or a framework of one's own is made of.
OWN = (
    "core.game.GameFacts",
    "core.game.Round",
    "core.game.Outcomes",
    "core.scores.Scores",
    "core.metric.Measure",
    "metrics.definition.Definition",
    "core.framework.FrameworkModel",
    "core.framework.Layer",
    "core.framework.LoadOptions",
)
TITLES = {
    "functions": "Functions",
    "results": "Settings and results",
    "errors": "Errors",
    "frameworks": "PyTorch and Keras",
    "extending": "Your own metric or estimator",
}


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages."""
    for name, text in texts().items():
        files.append(File.generated(config, f"{FOLDER}/{name}.md", content=text))
    return files


def texts() -> dict[str, str]:
    """The pages by their names in the folder."""
    functions, others = public_names()
    kinds = [value for value in vars(errors).values() if inspect.isclass(value)]
    of_errors = [f"{k.__module__}.{k.__name__}" for k in kinds if k.__module__ == errors.__name__]
    adapters = [f"repairkit_adapters.{name}" for name in ADAPTERS]
    return {
        "index": _overview(functions, others),
        "functions": _page(
            "functions",
            "A function for each command, with the same words. All can be imported from "
            "`repairkit` or from `repairkit.api`.",
            [f"repairkit.api.{name}" for name in functions],
        ),
        "results": _page(
            "results",
            "What the functions take and return. All can be imported from `repairkit.api`.",
            [f"repairkit.api.{name}" for name in others],
        ),
        "errors": _page(
            "errors",
            "Every error that repairkit raises on purpose is a `RepairkitError`. Its text says "
            "what was found, what was expected and what to do.",
            of_errors,
        ),
        "frameworks": _page(
            "frameworks",
            "The adapters take models of a framework, and freeze in such a model what a patch "
            "freezes in its ONNX file. See [PyTorch and others](../../guide/frameworks.md) and "
            "[Keras](../../guide/keras.md).",
            adapters,
            ["members_order: __all__", "show_root_full_path: true"],
        ),
        "extending": _page(
            "extending",
            "[Contributing](../../contributing.md) shows how these are put together; "
            "[Estimators](../../guide/estimators.md) has an estimator in ten lines.",
            [f"repairkit.{name}" for name in OWN],
        ),
    }


def public_names() -> tuple[list[str], list[str]]:
    """The public functions, and the other public names."""
    names = {n: getattr(api, n) for n in sorted({*repairkit.__all__, *api.__all__}) if n[0] != "_"}
    functions = [name for name, value in names.items() if inspect.isfunction(value)]
    return functions, [name for name in names if name not in functions]


def _overview(functions: list[str], others: list[str]) -> str:
    lines = ["# All names", "", "These pages are made from the docstrings.", ""]
    for title, page, names in (
        ("Functions", "functions", functions),
        ("Settings and results", "results", others),
    ):
        lines += [f"## {title}", "", "| Name | Is for |", "|---|---|"]
        for name in names:
            words = (inspect.getdoc(getattr(api, name)) or "").split("\n\n")[0]
            words = " ".join(words.split()).replace("|", "\\|")
            lines.append(f"| [`{name}`]({page}.md#repairkit.api.{name}) | {words} |")
        lines.append("")
    return "\n".join(lines)


def _page(name: str, opening: str, shown: list[str], options: list[str] | None = None) -> str:
    lines = [f"# {TITLES[name]}", "", opening, ""]
    for each in shown:
        lines += [f"::: {each}"]
        if options:
            lines += ["    options:", *(f"      {option}" for option in options)]
        lines.append("")
    return "\n".join(lines)
