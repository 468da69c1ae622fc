"""VQA's normalisers and accuracy, against the published evaluation code written anew."""

import random
import re
import statistics

import pytest

from lynx_moe.evaluation.protocols.vqa_answers import CONTRACTIONS, evalai_normalise, vqa_accuracy, vqa_normalise

# The table as it is published, in part: every kind of entry.
PUBLISHED = {
    "aint": "ain't", "couldn'tve": "couldn't've", "couldnt've": "couldn't've", "hes": "he's", "Id've": "I'd've",
    "Im": "I'm",
    "mightn'tve": "mightn't've", "oclock": "o'clock", "ow's'at": "'ow's'at", "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
    "shed've": "she'd've", "somebody'd": "somebodyd", "somebodyd've": "somebody'd've",
    "something'dve": "something'd've",
    "therere": "there're", "twas": "'twas", "weve": "we've", "who'dve": "who'd've", "yall": "y'all",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll", "yall'd've": "y'all'd've", "y'alld've": "y'all'd've", "y'all'dve": "y'all'd've",
    "youve": "you've",
}  # fmt: skip
NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4", "five": "5", "six": "6"}
NUMBERS |= {"seven": "7", "eight": "8", "nine": "9", "ten": "10"}
MARKS = [";", "/", "[", "]", '"', "{", "}", "(", ")", "=", "+", "\\", "_", "-", ">", "<", "@", "`", ",", "?", "!"]


def published_normalise(text):
    """vqaEval.py: newlines and tabs, processPunctuation, processDigitArticle."""
    text = text.replace("\n", " ").replace("\t", " ").strip()
    out = text
    for mark in MARKS:
        if (mark + " " in text or " " + mark in text) or re.search(r"(\d)(\,)(\d)", text) is not None:
            out = out.replace(mark, "")
        else:
            out = out.replace(mark, " ")
    out = re.compile(r"(?!<=\d)(\.)(?!\d)").sub("", out, count=int(re.UNICODE))
    words = [NUMBERS.get(word, word) for word in out.lower().split()]
    words = [word for word in words if word not in ("a", "an", "the")]
    return " ".join(CONTRACTIONS.get(word, word) for word in words)


def texts(count):
    draw = random.Random(0)
    pieces = [
        *PUBLISHED,
        *MARKS,
        *NUMBERS,
        *"A the cat. 3.5 1,000 10:30 it's man's hello! \n \t . .. x,y ,a (a) Dog".split(" "),
    ]
    for _ in range(count):
        yield draw.choice(["", " "]).join(draw.choices(pieces, k=draw.randint(0, 6)))
    yield "x. " * 40  # more periods than the published call cuts


def test_an_answer_is_normalised_as_the_published_code_does():
    for text in texts(5000):
        assert vqa_normalise(text) == published_normalise(text), text


def test_textvqas_normaliser_is_the_same_behind_its_own_first_step():
    for text in texts(5000):
        first = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
        assert evalai_normalise(text) == published_normalise(first), text


def test_the_table_of_contractions_is_the_published_one():
    assert {word: CONTRACTIONS.get(word) for word in PUBLISHED} == PUBLISHED
    # 120 entries are published; two of them ("let's", "she's") stand for themselves.
    assert len(CONTRACTIONS) == 120 - 2


def test_accuracy_leaves_each_person_out_in_turn():
    draw = random.Random(1)
    for _ in range(500):
        truths = draw.choices("abc", k=draw.randint(1, 10))
        answer = draw.choice("abcd")
        parts = []
        for place in range(len(truths)):
            others = truths[:place] + truths[place + 1 :]
            parts.append(min(1, float(sum(other == answer for other in others)) / 3))
        assert vqa_accuracy(answer, truths) == pytest.approx(statistics.mean(parts))
    assert vqa_accuracy("a", []) == 0


@pytest.mark.parametrize(("agreeing", "accuracy"), [(0, 0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1), (10, 1)])
def test_of_ten_people_four_must_agree_for_all_of_it(agreeing, accuracy):
    assert vqa_accuracy("yes", ["yes"] * agreeing + ["no"] * (10 - agreeing)) == pytest.approx(accuracy)
