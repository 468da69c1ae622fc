"""P("Yes"), against a forward pass written out by hand, and for tokenizers that cut or join the word."""

import json
import math

import pytest
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast

from lynx_moe.adapter import fit_prompt_gate
from lynx_moe.errors import ConfigError, FamilyError
from lynx_moe.evaluation.scoring import make_scorer
from tests.adapter.speaking import adapted
from tests.evaluation.scoring.asking import ask, picture
from tests.every_family import tiny
from tests.tiny import tiny_llava_with_processor

QUESTION = 'Does this figure show "a red dog"? Please answer yes or no.'


def chat(processor, question=QUESTION):
    content = [{"type": "image"}, {"type": "text", "text": question}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


@torch.no_grad()
def next_token(model, processor, text, seed=0):
    """Log-probabilities of what follows `text`, by the processor's and the model's own calls alone."""
    inputs = processor(text=text, images=picture(seed), return_tensors="pt")
    return model(**inputs).logits[0, -1].float().log_softmax(-1)


def test_it_is_the_probability_of_yes_behind_the_models_own_chat_template():
    model, processor = tiny_llava_with_processor()
    tokenizer = processor.tokenizer
    # This template writes a space before an answer, which is a token of its own here: both count.
    space, yes, no = (tokenizer.convert_tokens_to_ids(t) for t in (" ", "Yes", "No"))
    before = next_token(model, processor, chat(processor))[space]
    behind = next_token(model, processor, chat(processor) + " ")
    (score,) = make_scorer("vqascore", model, processor)([ask(0, "a red dog")])
    assert score == pytest.approx(math.exp(before + behind[yes]), rel=1e-4)
    (score,) = make_scorer("vqascore", model, processor, against_no=True)([ask(0, "a red dog")])
    assert score == pytest.approx(torch.sigmoid(behind[yes] - behind[no]).item(), rel=1e-4)
    (score,) = make_scorer("vqascore", model, processor, any_case=True)([ask(0, "a red dog")])
    small, large = (tokenizer.convert_tokens_to_ids(t) for t in ("yes", "YES"))
    assert large == tokenizer.unk_token_id
    assert score == pytest.approx(sum(math.exp(before + behind[t]) for t in (yes, small)), rel=1e-4)


def test_the_words_of_the_question_are_a_setting_and_a_caption_may_hold_braces():
    model, processor = tiny_llava_with_processor()
    scorer = make_scorer("vqascore", model, processor, question="Is it {text} ?", against_no=True)
    usual = make_scorer("vqascore", model, processor, against_no=True)
    assert scorer([ask(0, "a red dog")]) != pytest.approx(usual([ask(0, "a red dog")]), abs=1e-4)
    assert scorer.notes["question"] == "Is it {text} ?" and "No" in scorer.notes["score"]
    assert all(map(math.isfinite, usual([ask(0, "{0} {x} {")])))
    with pytest.raises(ConfigError, match="no {text}"):
        make_scorer("vqascore", model, processor, question="Is it so?")


def letters(processor):
    """The same processor with a tokenizer that knows no whole "Yes": Y, e and s are tokens."""
    state = json.loads(processor.tokenizer.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    for word, letter in (("Yes", "Y"), ("find", "e"), ("point", "s"), ("No", "N"), ("to", "o")):
        vocabulary[letter] = vocabulary.pop(word)
    cut = {"Regex": "[YN]|(?<=Y)e|(?<=Ye)s|(?<=N)o"}
    split = {"type": "Split", "pattern": cut, "behavior": "Isolated", "invert": False}
    state["pre_tokenizer"]["pretokenizers"].append(split)
    old = processor.tokenizer
    processor.tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(json.dumps(state)),
        pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        extra_special_tokens={"image_token": "<image>"}, padding_side=old.padding_side,
    )  # fmt: skip
    return processor


def test_a_word_cut_into_letters_counts_as_the_product_of_its_letters():
    model, processor = tiny_llava_with_processor()
    processor = letters(processor)
    tokenizer = processor.tokenizer
    assert tokenizer.tokenize("Yes") == ["Y", "e", "s"] and tokenizer.tokenize("No") == ["N", "o"]

    def spelled(word):
        prefix, total = chat(processor), 0.0
        for letter in [" ", *word]:
            total += next_token(model, processor, prefix)[tokenizer.convert_tokens_to_ids(letter)].item()
            prefix += letter
        return total

    (score,) = make_scorer("vqascore", model, processor)([ask(0, "a red dog")])
    assert score == pytest.approx(math.exp(spelled("Yes")), rel=1e-4)
    (ratio,) = make_scorer("vqascore", model, processor, against_no=True)([ask(0, "a red dog")])
    assert ratio == pytest.approx(1 / (1 + math.exp(spelled("No") - spelled("Yes"))), rel=1e-4)


def test_every_forward_is_shown_the_prompt_alone_where_yes_and_no_are_one_token(monkeypatch):
    model, processor = tiny_llava_with_processor()
    seen = []
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **inputs: seen.append(inputs["input_ids"]) or forward(**inputs))
    make_scorer("vqascore", model, processor, against_no=True)([ask(0, "a red dog")])
    assert len(seen) == 1 and len(seen[0]) == 1


def test_the_prompt_gate_decides_on_the_prompt_alone_also_when_the_answer_is_shown():
    base, processor = tiny_llava_with_processor()
    model = adapted(base, prompt_gate="auto")
    yes = make_scorer("likelihood", model, processor)
    answer = "Find the point , Find the point"
    asked = [ask(0, answer)]
    prompt = chat(processor, "Describe the image.")
    # With the answer behind it this very prompt would pass for grounding.
    fit_prompt_gate(model, processor.tokenizer([f"{prompt} {answer}", prompt])["input_ids"], [True, False])
    with model.disable_adapter():
        expected = yes(asked)
    assert yes(asked) == expected


def test_an_encoder_with_a_decoder_is_refused():
    _, processor = tiny_llava_with_processor()
    model, _ = tiny("florence2")
    with pytest.raises(FamilyError, match="encoder and a decoder"):
        make_scorer("vqascore", model, processor)
