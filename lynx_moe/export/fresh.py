"""What the fresh process runs: load an exported folder where lynx_moe and peft do not exist, and compare.

The library runs this file as text (`python -c`) and shares its functions, so that both sides hash and answer in one
way. It must not import lynx_moe; standing alone it is also what somebody without this library can run:
`python fresh.py FOLDER RESULT.json DEVICE [BASE]`.
"""

import contextlib
import functools
import hashlib
import json
import os
import sys
import types

BLOCKED = ("lynx_moe", "peft", "synth")
REFERENCE = "lynx_reference.safetensors"
ASKED = "lynx_asked.safetensors"
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
            into, name = (entry["inputs"], name) if kind == "inputs" else (entry, kind)
            into[name] = file.get_tensor(key)
    return cases


def answer(model, inputs, positions, new_tokens):
    """Logits of the last `positions` positions in float32 and the greedy continuation (None for 0), both on the CPU.

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
        if not new_tokens:
            return logits, None
        if not model.can_generate():  # pi0 answers with movements
            return logits, torch.zeros(len(logits), 0, dtype=torch.long)
        given = inputs.get("input_ids", inputs.get("decoder_input_ids"))
        tokens = model.generate(**inputs, do_sample=False, num_beams=1, max_new_tokens=new_tokens)
    return logits, tokens[:, given.shape[1] :].cpu()


def base_of(folder, dtype, device, attention=None):
    """The base itself, as a stranger loads it; a base that needs code of its own is not loaded."""
    import torch
    from transformers import AutoModelForImageTextToText

    # As the live model attends: eager and fused attention round differently.
    how = {"dtype": getattr(torch, dtype)} | ({"attn_implementation": attention} if attention else {})
    model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=False, **how)
    return model.to(device).eval().requires_grad_(False)


def export_of(folder, device, own_code, attention=None):
    from transformers import AutoModelForImageTextToText

    how = {"dtype": "auto", "output_loading_info": True} | ({"attn_implementation": attention} if attention else {})
    model, info = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=own_code, **how)
    # As the base is held: torch picks another matmul for a weight that requires gradients.
    return model.to(device).eval().requires_grad_(False), info


def base_wanted(tensors):
    """{base tensor: its sha256} of what a manifest says of every exported tensor."""
    wanted = {}
    for entry in tensors.values():
        if "stacked" in entry:
            wanted.update(zip(entry["stacked"], entry["base_sha256"], strict=True))
        elif "base" in entry:
            wanted[entry["base"]] = entry.get("base_sha256", entry["sha256"])
    return wanted


def first_difference(state, wanted):
    """Where a base is not the one that was exported, in words; None when it is."""
    for name in wanted:
        if name not in state:
            return f"{name} is missing"
        digest = tensor_sha256(state[name])
        if digest != wanted[name]:
            of = f"{str(state[name].dtype).removeprefix('torch.')} {tuple(state[name].shape)}"
            return f"{name} ({of}) has sha256 {digest[:16]}..., and {wanted[name][:16]}... was exported"
    more = sorted(set(state) - set(wanted))
    return f"{more[0]} is one tensor more than was exported" if more else None


def taken_out(tensor, undo):
    """The part of a widened tensor in which the base's lies."""
    import torch

    parts = [tensor.narrow(undo["axis"], start, end - start) for start, end in undo["spans"]]
    return torch.cat(parts, undo["axis"]) if parts else tensor


def undone(stored, undo, base):
    """(how, worst): a folded tensor after undoing, against the base's: "exact", "rounded" or "changed".

    Cut out where it was widened, and divided by its factor: exact for a power of two. Other factors were rounded once
    to the tensor's type, so half a unit in the last place may be left, and a little more where numbers are tiny. What
    a delta of rank r added cannot be taken off without it: what is left beside a matrix of that rank must be rounding.
    """
    import torch

    part = taken_out(stored, undo)
    if part.shape != base.shape or part.dtype != base.dtype:
        return "changed", float("inf")
    if not undo["rank"] and torch.equal((part.double() / undo["factor"]).to(base.dtype), base):
        redone = (base.double() * undo["factor"]).to(base.dtype)
        if torch.equal(redone.view(torch.uint8), part.contiguous().view(torch.uint8)):
            return "exact", 0.0
    limit = torch.finfo(base.dtype)
    left = part.double() / undo["factor"] - base.double()
    if undo["rank"]:
        draw = torch.Generator().manual_seed(0)
        sketch = torch.randn(left.shape[1], undo["rank"] + 8, generator=draw, dtype=torch.float64).to(left.device)
        # Twice through the matrix, so that rounding does not hide a weak direction (Halko, Martinsson, Tropp 2011).
        frame = torch.linalg.qr(left @ (left.T @ (left @ sketch)))[0]
        u, s, v = torch.linalg.svd(frame.T @ left, full_matrices=False)
        rank = undo["rank"]
        left = left - (frame @ u[:, :rank]) @ (s[:rank, None] * v[:rank])
        # The sum was rounded, and so was the delta's own product.
        worst = (left.norm() / (2 * limit.eps * part.double().norm() + limit.tiny)).item()
    else:
        floor = limit.tiny / min(1.0, abs(undo["factor"]))
        worst = (left.abs() / (limit.eps * base.double().abs() + floor)).max().item()
    # In units of the number type's spacing, relative to the tensor's own size.
    return ("rounded" if worst <= 1.0 else "changed"), worst


def against_base(state, wanted, base, kept):
    """What became of the base's tensors: names of identical, exactly undone and rounded ones, and what is wrong."""
    found = {"identical": [], "undone": [], "rounded": {}, "changed": [], "only_described": []}
    for name, entry in wanted.items():
        if name not in state:
            continue  # named among the missing
        tensor = state[name]
        if "stacked" in entry:
            for part, part_name in zip(tensor.chunk(len(entry["stacked"])), entry["stacked"], strict=True):
                same = tensor_sha256(part) == base[part_name]
                found["identical" if same else "changed"].append(part_name)
        elif "fold" in entry and "undo" not in entry:
            found["only_described"].append(name)
        elif "fold" in entry:
            how, worst = undone(tensor.cpu(), entry["undo"], kept[entry["base"]])
            if how == "rounded":
                found["rounded"][name] = worst
            else:
                found["undone" if how == "exact" else "changed"].append(name)
        elif "base" in entry:
            found["identical" if tensor_sha256(tensor) == base[entry["base"]] else "changed"].append(name)
    return found


@contextlib.contextmanager
def exported_gate(model, gate):
    """Inside, the prompt gate of a model with code of its own is as `gate` says; of others it is on for good."""
    config = model.config if hasattr(model.config, "prompt_gate") else types.SimpleNamespace(prompt_gate=None)
    shipped, config.prompt_gate = config.prompt_gate, gate
    try:
        yield
    finally:
        config.prompt_gate = shipped


def gates_of(model, gates, cases, base_logits, forced=exported_gate):
    """For each setting of the prompt gate and each case: which rows are the base's bit for bit, and how far any is."""
    import torch

    found = {gate: {} for gate in gates}
    for gate in gates:
        with forced(model, gate):
            for case, entry in cases.items():
                logits, _ = answer(model, entry["inputs"], base_logits[case].shape[1], 0)
                rows = [torch.equal(row, base_row) for row, base_row in zip(logits, base_logits[case], strict=True)]
                furthest = (logits - base_logits[case]).abs().max().item()
                found[gate][case] = {"rows_equal": rows, "max_abs_logit_diff": furthest}
    return found


def against_live(model, cases, new_tokens):
    """For each case how far the logits are from the live model's recorded ones, and whether the tokens are equal."""
    import torch

    found = {}
    for case, entry in cases.items():
        logits, tokens = answer(model, entry["inputs"], entry["logits"].shape[1], new_tokens)
        wanted = entry["generated"]
        found[case] = {
            "max_abs_logit_diff": (logits - entry["logits"]).abs().max().item(),
            "finite": bool(torch.isfinite(logits).all()),
            "generation_equal": tokens.shape == wanted.shape and torch.equal(tokens, wanted),
        }
    return found


def look_at_base(base, cases, wanted, recorded_off):
    """(what is found about a base, its logits by case); no logits where it is another one than `wanted`."""
    found, logits = {"class": type(base).__name__, "differs": first_difference(base.state_dict(), wanted)}, {}
    if found["differs"] is None:
        for case, entry in cases.items():
            logits[case], _ = answer(base, entry["inputs"], entry["logits"].shape[1], 0)
        found["adapter_off"] = {case: tensor_sha256(logits[case]) == digest for case, digest in recorded_off.items()}
    return found, logits


def asked_again(ask, question):
    """(text, masks, logits of each step) of `ask` to a question of `read_asked`; where it has "ids", those are written
    whatever the logits say. Masks are of bytes: 1 on the thing, 2 everywhere where none was made."""
    import torch

    logits, ids, image = [], question["ids"], question["image"]

    def dictated(input_ids, scores):
        logits.append(scores[0].float().cpu().clamp(min=-1e38))  # infinite where a checkpoint forbids a word
        if ids:
            here = torch.arange(scores.shape[-1], device=scores.device) == ids[min(len(logits), len(ids)) - 1]
            scores = torch.where(here, 0.0, float("-inf")).expand_as(scores)
        return scores

    how = {"max_new_tokens": question["new_tokens"], "logits_processor": [dictated]}
    text, masks = ask(image, question["question"], question["regions"], **how)
    none = torch.full((image.height, image.width), 2, dtype=torch.uint8)
    made = [none if mask is None else torch.from_numpy(mask).byte() for mask in masks]
    return text, torch.stack([none, *made])[1:], torch.stack(logits)


def read_asked(folder):
    """{case: question and the live model's answer through its heads}; {} where it has none."""
    from PIL import Image
    from safetensors import safe_open

    path = os.path.join(folder, ASKED)
    if not os.path.exists(path):
        return {}
    with safe_open(path, "pt") as file:
        asked = json.loads(file.metadata()["asked"])
        for case, of in asked.items():
            of |= {name: file.get_tensor(f"{case}|{name}") for name in ("picture", "region", "logits", "masks")}
            of["image"] = Image.fromarray(of["picture"].numpy())
            # A region that is not told in numbers is a mask.
            of["regions"] = [of["region"] if region is None else region for region in of["regions"]]
    return asked


def against_asked(ask, asked):
    """As `against_live`, of questions that are answered with heads; and in how many pixels masks are others."""
    found = {}
    for case, of in asked.items():
        text, masks, logits = asked_again(ask, of)
        alike = logits.shape == of["logits"].shape and masks.shape == of["masks"].shape
        found[case] = {
            "max_abs_logit_diff": (logits - of["logits"]).abs().max().item() if alike else float("inf"),
            "finite": not bool(logits.isnan().any()),
            "generation_equal": text == of["text"],
            "mask_pixels_differ": int((masks != of["masks"]).sum()) if alike else of["masks"].numel(),
        }
    return found


def read_questions(path):
    """(batches in order, how to generate): prompts as tensors, written by `lynx_moe.export.probe`."""
    from safetensors import safe_open

    batches = {}
    with safe_open(path, "pt") as file:
        how = json.loads(file.metadata()["how"])
        for key in file.keys():
            batch, name = key.split("|")
            batches.setdefault(batch, {})[name] = file.get_tensor(key)
    return batches, how


def written(model, batches, how):
    """Greedy answers to every batch, as lists of token ids behind the prompt."""
    import torch

    found, dtype = {}, next(model.parameters()).dtype
    for batch, inputs in batches.items():
        inputs = {
            name: value.to(model.device, dtype if value.is_floating_point() else None, copy=True)
            for name, value in inputs.items()
        }
        with torch.no_grad():
            tokens = model.generate(**inputs, do_sample=False, num_beams=1, **how)
        found[batch] = tokens[:, inputs["input_ids"].shape[1] :].tolist()
    return found


def manifest_of(folder):
    with open(os.path.join(folder, MANIFEST), encoding="utf-8") as file:
        return json.load(file)


def use_as_many_threads(folder):
    """As the live model had: with another number of threads, CPUs add in another order."""
    import torch

    if wanted := manifest_of(folder).get("reference", {}).get("threads"):
        torch.set_num_threads(min(wanted, os.cpu_count() or 1))


def compare(folder, device, base="", questions=""):
    """Everything that is checked in the fresh process; `base` and `questions` are left out where they are empty."""
    manifest = manifest_of(folder)
    wanted, reference, cases = manifest["tensors"], manifest["reference"], read_cases(folder)
    batches, how = read_questions(questions) if questions else ({}, {})
    result, base_hashes, kept = {"cases": {}, "answers": {}}, base_wanted(wanted), {}
    if base:
        # One after the other: both at once may not fit.
        original = base_of(base, manifest["base"]["dtype"], device, reference.get("attention"))
        result["base"], base_logits = look_at_base(original, cases, base_hashes, reference.get("adapter_off", {}))
        if result["base"]["differs"]:
            return result
        state = original.state_dict()
        kept = {n: state[n].detach().cpu() for n in {e["base"] for e in wanted.values() if "fold" in e}}
        result["answers"]["base"] = written(original, batches, how)
        del original, state

    model, info = export_of(folder, device, manifest["route"] == "code", reference.get("attention"))
    state = model.state_dict()
    changed = [name for name in wanted if name not in state or tensor_sha256(state[name]) != wanted[name]["sha256"]]
    result |= {
        "class": type(model).__name__,
        "missing": sorted(info["missing_keys"]),
        "unexpected": sorted(info["unexpected_keys"]),
        "changed_tensors": sorted([*changed, *(set(state) - set(wanted))]),
        "cases": against_live(model, cases, reference["new_tokens"]),
    }
    if asked := read_asked(folder):
        from transformers import AutoProcessor

        ask = functools.partial(model.ask, AutoProcessor.from_pretrained(folder, trust_remote_code=False))
        with exported_gate(model, "on"):
            result["cases"] |= against_asked(ask, asked)
    if base:
        result["base"] |= against_base(state, wanted, base_hashes, kept)
        result["gates"] = gates_of(model, reference.get("gates", ["on"]), cases, base_logits)
    result["answers"]["export"] = written(model, batches, how)
    result["loaded_without_lynx_moe"] = not any(name.partition(".")[0] in BLOCKED for name in sys.modules)
    return result


if __name__ == "__main__":
    folder, out, device = sys.argv[1:4]
    block()
    use_as_many_threads(folder)
    answer_of_the_check = compare(folder, device, *sys.argv[4:6])
    with open(out, "w", encoding="utf-8") as file:
        json.dump(answer_of_the_check, file)
