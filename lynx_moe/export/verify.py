"""Proof that an exported folder is what was promised: reloaded in a fresh process without lynx_moe and peft."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

from lynx_moe.adapter import set_gate
from lynx_moe.adapter.loading import load_adapter
from lynx_moe.data import Record
from lynx_moe.errors import ExportError
from lynx_moe.export import certificate, fresh, probe
from lynx_moe.export.adapter_only import BASE_HASHES
from lynx_moe.export.asked import live_ask
from lynx_moe.export.probe import Asked
from lynx_moe.export.tampering import FileHash, describe, where
from lynx_moe.families.dialects import Dialect, get_dialect
from lynx_moe.families.templates import give_template
from lynx_moe.objectives.attached import attach_serving

# Largest logit difference allowed, relative to the largest logit (our choice): float32 differs by the order of
# additions only; half precision rounds each of them, and a misplaced tensor moves logits by far more.
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 5e-2, "float16": 2e-2}


# What a loader reads: a file of this kind that no manifest lists could change what is loaded.
READ_BY_LOADERS = (".safetensors", ".bin", ".pt", ".json", ".py", ".jinja", ".model", ".txt")


def verify(
    folder: str | os.PathLike,
    base: str | os.PathLike | None = None,
    records: Sequence[Record] | None = None,
    *,
    device: str = "cpu",
    timeout_seconds: float = 3600.0,
    certificate_to: str | os.PathLike | None = None,
) -> dict:
    """Whether a finished export is still byte for byte what was written, and still answers as the live model did.

    Args:
        folder: what `export` returned as "path".
        base: folder or Hub name of the base. With it every base tensor is compared, folds undone; answers with the
            prompt gate shut are compared with the base's; and an adapter-only export can answer at all.
        records: held-out records, which base and export are asked.
        device: where the fresh process puts the model.
        timeout_seconds: how long it may take.
        certificate_to: a folder for a new certificate of what was found here.

    Returns:
        dict with "ok" and what was found: "complaints" in words, "changed_files" and by name in "changes" where they
        changed; for routes that load without this library "max_abs_logit_diff", "generation_equal",
        "loaded_without_lynx_moe", "changed_tensors", "cases"; with a base "base" and "gates"; "probe" and "evaluation"
        where scenes or records were asked about; "certificate", the content of one.

    Raises:
        ExportError: the folder is no finished export, or it does not load, or `base` is not the one that was exported.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    result = {"path": str(folder), "route": manifest.get("route"), "changed_files": [], "changes": {}}
    if (folder / fresh.MANIFEST).read_bytes() != manifest_bytes(manifest):
        # Whatever it says of the other files may be changed as well.
        return result | _refused(f"{fresh.MANIFEST} was changed: it does not fit its own digest", [fresh.MANIFEST])
    if "files" not in manifest:
        raise ExportError(f"{folder} is not finished", why="its manifest lists no files", fix="export again")
    result |= changed_files(folder, manifest)
    wrong = certificate.complaint(folder)
    if result["changed_files"] or wrong:
        # A changed file may be code: it is reported, not run.
        said = [f"{name}: {'; '.join(where)}" for name, where in result["changes"].items()]
        return {**result, "ok": False, "complaints": said + ([wrong] if wrong else [])}
    asked, live = _questions(folder, manifest, base, records)
    if manifest["route"] == "adapter":
        result |= check_adapter(folder, manifest, base, asked, device) if base else {}
    elif manifest["route"] == "vllm":
        from lynx_moe.export import back  # it reads manifests with what stands in this file

        result |= back.check(folder, manifest, None if base is None else back.load_base(base))
    else:
        result |= check_in_fresh_process(folder, device, timeout_seconds, base=base, asked=asked)
    result |= judged(result, asked, live)
    found = complaints(result, manifest)
    result |= {"ok": not found, "complaints": found}
    result["certificate"] = certificate.make(manifest, result)
    if certificate_to is not None:
        result["certificate_path"] = str(certificate.write(Path(certificate_to), result["certificate"]))
    return result


def _refused(words: str, files: list[str]) -> dict:
    return {"ok": False, "complaints": [words], "changed_files": files, "changes": {name: [words] for name in files}}


def _questions(folder: Path, manifest: dict, base, records) -> tuple[Asked | None, list[str]]:
    """What base and export are asked: the scenes that travel with the export, and held-out records."""
    scenes, live = probe.read(folder)
    sets = {name: of for name, of in (("probe", scenes), ("held-out", records)) if of}
    if not sets or (manifest["route"] == "adapter" and base is None):
        return None, live
    from transformers import GenerationConfig

    home = str(base) if manifest["route"] == "adapter" else str(folder)
    processor = _processor(home)
    try:
        settings = GenerationConfig.from_pretrained(home)
    except OSError:
        settings = GenerationConfig()
    dialect = _dialect(manifest, processor)
    ends = probe.ends_of(SimpleNamespace(generation_config=settings), processor)
    return Asked(processor, dialect, sets, ends), live


def _processor(home: str):
    from transformers import AutoProcessor

    # It needs no code of the folder; left unsaid, transformers would stop and ask at the terminal.
    processor = AutoProcessor.from_pretrained(home, trust_remote_code=False)
    give_template(processor)
    return processor


def _dialect(manifest: dict, processor) -> Dialect:
    return get_dialect(manifest["dialect"] or "percent", processor, manifest.get("mask_word"))


def judged(found: dict, asked: Asked | None, live: Sequence[str], before: Sequence[str] | None = None) -> dict:
    """Scores of the answers in a comparison: "probe" beside the live model's, "evaluation" beside the base's.

    Args:
        found: with "answers", by model and batch, as the fresh process gives them.
        live: the live model's texts to the scenes.
        before: texts to the held-out records that stand for the base's, when no base was asked.
    """
    answers = {who: asked.texts(tokens) for who, tokens in found.get("answers", {}).items()} if asked else {}
    if "export" not in answers:
        return {}
    scored = {}
    if "probe" in asked.sets:
        scored["probe"] = probe.compared(asked, live, answers["export"]["probe"])
        if "base" in answers:
            of_base = asked.score("probe", answers["base"]["probe"])["grounding"] or {}
            scored["probe"]["base_acc50"] = of_base.get("acc50")
    if "held-out" in asked.sets:
        after = asked.score("held-out", answers["export"]["held-out"])
        texts = answers["base"]["held-out"] if "base" in answers else before
        scored["evaluation"] = {"after": after, "before": asked.score("held-out", texts) if texts else None}
        scored["evaluation"]["before_is"] = (
            "base" if "base" in answers else "live model, adapter off" if texts else None
        )
    return scored


def check_in_fresh_process(
    folder: Path, device: str, timeout_seconds: float = 3600.0, *, base=None, asked: Asked | None = None
) -> dict:
    """Load `folder` where lynx_moe and peft cannot be imported; compare tensors, logits and greedy tokens.

    With a `base` that is loaded there too, before; what is `asked` is answered by both.

    Raises:
        ExportError: `base` is another one, or the process failed; the message carries the end of what it wrote.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        out = Path(elsewhere) / "result.json"
        questions = "" if asked is None else str(asked.write(Path(elsewhere) / "questions.safetensors"))
        # As text and not as a path, so that this package's folder is not on the new process's import path; no network,
        # and a private place for transformers to copy the folder's own code to.
        command = [sys.executable, "-c", _program(), str(folder.resolve()), str(out), device, _place(base), questions]
        env = {**os.environ, "HF_MODULES_CACHE": elsewhere, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        try:
            run = subprocess.run(
                command, cwd=elsewhere, env=env, capture_output=True, text=True, timeout=timeout_seconds, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise ExportError(
                f"{folder} was not compared within {timeout_seconds:.0f} s",
                why="loading or generating took too long in the fresh process",
                fix="verify on a faster device, or allow more time",
            ) from error
        if run.returncode != 0 or not out.exists():
            raise ExportError(
                f"{folder}{f' or {base}' if base else ''} does not load in a fresh process",
                why=run.stderr.strip()[-2000:] or f"exit status {run.returncode}",
                fix="if memory ran out, verify on another device; otherwise choose another route",
            )
        result = json.loads(out.read_text(encoding="utf-8"))
    return summed_up(result, base)


def summed_up(result: dict, base=None) -> dict:
    """A comparison with its largest difference and whether all tokens were equal.

    Raises:
        ExportError: the base in it is another one than was exported.
    """
    if result.get("base", {}).get("differs"):
        raise ExportError(
            f"{base} is not the base of this export",
            why=f"the first difference: {result['base']['differs']}",
            fix="give the very base that the adapter was trained on: its name, revision and hash stand in the manifest",
        )
    cases = result["cases"].values()
    return result | {
        "max_abs_logit_diff": max(case["max_abs_logit_diff"] for case in cases),
        "generation_equal": all(case["generation_equal"] for case in cases),
    }


def check_adapter(folder: Path, manifest: dict, base, asked: Asked | None, device: str) -> dict:
    """An adapter-only export on its base, in this process: it needs lynx_moe and peft by its nature.

    Raises:
        ExportError: `base` is another one: a file of its weights, or a tensor, differs.
    """
    wanted = json.loads((folder / BASE_HASHES).read_text(encoding="utf-8"))
    cases, reference = fresh.read_cases(folder), manifest["reference"]
    batches, how = (asked.batches, asked.how) if asked else ({}, {})
    files, differs = shards_of(folder, base)
    result = {"cases": {}, "answers": {}, "base": {"differs": differs}}
    if differs is None:
        original = fresh.base_of(_place(base), manifest["base"]["dtype"], device, reference.get("attention"))
        result["base"], base_logits = fresh.look_at_base(original, cases, wanted, reference["adapter_off"])
        if result["base"]["differs"] is None:
            result["answers"]["base"] = fresh.written(original, batches, how)
            model = load_adapter(original, folder)
            attach_serving(model, folder)
            result["cases"] = fresh.against_live(model, cases, reference["new_tokens"])
            if through_heads := fresh.read_asked(folder):
                processor = _processor(_place(base))
                with set_gate(model, True):
                    ask = live_ask(model, processor, _dialect(manifest, processor))
                    result["cases"] |= fresh.against_asked(ask, through_heads)
            result["gates"] = fresh.gates_of(model, reference["gates"], cases, base_logits, _live_gate)
            result["answers"]["export"] = fresh.written(model, batches, how)
            result["base"] |= {"identical": sorted(wanted), "shards": files}
    return summed_up(result, base) | {"loaded_without_lynx_moe": False}


def shards_of(folder: Path, base) -> tuple[list[str], str | None]:
    """(files of weights that were compared, the first that differs in words) by the pin of an adapter-only export."""
    pin, place = folder / "lynx_base.json", Path(_place(base))
    pinned = json.loads(pin.read_text(encoding="utf-8")).get("files", {}) if pin.is_file() else {}
    if not place.is_dir() or not any((place / name).is_file() for name in pinned):
        return [], None  # saved in other files: its tensors decide
    for name, digest in sorted(pinned.items()):
        if not (place / name).is_file():
            return [], f"its file {name} is missing"
        found = FileHash.of(place / name).sha256
        if found != digest:
            return [], f"its file {name} has sha256 {found[:16]}..., and {digest[:16]}... was pinned"
    return sorted(pinned), None


def _live_gate(model, gate: str):
    return set_gate(model, gate == "on") if gate != "auto" else nullcontext()


def _place(base) -> str:
    # The fresh process runs in another folder, where a relative path would name nothing.
    return "" if base is None else str(Path(base).resolve()) if Path(base).exists() else str(base)


def _program() -> str:
    return Path(fresh.__file__).read_text(encoding="utf-8")


def complaints(result: dict, manifest: dict) -> list[str]:
    """What in a comparison breaks the promise of the export; empty when nothing does."""
    if "cases" not in result:
        return []  # an adapter without its base: its files are all that can be looked at
    found, reference = [], manifest["reference"]
    for key in ("missing", "unexpected", "changed_tensors"):
        if result.get(key):
            found.append(f"{key.replace('_', ' ')}: {_several(result[key])}")
    if not all(case["finite"] for case in result["cases"].values()):
        found.append("logits are not finite")
    allowed = TOLERANCE[reference["dtype"]] * max(1.0, reference["largest_logit"])
    if not result["max_abs_logit_diff"] <= allowed:
        found.append(f"logits differ by {result['max_abs_logit_diff']:.3g}, allowed is {allowed:.3g}")
    # In half precision two near-equal logits may change places; the report says so, and it is no failure.
    exact = reference["dtype"] in ("float32", "float64")
    if not result["generation_equal"] and exact:
        found.append("greedy generation differs from the live model's")
    apart = sum(case.get("mask_pixels_differ", 0) for case in result["cases"].values())
    if apart and exact:
        found.append(f"masks differ from the live model's in {apart} pixels")
    if not result["loaded_without_lynx_moe"] and manifest["route"] not in ("adapter", "vllm"):
        found.append("lynx_moe or peft was imported")
    base = result.get("base", {})
    if base.get("changed"):
        found.append(f"not the base's after undoing the fold: {_several(base['changed'])}")
    if base.get("only_described"):
        found.append(f"the manifest does not say how to undo the fold of {_several(base['only_described'])}")
    found += certificate.broken_promises(result.get("gates", {}), reference)
    if "probe" in result and exact and result["probe"]["same_boxes"] != result["probe"]["n"]:
        found.append(f"{result['probe']['n'] - result['probe']['same_boxes']} scenes of the probe have other boxes")
    return found


def _several(names: list[str]) -> str:
    return f"{', '.join(names[:5])} ({len(names)} in all)"


def file_hashes(folder: Path) -> dict[str, dict]:
    """For a manifest: "files", the sha256 of every file but the manifest, and "blocks", which find a changed byte."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != fresh.MANIFEST)
    hashes = {path.relative_to(folder).as_posix(): FileHash.of(path) for path in paths}
    return {
        "files": {name: found.sha256 for name, found in hashes.items()},
        "blocks": {name: {"size": found.size, "adler32": found.blocks} for name, found in hashes.items()},
    }


def changed_files(folder: Path, manifest: dict) -> dict:
    """Files that are gone, changed or added since the export, and where they changed, in words."""
    changes = {}
    for name, digest in sorted(manifest["files"].items()):
        path, blocks = folder / name, manifest.get("blocks", {}).get(name)
        if not path.is_file():
            changes[name] = ["it is missing"]
            continue
        now = FileHash.of(path)
        if now.sha256 != digest:
            before = FileHash(digest, blocks["size"], blocks["adler32"]) if blocks else None
            changes[name] = describe(path, where(path, before, now)) if before else ["its sha256 changed"]
    here = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(here - set(manifest["files"]) - {fresh.MANIFEST}):
        # What tools leave behind (.git, .cache) is read by no loader.
        if name.endswith(READ_BY_LOADERS) and not name.startswith("."):
            changes[name] = ["it was added after the export"]
    return {"changed_files": sorted(changes), "changes": changes}


def manifest_bytes(manifest: dict) -> bytes:
    """The one spelling of a manifest, with a digest of itself, so that an edit by hand shows."""
    body = {key: value for key, value in manifest.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "digest": digest}, indent=1, sort_keys=True) + "\n").encode()


def read_manifest(folder: Path) -> dict:
    try:
        manifest = json.loads((folder / fresh.MANIFEST).read_text(encoding="utf-8"))
        if not isinstance(manifest, dict):
            raise ValueError("it is no JSON object")
        return manifest
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder} holds no readable {fresh.MANIFEST}",
            why=str(error),
            fix="point to a folder that lynx_moe.export wrote, or export again",
        ) from error
