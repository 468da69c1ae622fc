"""The language model behind the same tower: new experts trained on the same pairs, as an encoder or a generator."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from lynx_moe.adapter import LynxConfig, set_gate
from lynx_moe.adapter.attaching import attach_adapter
from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.data.beside import rows_beside
from lynx_moe.data.records import Record
from lynx_moe.families.dialects import PercentDialect
from lynx_moe.objectives.attached import attach_objectives
from lynx_moe.objectives.contrast import ContrastTargets
from lynx_moe.training.loss import AnswerLoss
from lynx_moe.training.method import only_adapter_trains

WARMUP = 0.05  # share of the steps


def with_experts(base: nn.Module, layers: str | list[int], attention_rank: int, wording: str | None) -> nn.Module:
    """The base with fresh experts, their gate open; for a contrast of that wording, or None to learn answers."""
    model = attach_adapter(
        base,
        LynxConfig(
            layers=layers, expert_init="slice", prompt_gate="on", attention_rank=attention_rank, gate_sparsity=0.0
        ),
    )
    attach_objectives(model, {} if wording is None else {"contrast": {"wording": wording}})
    only_adapter_trains(model)
    return model


def train_experts(
    model: nn.Module,
    processor,
    records: Sequence[Record],
    batches: Sequence[Sequence[int]],
    *,
    wording: str | None,
    learning_rate: float,
) -> None:
    """Only contrast, as in the paper's conversion, with a wording; else only answers. One step for each batch.

    Args:
        batches: places in `records`.
    """
    targets = [] if wording is None else [ContrastTargets(wording)]
    builder, collate = SampleBuilder(processor, PercentDialect(), targets=targets), Collator(processor)

    def rows(record: Record) -> list[dict]:
        pixels = builder.pixels(record.image())
        made = builder.tokens([record]) if wording is None else rows_beside(builder, record)
        return [builder.sample(t, record.sizes) | (pixels if t.pictures_at else {}) for t in made]

    loss_of = AnswerLoss(model)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=learning_rate, weight_decay=0.0)
    rising = max(1, round(WARMUP * len(batches)))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda k: min((k + 1) / rising, 0.5 + 0.5 * math.cos(math.pi * k / len(batches)))
    )
    known: dict[int, list[dict]] = {}
    model.train()
    with set_gate(model, True):
        for batch in batches:
            for k in batch:
                if k not in known:
                    known[k] = rows(records[k])
            made = collate([row for k in batch for row in known[k]])
            made = {name: value.to(model.device) for name, value in made.items()}
            loss = loss_of(model, made, loss_of.counts(made)).loss
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            optimiser.zero_grad()
    model.eval()
