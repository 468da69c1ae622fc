"""What a model's tokens say: marks stay, other special tokens go, and every token has its place in the text."""

import pytest

from lynx_moe.evaluation.token_text import spoken, text_of, token_spans, unspoken
from lynx_moe.families.dialects import DIALECTS, PercentDialect
from tests.evaluation.real_tokenizers import KINDS, all_marks, with_marks

MARKED = [name for name in DIALECTS if DIALECTS.get(name).marks]
OF_ANY_TEXT = ["byte level", "sentence piece", "python"]
OTHERS = ["<|other|>", "<loc>", "<loc99999>"]


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    return request.param


def ids_of(tokenizer, text):
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("name", MARKED)
def test_exactly_the_marks_of_a_dialect_stay_in_an_answer(kind, name):
    dialect = DIALECTS.get(name)()
    marks = all_marks(dialect)
    tokenizer = with_marks(kind, [*marks, *OTHERS])
    silent = {tokenizer.convert_ids_to_tokens(id) for id in unspoken(tokenizer, dialect.marks)}
    named = [token for token in (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) if token]
    assert {*OTHERS, *named} <= silent and not silent & set(marks)
    for mark in marks[:: max(1, len(marks) // 50)]:
        ids = [tokenizer.convert_tokens_to_ids(t) for t in (OTHERS[0], mark, OTHERS[1], tokenizer.pad_token, mark)]
        assert spoken(ids, [], tokenizer, dialect.marks)[0].replace(" ", "") == mark * 2


@pytest.mark.parametrize("special", [True, False])
@pytest.mark.parametrize("kind", OF_ANY_TEXT)
def test_boxes_in_marks_are_read_from_an_answer(kind, special):
    dialect = DIALECTS.get("paligemma")()
    tokenizer = with_marks(kind, all_marks(dialect), special=special)
    true = f"The star: {dialect.encode((10, 20, 30, 40), (100, 100))} star"
    ids = ids_of(tokenizer, true) + [tokenizer.eos_token_id, *ids_of(tokenizer, "more")]
    text, kept = spoken(ids, [tokenizer.eos_token_id], tokenizer, dialect.marks)
    assert text == true and kept == ids[: ids.index(tokenizer.eos_token_id)]
    assert len(dialect.decode(text, (100, 100)).boxes) == 1


def test_without_marks_an_answer_is_what_the_tokenizer_says_without_special_tokens(kind):
    tokenizer = with_marks(kind, OTHERS)
    ids = ids_of(tokenizer, "a star is at [10, 25, 100, 75].")
    other = tokenizer.convert_tokens_to_ids(OTHERS)
    mixed = [other[0], *ids[:4], tokenizer.pad_token_id, *ids[4:], other[2]]
    assert (
        spoken(mixed, [], tokenizer, PercentDialect.marks)[0]
        == tokenizer.decode(mixed, skip_special_tokens=True).strip()
    )


@pytest.mark.parametrize("text", ["a [1, 2, 3, 4]", " 東京 🌟 café [10, 20, 30, 40] 星.", "🌟🌟[1, 2, 3, 4]"])
def test_every_character_is_written_by_the_token_that_completes_it(kind, text):
    if kind not in OF_ANY_TEXT:
        text = "the star is at [1, 2, 3, 4]."
    tokenizer = with_marks(kind, ["<|a|>"])
    other = tokenizer.convert_tokens_to_ids("<|a|>")
    ids = [other]
    for id in ids_of(tokenizer, text):
        ids += [id, other]
    said, _ = spoken(ids, [], tokenizer)
    spans = token_spans(ids, said, tokenizer)
    # Without gaps from end to end, and nothing by the special token.
    assert spans[0][0] == 0 and spans[-1][1] == len(said)
    assert all(one[1] == two[0] for one, two in zip(spans, spans[1:], strict=False))
    assert all(begin == end for id, (begin, end) in zip(ids, spans, strict=True) if id == other)
    # Alone where a token is whole characters: it says what stands in its span.
    for id, (begin, end) in zip(ids, spans, strict=True):
        alone = tokenizer.decode([id])
        if id != other and "\ufffd" not in alone and end > begin:
            assert said[begin:end].strip() in alone or alone.strip().removeprefix("##") in said[begin:end]


def test_a_mark_has_its_own_place_among_the_tokens(kind):
    tokenizer = with_marks(kind, ["<loc0001>", "<|b|>"])
    mark, other = (tokenizer.convert_tokens_to_ids(t) for t in ("<loc0001>", "<|b|>"))
    marks = DIALECTS.get("paligemma").marks
    said, ids = spoken([other, mark, other, mark], [], tokenizer, marks)
    spans = token_spans(ids, said, tokenizer, marks)
    assert [said[begin:end].strip() for begin, end in spans] == ["", "<loc0001>", "", "<loc0001>"]
    assert text_of([mark], tokenizer, ()) == ""
