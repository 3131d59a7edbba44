"""Executors: the same map, in this thread or in several. ONNX Runtime releases the GIL."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")


class SerialExecutor:
    """Maps in the calling thread."""

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return map(function, items)


class ThreadExecutor:
    """Maps in `workers` threads; answers come in the order of the items."""

    def __init__(self, workers: int) -> None:
        self.workers = workers
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="repairkit")

    def map(self, function: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        return self._pool.map(function, items)


def default_workers() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def make_executor(workers: int) -> SerialExecutor | ThreadExecutor:
    """An executor of so many workers."""
    return SerialExecutor() if workers == 1 else ThreadExecutor(workers)
