"""A new way to change models is one object in the list of cures."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from repairkit.core.filters import Constant, FrozenFilter, Patch, constant_of
from repairkit.core.suite import Indices
from repairkit.jobs.repair import patching
from repairkit.jobs.repair.cures.supplies import Supplies
from repairkit.jobs.repair.objective import ChoosingCriterion
from repairkit.jobs.setup.preparing import patched_outputs
from repairkit.jobs.setup.workbench import Bench
from repairkit.repairs.crossfit import Bound
from repairkit.repairs.cure import Cure, Cured
from repairkit.report.story import promise_in_words, search_in_words
from tests.cli.test_commands import harm
from tests.conftest import Answer, Project

Command = Callable[..., Answer]


@dataclass(frozen=True, eq=False)
class Known:
    """Always freezes the filter that harms most, whatever the images say."""

    bench: Bench
    criterion: ChoosingCriterion
    name: str

    def on(self, within: Indices) -> Cured:
        """See `cure.Cure`."""
        patch = Patch((FrozenFilter(self.bench.roster.filters[2], self._level),))
        outputs = patched_outputs(self.bench, patch, self.bench.parts.selection)
        before, after = (
            self.criterion.figure(self.criterion.columns(each), within)
            for each in (self.criterion.plain, outputs)
        )
        gain = Bound(100.0 * (after - before), after - before)  # the largest of all cures
        return Cured(patch=patch, outputs=outputs, gain=gain, name=self.name)

    @property
    def _level(self) -> Constant:
        harmful = self.bench.roster.filters[2]
        return constant_of(self.bench.working.levels[harmful.site][harmful.channel])


@dataclass(frozen=True)
class KnownStrategy:
    """See `supplies.Strategy`."""

    name: str = "known"
    needs_values: bool = False

    def cure(self, bench: Bench, criterion: ChoosingCriterion, supplies: Supplies) -> Cure:
        """See `supplies.Strategy`."""
        assert len(supplies.strata) == len(bench.parts.selection)
        return Known(bench, criterion, self.name)


@pytest.mark.long
@pytest.mark.parametrize("repair", ["known", "best", "freeze"])
def test_a_fifth_cure_is_one_object_in_the_list(
    repairkit: Command, project: Project, monkeypatch: pytest.MonkeyPatch, repair: str
) -> None:
    harm(project)
    before = project.model.read_bytes()
    monkeypatch.setattr(patching, "CURES", (*patching.CURES, KnownStrategy()))
    answer = repairkit("patch", project.model, "--fairness", "--repair", repair, "--json")
    assert answer.code == 0, answer.err
    document: dict[str, Any] = json.loads(answer.out)
    selection = document["selection"]
    # Its row stands in the table, judged by images that did not choose, like every other cure.
    rows = {row["cure"]: row for row in selection["cures"]}
    of_filters = {"freeze"} if repair != "known" else set()
    assert set(rows) == {"bias", "last-layer", "known"} | of_filters
    assert rows["known"]["n_frozen"] == 1
    assert rows["known"]["promise"] == "objective"
    # Under `best` it competes, and here it wins; alone it is taken without values of filters.
    assert selection["cure"] == ("freeze" if repair == "freeze" else "known")
    if repair == "freeze":
        figure = rows["known"]["changes"]["worst_group_accuracy"]
        figure["value"] = 1.0
        better = "Another cure gained more out of fold: known"
        assert any(sentence.startswith(better) for sentence in promise_in_words(document))
    else:
        assert search_in_words(selection) == "No filter was searched for."
        assert [frozen["filter"] for frozen in document["frozen"]] == ["conv:2"]
        assert {fold["cure"] for fold in selection["folds"]} == {"known"}
    assert repairkit("verify", project.model, document["patched_model"]).code == 0
    assert repairkit("revert", document["patched_model"], "-o", "back.onnx").code == 0
    assert Path("back.onnx").read_bytes() == before


def test_an_unknown_repair_is_refused_with_every_name_of_the_list(
    repairkit: Command, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patching, "CURES", (*patching.CURES, KnownStrategy()))
    answer = repairkit("patch", project.model, "--fairness", "--repair", "magic")
    assert answer.code == 1
    assert "expected freeze, bias, last-layer, known, best" in answer.err
