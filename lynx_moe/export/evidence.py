"""What an export keeps of the live model, so that others can compare later: hashes, settings, boxes and answers."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

from lynx_moe.adapter import LynxConfig, set_gate
from lynx_moe.data import Record
from lynx_moe.errors import ExportError
from lynx_moe.export import probe, reference
from lynx_moe.export.fresh import tensor_sha256
from lynx_moe.export.probe import Asked
from lynx_moe.export.read import Adapted
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives.masks import mask_word_of


@dataclass
class Evidence:
    """Questions for the live model and the exported one.

    Attributes:
        asked: scenes and held-out records as model inputs; None when there are neither.
        live: the live model's texts to the scenes.
        before: the live model's texts to the held-out records, adapter off.
    """

    asked: Asked | None = None
    live: list[str] = field(default_factory=list)
    before: list[str] | None = None

    @classmethod
    def of(cls, peft_model, processor, *, with_probe: bool, records: Sequence[Record] | None) -> Evidence:
        """What to ask, before anything is written.

        Raises:
            ExportError: questions cannot be asked without a processor, or synth failed.
        """
        sets = {"held-out": list(records)} if records else {}
        if not with_probe and not sets:
            return cls()
        if processor is None:
            raise ExportError(
                "no processor to ask questions with",
                why="scenes and records are pictures and words, not model inputs",
                fix="pass processor=..., or export without records and without the probe",
            )
        if with_probe:
            sets = {"probe": probe.drawn_scenes(), **sets}
        named = peft_model.peft_config[peft_model.active_adapter].dialect
        dialect = get_dialect(named or "percent", processor, mask_word_of(peft_model))
        return cls(Asked(processor, dialect, sets, probe.ends_of(peft_model.get_base_model(), processor)))

    def examples(self, processor) -> dict[str, dict]:
        """Held-out records among the inputs that logits are compared on."""
        records = self.asked.sets.get("held-out") if self.asked else None
        if not records:
            return {}
        return {"held-out": reference.held_out_inputs(processor, self.asked.dialect, records)}

    def ask(self, peft_model, folder: Path, *, gate_on: bool) -> None:
        """Ask the live model, with the gate that the export will have, and keep scenes and answers in `folder`."""
        if self.asked is None:
            return
        was_training = peft_model.training
        peft_model.eval()
        try:
            if "probe" in self.asked.sets:
                with set_gate(peft_model, True) if gate_on else nullcontext():
                    self.live = self.asked.ask(peft_model, "probe")
                probe.write(folder, self.asked.sets["probe"], self.live)
            if "held-out" in self.asked.sets:
                with peft_model.disable_adapter():
                    self.before = self.asked.ask(peft_model, "held-out")
        finally:
            peft_model.train(was_training)


def base_described(adapted: Adapted) -> dict:
    """Name, revision, class and number type of the base; a path of this machine is no name."""
    name = adapted.base_name
    return {
        "name": "" if not name or Path(name).is_absolute() or Path(name).exists() else name,
        "revision": getattr(adapted.base.config, "_commit_hash", None),
        "class": type(adapted.base).__name__,
        "dtype": str(adapted.dtype).removeprefix("torch."),
    }


def adapter_described(adapted: Adapted) -> dict:
    """One digest over all tensors of the adapter and of its heads, and the settings that LynxConfig adds."""
    hashes = {
        name: tensor_sha256(tensor)
        for name, tensor in adapted.base.state_dict().items()
        if any(part.startswith("lynx_") for part in name.split(".")) and adapted.adapter_name in name.split(".")
    }
    for objective, head in adapted.heads.items():
        hashes |= {f"heads.{objective}.{name}": tensor_sha256(t) for name, t in head.state_dict().items()}
    # The adapter's name is of no matter to what it is.
    lines = "".join(f"{name.replace(f'.{adapted.adapter_name}.', '.')} {hashes[name]}\n" for name in sorted(hashes))
    settings = {name: getattr(adapted.config, name) for name in LynxConfig.__annotations__}
    return {"sha256": hashlib.sha256(lines.encode()).hexdigest(), "settings": _as_json(settings)}


def _as_json(value):
    if isinstance(value, dict):
        return {str(key): _as_json(of) for key, of in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(str, value))
    if isinstance(value, list | tuple):
        return [_as_json(of) for of in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)
