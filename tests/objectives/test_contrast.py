"""Contrast: which rows records give beside themselves, what is told apart from what, and that rows change no answer."""

import math

import pytest
import torch
import torch.nn.functional as F

from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.data.beside import alone, rows_beside
from lynx_moe.data.packing import chain, pack
from lynx_moe.data.records import Record, Step
from lynx_moe.data.sample import IGNORED
from lynx_moe.data.steps import Stepwise, step_tokens
from lynx_moe.errors import RecordError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives.contrast import QUERY, SIDE, WORDS, Contrast, ContrastTargets, embedded
from lynx_moe.objectives.regions import RegionTargets
from lynx_moe.ops.contrast import info_nce_to
from tests.tiny import tiny_llava_with_processor

WIDTH, SIZE = 12, (32, 32)


@pytest.fixture(scope="module")
def processor():
    return tiny_llava_with_processor()[1]


@pytest.fixture(scope="module")
def builder(processor):
    return builder_of(processor)


def builder_of(processor, *more, wording="look at the picture . {question}", **options) -> SampleBuilder:
    return SampleBuilder(
        processor, get_dialect("percent", processor), targets=[ContrastTargets(wording), *more], **options
    )


def record(**more) -> Record:
    plain = {
        "id": "r", "image_id": "a", "question": "What color is the star?", "answer": "red", "kind": "understanding",
        "task": "colour", "size": SIZE, "load": lambda: None,
    }  # fmt: skip
    return Record(**{**plain, **more})


def rows(builder, *records) -> list[dict]:
    return [builder.sample(tokens, each.sizes) for each in records for tokens in step_tokens(builder, each)]


def batch_of(builder, *records) -> dict:
    return Collator(builder.processor)(rows(builder, *records))


# ---- rows ----


def test_a_record_is_read_as_a_query_with_its_picture_and_as_its_answers_words_alone(builder):
    own, query, words = rows(builder, record())
    read = builder.tokenizer.decode
    picture = builder.image_token_id
    assert not own[SIDE].any() and (own["labels"] != IGNORED).any()
    assert (query["input_ids"] == picture).sum() == 16 and "look at the picture . What color" in read(
        query["input_ids"]
    )
    assert read(words["input_ids"], skip_special_tokens=True).strip() == "red"
    for row, side in ((query, 1), (words, 2)):
        assert (row["labels"] == IGNORED).all() and not row["is_grounding"].any()
        assert row[SIDE].tolist() == [0] * (len(row[SIDE]) - 1) + [side]
    assert query[QUERY][-1] == words[QUERY][-1] and query[WORDS][-1] == words[WORDS][-1]


NONE = {
    "an answer that is a box": {"answer": "at {box:0}", "boxes": ((1.0, 1.0, 9.0, 9.0),), "kind": "grounding"},
    "no words": {"answer": " "},
    "text only": {"size": None, "load": None},
}


@pytest.mark.parametrize("more", NONE.values(), ids=NONE)
def test_records_without_words_or_picture_are_no_pair(builder, more):
    assert rows_beside(builder, record(**more)) == []


def test_a_stepwise_answer_pairs_its_last_words_and_its_question_without_the_suffix(processor):
    builder = builder_of(processor, mark_steps=True)
    steps = (Step("Find the star at {box:0}.", ((1.0, 2.0, 9.0, 9.0),)),)
    made = step_tokens(builder, record(kind="grounding", steps=steps), Stepwise("faithful"))
    assert len(made) == 4 and [len(tokens.targets) for tokens in made] == [0, 0, 1, 1]
    assert "step" not in builder.tokenizer.decode(made[2].ids)
    assert len({frozenset(builder.sample(tokens, [SIZE])) for tokens in made}) == 1, "rows of a batch bear the same"


def test_words_that_are_no_text_alone_are_refused_with_the_record(builder, processor):
    with pytest.raises(RecordError, match="cannot be read alone"):
        alone(builder, processor.image_token)


def test_a_query_bears_no_target_of_another_objective_a_second_time(processor):
    builder = builder_of(processor, RegionTargets(False))
    found = record(
        kind="grounding", answer="Yes", phrase="star", boxes=((1.0, 1.0, 9.0, 9.0),), question="Find the star"
    )
    assert [int((row["target_region"] > 0).sum()) for row in rows(builder, found)] == [1, 0, 0]


def test_packed_texts_see_no_picture_and_queries_share_it(builder):
    own, query, words = rows(builder, record())
    prefix = int((own["input_ids"] == builder.image_token_id).nonzero()[-1]) + 1
    row = chain([pack([own, query], prefix), pack([words], 0)])
    batch = Collator(builder.processor)([row])
    at = int((row[SIDE] == 2).nonzero())
    seen = batch["attention_mask"][0, 0, at] == 0
    assert row["input_ids"][seen].tolist() == words["input_ids"].tolist()
    assert row["position_ids"][seen].tolist() == list(range(len(words["input_ids"])))
    asked = batch["attention_mask"][0, 0, int((row[SIDE] == 1).nonzero())] == 0
    assert row["input_ids"][asked].tolist() == query["input_ids"].tolist()


# ---- the loss ----


def states_for(batch) -> torch.Tensor:
    return torch.randn(*batch["input_ids"].shape, WIDTH, generator=torch.Generator().manual_seed(0)).requires_grad_()


def test_loss_is_the_cross_entropy_of_cosines_over_temperature(builder):
    asked = [record(id=str(k), image_id=str(k), answer=word) for k, word in enumerate(("red", "blue", "green"))]
    batch = batch_of(builder, *asked)
    states = states_for(batch)
    (query, _), (words, _) = embedded(states, batch, 1), embedded(states, batch, 2)
    assert torch.allclose(query.norm(dim=1), torch.ones(3))
    expected = F.cross_entropy(query @ words.T / 0.02, torch.arange(3), reduction="sum")
    head = Contrast(WIDTH)
    assert head(states, batch).item() == pytest.approx(expected.item(), rel=1e-5) and head.counts(batch).item() == 3
    assert not list(head.parameters())


def test_alike_pairs_cost_the_logarithm_of_how_many_can_be_told_apart(builder):
    asked = [record(id=str(k), image_id=str(k), answer=word) for k, word in enumerate(("red", "blue", "red", "green"))]
    batch = batch_of(builder, *asked)
    loss = Contrast(WIDTH)(torch.ones(*batch["input_ids"].shape, WIDTH), batch)
    # "red" is told from blue and green only, the others from all four targets.
    assert loss.item() == pytest.approx(2 * math.log(3) + 2 * math.log(4), rel=1e-5)


def test_questions_about_one_picture_are_told_apart_only_if_the_wording_has_them(processor):
    asked = [record(), record(id="s", question="What shape is it?", answer="star")]

    def loss(wording: str) -> float:
        batch = batch_of(builder_of(processor, wording=wording), *asked)
        return Contrast(WIDTH)(torch.ones(*batch["input_ids"].shape, WIDTH), batch).item()

    assert loss("{question}") == pytest.approx(2 * math.log(2), rel=1e-5)
    assert loss("look at the picture") == pytest.approx(0.0, abs=1e-6)


def test_gradient_reaches_the_last_token_of_each_row_alone(builder):
    batch = batch_of(builder, record(), record(id="s", image_id="b", answer="blue"))
    states = states_for(batch)
    Contrast(WIDTH, temperature=1.0)(states, batch).sum().backward()
    assert torch.equal(states.grad.abs().sum(-1) > 0, batch[SIDE] > 0)


def test_a_batch_without_pairs_costs_nothing_and_still_has_a_gradient(builder):
    batch = batch_of(builder, record(answer=" "))
    states = states_for(batch)
    loss = Contrast(WIDTH)(states, batch).sum()
    loss.backward()
    assert loss.item() == 0 and not states.grad.any()


def test_one_direction_does_not_ask_the_other():
    logits = torch.tensor([[5.0, 0.0, 9.0], [0.0, 5.0, 9.0]])
    found = info_nce_to(logits, torch.tensor([0, 1]), torch.tensor([[False, False, True]] * 2))
    assert found.tolist() == pytest.approx([math.log(1 + math.exp(-5.0))] * 2, rel=1e-5)
