from __future__ import annotations

import json
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from repairkit.core.errors import RunFolderError
from repairkit.core.game import GameFacts, Outcomes, Round
from repairkit.core.scores import Budget, Estimator, Scores, Spent
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.checkpoint import (
    CheckpointStore,
    Decoder,
    Encoder,
    dataclass_types,
    earlier_settings_key,
    settings_key,
)
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.linear.regression import Regression, RegressionRun
from repairkit.estimators.reference_scores import RandomScores
from repairkit.estimators.registry import make_estimator
from repairkit.estimators.samples import Moments
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from tests.games import SoftGame, TableGame, WatchedGame, any_values, noisy
from tests.strategies import storable_values

GAME = TableGame(noisy(any_values(4), noise=0.2))
WALKS = Permutation(batch_size=4, chunk=3)
BUDGET = Budget(40)
EXPLODED: list[str] = []


def explode() -> None:
    EXPLODED.append("a pickle was loaded")


class Bomb:
    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return explode, ()


def there_and_back(value: Any) -> Any:
    encoder = Encoder()
    tree = json.loads(json.dumps([encoder.encode(value), encoder.generators]))
    return Decoder(encoder.blobs, tree[1], dataclass_types([value])).decode(tree[0])


def same(first: Any, second: Any) -> bool:
    if type(first) is not type(second):
        return False
    if isinstance(first, np.ndarray | np.generic):
        layouts = (first.dtype, first.shape, first.flags.f_contiguous, first.tobytes())
        return layouts == (second.dtype, second.shape, second.flags.f_contiguous, second.tobytes())
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same, first, second))
    if isinstance(first, dict):
        return list(first) == list(second) and all(same(first[k], second[k]) for k in first)
    return repr(first) == repr(second)


@given(storable_values())
@settings(deadline=None, max_examples=60)
def test_values_come_back_to_the_bit(value: object) -> None:
    assert same(there_and_back(value), value)


@pytest.mark.parametrize(
    "bits", [np.random.PCG64, np.random.PCG64DXSM, np.random.MT19937, np.random.Philox,
             np.random.SFC64]
)  # fmt: skip
def test_a_generator_goes_on_where_it_was(bits: Any) -> None:
    generator = np.random.Generator(bits(np.random.SeedSequence([1, 2**70], spawn_key=(3,))))
    generator.random(7)
    generator.spawn(2)
    restored = there_and_back([generator, {"same": generator}])
    assert restored[0] is restored[1]["same"]
    assert restored[0].random(5).tolist() == generator.random(5).tolist()
    assert restored[0].spawn(1)[0].random() == generator.spawn(1)[0].random()


def test_frozen_and_other_dataclasses_come_back() -> None:
    moments = Moments.empty(3, 2)
    moments.add(np.array([1]), np.array([[0.5, -1.0]]))
    restored = there_and_back({"both": (moments, WALKS)})["both"]
    assert restored[0].means.tobytes() == moments.means.tobytes()
    restored[0].add(np.array([2]), np.array([[0.5, -1.0]]))
    assert restored[1] == WALKS


@pytest.mark.parametrize("value", [{1, 2}, object(), np.array([None]), {(1,): 2}, Moments, b"x"])
def test_what_cannot_be_stored_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="cannot be stored"):
        Encoder().encode(value)


def saved(path: Path, estimator: Estimator = WALKS, seed: int = 0) -> CheckpointStore:
    store = CheckpointStore(path / "checkpoint")
    estimate(GAME, estimator, budget=BUDGET, seed=seed, checkpoint=store)
    return store


def refused(store: CheckpointStore, match: str | None = None, estimator: Estimator = WALKS) -> None:
    with pytest.raises(RunFolderError, match=match) as caught:
        estimate(GAME, estimator, budget=BUDGET, seed=0, checkpoint=store)
    assert "\n" not in str(caught.value)
    assert str(store.path) in str(caught.value)


def rewrite(store: CheckpointStore, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the tree, as a stranger could."""
    with zipfile.ZipFile(store.path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    tree = json.loads(members["checkpoint.json"])
    change(tree)
    with zipfile.ZipFile(store.path, "w") as archive:
        for name, data in {**members, "checkpoint.json": json.dumps(tree)}.items():
            archive.writestr(name, data)


def test_nothing_is_left_beside_the_checkpoint(tmp_path: Path) -> None:
    store = saved(tmp_path / "new" / "folder")
    assert list(store.path.parent.iterdir()) == [store.path]


def test_what_the_game_told_is_not_stored(tmp_path: Path) -> None:
    store = saved(tmp_path)
    with zipfile.ZipFile(store.path) as archive:
        assert {"facts", "settings"}.isdisjoint(json.loads(archive.read("checkpoint.json"))["run"])


@pytest.mark.parametrize(
    "other",
    [Permutation(batch_size=5, chunk=3), Tmab(), RandomScores()],
    ids=lambda other: type(other).__name__,
)
def test_other_settings_are_refused(other: Estimator, tmp_path: Path) -> None:
    refused(saved(tmp_path), "belongs to a run with other settings", other)


def test_another_seed_or_game_is_refused(tmp_path: Path) -> None:
    refused(saved(tmp_path, seed=1), "another seed")
    facts = GAME.facts
    more = TableGame(noisy(any_values(4), noise=0.2, n_images=33)).facts
    keys = {settings_key(WALKS, f, seed) for f in (facts, more) for seed in (0, 1)}
    assert len(keys) == 4
    assert settings_key(WALKS, facts, 0) in keys


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_a_truncated_file_is_refused(share: float, tmp_path: Path) -> None:
    store = saved(tmp_path)
    data = store.path.read_bytes()
    store.path.write_bytes(data[: int(share * len(data))])
    refused(store, "cannot be read as a checkpoint")


def test_a_flipped_bit_is_never_taken_for_data(tmp_path: Path) -> None:
    store = saved(tmp_path)
    data = store.path.read_bytes()
    expected = estimate(GAME, WALKS, budget=BUDGET, seed=0).scores.values.tobytes()
    for place in np.random.default_rng(0).choice(len(data), 60, replace=False):
        store.path.write_bytes(data[:place] + bytes([data[place] ^ 0x10]) + data[place + 1 :])
        try:
            end = estimate(GAME, WALKS, budget=BUDGET, seed=0, checkpoint=store)
        except RunFolderError:
            continue
        # Some bytes of a zip mean nothing, such as dates.
        assert end.scores.values.tobytes() == expected


def test_a_pickle_is_never_loaded(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    store.path.write_bytes(pickle.dumps(Bomb()))
    refused(store)
    with store.path.open("wb") as file:
        np.savez(file, bomb=np.array([Bomb()], dtype=object))
    refused(store)
    store = saved(tmp_path / "real")

    def plant(tree: dict[str, Any]) -> None:
        tree["run"]["moments"]["fields"]["means"]["dtype"] = "|O"

    rewrite(store, plant)
    with zipfile.ZipFile(store.path, "a") as archive:
        archive.writestr("99", pickle.dumps(Bomb()))
    refused(store)
    assert not EXPLODED


def set_at(*path: str | int, to: Any) -> Callable[[dict[str, Any]], None]:
    def change(tree: Any) -> None:
        for step in path[:-1]:
            tree = tree[step]
        tree[path[-1]] = to

    return change


MEANS = ("run", "moments", "fields", "means")


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (set_at("run", "moments", "dataclass", to="os.system"), "holds a os.system"),
        (set_at("run", "moments", to=7), "moments is of another kind"),
        (set_at("run", "moments", "fields", to={}), "other fields"),
        (set_at("run", "n_walks", to="many"), "n_walks is of another kind"),
        (set_at("run", "extra", to=1), "another kind"),
        (set_at(*MEANS, "shape", to=[10**12, 1]), "another size"),
        (set_at(*MEANS, "shape", to=[-1, 1]), "not of numbers"),
        (set_at(*MEANS, "dtype", to="f8,O"), "not of numbers"),
        (set_at(*MEANS, "array", to=10**6), "cannot be read"),
        (set_at("spent", to={"rounds": "x"}), "cannot be read"),
        (set_at("format", to="repairkit checkpoint 99"), "format"),
        (set_at("run", to=[]), "cannot be read"),
    ],
)
def test_a_tree_that_we_did_not_write_is_refused(
    change: Callable[[dict[str, Any]], None], match: str, tmp_path: Path
) -> None:
    store = saved(tmp_path)
    rewrite(store, change)
    refused(store, match)


def test_a_tree_too_deep_is_refused(tmp_path: Path) -> None:
    store = saved(tmp_path)
    with zipfile.ZipFile(store.path, "w") as archive:
        archive.writestr("checkpoint.json", '{"list": [' * 100_000)
    refused(store)


def test_a_compressed_file_is_refused_before_it_can_swell(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    with zipfile.ZipFile(store.path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("checkpoint.json", " " * 10**6)
    refused(store, "compressed")


def test_a_place_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refused(CheckpointStore(tmp_path / "file" / "checkpoint"), "Not a directory")
    (tmp_path / "folder").mkdir()
    refused(CheckpointStore(tmp_path / "folder"))


@dataclass(frozen=True)
class Own:
    """An estimator of the user's, whose run comes to hold a dataclass only later."""

    weight: float = 1.0
    rule: Callable[[float], float] = abs

    def start(self, facts: GameFacts, rng: np.random.Generator) -> OwnRun:
        return OwnRun(facts, rng)


@dataclass(frozen=True)
class Note:
    words: str


class OwnRun:
    stored_types = (Note,)

    def __init__(self, facts: GameFacts, rng: np.random.Generator) -> None:
        self.facts, self.rng = facts, rng
        self.note: Note | None = None

    def ask(self) -> Round:
        return Round.nothing(self.facts.n_players)

    def tell(self, outcomes: Outcomes) -> None:
        self.note = Note(f"{len(outcomes.scores)} rows")

    def read(self) -> Scores:
        return RandomScores().start(self.facts, self.rng).read()


def test_two_classes_of_one_name_are_refused_when_written(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path / "checkpoint")
    run: Any = WALKS.start(GAME.facts, np.random.default_rng(0))
    run.note = [make_dataclass("Moments", ["words"])("not the library's")]
    with pytest.raises(TypeError, match=r"two classes named Moments, .*; rename one"):
        store.save(run, Spent(), "key")
    assert not store.path.exists()


EARLIER_RUNS: dict[str, Estimator] = {
    "auto": Auto(top_k=1, epsilon=0.0, round_rows=32, batch_size=4),
    "tmab": Tmab(batch_size=8, top_k=2, fresh=0.0),
}


EARLIER_KEYS = {
    "auto": "a10cafd2b069a00c",
    "exact": "4ded72459caad1f0",
    "permutation": "4ec5d7fa2f7118b9",  # d218359b3a453aff, until walks could stop by themselves
    "tmab": "1a977fd167be198c",
    "regression": "3cfb58b3e1378aa5",
    "repair": "45da7e51a78fb84f",
    "marginals": "ae6c12c9d6f17e0a",
    "leave-one-out": "add8ccf1e2f0158e",
    "random": "064747701c7776e6",
}


@pytest.mark.parametrize("name", EARLIER_KEYS)
def test_the_keys_of_earlier_checkpoints_stay_though_modules_move(name: str) -> None:
    places = np.add.outer(np.add.outer(7 * np.arange(32), 5 * np.arange(16)), 3 * np.arange(2))
    facts = TableGame((places % 11) / 8).facts
    key = earlier_settings_key(make_estimator(name), facts, 3)
    assert key.startswith(EARLIER_KEYS[name])


@pytest.mark.parametrize("name", EARLIER_RUNS)
def test_a_checkpoint_from_before_classes_moved_is_resumed(name: str, tmp_path: Path) -> None:
    """Written by the code of 28 November 2026, 30 rounds into a run with seed 4."""
    store = CheckpointStore(tmp_path / "checkpoint")
    store.path.write_bytes((Path(__file__).parent / "earlier" / f"{name}.zip").read_bytes())
    with zipfile.ZipFile(store.path) as archive:
        tree = archive.read("checkpoint.json").decode()
        before = json.loads(tree)["spent"]["evaluations"]
    assert "repairkit.estimators.moments.Moments" in tree
    places = np.add.outer(np.add.outer(7 * np.arange(32), 5 * np.arange(16)), 3 * np.arange(2))
    game = WatchedGame(TableGame((places % 11) / 8))
    budget = Budget(2_000)
    resumed = estimate(game, EARLIER_RUNS[name], budget=budget, seed=4, checkpoint=store)
    assert game.evaluations == resumed.spent.evaluations - before
    never_killed = estimate(game, EARLIER_RUNS[name], budget=budget, seed=4)
    for part in ("values", "std_errors", "ci_low", "ci_high", "samples", "decided"):
        one, two = (getattr(end.scores, part) for end in (resumed, never_killed))
        assert one.tobytes() == two.tobytes()
    assert resumed.spent.evaluations == never_killed.spent.evaluations


@pytest.mark.parametrize("estimator", [Regression(), Auto(top_k=8)])
def test_a_checkpoint_from_before_sizes_were_pooled_goes_on_with_its_own(
    estimator: Estimator, tmp_path: Path
) -> None:
    """Such a run has no field for the sizes behind the collapse."""
    game, store = SoftGame(80), CheckpointStore(tmp_path / "checkpoint")

    def begun() -> Any:
        return estimator.start(game.facts, np.random.default_rng(3))

    def begun_before() -> Any:
        run = begun()
        regression = run if isinstance(run, RegressionRun) else run.regression
        regression.law, regression.plan = "balanced", replace(regression.plan, law="balanced")
        return run

    run, whole = begun_before(), begun_before()
    for _ in range(6):
        run.tell(game.play(run.ask()))
    store.save(run, Spent(6, 2_000, 2_000, 1.0), "key")
    with zipfile.ZipFile(store.path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    tree = json.loads(members["checkpoint.json"])
    fields = tree["run"] if estimator == Regression() else tree["run"]["regression"]["fields"]
    del fields["beyond"]
    members["checkpoint.json"] = json.dumps(tree).encode()
    with zipfile.ZipFile(store.path, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    resumed = begun()
    assert store.load(resumed, "key") is not None
    for _ in range(12):
        resumed.tell(game.play(resumed.ask()))
    for _ in range(18):
        whole.tell(game.play(whole.ask()))
    assert resumed.read().values.tobytes() == whole.read().values.tobytes()


def test_runs_of_ones_own_are_stored_with_the_types_they_name(tmp_path: Path) -> None:
    store, key = CheckpointStore(tmp_path / "checkpoint"), settings_key(Own(), GAME.facts, 0)
    run = Own().start(GAME.facts, np.random.default_rng(0))
    run.note = Note("found")
    run.rng.random(3)
    store.save(run, Spent(1, 2, 3, 4.5), key)
    fresh = Own().start(GAME.facts, np.random.default_rng(0))
    assert store.load(fresh, key) == Spent(1, 2, 3, 4.5)
    assert fresh.note == Note("found")
    assert fresh.rng.random() == run.rng.random()
    assert settings_key(Own(2.0), GAME.facts, 0) != key
