"""The prompt gate on "auto": decided once per prompt and row, kept through every way of generating."""

import copy
import inspect
import warnings

import pytest
import torch
from peft import PeftModel, get_peft_model

from lynx_moe.adapter import (
    LynxConfig,
    fit_prompt_gate,
    predict_prompt_gate,
    prompt_gate_head,
    record_routing,
    set_gate,
)
from lynx_moe.errors import ConfigError
from tests.adapter.speaking import adapted, make_it_speak

GROUNDING_WORD, OTHER_WORD = 50, 60


def prompts(number=40, seed=0):
    """Prompts of random words; the ones about grounding hold one telling word."""
    draw = torch.Generator().manual_seed(seed)
    made = []
    for i in range(number):
        words = torch.randint(70, 128, (int(torch.randint(4, 9, (1,), generator=draw)),), generator=draw).tolist()
        made.append([1, 3, 3, 3, 3, *words, GROUNDING_WORD if i % 2 else OTHER_WORD])
    return made, [bool(i % 2) for i in range(number)]


def asking(inputs, telling_words):
    """The same batch, with the first word after the picture of each row saying what is asked."""
    inputs = {k: v.clone() for k, v in inputs.items()}
    for row, word in enumerate(telling_words):
        # Everywhere after the picture, so that the two rows are far from the boundary.
        after = int((inputs["input_ids"][row] == 3).nonzero().max()) + 2
        inputs["input_ids"][row, after:] = word
    return inputs


@pytest.fixture
def fitted(vlm):
    model, inputs = vlm
    base = copy.deepcopy(model)
    peft_model = adapted(model, prompt_gate="auto")
    report = fit_prompt_gate(peft_model, *prompts())
    assert report["train_error"] == 0.0
    return base, peft_model, asking(inputs, [GROUNDING_WORD, OTHER_WORD])


def test_the_head_tells_unseen_prompts_apart(llava):
    peft_model = adapted(llava[0], prompt_gate="auto")
    report = fit_prompt_gate(peft_model, *prompts(200))
    assert report == {"train_error": 0.0, "num_prompts": 200, "num_grounding": 100}
    unseen, truth = prompts(40, seed=9)
    logits = predict_prompt_gate(peft_model, unseen)
    assert sum((l > 0) == t for l, t in zip(logits, truth, strict=True)) >= 38


def test_fitting_is_repeatable_and_touches_nothing_but_the_head(llava):
    peft_model = adapted(llava[0], prompt_gate="auto")
    before = {n: t.clone() for n, t in peft_model.state_dict().items()}
    fit_prompt_gate(peft_model, *prompts())
    first = [p.clone() for p in prompt_gate_head(peft_model).parameters()]
    fit_prompt_gate(peft_model, *prompts())
    assert all(torch.equal(a, b) for a, b in zip(first, prompt_gate_head(peft_model).parameters(), strict=True))
    changed = {n for n, t in peft_model.state_dict().items() if not torch.equal(t, before[n])}
    assert changed and all(".lynx_prompt_gate." in n for n in changed)


@torch.no_grad()
def test_auto_decides_each_row_by_itself(fitted):
    base, peft_model, inputs = fitted
    auto = peft_model(**inputs).logits
    with set_gate(peft_model, [True, False]):
        assert torch.equal(auto, peft_model(**inputs).logits)
    assert torch.equal(auto[1], base(**inputs).logits[1])
    assert not torch.equal(auto[0], base(**inputs).logits[0])


@torch.no_grad()
def test_arguments_given_by_position_are_taken_for_what_they_are(fitted):
    _, peft_model, inputs = fitted
    names = list(inspect.signature(type(peft_model.get_base_model()).forward).parameters)[1:]
    last = max(names.index(name) for name in inputs)
    by_position = [inputs.get(name) for name in names[: last + 1]]
    assert torch.equal(peft_model.get_base_model()(*by_position).logits, peft_model(**inputs).logits)


@pytest.mark.parametrize(
    "how",
    [
        {"do_sample": False},
        {"do_sample": False, "use_cache": False},
        {"num_beams": 3, "do_sample": False},
        {"do_sample": False, "num_beams": 2, "num_return_sequences": 2},
    ],
    ids=["cache", "no_cache", "beams", "return_sequences"],
)
@torch.no_grad()
def test_the_decision_is_kept_through_generation(fitted, how):
    base, peft_model, inputs = fitted
    how = {**how, "max_new_tokens": 6}
    auto = peft_model.generate(**inputs, **how)
    rows = how.get("num_beams", 1)
    with set_gate(peft_model, [True] * rows + [False] * rows):
        assert torch.equal(auto, peft_model.generate(**inputs, **how))
    returned = how.get("num_return_sequences", 1)
    assert torch.equal(auto[returned:], base.generate(**inputs, **how)[returned:])


@pytest.mark.parametrize("use_cache", [True, False])
@torch.no_grad()
def test_generated_words_do_not_change_the_decision(fitted, use_cache):
    """Every answer is made to consist of the other kind's telling word; the gate was decided on the prompt."""
    _, peft_model, inputs = fitted

    def answer_with_the_other_word(input_ids, scores):
        scores = torch.full_like(scores, -torch.inf)
        scores[0, OTHER_WORD] = scores[1, GROUNDING_WORD] = 0
        return scores

    how = {"max_new_tokens": 20, "do_sample": False, "use_cache": use_cache}
    with record_routing(peft_model) as last_step:
        written = peft_model.generate(**inputs, **how, logits_processor=[answer_with_the_other_word])
    assert (written[0, -19:] == OTHER_WORD).all() and (written[1, -19:] == GROUNDING_WORD).all()
    assert last_step and all(seen["rows"].tolist() == [True, False] for seen in last_step.values())
    # Not because the head does not see those words: asked about the whole text, it would decide otherwise.
    asked_anew = predict_prompt_gate(peft_model, written.tolist())
    assert asked_anew[0] < 0 or asked_anew[1] > 0


@torch.no_grad()
def test_a_new_prompt_is_decided_anew(fitted):
    _, peft_model, inputs = fitted
    peft_model.generate(**inputs, max_new_tokens=2, do_sample=False)
    turned = asking(inputs, [OTHER_WORD, GROUNDING_WORD])
    with record_routing(peft_model) as routing:
        peft_model(**turned)
    assert all(seen["rows"].tolist() == [False, True] for seen in routing.values())


@torch.no_grad()
def test_left_padding_does_not_change_the_decision(fitted):
    base, peft_model, inputs = fitted
    assert (inputs["attention_mask"][0] == 0).any(), "row 0 is the padded one"
    alone = predict_prompt_gate(peft_model, [inputs["input_ids"][0][inputs["attention_mask"][0].bool()].tolist()])
    padded = predict_prompt_gate(peft_model, [inputs["input_ids"][0].tolist()])
    assert alone == pytest.approx(padded, rel=1e-5)


@torch.no_grad()
def test_an_answer_given_as_labels_is_not_part_of_the_prompt(llava):
    model, inputs = llava
    peft_model = adapted(model, prompt_gate="auto")
    fit_prompt_gate(peft_model, *prompts())
    inputs = asking(inputs, [OTHER_WORD, OTHER_WORD])
    answer = torch.full((2, 30), GROUNDING_WORD)
    joined = {
        "input_ids": torch.cat([inputs["input_ids"], answer], 1),
        "attention_mask": torch.cat([inputs["attention_mask"], torch.ones_like(answer)], 1),
        "pixel_values": inputs["pixel_values"],
    }
    labels = torch.cat([torch.full_like(inputs["input_ids"], -100), answer], 1)
    with record_routing(peft_model) as with_labels:
        peft_model(**joined, labels=labels)
    with record_routing(peft_model) as without:
        peft_model(**joined)
    assert with_labels == {}, "every row is about understanding, so no block runs"
    assert all(seen["rows"].all() for seen in without.values())


@torch.no_grad()
def test_an_unfitted_gate_is_open_and_says_so_once(llava):
    model, inputs = llava
    peft_model = adapted(model, prompt_gate="auto")
    with pytest.warns(UserWarning, match="has not been fitted"):
        auto = peft_model(**inputs).logits
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        peft_model(**inputs)
    with set_gate(peft_model, True):
        assert torch.equal(auto, peft_model(**inputs).logits)


@torch.no_grad()
def test_the_fitted_head_travels_with_the_adapter(fitted, tmp_path):
    base, peft_model, inputs = fitted
    peft_model.save_pretrained(tmp_path)
    loaded = PeftModel.from_pretrained(base, tmp_path, adapter_name="again").eval()
    assert bool(prompt_gate_head(loaded).fitted)
    assert torch.equal(loaded(**inputs).logits, peft_model(**inputs).logits)


@torch.no_grad()
def test_nothing_is_left_after_a_forward_even_one_that_fails(fitted):
    _, peft_model, inputs = fitted
    from lynx_moe.adapter import runtime_of

    peft_model(**inputs)
    with pytest.raises(ConfigError, match="the batch has 2"), set_gate(peft_model, [True, False, True]):
        peft_model(**inputs)
    runtime = runtime_of(peft_model)
    assert runtime.rows == {} and runtime.forced is None and runtime.valid_BL is None


def test_one_kind_of_prompt_is_refused(llava):
    peft_model = get_peft_model(llava[0], LynxConfig())
    with pytest.raises(ConfigError, match="needs both"):
        fit_prompt_gate(peft_model, [[1, 2], [3, 4]], [True, True])


@torch.no_grad()
def test_two_models_do_not_share_a_gate(vlm):
    model, inputs = vlm
    other = adapted(copy.deepcopy(model))
    peft_model = adapted(model)
    spoken = other(**inputs).logits
    with set_gate(peft_model, False):
        assert torch.equal(other(**inputs).logits, spoken)
    twin = copy.deepcopy(peft_model)
    with set_gate(peft_model, False):
        assert torch.equal(twin(**inputs).logits, spoken)
    make_it_speak(twin, seed=5)
    assert torch.equal(peft_model(**inputs).logits, spoken)
