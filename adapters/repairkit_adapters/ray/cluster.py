"""Games on a Ray cluster: an engine per actor; model and images are stored once.

Ray does not restart actors. A lost engine is opened again in a new actor, and its unfinished parts
are handed out again (see `repairkit.engine.dispatch`).
"""

import logging
import os
import platform
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from repairkit.core import errors, suite
from repairkit.core.game import GameFacts, Round
from repairkit.engine.dispatch import DispatchedGame, Part, Report, answer
from repairkit.engine.ort import versions
from repairkit.jobs.score.elsewhere import ClusterOptions, Recipe

logger = logging.getLogger(__name__)

# Ray is optional, and types must come out the same without it.
Actor: TypeAlias = Any  # holds an `Engine`
Answer: TypeAlias = Any  # a `ray.ObjectRef` of an actor's answer

_MOST_STARTS = 3
_START_SECONDS = 600.0
_PROBE_ROWS = 5


@dataclass(frozen=True, kw_only=True)
class WorkerFacts:
    """How a worker describes itself, and the game that it plays.

    Attributes:
        facts: of the game.
        path: in words, how filters are turned off.
        device: that it uses.
        precision: that it uses.
        versions: of packages that must be equal on all nodes.
        place: in words, host and processor.
        probe: the bytes of the scores of a few coalitions; empty if a metric needs all images.
        process: its process id.
    """

    facts: GameFacts
    path: str
    device: str
    precision: suite.Precision
    versions: dict[str, str]
    place: str
    probe: bytes
    process: int


class Engine:
    """An actor: it opens the game of a recipe, and plays parts of rounds."""

    def __init__(self, recipe: Recipe, cores: int) -> None:
        self.opened = recipe.open(cores)

    def describe(self) -> WorkerFacts:
        game = self.opened.game
        n, pool = game.facts.n_players, game.facts.pool
        rng = np.random.default_rng(0)
        rows = rng.random((_PROBE_ROWS, n)) < np.linspace(1.0, 0.5, _PROBE_ROWS)[:, None]
        images = pool.draw(rng, _PROBE_ROWS)[:, None]
        probe = np.zeros(0)
        with suppress(errors.SettingsError):  # some metrics can only be judged on all images
            probe = game.play(Round(rows, images)).scores
        return WorkerFacts(
            facts=game.facts,
            path=game.path,
            device=self.opened.device,
            precision=self.opened.precision,
            versions=engine_versions(),
            place=f"{socket.gethostname()} ({platform.processor() or platform.machine()})",
            probe=probe.tobytes(),
            process=os.getpid(),
        )

    def play(self, part: Part) -> NDArray[np.float64] | Exception:
        """The scores of a part, or its error."""
        try:
            return answer(self.opened.game, part)
        except Exception as error:  # noqa: BLE001 - the driver decides what to do about it
            return error


def engine_versions() -> dict[str, str]:
    """Versions of packages that must be equal on all nodes."""
    return {**versions(), "ray": _load_ray().__version__}


class RayCrew:
    """Actors by number; see `repairkit.engine.dispatch.Crew`.

    Args:
        ray: the module.
        recipe: of the game.
        options: see `RayCluster`.
    """

    def __init__(self, ray: ModuleType, recipe: Recipe, options: ClusterOptions) -> None:
        self.ray, self.options = ray, options
        self.n_bytes = recipe.n_bytes
        on_gpus = recipe.settings.device != "cpu" and _total(ray, "GPU") >= 1
        self._resources = {"num_gpus": 1} if on_gpus else {"num_cpus": options.cores}
        self._recipe = ray.put(recipe)
        room = int(_total(ray, "GPU") if on_gpus else _total(ray, "CPU") // options.cores)
        n_workers = room if options.workers is None else min(room, options.workers)
        if n_workers < 1:
            raise errors.DeviceError(
                f"the Ray cluster has no room for a worker of {options.cores} cores "
                f"({_total(ray, 'CPU'):g} CPUs, {_total(ray, 'GPU'):g} GPUs); give --ray-cores less"
            )
        self._actors: dict[int, Actor] = {}
        self._waiting: dict[Answer, tuple[int, Part | None]] = {}
        self._starts = dict.fromkeys(range(n_workers), 0)
        self._first: WorkerFacts | None = None
        self._workers: dict[int, WorkerFacts] = {}
        self._early: list[Report] = []
        self.n_lost = 0
        for worker in range(n_workers):
            self._start(worker)

    @property
    def n_workers(self) -> int:
        return len(self._starts)

    def settle(self) -> WorkerFacts:
        """Wait for the first worker, which later ones are compared with.

        Raises:
            DeviceError: no worker becomes ready, or one is unsuitable.
        """
        while self._first is None:
            self._early += self._collect(_START_SECONDS)
            if self._first is None and not self._early and self.n_lost == 0:
                raise errors.DeviceError(
                    f"no worker of the Ray cluster became ready within {_START_SECONDS:.0f} s; "
                    "look at `ray status`: others may hold its resources"
                )
        return self._first

    def hand_out(self, worker: int, part: Part) -> None:
        """See `Crew`."""
        answer_ref = self._actors[worker].play.remote(part)
        self._waiting[answer_ref] = worker, part

    def gather(self, timeout_seconds: float) -> Sequence[Report]:
        """See `Crew`."""
        if self._early:
            early, self._early = self._early, []
            return early
        return self._collect(timeout_seconds)

    def close(self) -> None:
        for actor in self._actors.values():
            with suppress(Exception):  # it may no longer exist
                self.ray.kill(actor)
        self._actors.clear()
        self._waiting.clear()

    def processes(self) -> list[int]:
        """The process ids of the ready workers, each on its own machine."""
        return [worker.process for worker in self._workers.values()]

    def _start(self, worker: int) -> None:
        self._starts[worker] += 1
        kind = self.ray.remote(Engine).options(
            max_restarts=0, max_task_retries=0, **self._resources
        )
        self._actors[worker] = kind.remote(self._recipe, self.options.cores)
        self._waiting[self._actors[worker].describe.remote()] = worker, None

    def _collect(self, timeout_seconds: float) -> list[Report]:
        refs = list(self._waiting)
        done, _ = self.ray.wait(refs, num_returns=1, timeout=timeout_seconds)
        if done:  # and all others that are ready
            done, _ = self.ray.wait(refs, num_returns=len(refs), timeout=0)
        reports: list[Report] = []
        for ref in done:
            if ref not in self._waiting:  # lost with its worker just now
                continue
            worker, part = self._waiting.pop(ref)
            try:
                answer = self.ray.get(ref)
            except self.ray.exceptions.RayError as error:
                reports += self._lose(worker, error)
                continue
            if part is None:
                self._greet(worker, answer)
                reports.append(Report(worker))
            elif isinstance(answer, Exception):
                reports.append(Report(worker, part.key, error=answer))
            else:
                self._starts[worker] = 0
                reports.append(Report(worker, part.key, answer))
        return reports

    def _greet(self, worker: int, facts: WorkerFacts) -> None:
        """Accept a worker if it plays exactly the same game.

        Raises:
            DeviceError: it has other versions, or rounds differently.
        """
        _check_versions(facts)
        if self._first is None:
            self._first = facts
        _check_alike(self._first, facts)
        self._workers[worker] = facts

    def _lose(self, worker: int, error: Exception) -> list[Report]:
        """Drop the tasks of a lost worker and open its engine again, a few times at most."""
        self.n_lost += 1
        self._workers.pop(worker, None)
        with suppress(Exception):  # it may no longer exist
            self.ray.kill(self._actors.pop(worker))
        self._waiting = {ref: task for ref, task in self._waiting.items() if task[0] != worker}
        cause = _cause(error)
        if isinstance(cause, errors.RepairkitError):  # opening the game would fail on every worker
            raise cause
        line = _line(cause)
        logger.warning("a worker was lost: %s", line)
        if self._starts[worker] >= _MOST_STARTS:
            del self._starts[worker]
            if not self._starts:
                raise errors.DeviceError(
                    f"no worker stays alive ({line}); the model and its images take "
                    f"{self.n_bytes / 2**20:.0f} MiB on their way and several times that at work: "
                    "give each worker more with --ray-cores, or use fewer --workers"
                ) from error
        else:
            self._start(worker)
        return [Report(worker, error=RuntimeError(line), lost=True)]


class RayGame(DispatchedGame):
    """A dispatched game that knows the device and the precision of its workers."""

    def __init__(self, crew: RayCrew, worker: WorkerFacts, *, seed: int) -> None:
        super().__init__(crew, worker.facts, path=worker.path, seed=seed)
        self.device = worker.device
        self.precision = worker.precision


class RayCluster:
    """See `repairkit.jobs.score.elsewhere.Cluster`.

    Args:
        options: `address` is `local` (start a cluster here and stop it at the end), `auto` (the one
            that runs here or that Ray is configured for) or an address.
    """

    def __init__(self, options: ClusterOptions) -> None:
        self.options = options

    @contextmanager
    def open(self, recipe: Recipe, *, seed: int) -> Iterator[RayGame]:
        """The game of a recipe, played by actors that are removed afterwards.

        Raises:
            SettingsError: Ray is missing.
            DeviceError: there is no cluster, no room on it, or its workers are unsuitable.
            RepairkitError: the game cannot be opened on them.
        """
        ray = _load_ray()
        with _joined(ray, self.options):
            crew = RayCrew(ray, recipe, self.options)
            try:
                yield RayGame(crew, crew.settle(), seed=seed)
            finally:
                crew.close()


def _check_versions(worker: WorkerFacts) -> None:
    ours = engine_versions()
    for name, version in worker.versions.items():
        if ours.get(name) != version:
            raise errors.DeviceError(
                f"the worker on {worker.place} has {name} {version} and this machine "
                f"{ours.get(name)}; install the same versions on every node"
            )


def _check_alike(first: WorkerFacts, worker: WorkerFacts) -> None:
    """Compare everything that affects the bits of scores."""
    alike = (worker.path, worker.precision, worker.device) == (
        first.path,
        first.precision,
        first.device,
    )
    if worker.device == "cpu":  # GPU kernels may give different bits each time
        alike = alike and worker.probe == first.probe
    if not alike:
        raise errors.DeviceError(
            f"the workers on {first.place} and {worker.place} do not give the same bits; use "
            "nodes with the same kind of processor, or fewer --workers"
        )


def _cause(error: BaseException) -> BaseException:
    cause = getattr(error, "cause", None)
    return cause if isinstance(cause, BaseException) else error


def _line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:300]}" if lines else type(error).__name__


def _load_ray() -> ModuleType:
    try:
        import ray
    except ImportError:
        raise errors.SettingsError("--ray needs Ray; pip install 'repairkit[ray]'") from None
    return ray


def _total(ray: ModuleType, resource: str) -> float:
    return float(ray.cluster_resources().get(resource, 0.0))


@contextmanager
def _elsewhere() -> Iterator[None]:
    """Use an empty working folder in the block.

    Ray puts the folder where it is started first on the import path of workers.
    """
    try:
        before = Path.cwd()
    except OSError:  # it was deleted
        yield
        return
    with tempfile.TemporaryDirectory(prefix="repairkit-") as empty:
        os.chdir(empty)
        try:
            yield
        finally:
            os.chdir(before)


def _resources(options: ClusterOptions) -> dict[str, object]:
    """Settings of a cluster that is started here; none for one that runs already."""
    if options.address != "local":
        return {}
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    cores = {} if options.workers is None else {"num_cpus": options.workers * options.cores}
    return {"include_dashboard": False, **cores}


@contextmanager
def _joined(ray: ModuleType, options: ClusterOptions) -> Iterator[None]:
    """Join the cluster as a driver in the block; a cluster started here is stopped at the end.

    Raises:
        DeviceError: there is no cluster, or it has other versions.
    """
    if ray.is_initialized():
        yield
        return
    # Ray replaces the handler of SIGTERM.
    mine = threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM) if mine else None
    try:
        with _elsewhere():
            ray.init(
                address=options.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                **_resources(options),
            )
    except Exception as error:  # Ray raises errors of many kinds
        raise errors.DeviceError(
            f"the Ray cluster {options.address!r} cannot be used ({_line(error)}); start one with "
            "`ray start --head`, name its address, or use --ray local; one that wants a token is "
            "joined with RAY_AUTH_MODE=token"
        ) from error
    if handler is not None:
        signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        ray.shutdown()
        if handler is not None:
            signal.signal(signal.SIGTERM, handler)
