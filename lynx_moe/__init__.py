"""Grounding experts beside the frozen experts of a vision-language model, as an adapter method for PEFT.

Importing this package makes the PEFT method "LYNX" known, so `get_peft_model`, `PeftModel.from_pretrained` and
`PeftConfig.from_pretrained` accept it. PEFT and torch are imported only when a name that needs them is used.
"""

from importlib import import_module

from lynx_moe.peft_hook import register_when_peft_is_imported

__version__ = "0.1.0"

_HOMES = {
    "LynxConfig": "lynx_moe.adapter",
    "record_routing": "lynx_moe.adapter.recording",
    "Box": "lynx_moe.grounding",
    "Grounder": "lynx_moe.grounding.grounder",
    "Embedder": "lynx_moe.evaluation.scoring.embedder",
}

__all__ = [*_HOMES, "__version__"]

register_when_peft_is_imported()


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"module 'lynx_moe' has no attribute {name!r}; it offers {sorted(_HOMES)}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
