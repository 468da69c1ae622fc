"""Exports that load without this library: `plan` says what would be done, `export` does it, `verify` proves it later.

Routes, in the order in which plan.py tries them: "dense" (the base's own architecture, wider), "native" (another one
that transformers has), "code" (one modelling file of its own), "adapter" (no base weights). `push` uploads a finished
folder, `take_back` makes base and adapter of a native one again. "vllm", by name only, is an architecture that only
vLLM has. What a route must offer is in promise.py.
"""

from lynx_moe.export.back import take_back
from lynx_moe.export.plan import Plan, plan
from lynx_moe.export.provenance import Provenance, of_run
from lynx_moe.export.push import push
from lynx_moe.export.run import export
from lynx_moe.export.verify import verify

__all__ = ["Plan", "Provenance", "export", "of_run", "plan", "push", "take_back", "verify"]
