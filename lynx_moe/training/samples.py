"""How a run's records become what it trains on: whole or in steps, one per row or packed, as its settings say."""

from __future__ import annotations

from torch import nn

from lynx_moe.data import Collator, PackedDataset, RecordSet, SampleBuilder, SampleDataset
from lynx_moe.data.packing import FLASH, LENGTHS_TO_DECODER, attention_of, check_packable
from lynx_moe.data.steps import Stepwise
from lynx_moe.errors import ConfigError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.training.heads import target_makers
from lynx_moe.training.settings import Settings


def sample_builder(settings: Settings, processor) -> SampleBuilder:
    """Makes samples with the marks that the run's loss and its cutting into steps need.

    Raises:
        ConfigError: settings of steps that nothing can honour. FamilyError: the tokenizer cannot mark.
    """
    objective = settings.objective
    if not objective.step_suffixes or any(not suffix.strip() for suffix in objective.step_suffixes):
        raise ConfigError(
            f"objective.step_suffixes is {list(objective.step_suffixes)}",
            why="every step needs words that end its question",
            fix="objective.step_suffixes=[\"Let's think of the next step.\"], the paper's",
        )
    if any(weight < 0 for weight in objective.step_weights):
        raise ConfigError(
            f"objective.step_weights is {list(objective.step_weights)}",
            why="below 0 a step would be unlearned",
            fix="give weights of at least 0",
        )
    weighs_steps = bool(objective.step_weights) or objective.answer_weight != 1
    return SampleBuilder(
        processor,
        get_dialect(settings.model.dialect, processor),
        mark_boxes=objective.box_weight != 1,
        mark_steps=weighs_steps or objective.stepwise != "whole",
        targets=target_makers(settings),
    )


def training_samples(
    settings: Settings, base: nn.Module, builder: SampleBuilder, records: RecordSet
) -> tuple[SampleDataset | PackedDataset, Collator]:
    """The records as a dataset, and what makes batches of it.

    Raises:
        ConfigError: settings that contradict each other. FamilyError: this base cannot train on packed rows.
    """
    packing = packing_of(settings)
    chosen = Stepwise(settings.objective.stepwise, tuple(settings.objective.step_suffixes))
    if packing == "none":
        if chosen.in_segments:
            check_packable(base)
        dataset = SampleDataset(records, builder, stepwise=chosen, max_positions=positions_of(base), traced=True)
        return dataset, Collator(builder.processor)
    sequence = packing == "sequence"
    check_packable(base, lengths=sequence)
    flash = attention_of(base) in FLASH
    dataset = PackedDataset(
        records,
        builder,
        max_tokens=settings.data.pack_tokens,
        packing=packing,
        share=not flash,
        stepwise=chosen,
        max_positions=positions_of(base),
        traced=True,
    )
    with_lengths = flash and base.config.model_type in LENGTHS_TO_DECODER
    return dataset, Collator(builder.processor, end_to_end=flash, with_lengths=with_lengths)


def positions_of(base: nn.Module) -> int | None:
    """Tokens that the base's decoder has positions for; None where its config sets no limit."""
    return getattr(base.config.get_text_config(), "max_position_embeddings", None)


def packing_of(settings: Settings) -> str:
    """none, picture or sequence.

    Raises:
        ConfigError: rows of no stated length, or every step in a forward of its own and yet packed.
    """
    data = settings.data
    packing = data.packing or ("picture" if data.pack_tokens else "none")
    if packing != "none" and not data.pack_tokens:
        raise ConfigError(
            f"data.packing is {packing}, and data.pack_tokens is not set",
            why="rows are filled up to a number of tokens",
            fix="data.pack_tokens=1024, say, or data.packing=none",
        )
    if packing != "none" and settings.objective.stepwise == "faithful":
        raise ConfigError(
            f"objective.stepwise=faithful with data.packing={packing}",
            why="faithful gives every step a forward of its own, which packing puts together again",
            fix="objective.stepwise=packed, which has the same gradients, or data.packing=none",
        )
    return packing
