"""Shards on a Ray cluster: the same work, by Ray Data. The output folder must be one that every node can write."""

from __future__ import annotations

import os
from pathlib import Path

from synth import errors
from synth.errors import SettingsError, SynthError
from synth.quality.gate import Gate
from synth.runners.one import Job, one_shard
from synth.runners.shown import Shown
from synth.settings import Settings
from synth.sources import Source, open_source


class _Key:
    """The key of the server that an engine asks, on its way from this process into the actors' memory.

    Not by Ray's runtime_env: Ray writes that into its logs and into the command lines of its workers.
    """

    def __init__(self, settings: Settings) -> None:
        self._name = settings.llm.key_env
        self._value = "" if settings.engine == "template" else settings.llm.key()

    def __repr__(self) -> str:
        return "a key"

    def hand_over(self) -> None:
        """Put the key where engines look for it, in this process only."""
        if self._value:
            os.environ[self._name] = self._value


class _Maker:
    """What an actor opens once and uses for all its shards."""

    def __init__(self, settings: Settings, gate: Gate, work: str, key: _Key) -> None:
        key.hand_over()
        self._settings, self._gate, self._work = settings, gate, Path(work)
        self._source = open_source(settings, self._work)

    def __call__(self, row: dict) -> dict:
        job = (row["shard"], range(row["start"], row["stop"]))
        try:
            report = one_shard(self._source, self._gate, self._settings, job, self._work, lambda n: None)
        except SynthError as problem:  # told as a row: of errors that are also the system's Ray hands on the text alone
            return {"error": [type(problem).__name__, problem.message, problem.why, problem.fix]}
        kept = ("counts", "quarantined", "rejected")
        return {"pictures": row["stop"] - row["start"], **{name: list(report[name].items()) for name in kept}}


def run_on_ray(settings: Settings, source: Source, gate: Gate, todo: list[Job], work: Path, shown: Shown) -> None:
    """Make all shards of ``todo`` by ``settings.workers`` Ray actors, on a cluster that is there or a local one.

    The cluster is the one that ``RAY_ADDRESS`` names, else this machine. Shards and their reports are the same files
    as of one process, so a run may be interrupted here and finished there. A key that an engine needs is the one in
    the environment of this process; other nodes need not have it.
    """
    try:
        import ray
    except ImportError as problem:
        raise SettingsError(
            "runner=ray needs Ray", why="it is not installed", fix='pip install "lynx-moe[ray]", or runner=local'
        ) from problem
    started = not ray.is_initialized()
    if started:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="warning")
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    try:
        jobs = [{"shard": k, "start": indices.start, "stop": indices.stop} for k, indices in todo]
        made = ray.data.from_items(jobs, override_num_blocks=len(jobs)).map(
            _Maker,
            fn_constructor_args=(settings, gate, str(work.resolve()), _Key(settings)),
            concurrency=settings.workers,
        )
        for row in made.iter_rows():
            if row.get("error"):
                name, message, why, fix = row["error"]
                raise getattr(errors, name)(message, why=why, fix=fix)
            shown.advance(row["pictures"])
            shown.shard({name: dict(row[name]) for name in ("counts", "quarantined", "rejected")})
    except ray.exceptions.RayTaskError as problem:
        raise problem.cause from problem  # the error that a single process would have raised
    finally:
        if started:
            ray.shutdown()
