"""The base that an adapter alone needs, pinned: repository, revision, and the hash of every file of its weights."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache

from lynx_moe.adapter.base_identity import describe, identify, is_held_alike
from lynx_moe.digests import file_sha256
from lynx_moe.errors import CheckpointError
from lynx_moe.export.fresh import tensor_sha256

PIN = "lynx_base.json"
SNAPSHOT = re.compile(r"models--(?P<repository>[^/]+)/snapshots/(?P<revision>[0-9a-f]{40})")


@dataclass(frozen=True)
class BasePin:
    """Which base, to the byte.

    Attributes:
        repository: its name on the Hub, or pkg://package/folder; None when it came from a folder that nothing names.
        revision: the Hub's commit; None when unknown.
        files: sha256 of each file of weights as it lies on disk, by name; empty when they could not be found.
        identity: family, shapes and number types, as `lynx_moe.adapter.base_identity.identify` gives them.
        tensors_sha256: one digest over name, type, shape and bytes of every tensor, as they were held.
    """

    repository: str | None
    revision: str | None
    files: dict[str, str]
    identity: dict[str, Any]
    tensors_sha256: str

    def write(self, folder: Path) -> None:
        (folder / PIN).write_text(json.dumps(asdict(self), indent=1, sort_keys=True) + "\n", encoding="utf-8")

    @property
    def called(self) -> str:
        name = self.repository or describe(self.identity)
        return f"{name} at revision {self.revision}" if self.revision else name


def pin(base: Any, tensors_sha256: str, repository: str | None = None, revision: str | None = None) -> BasePin:
    """What names `base`, from where it was loaded; `repository` and `revision` win over what can be found out."""
    folder, found_repository, found_revision = whereabouts(base)
    files = {path.name: file_sha256(path) for path in weight_files(folder)}
    return BasePin(repository or found_repository, revision or found_revision, files, identify(base), tensors_sha256)


def refuse_another_base(adapter: Path, base: Any) -> bool:
    """Whether the pin in `adapter` proves that `base` is the one; False when there is no pin, or nobody can tell.

    Files of weights are compared where they can be found, so that a base loaded in another number type, or quantised on
    the way, is recognised too. Otherwise tensors are compared, where they are held alike.

    Raises:
        CheckpointError: the weights are others, by another revision, another repository or a changed file.
    """
    if not (adapter / PIN).is_file():
        return False
    try:
        pinned = BasePin(**json.loads((adapter / PIN).read_text(encoding="utf-8")))
    except (ValueError, TypeError) as problem:
        raise CheckpointError(
            f"{adapter / PIN} cannot be read", why=str(problem), fix="export the adapter again"
        ) from problem
    folder, repository, revision = whereabouts(base)
    here = {path.name: path for path in weight_files(folder)}
    if pinned.files and pinned.files.keys() <= here.keys():
        changed = sorted(name for name, digest in pinned.files.items() if file_sha256(here[name]) != digest)
        if changed:
            raise _another(pinned, base, repository, revision, f"{', '.join(changed)} have other bytes")
        return True
    if is_held_alike(pinned.identity, base):
        if digest_of(base_hashes(base)) != pinned.tensors_sha256:
            raise _another(pinned, base, repository, revision, "its tensors have other bytes")
        return True
    warnings.warn(
        f"whether this base is {pinned.called} cannot be told: its files were not found, and it is held in another "
        "number type than the adapter was exported beside",
        UserWarning,
        stacklevel=2,
    )
    return False


def whereabouts(base: Any) -> tuple[Path | None, str | None, str | None]:
    """Folder, Hub repository and revision that a loaded base came from, as far as they can be found out offline."""
    name = getattr(base, "name_or_path", "") or ""
    revision = getattr(getattr(base, "config", None), "_commit_hash", None)
    if not name:
        return None, None, revision
    if not Path(name).is_dir():
        cached = try_to_load_from_cache(name, "config.json", revision=revision)
        return (Path(cached).parent if isinstance(cached, str) else None), name, revision
    folder = Path(name)
    in_cache = SNAPSHOT.search(folder.absolute().as_posix())
    if in_cache:
        return folder, in_cache["repository"].replace("--", "/"), in_cache["revision"]
    # What `hf download --local-dir` leaves beside the files: the commit stands in the first line.
    note = folder / ".cache" / "huggingface" / "download" / "config.json.metadata"
    if note.is_file():
        revision = note.read_text(encoding="utf-8").splitlines()[0].strip() or revision
    return folder, None, revision


def weight_files(folder: Path | None) -> list[Path]:
    """The files that a folder's weights are in: the shards of its index, or its one file."""
    if folder is None:
        return []
    for index in ("model.safetensors.index.json", "pytorch_model.bin.index.json"):
        if (folder / index).is_file():
            shards = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
            return [folder / name for name in sorted(set(shards)) if (folder / name).is_file()]
    return [folder / name for name in ("model.safetensors", "pytorch_model.bin") if (folder / name).is_file()][:1]


def base_hashes(base: Any) -> dict[str, str]:
    """sha256 of every tensor of a base without adapter, by name."""
    return {name: tensor_sha256(tensor) for name, tensor in base.state_dict().items()}


def digest_of(hashes: dict[str, str]) -> str:
    """One digest over the hashes of all tensors; the same that training writes into a run's card."""
    lines = "".join(f"{name} {digest}\n" for name, digest in sorted(hashes.items()))
    return hashlib.sha256(lines.encode()).hexdigest()


def _another(pinned: BasePin, base: Any, repository: str | None, revision: str | None, differs: str) -> CheckpointError:
    found = f"{repository or getattr(base, 'name_or_path', '') or 'this base'}"
    if revision:
        found += f" at revision {revision}"
    return CheckpointError(
        f"this adapter is for {pinned.called}, and {found} is another base",
        why=f"{differs}; beside other frozen experts the new ones mean something else",
        fix=f"load {pinned.called}" + ("" if pinned.revision else ", the very files it was exported beside"),
    )
