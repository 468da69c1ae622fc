"""The README.md of an exported folder: a model card as the Hugging Face Hub reads it, and the base's licence files."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from yaml import YAMLError

from lynx_moe.evaluation.report import ROWS, reach
from lynx_moe.export.cost import readable
from lynx_moe.export.provenance import Data, Provenance

LEGAL_FILES = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "USE_POLICY*")
LICENCE_FIELDS = ("license", "license_name", "license_link")

CLASS = "from transformers import AutoModelForImageTextToText, AutoProcessor\n\n"
LOADING = {
    "code": "model = AutoModelForImageTextToText.from_pretrained(folder, trust_remote_code=True)",
    "vllm": """from vllm import LLM  # transformers cannot load this folder: it would leave out the shared experts

model = LLM(folder)""",
    "adapter": """import lynx_moe  # makes the adapter method known to PEFT
from peft import PeftModel

base = AutoModelForImageTextToText.from_pretrained(base_folder)
model = PeftModel.from_pretrained(base, folder)""",
}
# With heads, that PEFT alone would leave out.
LOADING_HEADS = """from lynx_moe.loading import load

loaded = load(folder, base=base_folder)  # loaded.model, loaded.processor"""
ASKING = {
    "masks": "text, masks = model.ask(processor, image, question)  # a boolean array for each mask in the text",
    "prompts": """text, _ = model.ask(processor, image, "What is at {region:0}?", regions=[(x1, y1, x2, y2)])""",
}
STOCK = "model = AutoModelForImageTextToText.from_pretrained(folder)"


def copy_legal_files(source: Path | None, folder: Path) -> list[str]:
    """Copy licence, notice and policy files of a base that lies in a local folder; their names."""
    if source is None or not source.is_dir():
        return []
    found = sorted({path for pattern in LEGAL_FILES for path in source.glob(pattern) if path.is_file()})
    for path in found:
        shutil.copyfile(path, folder / path.name)
    return [path.name for path in found]


def base_licence(source: Path | None) -> dict[str, str]:
    """The licence fields of the base's own card when it lies in a local folder, else {"license": "other"}."""
    card = None if source is None else source / "README.md"
    if card is None or not card.is_file():
        return {"license": "other"}
    try:
        data = ModelCard.load(card, ignore_metadata_errors=True).data.to_dict()
    except (ValueError, YAMLError):  # no YAML between the lines
        data = {}
    return {"license": "other"} | {name: str(data[name]) for name in LICENCE_FIELDS if data.get(name)}


def write(
    folder: Path,
    report: dict,
    *,
    settings: dict,
    provenance: Provenance,
    licence: dict[str, str],
    legal_files: list[str],
) -> None:
    """Write README.md from the report of an export.

    Args:
        report: what `export` returns, with "name".
        settings: of the adapter.
        licence: fields of the header, as `base_licence` gives them.
        legal_files: names of the files that lie beside.
    """
    base = hub_name(provenance.repository)
    header = ModelCardData(
        **_licence_fields(licence, legal_files),
        library_name="peft" if report["route"] == "adapter" else "transformers",
        pipeline_tag="image-text-to-text",
        base_model=base,
        base_model_relation=None if base is None else "adapter" if report["route"] == "adapter" else "finetune",
        tags=["visual-grounding", "mixture-of-experts", "lynx-moe", *(["custom_code"] * (report["route"] == "code"))],
        model_name=report["name"],
        eval_results=_results(provenance) or None,
    )
    if header.eval_results is None:
        header.pop("model_name")
    body = [
        f"# {report['name']}",
        f"{base or 'A vision-language model'} taught to ground by new experts beside its frozen ones.\n"
        f"Exported by lynx_moe, route `{report['route']}`, host `{report['host']}`.",
        _code(report["route"], report["heads"]),
        f"Kept of the trained model: {report['keeps']}.",
        _table({"": ""} | _rows(report)),
        "## Measured",
        _measured(provenance),
        "## Limits",
        "\n".join(f"- {limit}" for limit in _limits(report, provenance)),
        "## Data",
        _data(provenance.data),
        "## Licence",
        f"The base's licence applies to these weights. {_legal(legal_files)}",
        "## How it was made",
        _made(provenance, report, settings),
    ]
    card = ModelCard(f"---\n{header.to_yaml()}\n---\n\n" + "\n\n".join(body) + "\n")
    (folder / "README.md").write_text(str(card), encoding="utf-8")


def hub_name(name: str | None) -> str | None:
    """`name` where the Hub would take it as a repository; a path of this machine says nothing to a stranger."""
    if not name or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def _licence_fields(licence: dict[str, str], legal_files: list[str]) -> dict[str, str]:
    if licence["license"] != "other" or "license_name" in licence:
        return licence
    # The Hub shows "other" by its name and link alone.
    link = next((name for name in legal_files if name.startswith(("LICEN", "COPYING"))), None)
    return licence | {"license_name": "licence-of-the-base"} | ({"license_link": link} if link else {})


def _code(route: str, heads: Sequence[str]) -> str:
    if route == "adapter" and heads:
        return f"```python\n{LOADING_HEADS}\n```"
    # Beside a modelling file transformers asks at the terminal, also for the processor, which needs none of it.
    unasked = ", trust_remote_code=False" if route == "code" else ""
    processor = "" if route == "adapter" else f"\nprocessor = AutoProcessor.from_pretrained(folder{unasked})"
    asking = "".join(f"\n{ASKING[name]}" for name in heads)
    return f"```python\n{CLASS}{LOADING.get(route, STOCK)}{processor}{asking}\n```"


def _rows(report: dict) -> dict[str, str]:
    exactness = report["exactness"]
    if exactness == "rounding":
        exactness += f", promised within {report['bound']:.0e} of the largest logit in float32"
    equal = {True: "equal", False: "differs", None: "not run"}[report["generation_equal"]]
    return {
        "exactness": exactness,
        "prompt gate": report["prompt_gate"],
        **({"heads": ", ".join(report["heads"])} if report["heads"] else {}),
        "weights": f"{readable(report['weights_bytes'], 'B')} (base {readable(report['base_weights_bytes'], 'B')})",
        "per token, text decoder": f"{readable(report['flops_per_token'], 'FLOPs')} "
        f"(base {readable(report['base_flops_per_token'], 'FLOPs')})",
        "served by": "; ".join(f"{name} {answer}" for name, answer in report["served_by"].items()),
        "largest logit difference after reload": f"{report['max_abs_logit_diff']:.3g}",
        "greedy generation after reload": equal,
        "loads without lynx_moe": "yes" if report["loaded_without_lynx_moe"] else "no",
        "base tensors byte for byte": str(report["base_tensors"]["unchanged"]),
        "base tensors folded": str(report["base_tensors"]["folded"]),
        "sha256 over the base": f"`{report['base_sha256']}`",
    }


def _table(rows: dict[str, str]) -> str:
    lines = [f"| {name} | {value} |" for name, value in rows.items()]
    return "\n".join([lines[0], "| --- | --- |", *lines[1:]])


def _results(provenance: Provenance) -> list[EvalResult]:
    asked = provenance.evaluation
    if not asked:
        return []
    found = {path: reach(asked["after"], path) for path in ROWS.values()}
    name = provenance.data.name if provenance.data else "records"
    return [
        EvalResult(
            task_type="image-text-to-text",
            dataset_type="synth",
            dataset_name=f"records of {name}",
            dataset_split=asked["split"],
            metric_type="_".join(path),
            metric_name=" ".join(title.split()),
            metric_value=found[path],
        )
        for title, path in ROWS.items()
        if found[path] is not None
    ]


def _measured(provenance: Provenance) -> str:
    asked = provenance.evaluation
    if not asked:
        return "Nothing was measured by the run this comes from: `lynx-moe evaluate` on this folder does."
    lines = ["| measure | base | trained |", "| --- | ---: | ---: |"]
    for title, path in ROWS.items():
        before, after = (reach(asked.get(when), path) for when in ("before", "after"))
        if after is not None:
            lines.append(f"| {' '.join(title.split())} | {'-' if before is None else f'{before:.3f}'} | {after:.3f} |")
    asked_of = f"By the run itself, before the export: {asked['n']} questions of split `{asked['split']}`, "
    return "\n".join([f"{asked_of}prompt gate `{asked['gate']}`, every answer generated.", "", *lines])


def _limits(report: dict, provenance: Provenance) -> list[str]:
    limits = [_sentence(reason) for reason in report["reasons"]]
    change = (provenance.evaluation or {}).get("change") or {}
    if change.get("n"):
        limits.append(
            f"Of {change['n']} questions of understanding the base's answer was lost on {change['lost']} and won on "
            f"{change['won']} (McNemar p = {change['mcnemar_p']:.2g})."
        )
    if report["prompt_gate"] == "on":
        limits.append("The new experts speak on every prompt: nothing is the base bit for bit any more.")
    if report["prompt_gate"] == "auto":
        limits.append("A small head decides per prompt whether the new experts speak, and it can be wrong.")
    if report.get("dialect"):
        limits.append(f"Boxes are written in the dialect `{report['dialect']}`; another reader will shift them.")
    return limits


def _sentence(text: str) -> str:
    return f"{text[0].upper()}{text[1:]}" + ("" if text.endswith(".") else ".")


def _data(data: Data | None) -> str:
    if data is None:
        return "Not known: the adapter came without the run that trained it."
    records = ", ".join(f"{number} {kind}" for kind, number in sorted(data.records.items()))
    said = f"`{data.name}`, {'splits' if len(data.splits) > 1 else 'split'} {', '.join(f'`{s}`' for s in data.splits)}"
    if records:
        said += f" ({records})"
    if data.unknown:
        return f"{said}. Licences of the pictures are not known: {data.unknown}."
    if not data.licences:
        return f"{said}. Its manifest names no licences."
    return "\n".join([f"{said}. Licences of the pictures:", "", *(f"- {licence}" for licence in data.licences)])


def _made(provenance: Provenance, report: dict, settings: dict) -> str:
    made = "From Python, by `lynx_moe.export.export`."
    if provenance.command:
        made = f"```bash\n{provenance.command}\n```"
    why = [f"- not `{route}`: {reason}" for route, reason in report["better"].items()]
    return "\n".join(
        [
            made,
            "",
            *(["Routes that come before this one:", "", *why, ""] if why else []),
            "Adapter settings:",
            "",
            "```json",
            json.dumps(settings, indent=1, sort_keys=True, default=str),
            "```",
        ]
    )


def _legal(names: list[str]) -> str:
    if names:
        return f"It travels with them: {', '.join(names)}."
    return "Its files were not found beside the base: add them before you pass this folder on."
