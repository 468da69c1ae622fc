"""Constrained decoding: every box that is opened is whole, and what holds no box is as it was."""

import dataclasses

import numpy as np
import pytest
import torch
import transformers

from lynx_moe.data import SampleBuilder, load_records
from lynx_moe.errors import DialectError
from lynx_moe.evaluation import generate_answers
from lynx_moe.evaluation.constrained import OnlyWholeBoxes, Vocabulary
from lynx_moe.evaluation.token_text import spoken
from lynx_moe.families.dialects import DIALECTS, Geometry, LlavaDialect, PercentDialect
from lynx_moe.families.dialects.grammar import LONGEST_LABEL, Again, Grammar, Label, Number, State
from lynx_moe.grounding import Box
from tests.data.written import small_folder
from tests.evaluation.real_tokenizers import all_marks, with_marks
from tests.tiny import TEXT, _build, tiny_llava_with_processor

BOXES = [name for name in DIALECTS if DIALECTS.get(name).writes_boxes]
TOKENIZERS = ["byte level", "sentence piece", "python"]
OTHER_KINDS = [("sentence piece", "paligemma"), ("sentence piece", "llava"), ("python", "percent")]
SIZES = [(640, 480), (1, 1)]


def written(vocabulary, grammar, draw, steps, opening):
    """Tokens drawn from random scores through the processor, the first ones those of `opening`."""
    processor, ids = OnlyWholeBoxes(vocabulary, [grammar]), [0]
    processor(torch.tensor([ids]), torch.zeros(1, len(vocabulary.pieces)))
    for k in range(steps):
        scores = torch.from_numpy(draw.gumbel(size=(1, len(vocabulary.pieces)))).float()
        if k < len(opening):
            scores[0, opening[k]] += 1000
        left = processor(torch.tensor([ids]), scores)
        kept = left > -torch.inf
        assert torch.equal(left[kept], scores[kept])  # what is left is as it was
        ids.append(int(left.argmax()))
    return ids[1:]


def opening_of(tokenizer, dialect, size):
    """The first tokens of a box, as far as its opening goes."""
    grammar, ids = (
        dialect.grammar(size),
        tokenizer(dialect.encode((0, 0, *size), size), add_special_tokens=False)["input_ids"],
    )
    ends = (
        n
        for n in range(1, len(ids))
        if grammar.advance(State(), spoken(ids[:n], [], tokenizer, dialect.marks)[0]).in_box
    )
    return ids[: next(ends)]


def boxes_in(grammar, text):
    """The texts of the boxes that were opened and have ended; fails where one is not well formed."""
    state, begin, found = State(), None, []
    for k, char in enumerate(text):
        was_open, state = state.in_box, grammar.step(state, char)
        assert state is not None, text[: k + 1]
        if state.in_box and not was_open:
            begin = k + 1 - len(grammar.opening)
        if was_open and not state.in_box:
            found.append(text[begin : k + 1])
    return found


def long_enough(grammar):
    """Tokens in which a box ends, also one whose label is drawn at random, or of a list that goes on at random."""
    long = any(isinstance(part, Label | Again) for parts in grammar.alternatives for part in parts)
    return LONGEST_LABEL + 120 if long else 40


def assert_whole(dialect, grammar, text, size):
    """Every box that has ended is read as such; how many there were."""
    found = boxes_in(grammar, text)
    for box in found:
        parsed = dialect.decode(box, size)
        assert parsed.boxes and not parsed.errors, box
    return len(found)


@pytest.mark.parametrize(("kind", "name"), [("byte level", name) for name in BOXES] + OTHER_KINDS)
def test_random_choices_always_end_in_boxes_that_can_be_read(kind, name):
    draw, ended = np.random.default_rng(0), 0
    for geometry, size in [(Geometry(), size) for size in SIZES] + [(Geometry(pad_square=True), (200, 60))]:
        dialect = DIALECTS.get(name)(geometry)
        tokenizer = with_marks(kind, all_marks(dialect))
        vocabulary, grammar = Vocabulary(tokenizer, dialect.marks), dialect.grammar(size)
        opening = opening_of(tokenizer, dialect, size)
        for _ in range(2):
            ids = written(vocabulary, grammar, draw, long_enough(grammar), opening)
            text, _ = spoken(ids, [], tokenizer, dialect.marks)
            ended += assert_whole(dialect, grammar, text, size)
    assert ended >= 3 or name in LISTING  # beams and draws may list boxes without end


def test_bytes_spell_no_opening():
    tokenizer = with_marks("sentence piece", [])
    dialect = LlavaDialect()
    vocabulary, grammar = Vocabulary(tokenizer, dialect.marks), dialect.grammar((640, 480))
    byte, other = tokenizer.convert_tokens_to_ids([f"<0x{ord(char):02X}>" for char in grammar.opening + "!"])
    assert tokenizer.decode([byte]) == "[" == grammar.opening
    forbidden = vocabulary.tokens(grammar, State()).tolist()
    assert byte in forbidden and other not in forbidden


@pytest.mark.parametrize("name", BOXES)
def test_what_a_dialect_writes_is_well_formed_and_its_beginnings_too(name):
    draw = np.random.default_rng(1)
    for geometry in (Geometry(), Geometry(pad_square=True)):
        dialect = DIALECTS.get(name)(geometry)
        for size in ((640, 480), (33, 200)):
            grammar = dialect.grammar(size)
            for label in ("", "small cat"):
                x, y = np.sort(draw.random((2, 2)), axis=1)
                text = dialect.encode(Box(x[0] * size[0], y[0] * size[1], x[1] * size[0], y[1] * size[1], label), size)
                state, seen = State(), False
                for char in f"It is {text} or":
                    state = grammar.advance(state, char)
                    assert state is not None, text
                    seen |= state.in_box
                assert seen and not state.in_box


def read(dialect, text, size=(640, 480)):
    return dialect.grammar(size).advance(State(), text)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("[1, 2, 3, 4]", True),
        ("[1, 2, 3, 4] and [5, 6, 7, 8", True),
        ("[99, 99, 100, 100]", True),
        ("[100", False),
        ("[01", False),
        ("[1,2", False),
        ("[ 1", False),
        ("[5, 6, 5", True),
        ("[5, 6, 5,", False),
        ("[5, 6, 7, 6]", False),
        ("[10, 20, 3", True),
        ("[10, 20, 3,", False),
        ("[1, 2, 3, 4]]", True),
        ("[]", False),
    ],
)
def test_well_formed_is_what_percent_can_write(text, good):
    assert (read(PercentDialect(), text) is not None) is good


def test_corners_are_in_order_in_every_spelling():
    florence, kosmos = DIALECTS.get("florence2")(), DIALECTS.get("kosmos2")()
    assert read(florence, "<loc_5><loc_6><loc_5><loc_6>") and not read(florence, "<loc_5><loc_6><loc_4>")
    pair = "<object><patch_index_0044><patch_index_{}>"
    assert (
        read(kosmos, pair.format("0076"))
        and not read(kosmos, pair.format("0043"))
        and not read(kosmos, pair.format("0075"))
    )
    assert read(LlavaDialect(), "[0.10, 0.20, 0.11, 0.2") and not read(LlavaDialect(), "[0.10, 0.20, 0.10,")


def test_an_outline_is_not_held_to_the_form_of_a_box():
    florence = DIALECTS.get("florence2")()
    outline = "<poly><loc_9><loc_9><loc_5><loc_1><loc_0><loc_7></poly>"
    assert read(florence, f"cat{outline}<loc_1><loc_2><loc_3>").in_box
    assert read(florence, f"cat{outline}<loc_9><loc_9><loc_5>") is None


LISTING = ("internvl", "deepseek_vl2", "glm4v")
SEVERAL = {
    "internvl": "<ref>cat</ref><box>[[1, 2, 3, 4], [5, 6, 7, 8]]</box>",
    "deepseek_vl2": "<|ref|>cat<|/ref|><|det|>[[1, 2, 3, 4], [5, 6, 7, 8]]<|/det|>",
    "glm4v": "<|begin_of_box|>[[1,2,3,4],[5,6,7,8]]<|end_of_box|>",
    "shikra": "[0.100,0.200,0.300,0.400;0.500,0.500,0.700,0.900]",
}


@pytest.mark.parametrize("name", SEVERAL)
def test_several_boxes_of_one_list_are_let_through(name):
    dialect = DIALECTS.get(name)()
    state = dialect.grammar((100, 100)).advance(State(), SEVERAL[name])
    assert state is not None and not state.in_box
    assert len(dialect.decode(SEVERAL[name], (100, 100)).boxes) == 2


@pytest.mark.parametrize("name", [name for name in BOXES if name not in ("kosmos2", "florence2")])
@pytest.mark.parametrize("geometry", [Geometry(pad_square=True), Geometry()])
def test_thin_boxes_at_the_edges_of_a_padded_picture_are_well_formed(name, geometry):
    dialect = DIALECTS.get(name)(geometry)
    draw = np.random.default_rng(0)
    for size in ((333, 517), (1, 35), (640, 480)):
        grammar = dialect.grammar(size)
        for _ in range(20):
            x, y = draw.choice([0.0, 1.0], 2) * size + draw.uniform(-0.004, 0.004, 2) * size
            box = Box(x, y, x + draw.uniform(0.001, 0.01) * size[0], y + draw.uniform(0.001, 0.5) * size[1])
            try:
                text = dialect.encode(box, size)
            except DialectError:
                continue  # nothing of it is in the picture
            assert grammar.advance(State(), text) is not None, (box, text)


LABELLED = Grammar('"bbox_2d": [', ((Number(0, 9), ', 0], "label": "', Label(), '"}'),))


def test_marks_that_open_answers_in_words_too_are_not_held_to_a_box():
    grammar = DIALECTS.get("glm4v")().grammar((100, 100))
    assert not grammar.advance(State(), "<|begin_of_box|>two<|end_of_box|>").in_box
    assert grammar.advance(State(), "<|begin_of_box|>[[100,").in_box
    assert grammar.advance(State(), "<|begin_of_box|>[[100,two") is None


def test_labels_are_free_but_end():
    text = '{"bbox_2d": [5, 0], "label": "'
    assert LABELLED.advance(State(), f'{text}a cat, 3 years old"}} and').in_box is False
    assert LABELLED.advance(State(), f'{text}"') is None and LABELLED.advance(State(), f"{text}a[") is None
    state = LABELLED.advance(State(), text)
    for _ in range(100):
        if LABELLED.advance(state, "ab") is None:
            break
        state = LABELLED.advance(state, "ab")
    assert LABELLED.follows(state) == {'"'} and LABELLED.advance(state, '"}').in_box is False


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_a_box_with_a_label_ends_whatever_is_drawn(kind):
    tokenizer = with_marks(kind, [])
    vocabulary, draw = Vocabulary(tokenizer), np.random.default_rng(0)
    opening = tokenizer('"bbox_2d": [', add_special_tokens=False)["input_ids"]
    for _ in range(5):
        longest = len(opening) + LONGEST_LABEL + 60
        text, _ = spoken(written(vocabulary, LABELLED, draw, longest, opening), [], tokenizer)
        assert '"}' in text and LABELLED.advance(State(), text) is not None


@pytest.mark.parametrize(("kind", "name"), [("byte level", "kosmos2"), *OTHER_KINDS])
def test_tokens_let_through_are_those_a_look_at_every_token_lets_through(kind, name):
    """The shortcuts (by first character, by state) against all tokens one by one."""
    dialect = DIALECTS.get(name)()
    tokenizer = with_marks(kind, all_marks(dialect))
    vocabulary = Vocabulary(tokenizer, dialect.marks)
    grammars = [(dialect.grammar((640, 480)), dialect.encode((10, 20, 300, 400), (640, 480)))]
    grammars.append((LABELLED, '"bbox_2d": [5, 0], "label": "small cat"}'))
    names = tokenizer.convert_ids_to_tokens(list(range(len(vocabulary.pieces))))
    for grammar, text in grammars:
        spelling = {f"<0x{ord(char):02X}>" for char in grammar.opening}  # bytes, which may not open a box
        for end in range(len(text) + 1):
            state = grammar.advance(State(), text[:end])
            fits = {id for id, piece in enumerate(vocabulary.pieces) if grammar.advance(state, piece) is not None}
            if state.in_box:
                expected = {id for id in fits if vocabulary.pieces[id]}
            else:
                expected = {id for id, name in enumerate(names) if id not in fits or name in spelling}
            assert set(vocabulary.tokens(grammar, state).tolist()) == expected


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return load_records(small_folder(tmp_path_factory.mktemp("records")), "train")


@pytest.fixture()
def model_and_processor():
    return tiny_llava_with_processor()


def pushed(model, token, by):
    """The model, which from now on likes `token`."""

    def push(module, args, output):
        output[..., token] += by
        return output

    model.lm_head.register_forward_hook(push)
    return model


@pytest.mark.parametrize("dialect", [PercentDialect, LlavaDialect])
def test_a_real_model_that_opens_boxes_writes_only_whole_ones(model_and_processor, records, dialect):
    model, processor = model_and_processor
    builder = SampleBuilder(processor, dialect.from_processor(processor))
    pushed(model, processor.tokenizer.convert_tokens_to_ids("["), 100.0)
    asked = [record for record in records if record.has_image]
    free = generate_answers(model, builder, asked, progress=False, max_new_tokens=60)
    assert {answer.text.strip("[") for answer in free} == {""}
    held = generate_answers(model, builder, asked, progress=False, max_new_tokens=60, constrain=True)
    for record, answer in zip(asked, held, strict=True):
        whole = answer.text[: answer.text.rindex("]") + 1]
        parsed = builder.dialect.decode(whole, record.size)
        assert len(parsed.boxes) == whole.count("[") > 1 and not parsed.errors


def test_answers_without_a_box_are_bit_for_bit_the_same(model_and_processor, records):
    model, processor = model_and_processor
    builder = SampleBuilder(processor, PercentDialect.from_processor(processor))
    pushed(model, processor.tokenizer.convert_tokens_to_ids("["), -100.0)
    for how in ({}, {"temperature": 1.0, "seed": 3}):
        free, held = (
            generate_answers(
                model, builder, records, progress=False, max_new_tokens=30, with_probabilities=True, constrain=on, **how
            )
            for on in (False, True)
        )
        assert free == held and len({answer.text for answer in free}) > 1
        assert not any("[" in answer.text for answer in free)


def test_probabilities_stay_those_of_the_model(model_and_processor, records):
    model, processor = model_and_processor
    builder = SampleBuilder(processor, PercentDialect.from_processor(processor))
    record = next(record for record in records if record.has_image)
    pushed(model, processor.tokenizer.convert_tokens_to_ids("["), 5.0)
    answer = generate_answers(
        model, builder, [record], progress=False, max_new_tokens=20, with_probabilities=True, constrain=True
    )[0]
    prompt = builder.spread(builder.prompts([record])[0], record.sizes).tolist()
    ids = torch.tensor([prompt + list(answer.ids)])
    with torch.no_grad():
        logits = model(input_ids=ids, **builder.pixels(record.image())).logits[0]
    expected = logits.log_softmax(-1)[len(prompt) - 1 : -1].gather(-1, ids[0, len(prompt) :, None])[:, 0]
    assert answer.log_probabilities == pytest.approx(expected.tolist(), abs=1e-3)


class Opens(transformers.LogitsProcessor):
    """Writes the opening of a box again and again, wherever it is let."""

    def __init__(self, opening):
        self.opening, self.given = opening, None

    def __call__(self, input_ids, scores):
        self.given = input_ids.shape[1] if self.given is None else self.given
        place = (input_ids.shape[1] - self.given) % 30
        if place < len(self.opening):
            scores = scores.clone()
            scores[:, self.opening[place]] += 50.0
        return scores


@pytest.mark.parametrize("name", BOXES)
def test_rows_of_a_batch_and_their_beams_are_followed_each_by_itself(name):
    dialect = DIALECTS.get(name)()
    tokenizer = with_marks("byte level", all_marks(dialect))
    config = transformers.LlamaConfig(**{**TEXT, "vocab_size": len(tokenizer) + 7})  # larger than the tokenizer's
    model = _build(transformers.LlamaForCausalLM, config)
    sizes = [(640, 480), (30, 200), (100, 100)]
    grammars = [dialect.grammar(size) for size in sizes]
    opens = Opens(opening_of(tokenizer, dialect, (100, 100)))
    prompts = torch.tensor([[5, 6, 7], [8, 9, 10], [11, 12, 13]])
    out = model.generate(
        prompts,
        attention_mask=torch.ones_like(prompts),
        num_beams=2,
        num_return_sequences=2,
        do_sample=False,
        max_new_tokens=long_enough(grammars[0]),
        pad_token_id=0,
        logits_processor=[opens, OnlyWholeBoxes(Vocabulary(tokenizer, dialect.marks), grammars)],
    )
    ended = 0
    for row, ids in enumerate(out[:, 3:].tolist()):
        text, _ = spoken(ids, [], tokenizer, dialect.marks)
        ended += assert_whole(dialect, grammars[row // 2], text, sizes[row // 2])
    assert ended >= 3 or name in LISTING  # beams and draws may list boxes without end


def test_a_tokenizer_that_cannot_write_the_dialect_says_so(model_and_processor, records):
    model, processor = model_and_processor
    dialect = DIALECTS.get("kosmos2")()
    tokenizer = with_marks("words", ["<object>"])
    vocabulary = Vocabulary(tokenizer, dialect.marks)
    with pytest.raises(DialectError, match="no token goes on"):
        written(vocabulary, dialect.grammar((9, 9)), np.random.default_rng(0), 3, [len(tokenizer) - 1])
    builder = SampleBuilder(processor, DIALECTS.get("molmo")())
    with pytest.raises(DialectError, match="writes no boxes"):
        generate_answers(model, builder, records, progress=False, constrain=True)


def test_special_tokens_cannot_come_in_a_box_but_marks_can():
    dialect = DIALECTS.get("kosmos2")()
    tokenizer = with_marks("byte level", [*all_marks(dialect), "<|other|>"])
    vocabulary, grammar = Vocabulary(tokenizer, dialect.marks), dialect.grammar((100, 100))
    state = grammar.advance(State(), "<object>")
    tokens = {tokenizer.convert_ids_to_tokens(id) for id in vocabulary.tokens(grammar, state).tolist()}
    assert {f"<patch_index_{k:04}>" for k in range(1024)} <= tokens
    assert not tokens & {"</s>", "<pad>", "<|other|>", "</object>"}


def test_a_grammar_can_be_told_from_another():
    one, other = PercentDialect().grammar((640, 480)), PercentDialect().grammar((10, 10))
    assert one == other and hash(one) == hash(other)
    assert one != dataclasses.replace(one, opening="(")
    assert PercentDialect(Geometry(pad_square=True)).grammar((640, 480)) != one
