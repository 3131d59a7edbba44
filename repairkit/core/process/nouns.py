"""What filters are called where people read of them.

All sentences are written for filters of ONNX layers, `SITE:CHANNEL`. The filters of a tree ensemble
are called trees. Where a model came from a framework, its filters have the names of the framework's
layers, `LAYER:CHANNEL`. Documents keep the ONNX names beside these.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

TREE = "tree"
"""What documents give as `unit` where the filters are trees."""

# Not in names and paths: beside quotes, dots, slashes and the like stands no word of a sentence.
_FILTER = re.compile(r"(?<![\w./:'\"#&-])([Ff])ilter(s?)(?![\w/-]|'(?!s\b)|\.\w|:\w)")
_TREES = {"f": "tree", "F": "Tree"}


def in_trees(text: str) -> str:
    """The sentence with the word tree in place of filter; names in quotes and paths stay."""
    return _FILTER.sub(lambda word: _TREES[word[1]] + word[2], text)


def by_layers(text: str, layers: Mapping[str, str]) -> str:
    """The text with the framework's layers in place of sites.

    `SITE:CHANNEL` becomes `LAYER:CHANNEL`, `site 'SITE'` becomes `layer 'LAYER'`, and a text that
    is a site's name becomes the layer's.

    Args:
        text: a sentence, or a name.
        layers: the name of the layer that became each site.
    """
    if not layers:
        return text
    if text in layers:
        return layers[text]
    ids, quoted = _patterns(tuple(layers))
    text = ids.sub(lambda name: f"{layers[name[1]]}:{name[2]}", text)
    return quoted.sub(lambda name: f"layer {layers[name[1]]!r}", text)


@lru_cache(maxsize=8)
def _patterns(sites: tuple[str, ...]) -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Of filters' ids, and of quoted sites; longer names first, since one may begin another."""
    names = "|".join(re.escape(site) for site in sorted(sites, key=len, reverse=True))
    return re.compile(rf"(?<![\w./:])({names}):(\d+)(?!\w)"), re.compile(rf"\bsite '({names})'")


def layers_of(document: Mapping[str, Any]) -> Mapping[str, str]:
    """The layers of a document's sites; empty where it tells none."""
    layers: Mapping[str, str] = (document.get("layers") or {}).get("sites") or {}
    return layers


@dataclass
class _Nouns:
    """What is known of the model at hand."""

    of_trees: bool = False
    layers: Mapping[str, str] = field(default_factory=dict)


_NOUNS: ContextVar[_Nouns | None] = ContextVar("nouns", default=None)


@contextmanager
def naming() -> Iterator[None]:
    """Until the block ends, `worded` heeds what `learn` is told."""
    token = _NOUNS.set(_Nouns())
    try:
        yield
    finally:
        _NOUNS.reset(token)


def learn(*, of_trees: bool = False, layers: Mapping[str, str] | None = None) -> None:
    """What the model at hand is, for `worded`; nothing happens outside of `naming`.

    Args:
        of_trees: it is a tree ensemble.
        layers: the name of the layer that became each site, where that is known.
    """
    nouns = _NOUNS.get()
    if nouns is not None:
        nouns.of_trees |= of_trees
        nouns.layers = {**nouns.layers, **(layers or {})}


def worded(text: str) -> str:
    """The sentence or name in the words that fit the model at hand."""
    nouns = _NOUNS.get()
    if nouns is None:
        return text
    named = by_layers(text, nouns.layers)
    return in_trees(named) if nouns.of_trees else named
