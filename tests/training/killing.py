"""Whole runs in processes that may be killed, forked from a server that has imported torch once: a start is cheap.

A process can be told to strike itself at a file operation: the system's audit events say when one is about to happen.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from lynx_moe.errors import LynxError
from lynx_moe.training.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
OPERATIONS_SEEN = "operations on files: "
OPERATIONS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree"}


@dataclass(frozen=True)
class Strike:
    """Before the `nth` operation on files of the run, of those of this kind on paths with this ending.

    `act` is "kill", "stop", or a number: from then on files may not grow beyond so many bytes.
    """

    nth: int = 1
    operation: str = ""
    ending: str = ""
    act: str | int = "kill"


def start_server():
    """A context whose processes are forks of one that has imported everything a run needs; one thread each."""
    os.environ.update(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["pytest", "datasets", "transformers.models.llava", "tests.training.killing_imports"]
    )
    return context


def start(context, settings: Settings, strike: Strike | None = None) -> multiprocessing.Process:
    process = context.Process(target=work, args=(settings, strike))
    process.start()
    return process


def finish(process: multiprocessing.Process, seconds: float = 300) -> int:
    """Its exit code: 0 done, 1 a typed error, -9 killed."""
    process.join(seconds)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"still running after {seconds} seconds")
    return process.exitcode


def said(settings: Settings) -> str:
    """Everything that the processes of a run have printed."""
    return _output(settings).read_text()


def work(settings: Settings, strike: Strike | None) -> None:
    from lynx_moe.training import run

    with open(_output(settings), "a") as output:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
            os.dup2(output.fileno(), stream.fileno())
    seen = arm(strike, settings.output_dir) if strike else int
    try:
        run(settings)
        print(f"{OPERATIONS_SEEN}{seen()}", flush=True)
    except LynxError as problem:
        print(f"{type(problem).__name__}: {problem}", file=sys.stderr, flush=True)
        sys.exit(1)


def arm(strike: Strike, folder: str) -> Callable[[], int]:
    """Has this process strike itself; returns what tells how many such operations there were so far."""
    seen = 0

    def hook(event: str, args: tuple) -> None:
        nonlocal seen
        if event not in OPERATIONS or strike.operation not in ("", event):
            return
        path = str(args[0])
        # Inside a tree that is being removed, names are relative to an open folder.
        of_run = path.startswith(folder) or (event in ("os.remove", "os.rmdir") and args[-1] != -1)
        if not of_run or not path.endswith(strike.ending):
            return
        seen += 1
        if seen != strike.nth:
            return
        if isinstance(strike.act, int):
            resource.setrlimit(resource.RLIMIT_FSIZE, (strike.act, resource.RLIM_INFINITY))
        else:
            os.kill(os.getpid(), signal.SIGKILL if strike.act == "kill" else signal.SIGSTOP)

    sys.addaudithook(hook)
    return lambda: seen


def _output(settings: Settings) -> Path:
    return Path(f"{settings.output_dir}.output")
