"""Kinds of site. That a new kind is one module and an entry is tried in test_contributing."""

from repairkit.graph.kinds import sites


def test_each_kind_of_site_is_found_by_one() -> None:
    """An operator may be asked of several in turn: a MatMul may sum what heads attend to."""
    named = [n for kind in sites.KINDS for n in ([kind.named] if kind.named else kind.operators)]
    assert len(named) == len(set(named))
