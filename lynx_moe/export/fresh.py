"""What the fresh process runs: load an exported folder where lynx_moe and peft do not exist, and compare.

The library runs this file as text (`python -c`) and shares its functions, so that both sides hash and answer in one
way. It must not import lynx_moe; standing alone it is also what somebody without this library can run:
`python fresh.py FOLDER RESULT.json DEVICE`.
"""

import hashlib
import json
import os
import sys

BLOCKED = ("lynx_moe", "peft", "synth")
REFERENCE = "lynx_reference.safetensors"
MANIFEST = "lynx_export.json"


class Without:
    """A module finder that answers for everything but the blocked packages, so that they look uninstalled."""

    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in BLOCKED else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)


def block():
    for name in [name for name in sys.modules if name.partition(".")[0] in BLOCKED]:
        del sys.modules[name]
    sys.meta_path[:] = [Without(finder) for finder in sys.meta_path]
    for name in BLOCKED:
        try:
            __import__(name)
        except ImportError:
            continue
        raise SystemExit(f"{name} can still be imported: the check would prove nothing")


def tensor_sha256(tensor):
    import torch

    # Type and shape first, as training hashes its base: one digest names the base in a run's card and in an export.
    digest = hashlib.sha256(f"{tensor.dtype} {tuple(tensor.shape)}".encode())
    digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_cases(folder):
    """The reference cases, as {case: {"inputs": {name: tensor}, "logits": tensor, "generated": tensor}}."""
    from safetensors import safe_open

    cases = {}
    with safe_open(os.path.join(folder, REFERENCE), "pt") as file:
        for key in file.keys():
            case, kind, name = (key.split("|") + [""])[:3]
            entry = cases.setdefault(case, {"inputs": {}})
            if kind == "inputs":
                entry["inputs"][name] = file.get_tensor(key)
            else:
                entry[kind] = file.get_tensor(key)
    return cases


def answer(model, inputs, positions, new_tokens):
    """Logits of the last `positions` positions in float32 and the greedy continuation, both on the CPU.

    Logits of padding are zeros: they mean nothing, and attention implementations give them different values.
    """
    import torch

    # Copies: BLIP's generate() writes into the prompt it is given.
    inputs = {name: value.to(model.device, copy=True) for name, value in inputs.items()}
    with torch.no_grad():
        logits = model(**inputs, use_cache=False).logits[:, -positions:].float().cpu()
        mask = inputs.get("attention_mask")
        mask = None if mask is None or mask.ndim != 2 else mask[:, -positions:, None].cpu()
        if mask is not None and mask.shape[1] == logits.shape[1]:  # of an encoder-decoder it is the encoder's
            logits = logits.masked_fill(mask == 0, 0.0)
        tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=new_tokens)
    return logits, tokens[:, inputs["input_ids"].shape[1] :].cpu()


def compare(folder, device):
    import torch
    from transformers import AutoModelForImageTextToText

    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
        manifest = json.load(file)
    own_code = manifest["route"] == "code"
    model, info = AutoModelForImageTextToText.from_pretrained(
        folder, dtype="auto", trust_remote_code=own_code, output_loading_info=True
    )
    model = model.to(device).eval()
    state = model.state_dict()
    wanted = manifest["tensors"]
    changed = sorted(
        name for name in wanted if name not in state or tensor_sha256(state[name]) != wanted[name]["sha256"]
    )
    result = {
        "class": type(model).__name__,
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "changed_tensors": sorted([*changed, *(set(state) - set(wanted))]),
        "cases": {},
    }
    for case, entry in read_cases(folder).items():
        positions, new_tokens = entry["logits"].shape[1], manifest["reference"]["new_tokens"]
        logits, tokens = answer(model, entry["inputs"], positions, new_tokens)
        wanted_tokens = entry["generated"]
        result["cases"][case] = {
            "max_abs_logit_diff": (logits - entry["logits"]).abs().max().item(),
            "finite": bool(torch.isfinite(logits).all()),
            "generation_equal": tokens.shape == wanted_tokens.shape and torch.equal(tokens, wanted_tokens),
        }
    result["loaded_without_lynx_moe"] = not any(name.partition(".")[0] in BLOCKED for name in sys.modules)
    return result


if __name__ == "__main__":
    folder, out, device = sys.argv[1:4]
    block()
    answer_of_the_check = compare(folder, device)
    with open(out, "w", encoding="utf-8") as file:
        json.dump(answer_of_the_check, file)
