"""One export from plan to proof: written aside, checked in a fresh process, and only then given its name."""

from __future__ import annotations

import copy
import hashlib
import os
import shutil
import tempfile
from pathlib import Path

import torch
import transformers

import lynx_moe
from lynx_moe.adapter import LynxConfig
from lynx_moe.errors import ExportError, OutputExistsError
from lynx_moe.export import adapter_only, card, code, fresh, native, reference
from lynx_moe.export.built import account, instantiate
from lynx_moe.export.plan import Plan, plan_adapted
from lynx_moe.export.read import Adapted, read
from lynx_moe.export.verify import check_in_fresh_process, complaints, file_hashes, manifest_bytes


def export(
    peft_model,
    processor,
    out_dir: str | os.PathLike,
    route: str = "auto",
    *,
    examples: dict[str, dict[str, torch.Tensor]] | None = None,
    overwrite: bool = False,
    licence: str | None = None,
    new_tokens: int = 16,
    device: str | None = None,
) -> dict:
    """Write a Hugging Face folder of this model that loads without lynx_moe, and prove it before it gets its name.

    The plan is printed first. The folder appears only after a fresh process, in which lynx_moe and peft cannot be
    imported, has loaded it and given the live model's logits.

    Args:
        peft_model: what `get_peft_model(vlm, LynxConfig(...))` returned, trained.
        processor: saved with the weights, and used to make the inputs to compare on; None when `examples` are given.
        out_dir: the folder to make.
        route: "native", "code", "adapter" or "auto" (see `plan`).
        examples: model inputs to compare on, by name; None for an understanding and a grounding prompt about a drawn
            picture.
        overwrite: replace an export that is there already; otherwise it is refused.
        licence: SPDX-like name for the card; None takes the one in the base's card.
        new_tokens: how many tokens to generate greedily in the comparison.
        device: where the fresh process puts the model; None for where the live model is.

    Returns:
        dict: path, route, host, exactness, reasons, prompt_gate, max_abs_logit_diff, generation_equal,
        loaded_without_lynx_moe, base_tensors (unchanged, folded), base_sha256, cases, size_bytes. For the route
        "adapter" the comparison is made in this process by loading the folder beside the live adapter.

    Raises:
        ExportError: the model cannot take this route, or the written folder failed its check (nothing is left behind).
        OutputExistsError: `out_dir` holds an export and `overwrite` is False, or it holds anything else.
    """
    out_dir = Path(out_dir)
    _refuse_existing(out_dir, overwrite)
    adapted = read(peft_model)
    chosen = plan_adapted(adapted, route)
    print(chosen, flush=True)
    if examples is None:
        examples = reference.example_inputs(processor)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{out_dir.name}.", dir=out_dir.parent))
    try:
        manifest = _write(peft_model, adapted, chosen, processor, examples, aside, new_tokens)
        if chosen.route == "adapter":
            found = _compare_adapter(peft_model, adapted, aside, examples, new_tokens)
        else:
            found = check_in_fresh_process(aside, device or peft_model.device.type)
            _complain(complaints(found, manifest), chosen)
        report = _report(adapted, chosen, manifest, found) | {"name": out_dir.name}
        legal = card.copy_legal_files(adapted.base_name, aside)
        licence = licence or card.base_licence(adapted.base_name)
        # Only what LynxConfig adds: PEFT's own fields hold paths of this machine.
        settings = {name: getattr(adapted.config, name) for name in LynxConfig.__annotations__}
        card.write(aside, report, settings=settings, base_name=adapted.base_name, licence=licence, legal_files=legal)
        manifest |= {"report": report, "files": file_hashes(aside)}
        (aside / fresh.MANIFEST).write_bytes(manifest_bytes(manifest))
        # mkdtemp makes folders private; a finished one has the permissions any new folder would have.
        aside.chmod(0o777 & ~_umask())
        _give_name(aside, out_dir)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    size = sum(path.stat().st_size for path in out_dir.rglob("*") if path.is_file())
    return {**report, "path": str(out_dir), "size_bytes": size}


def _refuse_existing(out_dir: Path, overwrite: bool) -> None:
    if not out_dir.exists() or (out_dir.is_dir() and not any(out_dir.iterdir())):
        return
    if not (out_dir / fresh.MANIFEST).is_file():
        # Replacing means deleting: only what an export wrote, never somebody's home.
        raise OutputExistsError(
            f"{out_dir} exists", why="it holds files that no export wrote", fix="choose another folder"
        )
    if not overwrite:
        raise OutputExistsError(
            f"{out_dir} exists",
            why="it holds a finished export",
            fix="choose another folder, or pass overwrite=True",
        )


def _write(
    peft_model, adapted: Adapted, chosen: Plan, processor, examples: dict, folder: Path, new_tokens: int
) -> dict:
    """Everything of the folder but card and final manifest; returns the manifest so far."""
    base_hashes = {name: fresh.tensor_sha256(tensor) for name, tensor in adapted.base_state().items()}
    manifest = {
        "format": 1,
        "lynx_moe": lynx_moe.__version__,
        "transformers": transformers.__version__,
        "route": chosen.route,
        "host": chosen.host,
        "dialect": peft_model.peft_config[peft_model.active_adapter].dialect,
        "base_sha256": _combined(base_hashes),
    }
    if chosen.route == "adapter":
        adapter_only.write(peft_model, folder, base_hashes)
        return manifest | {"base_tensors": {"unchanged": 0, "folded": 0}}
    if chosen.route == "native":
        built = native.build(adapted, chosen.host)
    else:
        built = code.build(adapted, folder)
    manifest["tensors"], manifest["base_tensors"] = account(built, base_hashes)
    model = instantiate(built)
    if adapted.base.generation_config is not None:
        model.generation_config = copy.deepcopy(adapted.base.generation_config)
    model.save_pretrained(folder)
    del model
    if processor is not None:
        processor.save_pretrained(folder)
    manifest["reference"] = reference.record(
        peft_model, examples, folder, force_gate_on=chosen.route == "native", new_tokens=new_tokens
    )
    (folder / fresh.MANIFEST).write_bytes(manifest_bytes(manifest))
    return manifest


def _compare_adapter(peft_model, adapted: Adapted, folder: Path, examples: dict, new_tokens: int) -> dict:
    """The folder loaded as a second adapter on the same base, against the live one."""
    live, name = peft_model.active_adapter, "lynx_export_check"
    was_training = peft_model.training
    peft_model.eval()
    worst, equal = 0.0, True
    try:
        peft_model.load_adapter(str(folder), adapter_name=name)
        for inputs in examples.values():
            peft_model.set_adapter(live)
            logits, tokens = fresh.answer(peft_model, inputs, reference.POSITIONS, new_tokens)
            peft_model.set_adapter(name)
            again, again_tokens = fresh.answer(peft_model, inputs, reference.POSITIONS, new_tokens)
            worst = max(worst, (logits - again).abs().max().item())
            equal = equal and torch.equal(tokens, again_tokens)
    finally:
        peft_model.set_adapter(live)
        if name in peft_model.peft_config:
            peft_model.delete_adapter(name)
        peft_model.train(was_training)
    if worst != 0.0 or not equal:
        raise ExportError(
            "the saved adapter does not answer as the live one",
            why=f"logits differ by {worst:.3g}",
            fix="save and load the adapter with PEFT alone and compare; if that differs too, report this bug",
        )
    return {"max_abs_logit_diff": worst, "generation_equal": equal, "loaded_without_lynx_moe": False, "cases": {}}


def _complain(found: list[str], chosen: Plan) -> None:
    if found:
        raise ExportError(
            f"the {chosen.route} export by {chosen.host} failed its check and was not kept",
            why="; ".join(found),
            fix="export with route='code'" if chosen.route == "native" else "export with route='adapter'",
        )


def _report(adapted: Adapted, chosen: Plan, manifest: dict, found: dict) -> dict:
    return {
        "route": chosen.route,
        "host": chosen.host,
        "exactness": chosen.exactness,
        "reasons": list(chosen.reasons),
        "prompt_gate": "on" if chosen.route == "native" else adapted.gate,
        "base_sha256": manifest["base_sha256"],
        "base_tensors": manifest["base_tensors"],
        **{key: found[key] for key in ("max_abs_logit_diff", "generation_equal", "loaded_without_lynx_moe", "cases")},
    }


def _combined(hashes: dict[str, str]) -> str:
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _umask() -> int:
    # The only way to read it is to set it.
    mask = os.umask(0)
    os.umask(mask)
    return mask


def _give_name(aside: Path, out_dir: Path) -> None:
    """Rename; what was there is moved aside first and deleted last."""
    old = aside.with_name(aside.name + ".old")
    if out_dir.exists():
        os.replace(out_dir, old)
    try:
        os.replace(aside, out_dir)
    except OSError:
        if old.exists():
            os.replace(old, out_dir)
        raise
    shutil.rmtree(old, ignore_errors=True)
