"""The whole road on one small machine: data, base measured, trained, measured again, exported, exports measured.

It calls what a user calls for a 7B model: `python -m synth`, `training.run` with conf/experiment/quickstart.yaml,
`evaluate`, `export`. Everything is measured on generated text, and the exports on the folders that were reloaded.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

import lynx_moe
from lynx_moe.adapter import predict_prompt_gate
from lynx_moe.data import Collator, RecordSet, SampleBuilder, SampleDataset, load_records
from lynx_moe.errors import OutputExistsError, RecordError
from lynx_moe.evaluation import compare, evaluate, evaluation_sheet
from lynx_moe.export import export
from lynx_moe.families.dialects import get_dialect
from lynx_moe.loading import GATES, Loaded, load
from lynx_moe.training import run
from lynx_moe.training.base import load_base
from lynx_moe.training.command import conf_beside, settings_from
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.records import make_missing
from lynx_moe.training.settings import Settings
from lynx_moe.whole import write_json

BESIDE = Path(lynx_moe.__file__).resolve().parents[1]  # the checkout
SPLIT = "validation"
ROUTES = ("code", "native")
COCO_PICTURES, COCO_QUESTIONS = 60, 200

# What must come true for exit status 0.
MOST_BEFORE, LEAST_AFTER = 0.05, 0.70  # Acc@0.5 on held-out rendered pictures
MOST_LOST_FORCED = 0.02  # of the base's accuracy on understanding questions, with the prompt gate forced on
MOST_GATE_ERROR = 0.01  # of prompts in wordings that the gate was not fitted on
MOST_SECONDS = 900


def quickstart(out: Path, *, overrides: Sequence[str] = (), limit: int = 600, overwrite: bool = False) -> dict:
    """Runs everything into the folder `out` and returns what `report.json` there holds.

    Args:
        out: gets data/, coco/, run/, export-code/, export-native/, evaluations/, report.json and answers.png. Data
            that is already there is used again.
        overrides: settings for the training, as on the command line of train.py.
        limit: questions per evaluation, drawn the same way every time.
        overwrite: replace what an earlier quickstart left in `out`.

    Raises:
        OutputExistsError: `out` holds a finished quickstart and `overwrite` is off.
        LynxError: any step that failed, with its own reason.
    """
    started = time.monotonic()
    out = Path(out)
    console = Console()
    settings = quickstart_settings(out, overrides)
    claim(out, overwrite)
    # First, because a wrong path should not cost the time that data takes.
    model, processor = load_base(settings.model, settings.quant)
    dialect = get_dialect(settings.model.dialect, processor)
    base = Loaded(kind="base", model=model, processor=processor, dialect=dialect)

    console.rule("data")
    make_missing(settings.data)
    # The tasks that are trained; of the others only the questions are used, for the prompt gate.
    records = load_records(settings.data.folder, SPLIT, tasks=settings.data.tasks, limit=limit)
    coco = coco_records(out)
    console.print(f"{len(records)} questions from rendered pictures, {len(coco)} from a COCO folder ({out / 'coco'})")

    console.rule("the base, before")
    before = measure(base, records, out, "before")
    coco_before = measure(base, coco, out, "coco-before")

    console.rule("training")
    # Without --overwrite there was no report: a finished run is that of a quickstart which was interrupted after it.
    card = (None if overwrite else RunFolder(settings.output_dir).finished_with(settings)) or run(settings)

    console.rule("the adapter, reloaded from disk")
    tuned = load(settings.output_dir)
    by_gate = {gate: measure(tuned, records, out, f"after-{gate}", gate=gate) for gate in GATES}
    coco_after = measure(tuned, coco, out, "coco-after")
    with tuned.model.disable_adapter():
        adapter_off = measure(tuned, records, out, "adapter-off")
    identical = same_text(before, adapter_off) and same_text(before, by_gate["off"])
    identical = identical and same_logits(base, tuned, records)
    sheet = evaluation_sheet(by_gate["auto"], records, out / "answers.png")

    console.rule("export")
    exports = {route: export_and_measure(tuned, route, records, out) for route in ROUTES}

    after = by_gate["auto"]
    report = {
        "grounding": {
            "before": before["grounding"],
            "after": after["grounding"],
            "by_gate": {gate: result["grounding"] for gate, result in by_gate.items()},
        },
        "retention": {
            "before": before["retention"]["accuracy"],
            "after": after["retention"]["accuracy"],
            "by_gate": {gate: result["retention"] for gate, result in by_gate.items()},
            "flips": {gate: compare(before, result) for gate, result in by_gate.items()},
            "adapter_off_identical": identical,
            **shut_gate(tuned, records, before, by_gate["auto"]),
        },
        "base_hash_unchanged": card["base_hash_unchanged"],
        "coco": {"pictures": COCO_PICTURES, "before": coco_before["grounding"], "after": coco_after["grounding"]},
        # The route that export would choose by itself for this model stands at the top.
        "export": {**exports["code"], "routes": exports},
        "training": {key: card[key] for key in ("train", "prompt_gate", "gates", "data")},
        "settings": card["settings"],
        "versions": card["versions"],
        "contact_sheet": str(sheet),
        "questions": len(records),
    }
    report["seconds"] = round(time.monotonic() - started, 1)
    report["missed"] = missed_bars(report)
    report["ok"] = not report["missed"]
    write_json(out / "report.json", report)
    console.print(table(report))
    console.print(f"{out / 'report.json'} · look at {sheet} · {report['seconds']:.0f} s in all")
    for bar in report["missed"]:
        console.print(f"[red]missed:[/red] {bar}")
    return report


def quickstart_settings(out: Path, overrides: Sequence[str] = ()) -> Settings:
    """The settings of `python train.py experiment=quickstart`, with everything put under `out`.

    Raises:
        ConfigError: this is no checkout (the YAML files are missing), or an override is wrong.
    """
    places = [f"output_dir={out / 'run'}", f"data.folder={out / 'data'}", "overwrite=true"]
    return settings_from(conf_beside(), "train", ["experiment=quickstart", *places, *overrides])


def claim(out: Path, overwrite: bool) -> None:
    """Makes `out` ready; data in it is kept, results of an earlier quickstart are refused or removed."""
    if (out / "report.json").exists() and not overwrite:
        raise OutputExistsError(
            f"{out} holds a finished quickstart",
            why="results are never replaced unasked",
            fix="lynx-moe quickstart --overwrite, or --out another/folder",
        )
    for name in ("report.json", "answers.png"):
        (out / name).unlink(missing_ok=True)
    for name in ("evaluations", *(f"export-{route}" for route in ROUTES)):
        shutil.rmtree(out / name, ignore_errors=True)
    (out / "evaluations").mkdir(parents=True)


def coco_records(out: Path) -> RecordSet:
    """Questions about a COCO folder, pictures and `instances.json` as a user would bring them."""
    folder, data = out / "coco", out / "coco-data"
    if not (folder / "instances.json").is_file():
        python("-m", "synth.export_coco", str(folder), "--size", str(COCO_PICTURES))
    asked = ("source=coco", f"folder.path={folder}", "split=all", "task=[find_one,find_all]", f"out={data}")
    python("-m", "synth", *asked)
    return load_records(data, "all", limit=COCO_QUESTIONS)


def python(*arguments: str) -> None:
    """Runs a module in a process of its own: synth and lynx_moe share the file format and nothing else.

    Raises:
        RecordError: it failed; its own message went to the terminal.
    """
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH"), str(BESIDE)) if p)
    done = subprocess.run([sys.executable, *arguments], env={**os.environ, "PYTHONPATH": path}, check=False)
    if done.returncode:
        raise RecordError(
            f"python {' '.join(arguments)} ended with status {done.returncode}",
            why="its own message stands above",
            fix="run that command alone",
        )


def measure(loaded: Loaded, records: RecordSet, out: Path, name: str, *, gate: str = "auto") -> dict:
    """`evaluate`, with the whole result, every answer in it, kept as evaluations/NAME.json."""
    with loaded.gate(gate):
        result = evaluate(loaded.model, loaded.processor, records, loaded.dialect)
    write_json(out / "evaluations" / f"{name}.json", result)
    grounding, retention = result["grounding"] or {}, result["retention"] or {}
    Console().print(
        f"{name:14} Acc@0.5 {shown(grounding.get('acc50'))}  retention {shown(retention.get('accuracy'))}"
        f"  ({result['n']} questions, {result['seconds']:.0f} s)"
    )
    return result


def shown(number: float | None) -> str:
    return "    -" if number is None else f"{number:.3f}"


def shut_gate(tuned: Loaded, records: RecordSet, before: dict, after: dict) -> dict:
    """How often the gate is right about these prompts, and whether every answer behind a shut gate is the base's."""
    tokens = SampleBuilder(tuned.processor, tuned.dialect).prompts(list(records))
    is_open = [logit > 0 for logit in predict_prompt_gate(tuned.model, [t.ids.tolist() for t in tokens])]
    wrong = sum(o != record.is_grounding for o, record in zip(is_open, records, strict=True))
    shut = [not o for o in is_open]
    same = [b["answer"] == a["answer"] for b, a in zip(before["samples"], after["samples"], strict=True)]
    return {
        "gate_error": wrong / len(is_open),
        "shut_gate_answers": sum(shut),
        "shut_gate_identical": all(s for s, closed in zip(same, shut, strict=True) if closed),
    }


def same_text(one: dict, other: dict) -> bool:
    return [s["answer"] for s in one["samples"]] == [s["answer"] for s in other["samples"]]


@torch.inference_mode()
def same_logits(base: Loaded, tuned: Loaded, records: RecordSet, count: int = 16) -> bool:
    """Whether adapter off and gate off give the base's logits bit for bit, on some records with pictures."""
    builder = SampleBuilder(base.processor, base.dialect)
    pictured = [k for k in range(len(records)) if records.picture(k) >= 0][:count]
    samples = list(SampleDataset(records.select(pictured), builder))
    batch = Collator(base.processor)(samples)
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "is_grounding")}
    expected = base.model(**inputs).logits
    with tuned.model.disable_adapter():
        off = tuned.model(**inputs).logits
    with tuned.gate("off"):
        shut = tuned.model(**inputs).logits
    return torch.equal(expected, off) and torch.equal(expected, shut)


def export_and_measure(tuned: Loaded, route: str, records: RecordSet, out: Path) -> dict:
    """Exports by `route`, loads the folder again as a stranger would, and measures that."""
    folder = out / f"export-{route}"
    found = export(tuned.model, tuned.processor, folder, route=route, gate="on" if route == "native" else "auto")
    # The folder was written by the line above, so its modelling file is ours.
    reloaded = load(folder, dialect=tuned.dialect.name, trust_remote_code=route == "code")
    result = measure(reloaded, records, out, f"export-{route}")
    keep = ("route", "host", "exactness", "prompt_gate", "max_abs_logit_diff", "generation_equal", "size_bytes")
    return {
        **{key: found[key] for key in keep},
        "loaded_without_lynx_moe": found["loaded_without_lynx_moe"],
        "grounding": result["grounding"],
        "retention": result["retention"],
    }


def missed_bars(report: dict) -> list[str]:
    """Each promise of the quickstart that did not come true, in words; empty when all did."""
    before, after = (report["grounding"][when]["acc50"] or 0.0 for when in ("before", "after"))
    retention = report["retention"]
    lost = retention["before"] - retention["by_gate"]["on"]["accuracy"]
    error = report["training"]["prompt_gate"].get("held_out_error", 1.0)
    checks = {
        f"Acc@0.5 before is {before:.3f}, below {MOST_BEFORE} was expected": before < MOST_BEFORE,
        f"Acc@0.5 after is {after:.3f}, at least {LEAST_AFTER} was expected": after >= LEAST_AFTER,
        f"with the gate forced on, retention fell by {lost:.3f}, at most {MOST_LOST_FORCED} is allowed": (
            lost <= MOST_LOST_FORCED
        ),
        f"the prompt gate errs on {error:.3f} of unseen wordings, at most {MOST_GATE_ERROR} is allowed": (
            error <= MOST_GATE_ERROR
        ),
        "an understanding answer behind a shut gate is not the base's": retention["shut_gate_identical"],
        "with the adapter off the model is not the base bit for bit": retention["adapter_off_identical"],
        "the base's tensors changed": report["base_hash_unchanged"],
        f"it took {report['seconds']:.0f} s, at most {MOST_SECONDS} were expected": report["seconds"] <= MOST_SECONDS,
    }
    for route, found in report["export"]["routes"].items():
        checks[f"the {route} export needs this library to load"] = found["loaded_without_lynx_moe"]
    return [words for words, true in checks.items() if not true]


def table(report: dict) -> Table:
    """One row per model that was measured: what it points at, and what is left of its other skill."""
    rows_of = Table(title="quickstart", title_justify="left")
    for title in ("model", "Acc@0.5", "mean IoU", "find all F1", "unreadable", "retention"):
        rows_of.add_column(title, justify="left" if title == "model" else "right")
    by_gate, retention = report["grounding"]["by_gate"], report["retention"]
    rows = {"base": (report["grounding"]["before"], retention["before"])}
    rows |= {f"gate {g}": (by_gate[g], retention["by_gate"][g]["accuracy"]) for g in GATES}
    for route, found in report["export"]["routes"].items():
        rows[f"export {route}"] = (found["grounding"], found["retention"]["accuracy"])
    rows["COCO, base"] = (report["coco"]["before"], None)
    rows["COCO, gate auto"] = (report["coco"]["after"], None)
    for title, (grounding, kept) in rows.items():
        listing = (grounding["find_all"] or {}).get("f1")
        numbers = [grounding["acc50"], grounding["mean_iou"], listing, grounding["unreadable"], kept]
        rows_of.add_row(title, *map(shown, numbers))
    return rows_of
