"""Pages of the site about the commands, made from the commands themselves."""

import re
from collections.abc import Iterator
from typing import Any

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from repairkit.cli import app
from repairkit.core import errors

FOLDER = "reference/commands"
_GROUP = typer.main.get_command(app)
_MARKS = re.compile(r"([\\`*_{}\[\]<>#|])")
_EXTRA = re.compile(r"\s+\[([^\[\]]*)\]$")


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add an overview, and a page for each command."""
    guide = {
        page.src_uri: page.content_string
        for page in files.documentation_pages()
        if page.src_uri.startswith(("guide/", "jobs/"))
    }
    texts = {f"{FOLDER}/index.md": overview()}
    for name, command in _commands().items():
        texts[_place(name)] = page_of(name, command, guide)
    for place, text in texts.items():
        files.append(File.generated(config, place, content=text))
    return files


def overview() -> str:
    """The page that lists all commands, the options of the program itself, and exit codes."""
    rows = [
        f"| [`{name}`]({name}.md) | {_plain(command.help or '')} |"
        for name, command in _commands().items()
    ]
    codes = [f"| {code} | {words} |" for code, words in sorted(exit_codes().items())]
    return "\n".join(
        [
            "# All commands",
            "",
            "This page and the page of each command are made from the program itself.",
            "",
            "| Command | Does |",
            "|---|---|",
            *rows,
            "",
            "## Options of the program",
            "",
            *_options(_GROUP, typer.Context(_GROUP, info_name="repairkit")),
            "## Exit codes",
            "",
            "| Code | Means |",
            "|---|---|",
            *codes,
            "",
        ]
    )


def exit_codes() -> dict[int, str]:
    """What each exit code means, in the words of the errors that end with it."""
    words = {0: ["Done."], 2: ["Wrong usage: an unknown option, or a value that it cannot take."]}
    words[143] = ["Stopped by SIGTERM."]
    for error in _with_descendants(errors.RepairkitError):
        # The direct descendants tell enough of errors that the user can correct.
        if error.exit_code != 1 or error.__base__ is errors.RepairkitError:
            words.setdefault(error.exit_code, []).append((error.__doc__ or "").splitlines()[0])
    return {code: _plain(" ".join(each)) for code, each in words.items()}


def page_of(name: str, command: Any, guide: dict[str, str]) -> str:
    """The page of one command.

    Args:
        name: of the command.
        command: as typer made it.
        guide: texts of the pages that may use the command, by their places in `docs`.
    """
    context = command.context_class(command, info_name=f"repairkit {name}")
    usage = " ".join([context.info_name, *command.collect_usage_pieces(context)])
    used = [
        f"[{_title(text)}](../../{place})"
        for place, text in guide.items()
        if re.search(rf"repairkit {re.escape(name)}\b", text)
    ]
    return "\n".join(
        [
            f"# {name}",
            "",
            _plain(command.help or ""),
            "",
            f"    {usage}",
            "",
            *([f"Explained in: {', '.join(used)}.", ""] if used else []),
            *_options(command, context),
        ]
    )


def _commands() -> dict[str, Any]:
    return dict(_GROUP.commands)  # type: ignore[attr-defined]


def _place(name: str) -> str:
    return f"{FOLDER}/{name}.md"


def _options(command: Any, context: Any) -> Iterator[str]:
    """Each panel of the help under a heading, each option as a term with a link of its own."""
    panels: dict[str, list[tuple[str, str, str]]] = {"Arguments": [], "Options": []}
    for each in command.get_params(context):
        record = each.get_help_record(context)
        if record is None:
            continue
        plain = "Arguments" if each.param_type_name == "argument" else "Options"
        title = getattr(each, "rich_help_panel", None) or plain
        panels.setdefault(title, []).append((each.name, *record))
    for title, records in panels.items():
        if records and command is not _GROUP:
            yield from (f"## {title}", "")
        for name, signature, words in records:
            yield from _term(f"{command.name or 'repairkit'}--{name}", signature, words)


def _term(anchor: str, signature: str, words: str) -> Iterator[str]:
    extra = _EXTRA.search(words)
    text = words if extra is None else words[: extra.start()]
    yield f"[`{signature}`](#{anchor}){{ #{anchor} .option }}"
    yield f":   {_plain(text)}"
    if extra is not None:
        yield f"    *{_plain(extra.group(1))}*"
    yield ""


def _plain(text: str) -> str:
    """Text that Markdown shows as it is, in one line."""
    return _MARKS.sub(r"\\\1", " ".join(text.split()))


def _title(text: str) -> str:
    return next(line for line in text.splitlines() if line.startswith("# "))[2:]


def _with_descendants(kind: type[errors.RepairkitError]) -> Iterator[type[errors.RepairkitError]]:
    for each in kind.__subclasses__():
        yield each
        yield from _with_descendants(each)
