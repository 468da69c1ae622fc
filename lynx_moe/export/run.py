"""One export from plan to proof: written aside, checked in a fresh process, and only then given its name."""

from __future__ import annotations

import copy
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import transformers

import lynx_moe
from lynx_moe.adapter import LynxConfig
from lynx_moe.data import Record
from lynx_moe.errors import ExportError
from lynx_moe.export import adapter_only, back, card, certificate, fresh, reference, vllm
from lynx_moe.export.asked import record_asked
from lynx_moe.export.base_pin import digest_of, pin, whereabouts
from lynx_moe.export.built import Built, account
from lynx_moe.export.code_heads import dialect_of, mask_word_of
from lynx_moe.export.evidence import Evidence, adapter_described, base_described
from lynx_moe.export.out_folder import claimed, give_name, refuse_full_disk
from lynx_moe.export.plan import ALWAYS_ON, Plan, next_best, prepare
from lynx_moe.export.promise import Promise
from lynx_moe.export.provenance import Provenance
from lynx_moe.export.read import Adapted, read
from lynx_moe.export.verify import check_in_fresh_process, complaints, file_hashes, judged, manifest_bytes


def export(
    peft_model,
    processor,
    out_dir: str | os.PathLike,
    route: str = "auto",
    *,
    gate: str = "auto",
    examples: dict[str, dict[str, torch.Tensor]] | None = None,
    overwrite: bool = False,
    licence: str | None = None,
    provenance: Provenance | None = None,
    max_shard_size: int | str = "5GB",
    new_tokens: int = 16,
    device: str | None = None,
    with_probe: bool = False,
    records: Sequence[Record] | None = None,
    base: str | os.PathLike | None = None,
    without_heads: bool = False,
) -> dict:
    """Write a Hugging Face folder of this model that loads without lynx_moe, and prove it before it gets its name.

    The plan is printed first. The folder appears only after a fresh process, in which lynx_moe and peft cannot be
    imported, has loaded it and given the live model's logits within what the plan promised.

    Args:
        peft_model: what `get_peft_model(vlm, LynxConfig(...))` returned, trained.
        processor: saved with the weights, and used to make the inputs to compare on; None when `examples` are given.
        out_dir: the folder to make.
        route: "auto", or one of `lynx_moe.export.plan.ROUTES`.
        gate: "auto" keeps the prompt gate as trained, and refuses routes that cannot; "on" ships it open on every
            prompt.
        examples: model inputs to compare on, by name; None for an understanding and a grounding prompt about a drawn
            picture.
        overwrite: replace an export that is there already; otherwise it is refused.
        licence: SPDX-like name for the card; None takes the one in the base's card.
        provenance: command, base's name, numbers and data for card and pin; None says that they are not known.
        max_shard_size: largest file of weights, as transformers takes it ("5GB"); more become shards with an index.
        new_tokens: how many tokens to generate greedily in the comparison.
        device: where the fresh process puts the model; None for where the live model is.
        with_probe: draw scenes with synth, keep the live model's boxes on them in the folder, and compare.
        records: held-out records; with them a forget-free certificate is written into the folder.
        base: folder or Hub name of the base, for the certificate; None asks the live model with its adapter off.
        without_heads: leave heads behind that answers need; the plan says what is lost.

    Returns:
        dict: what the plan says (`Plan.as_json`), path, max_abs_logit_diff, generation_equal,
        loaded_without_lynx_moe, base_tensors (unchanged, folded), base_sha256, cases, size_bytes. For the route
        "adapter" the comparison is made in this process by loading the folder beside the live adapter.

    Raises:
        ExportError: the model cannot take this route, the disk is full, or the written folder failed its check. In
            each case nothing is left behind.
        OutputExistsError: `out_dir` holds an export and `overwrite` is False, or it holds anything else.
        InUseError: another process is exporting to `out_dir`.
    """
    out_dir = Path(out_dir)
    provenance = provenance or Provenance()
    with claimed(out_dir, overwrite) as aside:
        live = read(peft_model, processor, without_heads=without_heads)
        chosen, adapted, built, model = prepare(live, route, gate, aside)
        print("\n".join([str(chosen), *(f"  note: {note}" for note in provenance.notes)]), flush=True)
        refuse_full_disk(out_dir, chosen.cost.size_bytes)
        evidence = Evidence.of(peft_model, processor, with_probe=with_probe, records=records)
        if examples is None:
            examples = reference.example_inputs(processor)
            examples["random"] = reference.random_inputs(adapted.base, examples["both"])
            examples |= evidence.examples(processor)
        base_hashes = {name: fresh.tensor_sha256(tensor) for name, tensor in adapted.base_state().items()}
        pinned = pin(adapted.base, digest_of(base_hashes), provenance.repository, provenance.revision)
        provenance = replace(provenance, repository=pinned.repository, revision=pinned.revision)
        manifest = _manifest(adapted, chosen, base_hashes)
        if built is None:
            adapter_only.write(peft_model, aside, base_hashes, pinned, with_heads=bool(adapted.heads))
        else:
            manifest["tensors"], manifest["base_tensors"] = account(built, base_hashes)
            if built.adapter is not None:
                manifest["parts"] = built.adapter
            _save(built, model, adapted.base, processor, aside, max_shard_size)
            built = model = None
        forced = chosen.gate != live.gate
        manifest["reference"] = reference.record(
            peft_model, examples, aside, force_gate_on=forced, new_tokens=new_tokens
        )
        if manifest["heads"] and processor is not None:
            record_asked(peft_model, processor, dialect_of(adapted), adapted.heads, aside, new_tokens)
        (aside / fresh.MANIFEST).write_bytes(manifest_bytes(manifest))
        evidence.ask(peft_model, aside, gate_on=forced)
        if chosen.route == "adapter":
            found = _compare_adapter(peft_model, aside, examples, new_tokens)
        elif chosen.route == "vllm":
            found = back.check(aside, manifest, adapted.base_state())
            _complain(complaints(found, manifest), adapted, chosen, gate)
        else:
            known = {"base": base, "asked": evidence.asked} if evidence.asked else {"base": base} if base else {}
            found = check_in_fresh_process(aside, device or peft_model.device.type, **known)
            found |= judged(found, evidence.asked, evidence.live, evidence.before)
            broken = not_as_planned(found, manifest, chosen.promise, device or peft_model.device.type)
            _complain(complaints(found, manifest) + broken, adapted, chosen, gate)
        report = _report(chosen, manifest, found, provenance) | {"name": out_dir.name}
        _write_card(aside, report, adapted, provenance, licence)
        if records:
            certificate.write(aside, certificate.make(manifest, found | {"complaints": []}))
        manifest |= {"report": report, **file_hashes(aside)}
        (aside / fresh.MANIFEST).write_bytes(manifest_bytes(manifest))
        give_name(aside, out_dir)
    size = sum(path.stat().st_size for path in out_dir.rglob("*") if path.is_file())
    return {**report, "path": str(out_dir), "size_bytes": size}


def not_as_planned(found: dict, manifest: dict, promise: Promise, device: str) -> list[str]:
    """Where reality is not what the plan said, beyond what any export must hold; empty when it is.

    A bound is meant in float32: in half precision `complaints` allows what its rounding costs. Bits are compared on
    CPUs: on other devices the same program may add up in another order each time it runs.
    """
    worst, reference = found["max_abs_logit_diff"], manifest["reference"]
    if promise.exactness == "bitwise":
        return [] if worst == 0.0 or device != "cpu" else [f"the plan said bitwise, and logits differ by {worst:.3g}"]
    allowed = promise.bound * max(1.0, reference["largest_logit"])
    if reference["dtype"] in ("float32", "float64") and not worst <= allowed:
        return [f"the plan said within {allowed:.3g}, and logits differ by {worst:.3g}"]
    return []


def _manifest(adapted: Adapted, chosen: Plan, base_hashes: dict[str, str]) -> dict:
    """The manifest as far as it is known before anything is saved."""
    return {
        "format": 1,
        "lynx_moe": lynx_moe.__version__,
        "transformers": transformers.__version__,
        "route": chosen.route,
        "host": chosen.host,
        "dialect": adapted.config.dialect,
        "mask_word": mask_word_of(adapted),
        "heads": [] if chosen.route in ALWAYS_ON else sorted(adapted.heads),
        "plan": chosen.as_json(),
        "base_sha256": digest_of(base_hashes),
        "base": base_described(adapted),
        "adapter": adapter_described(adapted),
        "base_tensors": {"unchanged": 0, "folded": 0},
    }


def _save(built: Built, model, base, processor, folder: Path, max_shard_size: int | str) -> None:
    if model is None:
        vllm.save(built, folder, max_shard_size)
        if base.generation_config is not None:
            base.generation_config.save_pretrained(folder)
    else:
        if getattr(base, "generation_config", None) is not None:
            model.generation_config = copy.deepcopy(base.generation_config)
        model.save_pretrained(folder, max_shard_size=max_shard_size)
    if processor is not None:
        processor.save_pretrained(folder)


def _write_card(folder: Path, report: dict, adapted: Adapted, provenance: Provenance, licence: str | None) -> None:
    source = whereabouts(adapted.base)[0] or (Path(adapted.base_name) if adapted.base_name else None)
    # Only what LynxConfig adds: PEFT's own fields hold paths of this machine.
    settings = {name: getattr(adapted.config, name) for name in LynxConfig.__annotations__}
    card.write(
        folder,
        report,
        settings=settings,
        provenance=provenance,
        licence={"license": licence} if licence else card.base_licence(source),
        legal_files=card.copy_legal_files(source, folder),
    )


def _compare_adapter(peft_model, folder: Path, examples: dict, new_tokens: int) -> dict:
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


def _complain(found: list[str], adapted: Adapted, chosen: Plan, gate: str) -> None:
    if found:
        raise ExportError(
            f"the {chosen.route} export by {chosen.host} failed its check and was not kept",
            why="; ".join(found),
            fix=f"export with route={next_best(adapted, chosen.route, gate)!r}",
        )


def _report(chosen: Plan, manifest: dict, found: dict, provenance: Provenance) -> dict:
    plan = chosen.as_json()
    return {
        **plan,
        "reasons": [*plan["reasons"], *provenance.notes],
        "dialect": manifest["dialect"],
        "heads": manifest["heads"],
        "base_sha256": manifest["base_sha256"],
        "base_tensors": manifest["base_tensors"],
        **{key: found[key] for key in ("max_abs_logit_diff", "generation_equal", "loaded_without_lynx_moe", "cases")},
    }
