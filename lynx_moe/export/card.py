"""The README.md of an exported folder: a model card with Hugging Face's YAML header, and the base's licence files."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

LEGAL_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")

LOADING = {
    "native": """model = AutoModelForImageTextToText.from_pretrained(folder)""",
    "code": """model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)""",
    "adapter": """import lynx_moe  # makes the adapter method known to PEFT
from peft import PeftModel

base = AutoModelForImageTextToText.from_pretrained(path_of_the_base)
model = PeftModel.from_pretrained(base, folder)""",
}


def copy_legal_files(base_name: str, folder: Path) -> list[str]:
    """Copy licence, notice and policy files of a base that lies in a local folder; their names."""
    source = Path(base_name) if base_name else None
    if source is None or not source.is_dir():
        return []
    found = sorted({path for pattern in LEGAL_FILES for path in source.glob(pattern) if path.is_file()})
    for path in found:
        shutil.copyfile(path, folder / path.name)
    return [path.name for path in found]


def base_licence(base_name: str) -> str:
    """The licence named in the base's own card when it lies in a local folder, else "other"."""
    card = Path(base_name or ".") / "README.md"
    if base_name and card.is_file():
        for line in _header(card.read_text(encoding="utf-8")):
            if line.startswith("license:"):
                return line.split(":", 1)[1].strip() or "other"
    return "other"


def write(folder: Path, report: dict, *, settings: dict, base_name: str, licence: str, legal_files: list[str]) -> None:
    """Write README.md from the report of an export."""
    # A path of this machine says nothing to who receives the folder, and the hub takes only repository names here.
    public_base = "" if not base_name or Path(base_name).is_absolute() or Path(base_name).exists() else base_name
    header = [
        "---",
        f"license: {licence}",
        "library_name: " + ("peft" if report["route"] == "adapter" else "transformers"),
        "pipeline_tag: image-text-to-text",
        *([f"base_model: {public_base}"] if public_base else []),
        "tags:",
        "- visual-grounding",
        "- mixture-of-experts",
        "- lynx-moe",
        "---",
    ]
    imports = "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
    # Beside a modelling file transformers asks at the terminal, also for the processor, which needs none of it.
    unasked = ", trust_remote_code=False" if report["route"] == "code" else ""
    processor = "" if report["route"] == "adapter" else f"\nprocessor = AutoProcessor.from_pretrained(folder{unasked})"
    body = f"""
# {report["name"]}

{public_base or "A vision-language model"} taught to ground by new experts beside its frozen ones.
Exported by lynx_moe, route `{report["route"]}`, host `{report["host"]}`.

```python
{imports}{LOADING[report["route"]]}{processor}
```

Kept of the trained model: {report["exactness"]}.

| | |
| --- | --- |
{_rows(report)}

Adapter settings:

```json
{json.dumps(settings, indent=1, sort_keys=True, default=str)}
```

The base's licence applies to these weights. {_legal(legal_files)}
"""
    (folder / "README.md").write_text("\n".join(header) + "\n" + body, encoding="utf-8")


def _rows(report: dict) -> str:
    rows = {
        "prompt gate": report["prompt_gate"],
        "largest logit difference after reload": f"{report['max_abs_logit_diff']:.3g}",
        "greedy generation after reload": {True: "equal", False: "differs", None: "not run"}[
            report["generation_equal"]
        ],
        "loads without lynx_moe": "yes" if report["loaded_without_lynx_moe"] else "no",
        "base tensors byte for byte": report["base_tensors"]["unchanged"],
        "base tensors folded": report["base_tensors"]["folded"],
        "sha256 over the base": f"`{report['base_sha256']}`",
    }
    return "\n".join(f"| {name} | {value} |" for name, value in rows.items())


def _legal(names: list[str]) -> str:
    if names:
        return f"It travels with them: {', '.join(names)}."
    return "Its files were not found beside the base: add them before you pass this folder on."


def _header(text: str) -> list[str]:
    lines = text.splitlines()
    if not lines or lines[0].strip() != "---":
        return []
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == "---"), 0)
    return lines[1:end]
