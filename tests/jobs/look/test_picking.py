"""Which filters an atlas shows: a law of both ends and the best of each layer."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from repairkit.core.filters import Filter
from repairkit.jobs.look.picking import Reason, pick_filters

RANKED = st.lists(
    st.tuples(st.sampled_from("abcdef"), st.integers(0, 30)), unique=True, min_size=1, max_size=60
).map(lambda pairs: [f"{site}:{channel}" for site, channel in pairs])


@given(ranked=RANKED, n=st.integers(1, 70), less=st.booleans())
def test_chosen_filters_are_in_the_order_by_value_and_have_true_reasons(
    ranked: list[str], n: int, less: bool
) -> None:
    picks = pick_filters(ranked, n, less_is_better=less)
    ids = ranked[::-1] if less else ranked
    names = [pick.filter.id for pick in picks]
    assert len(names) == len(set(names)) == min(n, len(ranked))
    assert names == sorted(names, key=ids.index)
    for pick in picks:
        assert ranked[pick.place - 1] == pick.filter.id
        assert pick.why
        position = ids.index(pick.filter.id)
        for reason in pick.why:
            layer = next(name for name in ids if Filter.parse(name).site == pick.filter.site)
            assert {
                "valuable": reason.place == position + 1,
                "harmful": reason.place == len(ids) - position,
                "layer": layer == pick.filter.id,
            }[reason.of]


@given(ranked=RANKED, n=st.integers(2, 70))
def test_no_filter_between_two_of_one_end_is_left_out(ranked: list[str], n: int) -> None:
    picks = pick_filters(ranked, n)
    for end in ("valuable", "harmful"):
        places = [r.place for pick in picks for r in pick.why if r.of == end]
        assert sorted(places) == list(range(1, len(places) + 1))
    sites = list(dict.fromkeys(Filter.parse(name).site for name in ranked))
    shown = {pick.filter.site for pick in picks if Reason(of="layer", place=1) in pick.why}
    assert shown >= set(sites[: n // 2])
