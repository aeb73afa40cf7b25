"""Users measured side by side: in processes of this machine, or on a Dask cluster."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import queue
import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.process import BaseProcess
from typing import Any

from ..runtime.errors import EdgepruneError, InputError, MissingExtra
from ._cells import Cell
from ._measure_user import measure_user
from ._study import UserTask

__all__ = ["on_cluster", "on_this_machine"]

# One thread for every arm, whichever library does its arithmetic; and no page fault for every large
# tensor, which slows PyTorch most: both for all arms alike.
_ENVIRONMENT: Mapping[str, str] = {
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_TRIM_THRESHOLD_": "1000000000",
    "MALLOC_MMAP_THRESHOLD_": "1000000000",
}
_POLL_S = 0.5
_CONNECT_S = 5
_DASK = "pip install 'edgeprune[cluster]'"

Message = tuple[str, Any]


def on_this_machine(tasks: Sequence[UserTask], jobs: int) -> Generator[Cell, None, None]:
    """Measure every task in one of `jobs` processes, and give the cells as they are finished.

    Raises:
        EdgepruneError: a user could not be measured at all, or a process died.
    """
    context = multiprocessing.get_context("spawn")  # a fork would inherit threads of libraries
    waiting, results = context.Queue(), context.Queue()
    for task in tasks:
        waiting.put(task)
    processes: list[BaseProcess] = []
    try:
        with _environment():
            for _ in range(min(jobs, len(tasks))):
                waiting.put(None)
                arguments = (os.getpid(), waiting, results)
                process: BaseProcess = context.Process(target=_work, args=arguments, daemon=True)
                process.start()
                processes.append(process)
        yield from _collected(results, processes)
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()
        waiting.close()
        waiting.cancel_join_thread()


@contextmanager
def _environment() -> Iterator[None]:
    """For processes started inside."""
    before = {name: os.environ.get(name) for name in _ENVIRONMENT}
    os.environ.update(_ENVIRONMENT)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _work(parent: int, waiting: Any, results: Any) -> None:
    """In a process of its own: take users until there are none left."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends us
    while (task := waiting.get()) is not None:
        try:
            for cell in measure_user(task):
                results.put(("cell", cell))
                if os.getppid() != parent:
                    return  # the parent was killed: nobody reads what we find
        except Exception as error:
            results.put(("error", f"user {task.user.name}: {_told(error)}"))
    results.put(("done", None))


def _told(error: Exception) -> str:
    from ..devices import DeviceError

    known = isinstance(error, EdgepruneError | DeviceError)
    return str(error) if known else f"{type(error).__name__}: {error}"


def _collected(results: Any, processes: Sequence[BaseProcess]) -> Generator[Cell, None, None]:
    running = len(processes)
    while running:
        try:
            kind, value = results.get(timeout=_POLL_S)
        except queue.Empty:
            _check_alive(processes)
            continue
        if kind == "error":
            raise InputError(f"{value} What is finished is kept.")
        if kind == "done":
            running -= 1
        else:
            yield value


def _check_alive(processes: Sequence[BaseProcess]) -> None:
    codes = [process.exitcode for process in processes if process.exitcode]
    if codes:
        raise InputError(
            f"a worker process ended with {codes[0]}; out of memory? What is finished is kept: "
            "run the same command again, with fewer --jobs if need be."
        )


def on_cluster(tasks: Sequence[UserTask], address: str) -> Generator[Cell, None, None]:
    """Measure every task on a running Dask cluster, and give a user's cells when all are there.

    The workers need edgeprune, and models and data under the same paths.

    Raises:
        MissingExtra: Dask's scheduler client is not installed.
        InputError: there is no such scheduler, or a user could not be measured.
    """
    if importlib.util.find_spec("distributed") is None:
        raise MissingExtra(f"--cluster needs dask[distributed]. Install it: {_DASK}")
    from distributed import Client, as_completed

    try:
        client = Client(address, timeout=_CONNECT_S)
    except (OSError, ValueError) as error:
        raise InputError(
            f"no Dask scheduler answers at {address}: {error}. Nothing was run; start one with "
            "`dask scheduler`, and workers with `dask worker --nthreads 1`."
        ) from error
    with client:
        futures = [client.submit(_all_cells, task, pure=False) for task in tasks]
        for future in as_completed(futures):
            try:
                cells = future.result()
            except Exception as error:  # whatever the worker raised
                raise InputError(f"{_told(error)} What is finished is kept.") from error
            yield from cells


def _all_cells(task: UserTask) -> list[Cell]:
    return list(measure_user(task))
