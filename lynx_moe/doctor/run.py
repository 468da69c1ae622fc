"""Everything the doctor looks at, in order, and what comes of it."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

from lynx_moe.data.screening import LOOKED_AT, Screen, evenly
from lynx_moe.doctor.cost import measure_cost
from lynx_moe.doctor.findings import Findings
from lynx_moe.doctor.lengths import token_counts
from lynx_moe.doctor.printing import print_diagnosis
from lynx_moe.doctor.records import look_at_records
from lynx_moe.doctor.sheet import draw_targets, of_every_task
from lynx_moe.doctor.template import Marked, marked, one_of_each
from lynx_moe.errors import DivergedError
from lynx_moe.training.preparing import Prepared, prepare
from lynx_moe.training.records import make_missing
from lynx_moe.training.settings import Settings
from lynx_moe.whole import write_json

PICTURES = 16


def doctor(
    settings: Settings, out: Path, *, pictures: int = PICTURES, limit: int = LOOKED_AT, steps: bool = True
) -> dict:
    """Looks at what `train.py` would train with these settings; writes `sheet.png` and `doctor.json` into `out`.

    Data that the settings describe and that is missing is made, as a training would. The prompt gate is not fitted.

    Args:
        pictures: how many targets to draw.
        limit: how many records to look at, evenly spread.
        steps: train three steps to measure memory and time.

    Returns:
        "ok" (nothing is wrong), "findings", "tokens", "template", "sheet", "cost" (None when not measured), "records".

    Raises:
        LynxError: the settings, the base or the folder of records cannot be used at all.
    """
    settings = deepcopy(settings)
    settings.adapter.prompt_gate = "on"  # fitting it takes longer than all the rest, and reads questions only
    out.mkdir(parents=True, exist_ok=True)
    make_missing(settings.data)
    prepared = prepare(settings)
    records, screen = prepared.records, prepared.dataset.screen
    findings = Findings()
    look_at_records(records, evenly(len(records), limit), screen, findings)

    left = prepared.dataset.records
    drawn = [left[k] for k in of_every_task(left, pictures) if usable(screen, left[k])]
    result = {
        "records": {"checked": findings.checked, "of": findings.of, "tasks": dict(records.counts())},
        "sheet": draw_targets(prepared.builder, drawn, out / "sheet.png", findings),
        **looks(prepared, limit, findings),
        "cost": None,
    }
    if steps and len(prepared.dataset):
        looked_at = list(evenly(len(prepared.dataset.records), limit))
        try:
            result["cost"] = measure_cost(prepared, settings, looked_at)
        except DivergedError as problem:
            findings.note("not_finite", problem.message, problem.why)
    result = {"ok": not findings.counts, "findings": findings.as_json(), **result}
    print_diagnosis(result)
    write_json(out / "doctor.json", result)
    return result


def usable(screen: Screen, record) -> bool:
    return isinstance(screen.look(record), list)


def looks(prepared: Prepared, limit: int, findings: Findings) -> dict:
    """Token counts and the chat template, of the records that can be used."""
    records = prepared.dataset.records
    if not len(records):
        return {"tokens": None, "template": []}
    shown: list[Marked] = []
    for kind, position in one_of_each(records).items():
        record = records[position]
        if usable(prepared.dataset.screen, record):
            shown += marked(prepared.builder, record, kind, prepared.dataset.screen.stepwise)
    for each in shown:
        if each.wrong:
            findings.note("mask", each.id, each.wrong)
    samples = [{"id": m.id, "kind": m.kind, "before": m.before, "learned": m.learned, "after": m.after} for m in shown]
    counted = [k for k in evenly(len(records), limit) if usable(prepared.dataset.screen, records[k])]
    return {"tokens": token_counts(prepared.dataset, counted), "template": samples}
