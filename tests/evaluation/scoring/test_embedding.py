"""The model as an encoder, against the hidden states that transformers gives for one text and one picture."""

import pytest
import torch
import torch.nn.functional as F

from lynx_moe.data import SampleBuilder
from lynx_moe.errors import FamilyError
from lynx_moe.evaluation.scoring import make_scorer
from lynx_moe.evaluation.scoring.embedding import picture_mark
from lynx_moe.families.dialects import PercentDialect
from tests.evaluation.scoring.asking import ask, picture
from tests.tiny import tiny_llava_with_processor


@torch.no_grad()
def state(model, **inputs):
    hidden = model(**inputs, output_hidden_states=True).hidden_states[-1][0, -1]
    return F.normalize(hidden, dim=-1)


@pytest.mark.parametrize(
    ("question", "said"),
    [
        ("what is it?", "Represent the given image with the following question: what is it?"),
        ("", "Represent the given image."),
    ],
)
def test_it_is_the_cosine_of_the_last_tokens_final_states(question, said):
    model, processor = tiny_llava_with_processor()
    image = state(model, **processor(text=f"<image> {said}", images=picture(0), return_tensors="pt"))
    text = state(model, **processor.tokenizer("a red dog", return_tensors="pt"))
    scorer = make_scorer("embedding", model, processor)
    assert scorer([ask(0, "a red dog", question)]) == [pytest.approx((image @ text).item(), abs=1e-5)]
    assert "unless it was trained" in scorer.notes["training"]


def test_pictures_with_their_question_and_texts_are_each_encoded_once(monkeypatch):
    model, processor = tiny_llava_with_processor()
    rows = {"pictures": 0, "texts": 0}
    forward = model.forward

    def counted(**inputs):
        rows["pictures" if "pixel_values" in inputs else "texts"] += len(inputs["input_ids"])
        return forward(**inputs)

    monkeypatch.setattr(model, "forward", counted)
    make_scorer("embedding", model, processor, batch_size=3)(
        [
            ask(seed, text, question)
            for seed in range(2)
            for text in ("a cat", "a dog", "two")
            for question in ("", "where?")
        ]
    )
    assert rows == {"pictures": 4, "texts": 3}


def test_an_empty_text_is_not_scored():
    model, processor = tiny_llava_with_processor()
    scorer = make_scorer("embedding", model, processor)
    first, second = scorer([ask(0, ""), ask(0, "a dog")])
    assert first != first and second == second and scorer.faults.total() == 1


@pytest.mark.parametrize(
    ("template", "mark"),
    [
        ("<s>USER: <image>\n{{ messages[0]['content'][1]['text'] }}", "<image>"),
        ("<turn><begin><image><end>{{ messages[0]['content'][1]['text'] }}<turn>", "<begin><image><end>"),
    ],
)
def test_the_pictures_token_is_written_with_the_special_tokens_around_it(template, mark):
    _, processor = tiny_llava_with_processor()
    processor.tokenizer.add_special_tokens({"extra_special_tokens": ["<begin>", "<end>"]})
    processor.chat_template = template
    assert picture_mark(SampleBuilder(processor, PercentDialect())) == mark


def test_a_template_without_picture_is_refused():
    _, processor = tiny_llava_with_processor()
    processor.chat_template = "USER: {{ messages[0]['content'][1]['text'] }}"
    with pytest.raises(FamilyError, match="shows no picture"):
        picture_mark(SampleBuilder(processor, PercentDialect()))
