"""Replays a table on all cores, or on a Ray cluster: the same rows in the same order whoever does the work.

Rows go out in chunks and come back with their place; each draws from a seed of its own, so that neither the order nor
the number of workers shows in the result.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, TypeVar

from headway.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    T = TypeVar("T")
    R = TypeVar("R")
    #: a chunk's number, and what came of its items
    Done = tuple[int, list[R]]

Executor = Literal["local", "ray"]
EXECUTORS: tuple[Executor, ...] = ("local", "ray")

#: Rows sent out at once: some seconds of work, so that the last chunks end together.
_CHUNK = 8


def execute(
    task: Callable[[T], R],
    items: Sequence[T],
    *,
    executor: Executor = "local",
    workers: int | None = None,
    progress: Callable[[int], None] = lambda _: None,
) -> list[R]:
    """Return the task's result for each item, in their order.

    Args:
        task: a function of one item; it can be pickled, and its result too.
        items: what it is called with.
        executor: processes of this machine, or tasks of the Ray cluster that `RAY_ADDRESS` names (a local one where it
            names none).
        workers: how many at once; as many as there are cores (or the cluster takes) if None. 1 works in this process.
        progress: called with the number of items done since the last call.

    Raises:
        InputError: there is no such executor, it is not installed, or the number of workers is below 1.
    """
    if executor not in EXECUTORS:
        raise InputError(f"unknown executor {executor!r}", place="executor", hint=f"known: {', '.join(EXECUTORS)}")
    if workers is not None and workers < 1:
        raise InputError(f"expected at least 1, got {workers}", place="workers")
    chunks = [items[at : at + _CHUNK] for at in range(0, len(items), _CHUNK)]
    found: list[list[R]] = [[] for _ in chunks]
    work = _ray if executor == "ray" else _processes
    for place, results in work(task, chunks, workers):
        found[place] = results
        progress(len(results))
    return [result for results in found for result in results]


def _chunk(task: Callable[[T], R], items: Sequence[T]) -> list[R]:
    return [task(item) for item in items]


def _processes(task: Callable[[T], R], chunks: Sequence[Sequence[T]], workers: int | None) -> Iterator[Done[R]]:
    count = min(workers or cores(), len(chunks))
    if count <= 1:
        yield from ((place, _chunk(task, chunk)) for place, chunk in enumerate(chunks))
        return
    from concurrent.futures import ProcessPoolExecutor, as_completed
    from multiprocessing import get_context

    # spawned, not forked: a fork would copy the locks of threads that hold them (polars', the progress display's)
    pool = ProcessPoolExecutor(count, mp_context=get_context("spawn"))
    try:
        futures = {pool.submit(_chunk, task, chunk): place for place, chunk in enumerate(chunks)}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _ray(task: Callable[[T], R], chunks: Sequence[Sequence[T]], workers: int | None) -> Iterator[Done[R]]:
    try:
        import ray
    except ModuleNotFoundError:
        raise InputError("ray is not installed", place="executor", hint="pip install 'headway[ray]'") from None
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        yield from _tasks(ray.remote(_chunk), task, chunks, workers or len(chunks))
    finally:
        if ours:
            ray.shutdown()


def _tasks(remote: object, task: Callable[[T], R], chunks: Sequence[Sequence[T]], most: int) -> Iterator[Done[R]]:
    """Keep that many tasks in the cluster until all chunks are done."""
    import ray

    waiting = list(enumerate(chunks))[::-1]
    running: dict[object, int] = {}
    while waiting or running:
        while waiting and len(running) < most:
            place, chunk = waiting.pop()
            running[remote.remote(task, chunk)] = place  # type: ignore[attr-defined] # ray's own wrapper
        (done, *_), _ = ray.wait(list(running), num_returns=1)
        yield running.pop(done), ray.get(done)
