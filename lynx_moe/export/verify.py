"""Proof that an exported folder is what was promised: reloaded in a fresh process without lynx_moe and peft."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from lynx_moe.errors import ExportError
from lynx_moe.export import fresh

# Largest logit difference allowed, relative to the largest logit (our choice): float32 differs by the order of
# additions only; half precision rounds each of them, and a misplaced tensor moves logits by far more.
TOLERANCE = {"float32": 1e-4, "float64": 1e-4, "bfloat16": 5e-2, "float16": 2e-2}


def verify(folder: str | os.PathLike, device: str = "cpu", timeout_seconds: float = 3600.0) -> dict:
    """Whether a finished export is still byte for byte what was written, and still answers as the live model did.

    Args:
        folder: what `export` returned as "path".
        device: where the fresh process puts the model.
        timeout_seconds: how long it may take.

    Returns:
        dict with "ok" and what was found: "changed_files", and for routes that load without this library
        "max_abs_logit_diff", "generation_equal", "loaded_without_lynx_moe", "changed_tensors", "cases".

    Raises:
        ExportError: the folder is no finished export, or it does not load.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if "files" not in manifest:
        raise ExportError(f"{folder} is not finished", why="its manifest lists no files", fix="export again")
    result = {"path": str(folder), "route": manifest["route"], "changed_files": changed_files(folder, manifest)}
    if manifest["route"] == "adapter":
        return {**result, "ok": not result["changed_files"]}
    if result["changed_files"]:
        # A changed file may be code: it is reported, not run.
        return {**result, "ok": False}
    result |= check_in_fresh_process(folder, device, timeout_seconds)
    return {**result, "ok": not complaints(result, manifest)}


def check_in_fresh_process(folder: Path, device: str, timeout_seconds: float = 3600.0) -> dict:
    """Load `folder` where lynx_moe and peft cannot be imported; compare tensors, logits and greedy tokens.

    Raises:
        ExportError: the process failed; the message carries the end of what it wrote.
    """
    with tempfile.TemporaryDirectory() as elsewhere:
        out = Path(elsewhere) / "result.json"
        # As text and not as a path, so that this package's folder is not on the new process's import path; no network,
        # and a private place for transformers to copy the folder's own code to.
        command = [sys.executable, "-c", _program(), str(folder.resolve()), str(out), device]
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
                f"{folder} does not load in a fresh process",
                why=run.stderr.strip()[-2000:] or f"exit status {run.returncode}",
                fix="if memory ran out, verify on another device; otherwise choose another route",
            )
        result = json.loads(out.read_text(encoding="utf-8"))
    cases = result["cases"].values()
    result["max_abs_logit_diff"] = max(case["max_abs_logit_diff"] for case in cases)
    result["generation_equal"] = all(case["generation_equal"] for case in cases)
    return result


def _program() -> str:
    return Path(fresh.__file__).read_text(encoding="utf-8")


def complaints(result: dict, manifest: dict) -> list[str]:
    """What in the fresh process's findings breaks the promise of the export; empty when nothing does."""
    found = []
    for key in ("missing", "unexpected", "changed_tensors"):
        if result[key]:
            found.append(f"{key.replace('_', ' ')}: {', '.join(result[key][:5])} ({len(result[key])} in all)")
    if not all(case["finite"] for case in result["cases"].values()):
        found.append("logits are not finite")
    reference = manifest["reference"]
    allowed = TOLERANCE[reference["dtype"]] * max(1.0, reference["largest_logit"])
    if not result["max_abs_logit_diff"] <= allowed:
        found.append(f"logits differ by {result['max_abs_logit_diff']:.3g}, allowed is {allowed:.3g}")
    if not result["generation_equal"] and reference["dtype"] in ("float32", "float64"):
        # In half precision two near-equal logits may change places; the report says so, and it is no failure.
        found.append("greedy generation differs from the live model's")
    if not result["loaded_without_lynx_moe"]:
        found.append("lynx_moe or peft was imported")
    return found


def file_hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` but the manifest, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != fresh.MANIFEST)
    return {path.relative_to(folder).as_posix(): _file_sha256(path) for path in files}


def changed_files(folder: Path, manifest: dict) -> list[str]:
    """Files that are gone or whose bytes changed since the export; the manifest itself counts too."""
    changed = [
        name
        for name, digest in manifest["files"].items()
        if not (folder / name).is_file() or _file_sha256(folder / name) != digest
    ]
    if (folder / fresh.MANIFEST).read_bytes() != manifest_bytes(manifest):
        changed.append(fresh.MANIFEST)
    return sorted(changed)


def manifest_bytes(manifest: dict) -> bytes:
    """The one spelling of a manifest, with a digest of itself, so that an edit by hand shows."""
    body = {key: value for key, value in manifest.items() if key != "digest"}
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    return (json.dumps({**body, "digest": digest}, indent=1, sort_keys=True) + "\n").encode()


def read_manifest(folder: Path) -> dict:
    try:
        return json.loads((folder / fresh.MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(
            f"{folder} holds no readable {fresh.MANIFEST}",
            why=str(error),
            fix="point to a folder that lynx_moe.export wrote, or export again",
        ) from error


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()
