"""Exports that load without this library: `plan` says what would be done, `export` does it, `verify` proves it later.

Routes, from plan.py: "native" (an architecture transformers has), "code" (one modelling file of its own), "adapter"
(no base weights). Adding a native host is one class in native.py.
"""

from lynx_moe.export.plan import Plan, plan
from lynx_moe.export.run import export
from lynx_moe.export.verify import verify

__all__ = ["Plan", "export", "plan", "verify"]
