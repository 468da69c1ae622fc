"""Generation in batches: the same answers as one by one, in the order asked, and nothing left changed."""

import pytest
import torch

from lynx_moe.data import SampleBuilder, load_records
from lynx_moe.evaluation import generate_answers
from lynx_moe.families.dialects import PercentDialect
from tests.data.written import small_folder
from tests.families.test_picture_grid import qwen2_5_vl
from tests.tiny import CHAT_TEMPLATE, tiny_llava_with_processor


@pytest.fixture(scope="module")
def base():
    model, processor = tiny_llava_with_processor()
    return model, SampleBuilder(processor, PercentDialect())


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_records(small_folder(tmp_path_factory.mktemp("records")), "train")


def ask(base, records, **settings):
    return generate_answers(*base, records, progress=False, max_new_tokens=8, **settings)


def test_batched_answers_are_those_of_single_prompts(base, records):
    # Text-only prompts, long and short ones and two picture shapes in one left-padded batch.
    together = [answer.ids for answer in ask(base, records, batch_size=64)]
    assert together == [answer.ids for answer in ask(base, records, batch_size=1)]
    assert len(set(together)) > 1


def test_single_answer_is_greedy_decoding_by_hand(base, records):
    model, builder = base
    record = records[0]
    ids = torch.from_numpy(builder.spread(builder.prompts([record])[0], record.sizes))[None]
    pixels = builder.pixels(record.image())
    written = []
    with torch.no_grad():
        for _ in range(8):
            ids = torch.cat([ids, model(input_ids=ids, **pixels).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
            written.append(ids[0, -1].item())
            if written[-1] == builder.tokenizer.eos_token_id:
                break
    assert ask(base, [record])[0].ids == tuple(w for w in written if w != builder.tokenizer.eos_token_id)


def test_order_of_records_does_not_matter(base, records):
    forward = ask(base, records, batch_size=2)
    backward = ask(base, list(records)[::-1], batch_size=2)
    assert [a.ids for a in forward] == [a.ids for a in backward][::-1]


def test_truth_is_never_shown(base, records):
    from dataclasses import replace

    blind = [replace(r, answer="x", boxes=(), steps=r.steps[:0] or r.steps) for r in records]
    assert [a.ids for a in ask(base, blind)] == [a.ids for a in ask(base, records)]


def test_probabilities_are_those_of_the_chosen_tokens(base, records):
    model, builder = base
    answer = ask(base, [records[0]], with_probabilities=True)[0]
    prompt = builder.spread(builder.prompts([records[0]])[0], records[0].sizes).tolist()
    ids = torch.tensor([prompt + list(answer.ids)])
    with torch.no_grad():
        logits = model(input_ids=ids, **builder.pixels(records[0].image())).logits[0]
    expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]
    assert answer.log_probabilities == pytest.approx(expected.tolist(), abs=1e-4)


def test_modes_of_modules_are_given_back(base, records):
    model, _ = base
    model.train()
    model.model.vision_tower.eval()
    modes = [m.training for m in model.modules()]
    ask(base, [records[0]])
    assert [m.training for m in model.modules()] == modes
    model.eval()


def test_a_builder_that_is_used_again_gives_a_model_the_same_token_types(records):
    vlm, processor = qwen2_5_vl()
    processor.chat_template = CHAT_TEMPLATE
    builder = SampleBuilder(processor, PercentDialect(processor))
    how = {"max_new_tokens": 4, "progress": False, "with_probabilities": True}
    answers = [generate_answers(vlm, builder, [records[0], records[1]], **how) for _ in range(3)]
    assert answers[0] == answers[1] == answers[2]


def test_no_records_give_no_answers(base):
    assert ask(base, []) == []
