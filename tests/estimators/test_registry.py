from types import ModuleType

import pytest

from repairkit.core.errors import SettingsError
from repairkit.estimators.exact import Exact
from repairkit.estimators.registry import ESTIMATORS, make_estimator
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab

HERE = "own_estimators"


@pytest.fixture(autouse=True)
def own_estimators(monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's."""
    module = ModuleType(HERE)
    ready, not_one = Permutation(batch_size=3), 5

    def fails() -> Tmab:
        raise ZeroDivisionError("one\ntwo")

    vars(module).update(
        ready=ready, Kind=Permutation, make=lambda: ready, not_one=not_one, fails=fails
    )
    monkeypatch.setitem(__import__("sys").modules, HERE, module)


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_name_makes_its_estimator(name: str) -> None:
    assert type(make_estimator(name)) is ESTIMATORS[name]


def test_settings_are_passed_on() -> None:
    assert make_estimator("tmab", top_k=3, side="both") == Tmab(top_k=3, side="both")


@pytest.mark.parametrize(
    ("path", "settings"),
    [("ready", {}), ("make", {}), ("Kind", {"batch_size": 3})],
)
def test_ones_own_are_loaded_from_where_they_are(path: str, settings: dict[str, int]) -> None:
    assert make_estimator(f"{HERE}:{path}", **settings) == Permutation(batch_size=3)


@pytest.mark.parametrize(
    ("name", "settings", "match"),
    [
        (
            "tmba",
            {},
            "unknown estimator 'tmba'; did you mean 'tmab'. choose one of auto, exact, .*object",
        ),
        ("zzz", {}, "unknown estimator 'zzz'; choose one of auto"),
        ("tmab", {"epsilo": 1}, "unknown setting of tmab 'epsilo'; did you mean 'epsilon'"),
        ("tmab", {"epsilon": "a"}, "epsilon is 'a'"),
        ("exact", {"top_k": 1}, "exact takes no settings and 'top_k' was given"),
        (f"{HERE}:ready", {"chunk": 1}, "takes no settings; leave out chunk"),
        (f"{HERE}:make", {"chunk": 1}, "cannot be called with chunk"),
        (f"{HERE}:Kind", {"chunk": 0}, "^chunk is 0"),
        (f"{HERE}:fails", {}, "cannot be called without arguments .ZeroDivisionError: one.$"),
        (f"{HERE}:not_one", {}, "is a int without"),
        (f"{HERE}:nothing", {}, "has no 'nothing'"),
        (f"{HERE}:", {}, "incomplete"),
        ("no_such_module:thing", {}, "cannot be imported"),
    ],
)
def test_what_cannot_be_made_is_told(name: str, settings: dict[str, object], match: str) -> None:
    with pytest.raises(SettingsError, match=match):
        make_estimator(name, **settings)


def test_exact_has_no_settings() -> None:
    assert make_estimator("exact") == Exact()
