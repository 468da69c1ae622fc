"""Shards on one machine: one after another, or by several processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

from synth.errors import SynthError
from synth.quality.gate import Gate
from synth.runners.one import Job, one_shard
from synth.runners.shown import Shown
from synth.settings import Settings
from synth.sources import Source, open_source


def run_local(settings: Settings, source: Source, gate: Gate, todo: list[Job], work: Path, shown: Shown) -> None:
    """Make all shards of ``todo`` by ``settings.workers`` processes.

    After an error or Ctrl-C shards in the making are dropped; finished ones stay.
    """
    if settings.workers == 1 or len(todo) <= 1:
        for job in todo:
            shown.shard(one_shard(source, gate, settings, job, work, shown.advance))
        return
    # Spawned, not forked: forking a process that runs threads (rich, pyarrow, torch) can hang.
    context = multiprocessing.get_context("spawn")
    ticks, stop = context.Value("q", 0), context.Event()
    workers = min(settings.workers, len(todo))
    pool = ProcessPoolExecutor(workers, context, _start_worker, (settings, gate, str(work), ticks, stop))
    try:
        pending = {pool.submit(_work, job) for job in todo}
        while pending:
            done, pending = wait(pending, timeout=0.3, return_when=FIRST_COMPLETED)
            shown.pictures(ticks.value)
            for future in done:
                shown.shard(future.result())
    except BrokenProcessPool as problem:
        raise SynthError(
            "a worker process died", why="out of memory, or a script that calls synth.make when it is imported",
            fix="try fewer workers; in a script call make() under if __name__ == '__main__'",
        ) from problem  # fmt: skip
    finally:
        stop.set()  # after an error or Ctrl-C, shards in the making are dropped instead of waited for
        pool.shutdown(cancel_futures=True)


_worker: dict = {}  # what a worker process opens once and uses for all its shards


class _Stopped(Exception):
    """Raised in a worker to leave a shard that nobody waits for any more."""


def _start_worker(settings: Settings, gate: Gate, work: str, ticks, stop) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_leave_with_parent, daemon=True).start()
    source = open_source(settings, Path(work))
    _worker.update(settings=settings, gate=gate, work=Path(work), ticks=ticks, stop=stop, source=source)


def _leave_with_parent() -> None:
    """End this worker when the parent was killed; left alone it would wait for work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _work(job: Job) -> dict:
    def tick(n: int) -> None:
        if _worker["stop"].is_set():
            raise _Stopped
        with _worker["ticks"].get_lock():
            _worker["ticks"].value += n

    return one_shard(_worker["source"], _worker["gate"], _worker["settings"], job, _worker["work"], tick)
