"""Registers the PEFT method "LYNX" without paying for PEFT until somebody else does.

Importing PEFT costs seconds (it imports torch and transformers), which `lynx-moe --help`, `Box` and the readers of
records do not need. The promise "importing lynx_moe registers LYNX" can only be observed by a program that imports
PEFT too, so registering may wait for that import: at once when PEFT is there already, else right after it arrives.
"""

import importlib.abc
import importlib.util
import sys
from importlib import import_module


def register_when_peft_is_imported() -> None:
    """After this call "LYNX" is a PEFT method for everybody who can see PEFT. Calling it again changes nothing."""
    if "peft" in sys.modules:
        _register()
    elif not any(isinstance(finder, _PeftFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _PeftFinder())


def _register() -> None:
    # When our own adapter package is what imports PEFT, it is half built here and registers by itself at its end.
    if "lynx_moe.adapter" not in sys.modules:
        import_module("lynx_moe.adapter")


class _PeftFinder(importlib.abc.MetaPathFinder):
    """Finds nothing itself: lets the ordinary finders find PEFT and adds one call after its code has run."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname != "peft":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec is None or spec.loader is None:
            # PEFT is not installed; who asked gets the ordinary ImportError, and a later install still works.
            sys.meta_path.insert(0, self)
            return None
        spec.loader = _ThenRegister(spec.loader)
        return spec


class _ThenRegister(importlib.abc.Loader):
    def __init__(self, loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module) -> None:
        # The module keeps the loader it would have had: tools look at `module.__loader__` for resources.
        module.__spec__.loader = module.__loader__ = self._loader
        self._loader.exec_module(module)
        _register()
