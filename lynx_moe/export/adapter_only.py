"""Route "adapter": the adapter alone, for licences that forbid shipping the base; `base_pin` says which base."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors import safe_open

from lynx_moe.errors import ExportError
from lynx_moe.export.base_pin import BasePin
from lynx_moe.export.fresh import tensor_sha256
from lynx_moe.export.promise import Promise
from lynx_moe.export.read import Adapted
from lynx_moe.objectives.attached import FILE, write_serving

BASE_HASHES = "base_sha256.json"


def refusal(adapted: Adapted) -> None:
    """None: any adapter can be shipped alone."""


def promise(adapted: Adapted) -> Promise:
    costs = ("loading needs the base, peft and lynx_moe",)
    if adapted.heads:
        costs += (f"{FILE} beside the adapter has its {' and '.join(adapted.heads)}: PEFT alone leaves them out",)
    if adapted.config.expert_init != "zero":
        costs += (f"the new experts started as a {adapted.config.expert_init} of the base's: ask if its licence minds",)
    return Promise(
        "peft",
        "bitwise",
        0.0,
        "the adapter as it is; no base tensor is shipped",
        costs,
        {"transformers": "no: with peft and lynx_moe only", "vllm": "no", "sglang": "no"},
    )


def write(peft_model, folder: Path, base_hashes: dict[str, str], base_pin: BasePin, *, with_heads: bool = True) -> None:
    """Save the adapter in PEFT's layout, with the heads that answers need, beside the base's pin and the hash of every
    base tensor.

    Raises:
        ExportError: a tensor about to be shipped is one of the base's.
    """
    # Embeddings are the base's: PEFT would ship them when their size looks changed.
    name = peft_model.active_adapter
    peft_model.save_pretrained(folder, save_embedding_layers=False, selected_adapters=[name])
    if (folder / name).is_dir():
        # PEFT puts every adapter but "default" into a folder of its name; alone in an export it lies at the top.
        for path in (folder / name).iterdir():
            path.replace(folder / path.name)
        (folder / name).rmdir()
    if with_heads:
        write_serving(peft_model, folder)
    base_pin.write(folder)
    (folder / BASE_HASHES).write_text(json.dumps(base_hashes, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    known = {digest: name for name, digest in base_hashes.items()}
    for path in sorted(folder.rglob("*.safetensors")):
        with safe_open(path, "pt") as file:
            for key in file.keys():
                tensor = file.get_tensor(key)
                # Tensors of one value (zeros at the start of training) carry nothing of the base.
                if tensor.numel() > 1 and tensor.unique().numel() > 1 and tensor_sha256(tensor) in known:
                    raise ExportError(
                        f"{key} is the base's {known[tensor_sha256(tensor)]}",
                        why="an adapter-only export must ship no base tensor",
                        fix="leave the base's modules out of the adapter (modules_to_save), or take another route",
                    )
