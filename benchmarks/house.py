"""The shape of the code base: imports, sizes, names and types, measured on the source itself.

    python benchmarks/house.py [--list]     # `--list` names the offenders of every measure

What counts as an import, and what a door is, is said in `benchmarks/modules.py`.
"""

from __future__ import annotations

import argparse
import ast
import io
import re
import sys
import tokenize
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent.parent))

from benchmarks.modules import (
    Module,
    circles,
    graph_without_doors,
    import_graph,
    longest_chain,
    read_modules,
)

ROOT = Path(__file__).parent.parent
PACKAGES = (ROOT / "repairkit", ROOT / "adapters" / "repairkit_adapters")
WORDS = ("found", "how", "told", "own")  # each hides a noun
POSITIONAL = 6  # the first number that is too many; the limits below are still allowed
PARAMETERS = 8
FUNCTION_LINES = 40
CLASS_LINES = 150
FILE_LINES = 500
SMALL_FILE_LINES = 60
FOLDER_FILES = 12
_SUPPRESSION = re.compile(r"#\s*(noqa|type:\s*ignore)\b", re.IGNORECASE)

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Offender:
    """Something that a measure counts: where it stands, its name, and its size."""

    place: str
    name: str
    size: int

    def __str__(self) -> str:
        return f"{self.size:6,}  {self.place}" + (f"  {self.name}" if self.name else "")


@dataclass(frozen=True)
class Row:
    """A line of the table, and what `--list` prints for it."""

    label: str
    value: str
    details: tuple[str, ...] = ()


def n_import_lines(modules: Iterable[Module]) -> int:
    """Physical lines that import statements take."""
    return sum(
        len(
            {
                line
                for node in module.nodes
                if isinstance(node, ast.Import | ast.ImportFrom)
                for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
            }
        )
        for module in modules
    )


# Calls, types and parameters


def wide_constructions(modules: Sequence[Module]) -> list[Offender]:
    """Calls of the project's classes with six or more positional arguments."""
    known = {node.name for _, node in _classes(modules)} | {"cls"}
    return _by_size(
        Offender(f"{module.name}:{node.lineno}", name, len(node.args))
        for module in modules
        for node in module.nodes
        if isinstance(node, ast.Call)
        and len(node.args) >= POSITIONAL
        and (name := _last_name(node.func)) in known
    )


def uses_of_any(modules: Iterable[Module]) -> list[Offender]:
    """How often each module says `Any`, imports aside."""
    return _per_module(modules, lambda node: _last_name(node) == "Any")


def arrays_of_any(modules: Iterable[Module]) -> list[Offender]:
    """How often each module says `Array`."""
    return _per_module(
        modules,
        lambda node: (
            isinstance(node, ast.Subscript)
            and _last_name(node.value) == "NDArray"
            and _last_name(node.slice) == "Any"
        ),
    )


def many_parameters(modules: Iterable[Module]) -> list[Offender]:
    """Functions with over eight parameters, `self` and `cls` aside."""
    return _by_size(
        Offender(f"{module.name}:{node.lineno}", node.name, size)
        for module, node in _functions(modules)
        if (size := _n_parameters(node)) > PARAMETERS
    )


def is_in_cli(offender: Offender) -> bool:
    """Whether an offender belongs to the command line, where each option is a parameter."""
    return offender.place.split(":")[0].split(".")[1:2] == ["cli"]


def _n_parameters(function: Function) -> int:
    given = function.args
    plain = [*given.posonlyargs, *given.args]
    bound = bool(plain) and plain[0].arg in ("self", "cls")
    return len(plain) + len(given.kwonlyargs) + bool(given.vararg) + bool(given.kwarg) - bound


# Sizes


def n_lines(modules: Iterable[Module]) -> int:
    """All lines, blank ones and comments included."""
    return sum(module.n_lines for module in modules)


def lines_of_packages(modules: Iterable[Module]) -> list[Offender]:
    """Lines of each folder just below the roots, and of the files that lie in a root itself."""
    lines = Counter[str]()
    for module in modules:
        lines[".".join(module.folder.split(".")[:2])] += module.n_lines
    return _by_size(Offender(name, "", size) for name, size in lines.items())


def function_lengths(modules: Iterable[Module]) -> list[Offender]:
    """The lines of every function from `def` on, inner functions and docstrings included."""
    return _by_size(
        Offender(f"{module.name}:{node.lineno}", node.name, _length(node))
        for module, node in _functions(modules)
    )


def full_folders(modules: Iterable[Module]) -> list[Offender]:
    """Folders with over twelve files, `__init__` aside."""
    files = Counter(module.folder for module in modules if not module.is_package)
    return _over(files, FOLDER_FILES)


def long_files(modules: Iterable[Module]) -> list[Offender]:
    """Files of over 500 lines."""
    lines = {module.name: module.n_lines for module in modules}
    return _over(lines, FILE_LINES)


def lonely_files(modules: Sequence[Module]) -> list[Offender]:
    """Files of under sixty lines that one module alone imports.

    Doors are no importers: those who use them are. `__init__` and `__main__` are no fragments.
    """
    importers = defaultdict[str, list[str]](list)
    for name, imported in graph_without_doors(modules).items():
        for other in imported:
            importers[other].append(name)
    return _by_size(
        Offender(module.name, f"imported by {importers[module.name][0]}", module.n_lines)
        for module in modules
        if module.n_lines < SMALL_FILE_LINES
        and module.path.stem not in ("__init__", "__main__")
        and len(importers[module.name]) == 1
    )


def long_classes(modules: Iterable[Module]) -> list[Offender]:
    """Classes of over 150 lines."""
    return _by_size(
        Offender(f"{module.name}:{node.lineno}", node.name, _length(node))
        for module, node in _classes(modules)
        if _length(node) > CLASS_LINES
    )


# Names


def repeated_files(modules: Iterable[Module]) -> list[Offender]:
    """File names that stand in several packages, `__init__` and `__main__` aside."""
    return _repeated(
        (module.path.stem, module.name)
        for module in modules
        if module.path.stem not in ("__init__", "__main__")
    )


def repeated_classes(modules: Iterable[Module]) -> list[Offender]:
    """Class names that are defined in several modules."""
    return _repeated((node.name, module.name) for module, node in _classes(modules))


def uses_of_words(modules: Iterable[Module], words: Collection[str] = WORDS) -> list[Offender]:
    """How often each module has one of these words as an identifier."""
    uses = Counter(
        (module.name, identifier)
        for module in modules
        for node in module.nodes
        for identifier in _identifiers(node)
        if identifier in words
    )
    return _by_size(Offender(place, word, size) for (place, word), size in uses.items())


def suppressions(modules: Iterable[Module]) -> list[Offender]:
    """Comments that silence a checker: `noqa` and `type: ignore`."""
    return [
        Offender(f"{module.name}:{token.start[0]}", token.string, 1)
        for module in modules
        if _SUPPRESSION.search(module.text)  # reading tokens is slow
        for token in tokenize.generate_tokens(io.StringIO(module.text).readline)
        if token.type == tokenize.COMMENT
        for _ in _SUPPRESSION.finditer(token.string)
    ]


# What the measures share


def _functions(modules: Iterable[Module]) -> Iterator[tuple[Module, Function]]:
    for module in modules:
        for node in module.nodes:
            if isinstance(node, Function):
                yield module, node


def _classes(modules: Iterable[Module]) -> Iterator[tuple[Module, ast.ClassDef]]:
    for module in modules:
        for node in module.nodes:
            if isinstance(node, ast.ClassDef):
                yield module, node


def _length(node: Function | ast.ClassDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _last_name(node: ast.AST) -> str | None:
    """`Name` of both `Name` and `module.Name`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return None


def _identifiers(node: ast.AST) -> Iterator[str]:
    """Names that a node itself holds, its children aside."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            yield name
        case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
            yield name
        case ast.keyword(arg=str(name)):
            yield name
        case ast.alias(asname=str(name)):
            yield name
        case ast.MatchAs(name=str(name)) | ast.ExceptHandler(name=str(name)):
            yield name


def _by_size(offenders: Iterable[Offender]) -> list[Offender]:
    """The greatest first."""
    return sorted(offenders, key=lambda each: (-each.size, each.place, each.name))


def _over(sizes: Mapping[str, int], limit: int) -> list[Offender]:
    return _by_size(Offender(place, "", size) for place, size in sizes.items() if size > limit)


def _per_module(modules: Iterable[Module], counts: Callable[[ast.AST], bool]) -> list[Offender]:
    uses = {module.name: sum(map(counts, module.nodes)) for module in modules}
    return _over(uses, 0)


def _repeated(named: Iterable[tuple[str, str]]) -> list[Offender]:
    """Names with more than one home."""
    homes = defaultdict[str, set[str]](set)
    for name, home in named:
        homes[name].add(home)
    return _by_size(
        Offender(name, "in " + ", ".join(sorted(where)), len(where))
        for name, where in homes.items()
        if len(where) > 1
    )


# The table


def rows(modules: Sequence[Module]) -> list[Row]:
    """The table: all measures in turn."""
    return [
        *_import_rows(modules),
        *_code_rows(modules),
        *_size_rows(modules),
        *_name_rows(modules),
    ]


def _import_rows(modules: Sequence[Module]) -> Iterator[Row]:
    graph, inner = import_graph(modules), graph_without_doors(modules)
    groups = circles(graph)
    yield Row("import circles", f"{len(groups)}", tuple(" + ".join(group) for group in groups))
    yield Row("modules in circles", f"{sum(map(len, groups))}")
    yield Row("imports between modules", f"{sum(map(len, graph.values())):,}")
    whole, short = longest_chain(graph), longest_chain(inner)
    yield Row("longest import chain, modules", f"{len(whole)}", whole)
    same = short if short != whole else ()
    yield Row(f"  without {len(graph) - len(inner)} doors", f"{len(short)}", same)
    yield Row("import lines", f"{n_import_lines(modules) / n_lines(modules):.1%}")


def _code_rows(modules: Sequence[Module]) -> Iterator[Row]:
    wide = wide_constructions(modules)
    yield _counted(f"constructions with {POSITIONAL} or more positional arguments", wide)
    uses = uses_of_any(modules)
    yield Row("Any per 1,000 lines", _rate(uses, modules), _lines(uses))
    yield Row("  Any in all", f"{_total(uses):,}")
    arrays = arrays_of_any(modules)
    yield Row("  of these Array", f"{_total(arrays):,}", _lines(arrays))
    silenced = suppressions(modules)
    yield Row("suppressions per 1,000 lines", _rate(silenced, modules), _lines(silenced))
    yield Row("  suppressions in all", f"{_total(silenced):,}")
    many = many_parameters(modules)
    inside = [each for each in many if is_in_cli(each)]
    yield _counted(
        f"functions with over {PARAMETERS} parameters, outside cli",
        [each for each in many if not is_in_cli(each)],
    )
    yield _counted("  in cli", inside)


def _size_rows(modules: Sequence[Module]) -> Iterator[Row]:
    yield Row("lines", f"{n_lines(modules):,}")
    for each in lines_of_packages(modules):
        yield Row(f"  {each.place}", f"{each.size:,}")
    yield Row("files", f"{len(modules):,}")
    lengths = function_lengths(modules)
    long = [each for each in lengths if each.size > FUNCTION_LINES]
    yield Row("functions", f"{len(lengths):,}")
    yield Row("  median lines", f"{median(each.size for each in lengths):g}" if lengths else "-")
    share = f"{len(long) / len(lengths):.1%}" if lengths else "-"
    yield Row(f"  share of over {FUNCTION_LINES} lines", share, _lines(long))
    yield _counted(f"folders of over {FOLDER_FILES} files", full_folders(modules))
    yield _counted(f"files of over {FILE_LINES} lines", long_files(modules))
    lonely = lonely_files(modules)
    yield _counted(f"files of under {SMALL_FILE_LINES} lines with one importer", lonely)
    yield _counted(f"classes of over {CLASS_LINES} lines", long_classes(modules))


def _name_rows(modules: Sequence[Module]) -> Iterator[Row]:
    yield _counted("file names in several packages", repeated_files(modules))
    yield _counted("class names in several modules", repeated_classes(modules))
    uses = uses_of_words(modules)
    for word in WORDS:
        of_word = [each for each in uses if each.name == word]
        yield Row(f"uses of the name `{word}`", f"{_total(of_word):,}", _lines(of_word))


def _counted(label: str, offenders: Sequence[Offender]) -> Row:
    return Row(label, f"{len(offenders):,}", _lines(offenders))


def _lines(offenders: Iterable[Offender]) -> tuple[str, ...]:
    return tuple(map(str, offenders))


def _total(offenders: Iterable[Offender]) -> int:
    return sum(each.size for each in offenders)


def _rate(offenders: Iterable[Offender], modules: Iterable[Module]) -> str:
    return f"{per_thousand(_total(offenders), modules):.1f}"


def per_thousand(count: int, modules: Iterable[Module]) -> float:
    """A count per 1,000 lines of code."""
    return 1000 * count / n_lines(modules)


def main() -> None:
    """Print the table, and with `--list` what is behind its figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--list", action="store_true", help="name the offenders of each measure")
    asked = parser.parse_args()
    table = rows(read_modules(*PACKAGES))
    width = max(len(row.label) for row in table)
    for row in table:
        print(f"{row.label:<{width}}  {row.value:>8}")
    if asked.list:
        for row in table:
            if row.details:
                print(f"\n{row.label.strip()}: {row.value}")
                print(*(f"  {line}" for line in row.details), sep="\n")


if __name__ == "__main__":
    main()
