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
        ConfigError: settings of steps that nothing can honour. FamilyError: the tokenizer cannot mark, or the picture
            tokens lie on no grid. DialectError: the dialect cannot have that word for masks.
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
    masks = objective.masks
    return SampleBuilder(
        processor,
        get_dialect(settings.model.dialect, processor, masks.word if masks.weight > 0 else None),
        mark_boxes=objective.box_weight != 1,
        mark_steps=weighs_steps or objective.stepwise != "whole",
        targets=target_makers(settings, processor),
    )


def training_samples(
    settings: Settings, base: nn.Module, builder: SampleBuilder, records: RecordSet
) -> tuple[SampleDataset | PackedDataset, Collator]:
    """The records as a dataset, and what makes batches of it.

    Raises:
        ConfigError: settings that contradict each other. FamilyError: this base cannot train on packed rows.
    """
    packing = packing_of(settings)
    own_picture = [maker.objective for maker in builder.targets if maker.of_input]
    if own_picture and packing == "picture":
        raise ConfigError(
            f"objective.{own_picture[0]} with data.packing=picture",
            why="it adds to the picture's embeddings what one record asks, and records of a row share the picture",
            fix="data.packing=sequence with data.pack_tokens, where records repeat their picture; or data.packing=none",
        )
    chosen = Stepwise(settings.objective.stepwise, tuple(settings.objective.step_suffixes))
    if own_picture and chosen.in_segments and packing == "none" and builder.adds_rows:
        beside = next(maker.objective for maker in builder.targets if maker.adds_rows)
        raise ConfigError(
            f"objective.{own_picture[0]} with objective.{beside} and step suffixes that differ",
            why="steps of a record then share its picture, which shows its places, with rows that show none",
            fix="objective.stepwise=faithful, or one suffix in objective.step_suffixes",
        )
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
        share=not flash and not own_picture,
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
