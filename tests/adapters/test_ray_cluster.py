"""Ray: whoever evaluates, and whatever happens to workers and driver, the scores are the same."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from repairkit.core.errors import DeviceError, RepairkitError, SettingsError
from repairkit.core.game import Game
from repairkit.core.scores import Budget, Estimator, Scores
from repairkit.estimators.auto import Auto
from repairkit.estimators.driving.driver import estimate
from repairkit.estimators.exact import Exact
from repairkit.estimators.linear.regression import Regression
from repairkit.estimators.walking.permutation import Permutation
from repairkit.estimators.walking.tmab import Tmab
from repairkit.jobs.score.elsewhere import ClusterOptions, Recipe, find_cluster
from repairkit.jobs.setup.preparing import prepare
from repairkit.jobs.setup.subject import read_subject
from repairkit.jobs.setup.workbench import Bench, Settings
from tests.conftest import Answer, Project, write_project

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'repairkit[ray]'")
ray_cluster = pytest.importorskip("repairkit_adapters.ray.cluster")

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")

Command = Callable[..., Answer]
TWO = ClusterOptions("local", workers=2)
METHODS: dict[str, Estimator] = {
    "regression": Regression(round_rows=2048, pilot_rows=256),
    "auto": Auto(round_rows=512, epsilon=1e-9, top_k=1),
    "tmab": Tmab(batch_size=16, epsilon=1e-9, lanes=4),
    "permutation": Permutation(batch_size=16),
    "exact": Exact(),
}
BUDGET = Budget(6_000)
QUICK = (
    "from repairkit.estimators import CheckpointStore;"
    "CheckpointStore.__init__.__defaults__ = (0.1,);"  # else a short run is never saved midway
    "from repairkit.cli import main; main()"
)


@pytest.fixture(scope="module")
def _started() -> Iterator[None]:
    """A Ray of two cores that is stopped again."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(
        address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=40
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    project = write_project(tmp_path_factory.mktemp("ray"))
    settings = Settings(data=project.data, metrics=("loss", "accuracy"))
    return prepare(read_subject(project.model), settings)


def recipe_of(bench: Bench) -> Recipe:
    return Recipe.of(bench, bench.parts.selection, bench.metrics(("loss", "accuracy")), None)


def bits(game: Game, name: str) -> bytes:
    scores: Scores = estimate(game, METHODS[name], budget=BUDGET, seed=5).scores
    return b"".join(a.tobytes() for a in (scores.values, scores.std_errors, scores.samples))


@pytest.fixture(scope="module")
def alone(bench: Bench) -> dict[str, bytes]:
    game = bench.working.game(bench.parts.selection, bench.metrics(("loss", "accuracy")))
    return {name: bits(game, name) for name in METHODS}


class Killer(threading.Thread):
    """Kills workers with SIGKILL, at random, until it is told to stop."""

    def __init__(self, crew: ray_cluster.RayCrew, seed: int, pauses: tuple[float, float]) -> None:
        super().__init__(daemon=True)
        self.crew, self.chance, self.pauses = crew, random.Random(seed), pauses
        self.stopped = threading.Event()
        self.n_killed = 0

    def run(self) -> None:
        while not self.stopped.wait(self.chance.uniform(*self.pauses)):
            alive = self.crew.processes()
            if alive:
                try:
                    os.kill(self.chance.choice(alive), signal.SIGKILL)
                except ProcessLookupError:
                    continue
                self.n_killed += 1


@pytest.mark.long
@pytest.mark.usefixtures("_started")
def test_one_and_two_workers_give_the_same_bits_as_none(
    bench: Bench, alone: dict[str, bytes]
) -> None:
    recipe = recipe_of(bench)
    with find_cluster("ray", TWO).open(recipe, seed=5) as game:
        for name, expected in alone.items():
            assert bits(game, name) == expected, name
    with find_cluster("ray", ClusterOptions("local", workers=1)).open(recipe, seed=5) as game:
        assert bits(game, "regression") == alone["regression"]


@pytest.mark.usefixtures("_started")
@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in range(1, 21))]
)
def test_a_killed_worker_changes_nothing(bench: Bench, alone: dict[str, bytes], seed: int) -> None:
    with find_cluster("ray", TWO).open(recipe_of(bench), seed=5) as game:
        assert isinstance(game, ray_cluster.RayGame)
        killer = Killer(game.crew, seed, (0.02, 0.8))
        killer.start()
        try:
            for _ in range(20):
                assert bits(game, "regression") == alone["regression"]
                if killer.n_killed:
                    break
        finally:
            killer.stopped.set()
            killer.join()
        assert killer.n_killed
        assert bits(game, "permutation") == alone["permutation"]


@pytest.mark.long
@pytest.mark.usefixtures("_started")
def test_a_model_that_does_not_fit_a_worker_is_told_in_one_line(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Dying:
        def __init__(self, *_: object) -> None:
            os._exit(137)  # as the kernel's out-of-memory killer leaves it

        def describe(self) -> None: ...

    monkeypatch.setattr(ray_cluster, "Engine", Dying)
    with (
        pytest.raises(DeviceError, match=r"no worker stays alive .* MiB on their way"),
        find_cluster("ray", ClusterOptions("local", workers=1)).open(recipe_of(bench), seed=5),
    ):
        pass


@pytest.mark.long
@pytest.mark.usefixtures("_started")
def test_a_worker_with_other_versions_or_other_bits_is_refused(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of(bench)
    one = find_cluster("ray", ClusterOptions("local", workers=1))
    others = ray_cluster.engine_versions() | {"onnxruntime": "0.0.1"}
    with monkeypatch.context() as patch:
        patch.setattr(ray_cluster, "engine_versions", lambda: others)
        with (
            pytest.raises(DeviceError, match=r"has onnxruntime .* and this machine 0\.0\.1"),
            one.open(recipe, seed=5),
        ):
            pass
    with one.open(recipe, seed=5) as game:
        facts = game.crew._workers[0]
        with pytest.raises(DeviceError, match="do not give the same bits"):
            game.crew._greet(1, replace(facts, probe=facts.probe[::-1]))


@pytest.mark.usefixtures("_started")
def test_more_cores_than_there_are_is_told(bench: Bench) -> None:
    cluster = find_cluster("ray", ClusterOptions("local", cores=64))
    with (
        pytest.raises(DeviceError, match="no room for a worker of 64 cores"),
        cluster.open(recipe_of(bench), seed=5),
    ):
        pass


@pytest.mark.usefixtures("_started")
def test_the_command_writes_the_same_bytes_and_leaves_no_worker(
    repairkit: Command, project: Project, tmp_path: Path
) -> None:
    how = ("--metric", "loss", "--max-evaluations", "4000", "--epsilon", "1e-9", "--quiet")
    for name, more in {
        "plain": (),
        "threads": ("--workers", "2"),
        "ray": ("--ray", "local", "--workers", "2"),
    }.items():
        answer = repairkit("score", project.model, "-o", name, *how, *more)
        assert answer.code == 0, answer.err
    expected = (tmp_path / "plain" / "scores.csv").read_bytes()
    for name in ("threads", "ray"):
        assert (tmp_path / name / "scores.csv").read_bytes() == expected
    deadline = time.monotonic() + 20
    while ray.available_resources().get("CPU") != 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2


def test_without_ray_the_extra_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(SettingsError, match=r"repairkit\[ray\]"),
        find_cluster("ray", TWO).open(recipe_of(bench), seed=5),
    ):
        pass
    with pytest.raises(SettingsError, match="nothing installed runs on a fog cluster"):
        find_cluster("fog", TWO)


def test_a_cluster_that_is_not_there_is_told_and_none_is_given_resources(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def refuse(**options: object) -> None:
        asked.update(options)
        raise ConnectionError("Could not find any running Ray instance.\nmore")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", refuse)
    with (
        pytest.raises(RepairkitError, match=r"'auto' cannot be used .*ray start --head") as error,
        find_cluster("ray", ClusterOptions("auto", workers=2)).open(recipe_of(bench), seed=5),
    ):
        pass
    assert "\n" not in str(error.value)
    assert asked["address"] == "auto"
    assert not {"num_cpus", "num_gpus", "resources", "object_store_memory"} & asked.keys()


def test_a_recipe_holds_the_images_of_its_game_and_no_path(bench: Bench) -> None:
    import pickle

    recipe = recipe_of(bench)
    assert len(recipe.suite) == len(bench.parts.selection)
    assert recipe.n_bytes < 2 * bench.parts.selection.images.array.nbytes  # type: ignore[attr-defined]
    content = pickle.dumps(recipe)
    assert str(bench.settings.data).encode() not in content
    again: Recipe = pickle.loads(content)
    game = again.open(1).game
    expected = bench.working.game(bench.parts.selection, recipe.metrics)
    assert bits(game, "exact") == bits(expected, "exact")
    assert np.array_equal(again.suite.indices, np.arange(len(recipe.suite)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("more", "n_kills"), [((), 50), (("--ray", "auto"), 25)], ids=["alone", "ray"]
)
def test_a_driver_killed_at_random_instants_resumes_to_the_same_bytes(
    project: Project,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    more: tuple[str, ...],
    n_kills: int,
) -> None:
    ray.shutdown()
    if not more:
        _kill_and_resume(project, tmp_path, more, n_kills)
        return
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:6399")
    binary = Path(sys.executable).with_name("ray")
    head = subprocess.Popen(
        [binary, "start", "--head", "--block", "--num-cpus=2", "--include-dashboard=false",
         "--port=6399", "--disable-usage-stats"],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        assert head.stdout is not None
        assert any("Ray runtime started" in line for line in head.stdout)
        _kill_and_resume(project, tmp_path, more, n_kills)
    finally:
        head.terminate()
        head.wait(60)


def _kill_and_resume(project: Project, folder: Path, more: tuple[str, ...], n_kills: int) -> None:
    command = [sys.executable, "-c", QUICK, "score", str(project.model), "--max-evaluations",
               "60000", "--metric", "loss", "--epsilon", "1e-9", "--quiet"]  # fmt: skip
    began = time.monotonic()
    subprocess.run([*command, *more, "-o", "whole"], cwd=folder, check=True)
    whole_seconds = time.monotonic() - began
    expected = (folder / "whole" / "scores.csv").read_bytes()
    subprocess.run([*command, "-o", "plain"], cwd=folder, check=True)
    assert (folder / "plain" / "scores.csv").read_bytes() == expected
    chance, n_done, n_resumed, run = random.Random(1), 0, 0, 0
    while n_done < n_kills:
        out = f"run{run}"
        kept = (folder / out / "run.json").exists()
        arguments = [*command, *more, "-o", out, *(["--resume"] if kept else [])]
        n_resumed += kept
        process = subprocess.Popen(arguments, cwd=folder)
        try:
            process.wait(chance.uniform(0.3, 1.0) * whole_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            n_done += 1
            continue
        assert process.returncode == 0
        assert (folder / out / "scores.csv").read_bytes() == expected
        run += 1
    out = f"run{run}"
    if (folder / out / "run.json").exists():
        subprocess.run([*command, *more, "-o", out, "--resume"], cwd=folder, check=True)
        assert (folder / out / "scores.csv").read_bytes() == expected
    assert n_resumed
