"""Fitting the prompt gate before training, on the records' questions, and measuring it on questions it never saw."""

from __future__ import annotations

import random

from torch import nn
from tqdm.auto import tqdm

from lynx_moe.adapter import fit_prompt_gate, predict_prompt_gate
from lynx_moe.data import RecordSet, SampleBuilder
from lynx_moe.errors import DialectError, RecordError

MOST = 4000  # prompts: far more than a head of some thousand numbers needs, and startup must not grow with the data
HELD_OUT = 0.1  # share of the training prompts to measure on when there is no split for it

Prompts = dict[tuple[int, ...], bool]


def fit_on_records(
    model: nn.Module, builder: SampleBuilder, train: RecordSet, held_out: RecordSet | None, *, seed: int
) -> dict:
    """Fits the head of the active adapter and reports its errors.

    The prompts are whole ones, worded by the base's chat template as in training and in use.

    Returns:
        "fitted"; and if so "train_error", "held_out_error" and its two kinds: "held_out_false_open" (share of
        understanding prompts that would get the new experts), "held_out_false_shut" (of grounding prompts that would
        not), with the numbers of distinct prompts. Not fitted when the records ask for one kind of answer only.
    """
    seen = distinct_prompts(builder, train, seed)
    unseen = distinct_prompts(builder, held_out, seed) if held_out else {}
    unseen = {ids: kind for ids, kind in unseen.items() if ids not in seen}
    if both_kinds(seen) and not both_kinds(unseen):
        seen, unseen = hold_out(seen, seed)
    if not both_kinds(seen):
        tqdm.write("warning: prompt gate not fitted: the records hold grounding or understanding prompts, not both")
        return {"fitted": False, "num_prompts": len(seen)}
    fitted = fit_prompt_gate(model, list(seen), list(seen.values()), seed=seed)
    report = {"fitted": True, **fitted, "held_out_prompts": len(unseen)}
    if unseen:
        opened = [logit > 0 for logit in predict_prompt_gate(model, list(unseen))]
        wrong = [o != kind for o, kind in zip(opened, unseen.values(), strict=True)]
        report["held_out_error"] = sum(wrong) / len(wrong)
        for name, of_kind in (("held_out_false_open", False), ("held_out_false_shut", True)):
            these = [w for w, kind in zip(wrong, unseen.values(), strict=True) if kind is of_kind]
            report[name] = sum(these) / len(these) if these else None
    return report


def distinct_prompts(builder: SampleBuilder, records: RecordSet, seed: int) -> Prompts:
    """Token ids of distinct prompts with their kind (True: grounding), of at most `MOST` records drawn at random."""
    positions = random.Random(seed).sample(range(len(records)), min(MOST, len(records)))
    found: Prompts = {}
    for record in (records[position] for position in sorted(positions)):
        try:
            found[tuple(builder.prompts([record])[0].ids.tolist())] = record.is_grounding
        except (DialectError, RecordError):
            continue  # left out of the training as well, and counted there
    return found


def hold_out(prompts: Prompts, seed: int) -> tuple[Prompts, Prompts]:
    """A split of both kinds alike; at least one of each kind stays to fit on."""
    kept, held = dict(prompts), {}
    for kind in (False, True):
        these = [ids for ids, k in prompts.items() if k is kind]
        for ids in random.Random(seed).sample(these, min(round(HELD_OUT * len(these)), len(these) - 1)):
            held[ids] = kept.pop(ids)
    return kept, held


def both_kinds(prompts: Prompts) -> bool:
    return len(set(prompts.values())) == 2
