"""Kinds of site. That a new kind is one module and an entry is tried in test_contributing."""

from repairkit.graph.kinds import sites


def test_each_operator_belongs_to_one_kind() -> None:
    named = [operator for kind in sites.KINDS for operator in kind.operators]
    assert len(named) == len(set(named))
