"""The comparison from its data to its table."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lynx_moe.adapter import set_gate
from lynx_moe.data import SampleBuilder, load_records
from lynx_moe.evaluation.protocols.base import Score
from lynx_moe.evaluation.scoring import make_scorer
from lynx_moe.evaluation.scoring.embedder import Embedder
from lynx_moe.families.dialects import PercentDialect
from lynx_moe.objectives.contrast import WITH_QUESTION, WITHOUT_QUESTION
from lynx_moe.perception.accuracy import CHANCE, accuracies
from lynx_moe.perception.experts import train_experts, with_experts
from lynx_moe.perception.heads import CLASS, KINDS, Head, numbered, train_head
from lynx_moe.perception.pairs import SIDES, PairSet, held_out, read_sets
from lynx_moe.perception.table import Found
from lynx_moe.perception.tower import features
from lynx_moe.training.base import load_base
from lynx_moe.training.records import make_missing
from lynx_moe.training.settings import DataSettings, ModelSettings

MAKE = {
    "train": ["source=arranged", "task=side", "size=600"],
    "validation": ["source=arranged", "task=side", "size=260"],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """What is compared, and how much is learned.

    Attributes:
        epochs: over the training pairs, for every method that learns. more: times as many for each head once more.
        sets: of four pictures in a batch, whole ones: so the wrong caption of each picture is among its negatives.
        limit, measured: sets to learn from and to measure on, at most; None for all.
        layers, attention_rank, learning_rate: of the new experts.
    """

    base: str = "pkg://lynx_moe.pocket/weights"
    data: str = "outputs/perception/data"
    seeds: tuple[int, ...] = (0, 1, 2)
    epochs: int = 2
    more: int = 10
    sets: int = 2
    limit: int | None = None
    measured: int | None = None
    layers: str | list[int] = "upper_half"
    attention_rank: int = 16
    learning_rate: float = 2e-3


Tell = Callable[[str], None]


def perception(chosen: Comparison, tell: Tell = print) -> dict:
    """Runs the comparison and gives its table as plain data: `rows`, each with mean and spread over the seeds.

    Raises:
        RecordError: the data is not of pairs in four arrangements. FamilyError: no vision tower is known.
    """
    make_missing(DataSettings(folder=chosen.data, make=MAKE))
    train, dropped = read_sets(load_records(chosen.data, "train", tasks=["side"]))
    test, dropped_too = read_sets(load_records(chosen.data, "validation", tasks=["side"]))
    train, kept = train[: chosen.limit], held_out(test, train)
    trained_too, kept = len(test) - len(kept), kept[: chosen.measured]
    tell(f"{len(train)} sets of four pictures to learn from, {len(kept)} of other pairs of things to measure on")
    rows = [*_untrained(chosen, kept, tell), *_heads(chosen, train, kept, tell), *_experts(chosen, train, kept, tell)]
    return {
        "base": chosen.base, "chance": CHANCE, "sets": {"train": len(train), "held_out": len(kept)},
        "left_out": {"pictures in no whole set": dropped + dropped_too, "held-out sets of trained pairs": trained_too},
        "rows": [row.summary() for row in rows],
    }  # fmt: skip


def batches_of(num_sets: int, chosen: Comparison, seed: int, epochs: int) -> list[list[int]]:
    """Places of pictures, whole sets in a drawn order: the same for every method under a seed."""
    rng, found = random.Random(f"{seed}/batches"), []
    for _ in range(epochs):
        order = rng.sample(range(num_sets), num_sets)
        for start in range(0, num_sets, chosen.sets):
            some = order[start : start + chosen.sets]
            found.append([len(SIDES) * each + k for each in some for k in range(len(SIDES))])
    return found


# ---- who has learned nothing ----


def _untrained(chosen: Comparison, sets: Sequence[PairSet], tell: Tell) -> Iterator[Found]:
    model, processor = load_base(ModelSettings(path=chosen.base))
    asked = (
        ("base, generative, VQAScore in the paper's words", {}, PairSet.caption),
        ("base, generative, VQAScore in its own words", {"question": "{text}"}, PairSet.statement_asked),
    )
    for name, options, text in asked:
        scorer = make_scorer("vqascore", model, processor, any_case=True, against_no=True, **options)
        yield _timed(Found(name, 0), partial(_scored, scorer, sets, text), tell)
    scorer = make_scorer("embedding", model, processor)
    yield _timed(Found("base as an encoder, untrained", 0), partial(_scored, scorer, sets, PairSet.caption), tell)


def _timed(row: Found, measure: Callable[[], dict[str, float]], tell: Tell) -> Found:
    began = time.monotonic()
    row.seeds.append(measure())
    row.seconds += time.monotonic() - began
    last = row.seeds[-1]
    tell(f"{row.name}: individual {last['individual']:.3f}, pair {last['pair']:.3f}, set {last['set']:.3f}")
    return row


def _scored(scorer, sets: Sequence[PairSet], text: Callable[[PairSet, int], str]) -> dict[str, float]:
    asks = [
        Score(image_id=f"{number}/{k}", load=each.pictures[k], text=text(each, side), question=each.question(k))
        for number, each in enumerate(sets)
        for k in range(len(SIDES))
        for side in (k, k ^ 1)
    ]
    return _judged(np.array(scorer(asks)))


def _judged(scores: np.ndarray) -> dict[str, float]:
    """Of scores of (set, picture, [true, opposite])."""
    scores = scores.reshape(-1, len(SIDES), 2)
    return accuracies(scores[..., 0], scores[..., 1])


# ---- heads on the tower ----


def _heads(chosen: Comparison, train: Sequence[PairSet], test: Sequence[PairSet], tell: Tell) -> Iterator[Found]:
    model, processor = load_base(ModelSettings(path=chosen.base))
    builder = SampleBuilder(processor, PercentDialect())
    every = [*train, *test]
    images = [load().convert("RGB") for each in every for load in each.pictures]
    patch_NPD, class_ND = features(model, builder, images)
    captions = [each.caption(side) for each in every for side in range(len(SIDES))]
    texts = list(dict.fromkeys(captions))
    number = {text: k for k, text in enumerate(texts)}
    text_N = torch.tensor([number[caption] for caption in captions])
    read = {"trained": numbered(processor.tokenizer, texts), "frozen": Embedder(model, processor).all(texts)}
    kinds = (*KINDS, *((CLASS,) if class_ND is not None else ()))
    # All once more for longer: which of them only want more of the same.
    for times, kind in itertools.product((1, chosen.more), kinds):
        epochs, seen = chosen.epochs * times, class_ND if kind.looks == "class" else patch_NPD
        name = f"CLIP head, {kind.name}" + (f", {times} times the pairs" if times > 1 else "")
        row = Found(name, len(SIDES) * len(train) * epochs)
        for seed in chosen.seeds:
            torch.manual_seed(seed)
            head = Head(kind, seen.shape[-1], read[kind.reads])
            row.trained = sum(p.numel() for p in head.parameters())
            batches = batches_of(len(train), chosen, seed, epochs)
            _timed(row, partial(_of_head, head, seen, text_N, batches, len(SIDES) * len(train)), tell)
        yield row


def _of_head(
    head: Head, seen: torch.Tensor, text_N: torch.Tensor, batches: list[list[int]], start: int
) -> dict[str, float]:
    train_head(head, seen, text_N, batches)
    with torch.no_grad():
        # A picture's own caption and its opposite: numbers k and k ^ 1 of its set.
        scores = [head(seen[k : k + 1], torch.stack([text_N[k], text_N[k ^ 1]]))[0] for k in range(start, len(text_N))]
    return _judged(torch.stack(scores).numpy())


# ---- the language model behind it ----


def _experts(chosen: Comparison, train: Sequence[PairSet], test: Sequence[PairSet], tell: Tell) -> Iterator[Found]:
    records = [each.record(side) for each in train for side in range(len(SIDES))]
    ways: tuple[tuple[str, str | None], ...] = (
        ("experts, contrastive, with the question", WITH_QUESTION),
        ("experts, contrastive, without the question", WITHOUT_QUESTION),
        ("experts, generative, likelihood of the caption", None),
    )
    for name, wording in ways:
        row = Found(name, len(records) * chosen.epochs)
        for seed in chosen.seeds:
            torch.manual_seed(seed)
            base, processor = load_base(ModelSettings(path=chosen.base))
            model = with_experts(base, chosen.layers, chosen.attention_rank, wording)
            row.trained = sum(p.numel() for p in model.parameters() if p.requires_grad)

            batches = batches_of(len(train), chosen, seed, chosen.epochs)

            def measure(model=model, processor=processor, wording=wording, batches=batches) -> dict[str, float]:
                rate = chosen.learning_rate
                train_experts(model, processor, records, batches, wording=wording, learning_rate=rate)
                options = {"protocol_question": True, "total": True} if wording is None else {"wording": wording}
                scorer = make_scorer("likelihood" if wording is None else "embedding", model, processor, **options)
                with set_gate(model, True):
                    return _scored(scorer, test, PairSet.caption)

            _timed(row, measure, tell)
        yield row
