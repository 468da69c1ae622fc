"""The way back: an exported native checkpoint taken apart into the base it was made from and the adapter.

What an export did to the base is in its manifest, tensor by tensor: nothing, stacked two on top of each other, times a
factor, plus a low-rank delta. Undoing a factor that is a power of two gives the base's bytes again; undoing another one
gives them up to rounding; a delta cannot be told from the matrix it was added to, so that needs the base itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

import torch
from torch import Tensor, nn

from lynx_moe.adapter import LynxConfig, lynx_layers, lynx_projections
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.errors import ExportError, OutputExistsError
from lynx_moe.export import fresh, vllm
from lynx_moe.export.built import Built, instantiate
from lynx_moe.export.certificate import PAGE, SEALED
from lynx_moe.export.native import HOSTS
from lynx_moe.export.out_folder import claimed, give_name
from lynx_moe.export.probe import PROBE
from lynx_moe.export.verify import TOLERANCE, changed_files, read_manifest

ROUTES = ("native", "vllm")
BASE, ADAPTER = "base", "adapter"

# What the export wrote for itself; all else beside the weights (processor, licence, generation settings) is the base's.
_OURS = ("README.md", "config.json", fresh.MANIFEST, fresh.REFERENCE, PROBE, SEALED, PAGE)


def take_back(folder: str | os.PathLike, *, out: str | os.PathLike, base: str | os.PathLike | None = None) -> dict:
    """Write `out`/adapter, which `PeftModel.from_pretrained` loads, and without `base` also the base, `out`/base.

    The two are loaded again and compared with what the live model answered when it was exported.

    Args:
        folder: what `export` wrote by route "native" or "vllm".
        out: a folder to make.
        base: folder or Hub name of the base, checked tensor by tensor; needed where deltas were added into attention.

    Returns:
        dict: path, base ("written" or the given one), exact (every base tensor has its bytes back), base_tensors
        (number of "exact" ones, names of "rounded" ones), delta_residual (the largest part of an attention delta that
        its rank does not hold, as a fraction of it: rounding), max_abs_logit_diff, generation_equal.

    Raises:
        ExportError: the folder is no such export, was changed since, needs `base`, or the given one is another.
        OutputExistsError: `out` holds something.
    """
    folder, out = Path(folder), Path(out)
    manifest = read_manifest(folder)
    _refuse(folder, manifest)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise OutputExistsError(f"{out} exists", why="it is not empty", fix="choose another folder")
    given = None if base is None else load_base(base)
    with claimed(out, overwrite=False) as aside:
        exported = vllm.read_tensors(folder) if manifest["route"] == "vllm" else _load(folder).state_dict()
        model, report = _restore(folder, manifest, exported, given, aside / BASE)
        if given is not None:
            shutil.rmtree(aside / BASE)
        for config in model.peft_config.values():
            config.base_model_name_or_path = str(base or out / BASE)
        model.save_pretrained(aside / ADAPTER, save_embedding_layers=False)
        give_name(aside, out)
    return {"path": str(out), "base": "written" if base is None else str(base), **report}


def check(folder: Path, manifest: dict, base_tensors: dict[str, Tensor] | None) -> dict:
    """What a fresh process finds of other exports, for one by route "vllm", which no class of transformers can load.

    Every tensor is compared with its hash. Then base and adapter are made of them again, and answer; where deltas were
    added into attention that needs the base. What vLLM makes of the folder this cannot tell.

    Raises:
        ExportError: `base_tensors` are another base's.
    """
    exported, wanted = vllm.read_tensors(folder), manifest["tensors"]
    same = {
        name for name in wanted if name in exported and fresh.tensor_sha256(exported[name]) == wanted[name]["sha256"]
    }
    found = {
        "loaded_without_lynx_moe": False,
        "missing": sorted(wanted.keys() - exported.keys()),
        "unexpected": sorted(exported.keys() - wanted.keys()),
        "changed_tensors": sorted(wanted.keys() - same),
    }
    if found["missing"] or (
        base_tensors is None and any(entry.get("undo", {}).get("rank") for entry in wanted.values())
    ):
        return found
    with tempfile.TemporaryDirectory() as elsewhere:
        _, answers = _restore(folder, manifest, exported, base_tensors, Path(elsewhere) / BASE)
    return found | answers


def load_base(path: str | os.PathLike) -> dict[str, Tensor]:
    """The tensors of a base, for `check`."""
    return _load(path).state_dict()


def _refuse(folder: Path, manifest: dict) -> None:
    if manifest.get("route") not in ROUTES or "parts" not in manifest:
        raise ExportError(
            f"{folder} was exported by route {manifest.get('route')!r}",
            why=f"only {' and '.join(ROUTES)} exports hold base and adapter so that they can be told apart again",
            fix="use the run's own adapter/ folder, which route 'code' leaves as it is",
        )
    if changed := changed_files(folder, manifest)["changed_files"]:
        raise ExportError(
            f"{folder} was changed since it was written: {', '.join(changed)}",
            why="what was changed would come back as the base's or the adapter's",
            fix="export again",
        )


def _restore(
    folder: Path, manifest: dict, exported: dict[str, Tensor], given: dict[str, Tensor] | None, where: Path
) -> tuple[nn.Module, dict]:
    """The base, written to `where` and loaded from there, with the adapter in it; and how well they came back."""
    base_tensors, rounded = _base_tensors(exported, manifest, given)
    _write_base(folder, manifest["parts"], base_tensors, where)
    model, residual = _with_adapter(_load(where), exported, base_tensors, manifest)
    report = {
        "exact": not rounded,
        "base_tensors": {"exact": len(base_tensors) - len(rounded), "rounded": sorted(rounded)},
        "delta_residual": residual,
    }
    return model, report | _answers(model, folder, manifest)


def _base_tensors(
    exported: dict[str, Tensor], manifest: dict, given: dict[str, Tensor] | None
) -> tuple[dict[str, Tensor], list[str]]:
    """Every base tensor by its own name, from `given` where there is one; and the names that are not the base's bytes.

    Raises:
        ExportError: `given` is another base, or a delta was added and nothing was given.
    """
    found, wanted = {}, {}
    for name, entry in manifest["tensors"].items():
        if "stacked" in entry:
            names = entry["stacked"]
            found |= {n: part.clone() for n, part in zip(names, exported[name].chunk(len(names)), strict=True)}
            wanted |= dict(zip(names, entry["base_sha256"], strict=True))
        elif "base" in entry:
            found[entry["base"]] = _unfolded(name, exported[name], entry, given)
            wanted[entry["base"]] = entry.get("base_sha256", entry["sha256"])
    if given is not None:
        found = {name: given.get(name, tensor) for name, tensor in found.items()}
    changed = [name for name, tensor in found.items() if fresh.tensor_sha256(tensor) != wanted[name]]
    if given is not None and (changed or found.keys() - given.keys()):
        several = sorted({*changed, *(found.keys() - given.keys())})
        raise ExportError(
            f"the given base is not the one that was exported: {several[0]} ({len(several)} in all)",
            why="its tensors have other hashes than the export's manifest names",
            fix="give the base in the revision and the number type that the adapter was trained on",
        )
    return found, changed


def _unfolded(name: str, tensor: Tensor, entry: dict, given: dict[str, Tensor] | None) -> Tensor:
    undo = entry.get("undo", {"factor": 1.0, "rank": 0})
    if undo["factor"] != 1.0:
        return (tensor.float() / undo["factor"]).to(tensor.dtype)
    if undo["rank"] and given is None:
        raise ExportError(
            f"{name} is the base's {entry['fold']}",
            why="a sum cannot be taken apart without one of its two parts",
            fix="give the base: base=... (on the command line: --base FOLDER)",
        )
    return tensor


def _write_base(folder: Path, described: dict, tensors: dict[str, Tensor], where: Path) -> None:
    import transformers

    model_class = getattr(transformers, described["base_class"])
    config = model_class.config_class.from_dict(described["base_config"])
    instantiate(Built(config=config, model_class=model_class, tensors=tensors, origin={})).save_pretrained(where)
    for path in folder.iterdir():
        if path.is_file() and path.name not in _OURS and "safetensors" not in path.name:
            shutil.copyfile(path, where / path.name)


@torch.no_grad()
def _with_adapter(
    base: nn.Module, exported: dict[str, Tensor], base_tensors: dict[str, Tensor], manifest: dict
) -> tuple[nn.Module, float]:
    """`base` with the adapter's own weights in it, and the largest relative residual of a delta."""
    described = manifest["parts"]
    host = vllm.HOST if manifest["route"] == "vllm" else HOSTS.get(manifest["host"])
    config = LynxConfig(**described["settings"])
    model = attach_adapter(base, config)
    for name, layer in lynx_layers(model).items():
        branch = layer.lynx_branch["default"]
        inside = f"{name.rpartition('.')[0]}."
        tensors = {key.removeprefix(inside): value for key, value in exported.items() if key.startswith(inside)}
        experts = host.experts(tensors, config.num_experts, described["blocks"][name])
        down_EDH = experts.down_EDH
        if name in described["alpha_logits"]:
            branch.alpha_logit.fill_(described["alpha_logits"][name])
            down_EDH = down_EDH.float() / (1.0 - branch.alpha_logit.float().sigmoid().item())
        branch.router_ED.copy_(experts.router_ED)
        branch.gate_up_EFD.copy_(experts.gate_up_EGD)
        branch.down_EDF.copy_(down_EDH)
    residual = 0.0
    for name, projection in lynx_projections(model).items():
        delta = projection.lynx_delta["default"]
        weight = f"{name}.weight"
        up_OR, down_RD, left = _low_rank(exported[weight].float() - base_tensors[weight].float(), config.attention_rank)
        delta.up_OR.copy_(up_OR)
        delta.down_RD.copy_(down_RD)
        residual = max(residual, left)
    return model.eval(), residual


def _low_rank(delta_OD: Tensor, rank: int) -> tuple[Tensor, Tensor, float]:
    """The nearest matrix of `rank` as a product (Eckart and Young 1936), and what it leaves out, relative."""
    left_OR, size_R, right_RD = torch.linalg.svd(delta_OD, full_matrices=False)
    root_R = size_R[:rank].sqrt()
    left_out = size_R[rank:].norm() / size_R.norm().clamp_min(torch.finfo(size_R.dtype).tiny)
    return left_OR[:, :rank] * root_R, root_R[:, None] * right_RD[:rank], left_out.item()


def _answers(model: nn.Module, folder: Path, manifest: dict) -> dict:
    """The restored model beside what the live one answered.

    Raises:
        ExportError: they differ by more than rounding.
    """
    reference, cases = manifest["reference"], {}
    for case, entry in fresh.read_cases(str(folder)).items():
        logits, tokens = fresh.answer(model, entry["inputs"], entry["logits"].shape[1], reference["new_tokens"])
        cases[case] = {
            "max_abs_logit_diff": (logits - entry["logits"]).abs().max().item(),
            "finite": bool(torch.isfinite(logits).all()),
            "generation_equal": torch.equal(tokens, entry["generated"]),
        }
    worst = max(case["max_abs_logit_diff"] for case in cases.values())
    allowed = TOLERANCE[reference["dtype"]] * max(1.0, reference["largest_logit"])
    if not worst <= allowed:
        raise ExportError(
            f"base and adapter taken from {folder} do not answer as the live model did",
            why=f"logits differ by {worst:.3g}, allowed is {allowed:.3g}",
            fix="report this bug",
        )
    equal = all(case["generation_equal"] for case in cases.values())
    return {"max_abs_logit_diff": worst, "generation_equal": equal, "cases": cases}


def _load(path: str | os.PathLike) -> nn.Module:
    from transformers import AutoModelForImageTextToText

    return AutoModelForImageTextToText.from_pretrained(str(path), dtype="auto").eval()
