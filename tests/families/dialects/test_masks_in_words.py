"""Masks in text: the word that stands for one, or its outline, in every dialect."""

import numpy as np
import pytest

from lynx_moe.errors import DialectError
from lynx_moe.evaluation.constrained import Vocabulary
from lynx_moe.evaluation.metrics.coco import mask_of
from lynx_moe.families.dialects import DIALECTS, get_dialect
from lynx_moe.families.dialects.grammar import State
from lynx_moe.grounding import Box, Mask
from synth.rle import Runs
from synth.sources.rendered import RenderedOptions, RenderedSource
from tests.evaluation.real_tokenizers import all_marks, with_marks
from tests.families.dialects.test_laws import PROCESSORS

NAMES = DIALECTS.names()
BOXES = [name for name in NAMES if DIALECTS.get(name).writes_boxes]
QUADS = ["qwen2_vl", "qwen_vl"]
OUTLINES = ["florence2", *QUADS]
SIZE = (100, 80)


def mask_from(array):
    return Mask.of_coco(Runs.of(array).coco())


def rectangle(x1=20, y1=10, x2=60, y2=50, size=SIZE):
    array = np.zeros(size[::-1], bool)
    array[y1:y2, x1:x2] = True
    return mask_from(array)


def speaking(name, word="[SEG]", geometry=None):
    return DIALECTS.get(name)(geometry).with_mask_word(word)


@pytest.mark.parametrize("name", NAMES)
def test_the_word_is_found_and_is_neither_a_box_nor_an_error(name):
    dialect = speaking(name)
    text = dialect.render("It is {mask:0}. And [SEG],{mask:1}[SEG].", [], SIZE, masks=[rectangle(), rectangle()])
    assert text == "It is [SEG]. And [SEG],[SEG][SEG]."
    read = dialect.decode(text, SIZE)
    assert [text[a:b] for a, b in read.mask_words] == ["[SEG]"] * 4 and read.mask_words[0] == (6, 11)
    assert not read.errors and not read.boxes and not read.points and not read.polygons
    assert read.mask_words == sorted(read.mask_words)


@pytest.mark.parametrize("name", BOXES)
def test_boxes_beside_the_word_are_read_as_without_it(name):
    plain, dialect = DIALECTS.get(name)(), speaking(name)
    boxes = [Box(10, 10, 50, 40), Box(30, 20, 90, 70, "cat")]
    text = plain.render("One {box:0}, two {box:1} end", boxes, SIZE)
    with_word = f"[SEG] {text} [SEG]"
    one, other = plain.decode(text, SIZE), dialect.decode(with_word, SIZE)
    assert one.boxes == other.boxes and one.errors == other.errors
    assert [text[a:b] for a, b in one.spans] == [with_word[a:b] for a, b in other.spans]


@pytest.mark.parametrize("name", NAMES)
def test_without_a_word_nothing_changes_and_the_word_is_plain_text(name):
    dialect = DIALECTS.get(name)()
    assert dialect.mask_word is None and dialect.with_mask_word(None).marks == dialect.marks
    assert dialect.decode("It is [SEG].", SIZE).mask_words == []
    assert speaking(name).with_mask_word(None).marks == dialect.marks, "a word can be taken back"
    assert speaking(name).marks == (*dialect.marks, "[SEG]")


def test_get_dialect_gives_the_word_to_dialects_that_read_their_processor():
    for name in ("percent", "qwen2_5_vl"):
        kind = "resizes to multiples" if name == "qwen2_5_vl" else "pads to a square"
        one, other = (get_dialect(name, PROCESSORS[kind], **given) for given in ({}, {"mask_word": "<mask>"}))
        assert (one.mask_word, other.mask_word) == (None, "<mask>")
        assert one.encode((1, 2, 60, 70), SIZE) == other.encode((1, 2, 60, 70), SIZE)
        assert other.decode("<mask>", SIZE).mask_words == [(0, 6)]


@pytest.mark.parametrize("word", ["", " ", "a mask", "[1]", "{mask:0}", "[1,2,3,4]"])
def test_words_that_cannot_stand_for_a_mask_are_refused(word):
    with pytest.raises(DialectError, match="cannot stand for a mask"):
        speaking("percent", word)


@pytest.mark.parametrize(("name", "word"), [("florence2", "<poly>"), ("internvl", "<box>"), ("kosmos2", "<object>x")])
def test_marks_of_the_dialect_itself_are_refused(name, word):
    with pytest.raises(DialectError, match="reads it as a place"):
        speaking(name, word)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("word", ["[", "<", ",", "box", "bbox_", '"', "quad"])
def test_parts_of_a_place_are_refused_or_leave_it_readable(name, word):
    dialect = DIALECTS.get(name)()
    written = [dialect.encode_point((40, 30), SIZE)]
    written += [dialect.encode(Box(10, 10, 50, 40, "cat"), SIZE)] if dialect.writes_boxes else []
    try:
        changed = dialect.with_mask_word(word)
    except DialectError as error:
        assert "places" in error.why and any(word in text for text in (*written, *map(str, dialect.marks)))
    else:
        assert [changed.decode(text, SIZE) for text in written] == [dialect.decode(text, SIZE) for text in written]


@pytest.mark.parametrize("name", NAMES)
def test_a_word_may_be_given_twice_and_changed(name):
    once = speaking(name)
    assert once.with_mask_word("[SEG]").marks == once.marks
    assert once.with_mask_word("<seg>").marks == speaking(name, "<seg>").marks


@pytest.mark.parametrize("name", BOXES)
@pytest.mark.parametrize("word", ["[SEG]", "<seg>", "<|mask|>"])
def test_constrained_decoding_lets_the_word_through(name, word):
    dialect = speaking(name, word)
    grammar = dialect.grammar(SIZE)
    box = dialect.encode((10, 10, 50, 40), SIZE)
    state = State()
    for char in f"It is {word}, {word}{word} and {box} or {word}.":
        state = grammar.advance(state, char)
        assert state is not None
    assert not state.in_box
    # A beginning of the word that is none is still held to the form of a box.
    if grammar.opening == "[":
        assert grammar.advance(State(), "[S") is None or word.startswith("[S")
        assert grammar.advance(State(), "[SEX") is None
        assert DIALECTS.get(name)().grammar(SIZE).advance(State(), "[S") is None


@pytest.mark.parametrize("name", ["shikra", "ferret"])
def test_the_word_does_not_stand_inside_of_a_list(name):
    dialect = speaking(name)
    box = dialect.encode((10, 10, 50, 40), SIZE)
    assert dialect.grammar(SIZE).advance(State(), f"{box[:-1]};SEG]") is None
    assert dialect.grammar(SIZE).advance(State(), f"{box[:-1]};[SEG]") is None


@pytest.mark.parametrize("one_token", [True, False])
@pytest.mark.parametrize("name", ["percent", "internvl", "qwen2_5_vl", "florence2", "glm4v"])
def test_tokens_of_the_word_stay_where_it_may_stand(name, one_token):
    dialect = speaking(name)
    marks = [mark for mark in all_marks(dialect) if one_token or mark != "[SEG]"]
    tokenizer = with_marks("byte level", marks)
    vocabulary, grammar = Vocabulary(tokenizer, dialect.marks), dialect.grammar(SIZE)
    ids, state = tokenizer("It is [SEG].", add_special_tokens=False)["input_ids"], State()
    assert (len(tokenizer("[SEG]", add_special_tokens=False)["input_ids"]) == 1) is one_token
    for id in ids:
        named = set(vocabulary.tokens(grammar, state).tolist())
        assert (id in named) is state.in_box, "outside of a box these are the forbidden ones, inside the allowed"
        state = grammar.advance(state, vocabulary.pieces[id])
    assert not state.in_box


def test_a_mask_that_nobody_knows_or_that_is_not_there_is_told():
    dialect = speaking("percent")
    with pytest.raises(DialectError, match="nobody knows the mask of {mask:1}") as caught:
        dialect.render("{mask:0} {mask:1}", [], SIZE, masks=[rectangle(), None])
    assert "masks=true" in caught.value.fix
    with pytest.raises(DialectError, match="{mask:2} in .* has no mask"):
        dialect.render("{mask:2}", [], SIZE, masks=[rectangle()])


@pytest.mark.parametrize("name", [name for name in NAMES if name not in OUTLINES])
def test_without_a_head_and_without_outlines_a_mask_cannot_be_written(name):
    with pytest.raises(DialectError, match="cannot write a mask") as caught:
        DIALECTS.get(name)().encode_mask(rectangle(), SIZE)
    assert "[SEG] needs a mask head" in caught.value.why


@pytest.mark.parametrize("name", OUTLINES)
def test_outlines_refuse_what_has_none(name):
    dialect = DIALECTS.get(name)()
    empty = mask_from(np.zeros(SIZE[::-1], bool))
    for mask, said in (
        (empty, "without a visible pixel"),
        (Mask((50, 50), empty.counts), "50x50 picture"),
        (Mask(SIZE, "oooo"), "cannot be decoded"),
    ):
        with pytest.raises(DialectError, match=said):
            dialect.encode_mask(mask, SIZE)
    assert dialect.with_mask_word("[SEG]").encode_mask(empty, SIZE) == "[SEG]", "a word stands for any mask"


@pytest.mark.parametrize("mask", [Mask((50, 50), mask_from(np.zeros((50, 50), bool)).counts), Mask(SIZE, "oooo")])
def test_a_word_stands_for_no_mask_of_another_size_and_for_none_that_cannot_be_decoded(mask):
    with pytest.raises(DialectError, match="50x50 picture|cannot be decoded"):
        speaking("percent").render("It is {mask:0}.", [], SIZE, masks=[mask])


@pytest.mark.parametrize("kind", ["resizes plainly", "pads to a square", "crops the centre"])
@pytest.mark.parametrize("name", OUTLINES)
def test_an_outline_is_of_what_the_model_sees_and_is_read_back(name, kind):
    dialect, size = get_dialect(name, PROCESSORS[kind]), (200, 120)
    mask = rectangle(4, 10, 150, 90, size)
    text = dialect.encode_mask(mask, size)
    read = dialect.decode(f"It is {text}.", size)
    assert not read.errors and not read.boxes and read.polygon_masks == [0]
    assert name == "florence2" or len(read.polygons[0]) == 4
    window = dialect.seen((0, 0, *size), size)
    true = mask.array().copy()
    true[:, : round(window.x1)] = true[:, round(window.x2) :] = False
    true[: round(window.y1)] = true[round(window.y2) :] = False
    again = mask_of([[v for corner in polygon for v in corner] for polygon in read.polygons], size)
    assert (again & true).sum() / (again | true).sum() > 0.93
    hidden = rectangle(0, 0, 3, 120, size)
    if kind == "crops the centre":
        with pytest.raises(DialectError, match="without a visible pixel"):
            dialect.encode_mask(hidden, size)


# Four corners are few: measured, not wished for. The least of single things is that of a bicycle.
@pytest.mark.parametrize(
    ("name", "mean", "least"), [("florence2", 0.96, 0.9), ("qwen_vl", 0.68, 0.2), ("qwen2_vl", 0.68, 0.2)]
)
def test_rendered_things_come_back_from_text(name, mean, least):
    dialect, found = DIALECTS.get(name)(), []
    for k in range(15):
        scene = RenderedSource(RenderedOptions(side=336, objects=[3, 5])).scene(k, "train", 2)
        masks = [(obj.name, obj.pixels()) for obj in scene.objects]
        size = scene.width, scene.height
        text = dialect.render(
            " ".join(f"{{mask:{k}}}" for k in range(len(masks))), [], size, masks=[mask_from(m) for _, m in masks]
        )
        read = dialect.decode(text, size)
        assert not read.errors and read.polygon_masks == sorted(read.polygon_masks)
        for n, (thing, mask) in enumerate(masks):
            own = [p for p, of in zip(read.polygons, read.polygon_masks, strict=True) if of == n]
            again = mask_of([[v for corner in polygon for v in corner] for polygon in own], size)
            found.append((again & mask).sum() / (again | mask).sum())
            assert found[-1] >= (least if thing != "bicycle" else 0.2), (thing, found[-1])
    assert len(found) > 40 and np.mean(found) > mean
