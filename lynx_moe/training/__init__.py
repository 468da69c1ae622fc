"""Training an adapter: settings in, a run folder with `adapter/` and `run.json` out.

>>> from lynx_moe.training import Settings
>>> Settings().objective.retention_kl
0.0
"""

from importlib import import_module

from lynx_moe.training.settings import Settings

__all__ = ["Settings", "run"]


def __getattr__(name: str):
    # torch and transformers take seconds to import; composing and checking settings needs neither.
    if name == "run":
        return import_module("lynx_moe.training.running").run
    raise AttributeError(f"module 'lynx_moe.training' has no attribute {name!r}; it offers {__all__}")
