"""Source files, read once, and what they import from each other.

A module imports what its import statements name, also inside a function or under `TYPE_CHECKING`.
`from package import name` imports the submodule `name` where there is one, and otherwise the
package's `__init__`. That a submodule also loads the packages above it is not counted.

An `__init__` that holds nothing but imports, a docstring and `__all__` is called a door. The graph
without doors has an edge to the module behind the door instead.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

Graph = Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class Module:
    """A source file, read and parsed once."""

    name: str
    path: Path
    text: str
    nodes: tuple[ast.AST, ...]  # the tree, breadth first, with the module itself at its head

    @property
    def is_package(self) -> bool:
        return self.path.stem == "__init__"

    @property
    def folder(self) -> str:
        """The package whose folder the file lies in."""
        return self.name if self.is_package else self.name.rpartition(".")[0]

    @property
    def n_lines(self) -> int:
        return len(self.text.splitlines())


@dataclass(frozen=True)
class Import:
    """A name that one module takes from another; no name stands for the whole module."""

    source: str
    name: str | None
    bound: str  # the name in the importing module


def read_modules(*packages: Path) -> tuple[Module, ...]:
    """Every Python file below the folders of some packages, in order of name."""
    return tuple(
        sorted(
            (_read(path, package) for package in packages for path in package.rglob("*.py")),
            key=lambda module: module.name,
        )
    )


def _read(path: Path, package: Path) -> Module:
    parts = path.relative_to(package.parent).with_suffix("").parts
    text = path.read_text(encoding="utf-8")
    return Module(
        name=".".join(parts[:-1] if parts[-1] == "__init__" else parts),
        path=path,
        text=text,
        nodes=tuple(ast.walk(ast.parse(text, filename=str(path)))),
    )


def import_graph(modules: Sequence[Module]) -> Graph:
    """The modules that each module imports."""
    names = {module.name for module in modules}
    return {
        module.name: frozenset(taken.source for taken in _imports(module, names)) - {module.name}
        for module in modules
    }


def graph_without_doors(modules: Sequence[Module]) -> Graph:
    """The import graph in which doors are passed through to the modules behind them."""
    names = {module.name for module in modules}
    doors = {module.name: list(_imports(module, names)) for module in modules if is_door(module)}
    return {
        module.name: _behind(_imports(module, names), doors) - {module.name}
        for module in modules
        if module.name not in doors
    }


def is_door(module: Module) -> bool:
    """Whether a module is an `__init__` that only passes on names."""
    head = module.nodes[0]
    return (
        module.is_package
        and isinstance(head, ast.Module)
        and all(_passes_on(statement) for statement in head.body)
    )


def _passes_on(statement: ast.stmt) -> bool:
    match statement:
        case ast.Import() | ast.ImportFrom() | ast.Expr(value=ast.Constant()):
            return True
        case ast.Assign(targets=[ast.Name(id="__all__")]):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING"), body=body, orelse=[]):
            return all(_passes_on(inner) for inner in body)
        case _:
            return False


def _imports(module: Module, names: Collection[str]) -> Iterator[Import]:
    """What a module takes from the modules of these names."""
    for node in module.nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name in names:
                    yield Import(alias.name, None, alias.asname or alias.name)
        elif isinstance(node, ast.ImportFrom):
            base = _base(node, module)
            for alias in node.names:
                bound = alias.asname or alias.name
                if f"{base}.{alias.name}" in names:
                    yield Import(f"{base}.{alias.name}", None, bound)
                elif base in names:
                    yield Import(base, None if alias.name == "*" else alias.name, bound)


def _base(node: ast.ImportFrom, module: Module) -> str:
    """The absolute name of the module after `from`."""
    if not node.level:
        return node.module or ""
    parts = module.folder.split(".")
    above = parts[: len(parts) - node.level + 1]
    return ".".join([*above, *([node.module] if node.module else [])])


def _behind(taken: Iterable[Import], doors: Mapping[str, Sequence[Import]]) -> frozenset[str]:
    """The modules that define what is imported."""
    waiting, seen, behind = list(taken), set[Import](), set[str]()
    while waiting:
        one = waiting.pop()
        if one in seen:
            continue
        seen.add(one)
        if one.source not in doors:
            behind.add(one.source)
            continue
        waiting += [
            inner
            for inner in doors[one.source]
            if one.name is None or inner.bound in (one.name, "*")
        ]
    return frozenset(behind)


def components(graph: Graph) -> list[tuple[str, ...]]:
    """The strongly connected components: modules that reach each other, in order of name."""
    reached = {name: _reached(name, graph) for name in graph}
    groups = (
        tuple(sorted({name, *(other for other in reached[name] if name in reached[other])}))
        for name in graph
    )
    return sorted(set(groups))


def _reached(start: str, graph: Graph) -> set[str]:
    waiting, reached = [start], set[str]()
    while waiting:
        new = graph[waiting.pop()] - reached
        reached |= new
        waiting += new
    return reached


def circles(graph: Graph) -> list[tuple[str, ...]]:
    """Groups of modules that import each other, directly or through others."""
    return [group for group in components(graph) if len(group) > 1]


def longest_chain(graph: Graph) -> tuple[str, ...]:
    """A longest path of the graph from top to bottom, where a circle counts as one module."""
    home = {name: group for group in components(graph) for name in group}
    below = {
        group: sorted({home[other] for name in group for other in graph[name]} - {group})
        for group in home.values()
    }
    longest = dict[tuple[str, ...], tuple[str, ...]]()
    for group in TopologicalSorter(below).static_order():  # what is imported comes first
        tail = max((longest[other] for other in below[group]), key=len, default=())
        longest[group] = (" + ".join(group), *tail)
    return max((longest[group] for group in sorted(longest)), key=len, default=())
