"""One way to open whatever a path means: a base, a finished run, an adapter on its own, or an export."""

from __future__ import annotations

import json
import warnings
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lynx_moe.errors import CheckpointError, ConfigError

GATES = ("auto", "on", "off")
EXPORT_MANIFEST = "lynx_export.json"


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """A model ready to answer, with what its answers need to be read.

    Attributes:
        kind: "base", "run", "adapter" or "export".
        model: in eval mode; a `PeftModel` when `adapted`.
        processor: the base's.
        dialect: how it writes boxes, in the frame of its processor.
        notes: what an export of it should say of how it was loaded.
        objectives: settings of each objective beside the answer that it was trained with, by name, where it says so.
    """

    kind: str
    model: Any
    processor: Any
    dialect: Any
    notes: tuple[str, ...] = ()
    objectives: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def adapted(self) -> bool:
        return self.kind in ("run", "adapter")

    def gate(self, choice: str) -> AbstractContextManager:
        """Inside, the prompt gate is as `choice` says: "auto" leaves it to the adapter, "on" and "off" force it.

        Raises:
            ConfigError: the choice is unknown, or this is no live adapter, whose gate could be forced.
        """
        from lynx_moe.adapter import lynx_layers, set_gate

        if choice not in GATES:
            raise ConfigError(f"gate {choice!r} is unknown", why=f"it is one of {', '.join(GATES)}", fix="gate auto")
        if choice == "auto":
            return nullcontext()
        if not self.adapted:
            raise ConfigError(
                f"the gate of {'an export' if self.kind == 'export' else 'a base'} cannot be forced {choice}",
                why="it has no live adapter: an export carries its gate inside, a base has none",
                fix="point to the run folder, or leave the gate on auto",
            )
        if lynx_layers(self.model):
            return set_gate(self.model, choice == "on")
        # A baseline (LoRA, say) has no gate: it is on, or taken off.
        return nullcontext() if choice == "on" else self.model.disable_adapter()


def load(
    path: str | Path,
    *,
    base: str | Path | None = None,
    dialect: str | None = None,
    dtype: str | None = None,
    trust_remote_code: bool = False,
    dequantise: bool = False,
    checkpoint: str | Path | None = None,
) -> Loaded:
    """Opens `path` for answering: a run folder, an adapter folder, an exported folder, or any base VLM.

    Args:
        path: a folder, a Hub name, or pkg://package/folder for a base.
        base: folder or Hub name of the base under an adapter; None takes the one that the run or the adapter names.
        dialect: name of the box dialect; None takes the run's, and "percent" where nothing says.
        dtype: number type of the weights; None takes the run's, and the stored one where nothing says.
        trust_remote_code: allow an export by route "code" to run its own modelling file.
        dequantise: of a run or an adapter on a quantised base: hold plain weights again, which are the quantised ones
            and not the original's.
        checkpoint: of a run: the folder of a checkpoint, whose adapter is taken instead of the published one.

    Raises:
        ConfigError: `checkpoint`, and `path` is no finished run.
        CheckpointError: the checkpoint is torn.
        ConfigError: `dequantise`, and the base is not quantised or its method has no way back.
        CheckpointError: nothing that can be loaded is there, or an export brings code and that was not allowed.
        ConfigError: the dialect is unknown.
    """
    folder = Path(path)
    if (folder / "run.json").is_file():
        return _run(folder, base, dialect, dtype, dequantise, Path(checkpoint or folder / "adapter"))
    if checkpoint:
        raise ConfigError(f"{folder} is no finished run", why="only a run has checkpoints", fix="give its folder")
    if (folder / EXPORT_MANIFEST).is_file() and not (folder / "adapter_config.json").is_file():
        return _export(folder, dialect, dtype, trust_remote_code)
    if (folder / "adapter_config.json").is_file():
        return _adapter(folder, base, dialect, dtype, dequantise)
    if folder.is_dir() and (folder / "adapter").is_dir():
        if base:
            return _adapter(folder / "adapter", base, dialect, dtype, dequantise)
        raise CheckpointError(
            f"{folder} is an unfinished run",
            why="it has no run.json, which is written last",
            fix="resume or repeat the run, or say on which base its adapter sits: base=...",
        )
    if folder.is_dir() and not (folder / "config.json").is_file():
        raise CheckpointError(
            f"no model in {folder}",
            why="there is neither a config.json, nor an adapter_config.json, nor an adapter/ with one",
            fix="give the folder that export wrote, or the output_dir of a finished training run",
        )
    return _base(str(path), dialect, dtype)


def _run(
    folder: Path, base_path: str | Path | None, dialect: str | None, dtype: str | None, dequantise: bool, adapter: Path
) -> Loaded:
    from lynx_moe.adapter.loading import load_adapter
    from lynx_moe.objectives.attached import attach_serving, settings_of
    from lynx_moe.training.base import load_base
    from lynx_moe.training.checkpoints import fault_of
    from lynx_moe.training.settings import ModelSettings, QuantSettings

    written = json.loads((folder / "run.json").read_text(encoding="utf-8"))["settings"]
    settings = ModelSettings(**written["model"])
    settings = replace(settings, path=str(base_path or settings.path), dtype=dtype or settings.dtype)
    base, processor = load_base(settings, QuantSettings(**written.get("quant", {})))
    refuse_other_bytes(base, folder / "adapter")
    notes = _dequantised(base) if dequantise else ()
    fault = None if adapter == folder / "adapter" else fault_of(adapter)
    if fault:
        raise CheckpointError(
            f"{adapter} is torn: {fault}", why="it changed after it was written", fix="remove it, and ask the others"
        )
    model = load_adapter(base, adapter)
    attach_serving(model, adapter)
    found = _loaded("run", model, processor, dialect or settings.dialect)
    return replace(found, notes=notes, objectives=settings_of(adapter))


def _adapter(folder: Path, base: str | Path | None, dialect: str | None, dtype: str | None, dequantise: bool) -> Loaded:
    from lynx_moe.adapter.loading import load_adapter
    from lynx_moe.export.base_pin import refuse_another_base
    from lynx_moe.objectives.attached import attach_serving, settings_of

    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError as problem:
        raise CheckpointError(
            f"{folder / 'adapter_config.json'} is not JSON", why=str(problem), fix="copy the folder again"
        ) from None
    named = base or config.get("base_model_name_or_path")
    if not named:
        raise CheckpointError(
            f"{folder} does not name its base",
            why="base_model_name_or_path is empty",
            fix="point to the run folder instead, or give the base's folder as base=...",
        )
    try:
        found = _base(str(named), dialect or config.get("dialect"), dtype)
    except CheckpointError as problem:
        raise CheckpointError(problem.message, why=problem.why, fix="give the base's folder as base=...") from problem
    if not refuse_another_base(folder, found.model):
        refuse_other_bytes(found.model, folder)
    notes = _dequantised(found.model) if dequantise else ()
    model = load_adapter(found.model, folder)
    attach_serving(model, folder)
    made = _loaded("adapter", model, found.processor, found.dialect.name)
    return replace(made, notes=notes, objectives=settings_of(folder))


def _dequantised(base: Any) -> tuple[str, ...]:
    """Makes the base plain in place, before an adapter is attached; what is to be said of it then.

    Raises:
        ConfigError: it is not quantised, or its method has no way back.
    """
    from lynx_moe.adapter.quantised import quantisation_of

    kind = quantisation_of(base)
    quantiser = getattr(base, "hf_quantizer", None)
    if quantiser is None:
        raise ConfigError(
            "the base is not quantised", why="its weights are plain tensors already", fix="leave --dequantise out"
        )
    method = kind or str(quantiser.quantization_config.quant_method)
    try:
        base.dequantize(dtype=base.dtype)
    except NotImplementedError as problem:
        raise ConfigError(
            f"a base quantised by {method} cannot be made plain again",
            why=str(problem),
            fix="export with route='adapter', or attach the adapter to the unquantised base: --base PATH",
        ) from problem
    base.requires_grad_(False).eval()
    return (f"the base was held in {method} and is written plain: these are the rounded weights, not the original's",)


def refuse_other_bytes(base: Any, adapter: Path) -> None:
    """Nothing, when `base` has the bytes that the adapter in `adapter` was trained beside, or nobody can tell.

    Nobody can where the base is held in another number type now. Of a quantised base it is said as a warning only:
    other devices and versions of bitsandbytes may round the same weights to other bytes.

    Raises:
        CheckpointError: same family and shapes, other weights.
    """
    from lynx_moe.adapter.base_identity import is_held_alike
    from lynx_moe.training.hashing import hash_base

    file = adapter / "adapter_config.json"
    made_for = (json.loads(file.read_text(encoding="utf-8")).get("base") or {}) if file.is_file() else {}
    if "sha256" not in made_for or not is_held_alike(made_for, base):
        return
    digest = hash_base(base).digest
    if digest == made_for["sha256"]:
        return
    message = (
        f"the adapter in {adapter} was trained on a base with sha256 {made_for['sha256'][:16]}..., and "
        f"{base.name_or_path or 'this base'} has {digest[:16]}..."
    )
    if made_for.get("quantised"):
        warnings.warn(f"{message} (perhaps the same weights, packed elsewhere)", UserWarning, stacklevel=2)
        return
    raise CheckpointError(
        message,
        why="family and shapes agree, weights do not: beside other frozen experts the new ones mean something else",
        fix="give the folder of the very base that it was trained on: base=...",
    )


def _export(folder: Path, dialect: str | None, dtype: str | None, trust_remote_code: bool) -> Loaded:
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from lynx_moe.families.templates import give_template

    manifest = json.loads((folder / EXPORT_MANIFEST).read_text(encoding="utf-8"))
    if manifest.get("route") == "vllm":
        raise CheckpointError(
            f"{folder} was exported for vLLM only",
            why="transformers has no class for it and would leave the shared experts out with only a warning",
            fix=f"serve it with vLLM, or make base and adapter of it again: lynx-moe unexport {folder} --out OTHER",
        )
    if "auto_map" in json.loads((folder / "config.json").read_text(encoding="utf-8")) and not trust_remote_code:
        raise CheckpointError(
            f"{folder} brings its own modelling file",
            why="running code from a folder must be allowed explicitly",
            fix="read the file, then pass trust_remote_code (on the command line: --trust-remote-code)",
        )
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            str(folder), dtype=dtype or "auto", trust_remote_code=trust_remote_code
        )
        # The processor needs no code of the folder; left unsaid, transformers would stop and ask at the terminal.
        processor = AutoProcessor.from_pretrained(str(folder), trust_remote_code=False)
        give_template(processor)
    except (OSError, ValueError) as problem:
        raise CheckpointError(
            f"could not load the export {folder}: {str(problem).splitlines()[0]}",
            why="files are missing or damaged",
            fix=f"lynx-moe verify {folder} names the changed files",
        ) from problem
    word = manifest.get("mask_word")
    return _loaded("export", model.eval(), processor, dialect or manifest.get("dialect"), word)


def _base(path: str, dialect: str | None, dtype: str | None) -> Loaded:
    from lynx_moe.training.base import load_base
    from lynx_moe.training.settings import ModelSettings

    model, processor = load_base(ModelSettings(path=path, dtype=dtype or "auto"))
    return _loaded("base", model, processor, dialect)


def _loaded(kind: str, model: Any, processor: Any, dialect: str | None, mask_word: str | None = None) -> Loaded:
    from lynx_moe.families.dialects import get_dialect
    from lynx_moe.objectives.masks import mask_word_of

    speaks = get_dialect(dialect or "percent", processor, mask_word or mask_word_of(model))
    return Loaded(kind=kind, model=model, processor=processor, dialect=speaks)
