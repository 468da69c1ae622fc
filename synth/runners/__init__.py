"""Where shards are made: in this process, in several, or on a cluster. A new way is one file here and a row below."""

from __future__ import annotations

from collections.abc import Callable

from synth.runners.local import run_local
from synth.runners.on_ray import run_on_ray

RUNNERS: dict[str, Callable[..., None]] = {"local": run_local, "ray": run_on_ray}

__all__ = ["RUNNERS"]
