"""ScienceQA and MMBench: letters read as the published evaluations read them, and circular evaluation."""

import base64
import random
import re

import pytest

from lynx_moe.errors import RecordError
from lynx_moe.evaluation.protocols import PROTOCOLS, Reply
from lynx_moe.evaluation.protocols.letters import mmbench_letter, scienceqa_letter
from tests.evaluation.protocols.understanding import ask_all, picture_bytes, put_json, put_pictures, put_table

PIECES = [
    "A",
    "B",
    "C.",
    "D)",
    "(A)",
    "(b)",
    "The answer is B.",
    "The answer is C",
    "The answer is",
    "a cat",
    "A. a",
    "\n",
    ":A",
    "is",
    "E",
    "a dog",
    "C. ",
    "",
]


def answers(count):
    draw = random.Random(0)
    for _ in range(count):
        yield draw.choice(["", " "]).join(draw.choices(PIECES, k=draw.randint(1, 4)))


def published_scienceqa(text):
    """LLaVA's eval_science_qa.py."""
    options = ["A", "B", "C", "D", "E"]
    text = text.replace("\n", ". ")
    if text.strip() in options:
        return text.strip()
    if len(text) >= 3 and text[0] in options and text[1:3] == ". ":
        return text[0]
    for pattern in (r"The answer is ([A-E])\.", r"The answer is ([A-E])"):
        if (match := re.search(pattern, text)) is not None:
            return match.group(1)
    return None


def published_mmbench(answer, choices):
    """VLMEvalKit's can_infer_option and can_infer_text."""
    letters = "ABCDE"
    splits = [x.strip() for x in answer.split()]

    def count(prefix="", suffix=""):
        return sum(prefix + c + suffix in splits for c in letters)

    if count() == 1:
        for ch in letters:
            if "A" in splits and len(splits) > 3:
                break
            if ch in splits:
                return ch
    tups = [("", "."), ("", ","), ("", ":"), ("", ")"), ("", ")."), ("(", ")"), ("(", ")."), (":", ""), (":", ","),
        (":", "."), (":", ")"), (":", ").")]  # fmt: skip
    for prefix, suffix in tups:
        if count(prefix, suffix) == 1:
            for ch in letters:
                if prefix + ch + suffix in splits:
                    return ch
    found = [key for key, text in choices.items() if text.lower() in answer.lower()]
    return found[0] if len(found) == 1 else None


def test_letters_are_read_as_the_published_rules_read_them():
    choices = {"A": "a cat", "B": "a dog", "C": "Two", "D": "none"}
    for answer in answers(4000):
        assert scienceqa_letter(answer) == published_scienceqa(answer), answer
        assert mmbench_letter(answer, choices) == published_mmbench(answer, choices), answer


def science(k, image=None, answer=1, **more):
    return {
        "question": f"Which is {k}?", "choices": ["iron", "gold", "tin"], "answer": answer, "hint": "", "image": image,
        "task": "closed choice", "grade": "grade2", "subject": "natural science", "split": "test", **more,
    }  # fmt: skip


@pytest.fixture
def scienceqa(tmp_path):
    problems = {
        "1": science(1, "image.png"),
        "2": science(2, hint="Metals."),
        "3": science(3, "image.png", choices=["x", "y"]),
    }
    put_json(tmp_path / "problems.json", problems)
    put_json(tmp_path / "pid_splits.json", {"test": ["1", "2", "3"], "val": [], "train": ["9"]})
    put_pictures(tmp_path, "images/test/1/image.png", "images/test/3/image.png")
    return PROTOCOLS.get("scienceqa")(folder=tmp_path)


def test_scienceqa_is_the_share_of_right_letters_with_and_without_a_picture(scienceqa):
    said = {"1": "B. gold", "2": "gold", "3": "The answer is B."}
    summary = scienceqa.summarise(ask_all(scienceqa, lambda record: said[record.id]))
    assert summary["accuracy"] == pytest.approx(2 / 3) and summary["errors"] == {"no option could be read": 1}
    assert summary["by_group"] == {"image": {"n": 2, "accuracy": 1.0}, "text": {"n": 1, "accuracy": 0.0}}
    assert summary["chance"]["accuracy"] == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)


def test_scienceqa_asks_hint_question_and_lettered_options_with_the_picture_if_there_is_one(scienceqa):
    first, second, _ = (item.asks[0].record for item in scienceqa.items())
    assert first.has_image and first.image().size == (6, 4) and first.answer == "B"
    assert not second.has_image and second.sizes == ()
    assert second.question == (
        "Metals.\nWhich is 2?\nA. iron\nB. gold\nC. tin\n"
        "Answer with the option's letter from the given choices directly."
    )
    pictures = PROTOCOLS.get("scienceqa")(folder=scienceqa.folder, pictures_only=True)
    assert [item.id for item in pictures.items()] == ["1", "3"]


def test_scienceqa_counts_what_it_cannot_use_and_refuses_an_empty_split(scienceqa):
    problems = {"1": science(1, "image.png", answer=3), "2": science(2, "gone.png"), "3": science(3)}
    put_json(scienceqa.folder / "problems.json", problems)
    put_json(scienceqa.folder / "pid_splits.json", {"test": ["1", "2", "3", "3", "4"], "val": []})
    assert [item.id for item in scienceqa.items()] == ["3"]
    assert scienceqa.faults == {
        "row without a usable answer": 1, "missing picture": 1, "duplicate id": 1,
        "id of the split without a problem": 1,
    }  # fmt: skip
    for split in ("val", "minitest"):
        with pytest.raises(RecordError, match="nothing to ask"):
            list(PROTOCOLS.get("scienceqa")(folder=scienceqa.folder, split=split).items())


NAMES = [
    "index",
    "question",
    "hint",
    "A",
    "B",
    "C",
    "D",
    "answer",
    "category",
    "image",
    "source",
    "l2-category",
    "comment",
    "split",
]


def mm_row(index, answer="B", options=("cat", "dog", "cow", ""), hint="", image=None):
    held = base64.b64encode(picture_bytes()).decode() if image is None else image
    kind = "color" if index % 2 else "count"
    return [index, f"What is\tit, {index}?", hint, *options, answer, kind, held, "s", "perception", "", "dev"]


@pytest.fixture
def mmbench(tmp_path):
    rows = [mm_row(1), mm_row(2, "A", ("1", "2", "3", "4"), "Count."), mm_row(3, "B", ("yes", "no", "", ""))]
    put_table(tmp_path / "mmbench_dev_20230712.tsv", NAMES, rows, tab="\t")
    return PROTOCOLS.get("mmbench")(folder=tmp_path)


def letter_of(record, word):
    """The letter before an option in a question."""
    return next(line[0] for line in record.question.splitlines() if line[1:] == f". {word}")


def test_mmbench_asks_every_rotation_and_a_letter_alone_does_not_win(mmbench):
    items = list(mmbench.items())
    assert [len(item.asks) for item in items] == [3, 4, 2]
    assert [ask.record.question.splitlines()[1:4] for ask in items[0].asks] == [
        ["A. cat", "B. dog", "C. cow"], ["A. dog", "B. cow", "C. cat"], ["A. cow", "B. cat", "C. dog"],
    ]  # fmt: skip
    truth = {1: "dog", 2: "1", 3: "no"}
    knows = mmbench.summarise(ask_all(mmbench, lambda r: letter_of(r, truth[int(r.id.split("/")[0])])))
    assert knows["accuracy"] == knows["vanilla"] == 1
    always_b = mmbench.summarise(ask_all(mmbench, lambda record: "B"))
    assert (always_b["accuracy"], always_b["vanilla"]) == (0, pytest.approx(2 / 3))
    assert always_b["chance"]["accuracy"] == pytest.approx((3**-3 + 4**-4 + 2**-2) / 3)
    assert knows["by_group"]["color"]["n"] == 2 and knows["by_l2"]["perception"]["accuracy"] == 1


def test_mmbench_takes_one_round_if_wanted_and_shows_the_hint_and_the_picture(mmbench):
    one = PROTOCOLS.get("mmbench")(folder=mmbench.folder, circular=False)
    item = list(one.items())[1]
    assert len(item.asks) == 1 and item.asks[0].record.question.startswith("Count.\nWhat is\tit, 2?\nA. 1")
    assert item.asks[0].record.image().size == (6, 4)


def test_mmbench_one_wrong_or_unread_round_loses_the_question(mmbench):
    item = next(mmbench.items())
    row = mmbench.judge(item, [Reply(text=text) for text in ("B", "It is the dog", "a horse")])
    assert row.right is False and row.numbers == {"accuracy": 0, "vanilla": 1}
    assert row.errors == {"no option could be read": 1}


def test_mmbench_reads_vlmevalkits_tables_with_rounds_and_references(tmp_path):
    rows = [
        mm_row(1),
        mm_row(2, image="1"),
        mm_row(1_000_001, "A", image="1"),
        mm_row(4, image="99"),
        mm_row(5, answer=""),
    ]
    rows += [mm_row(6, answer="D"), mm_row(7, image="no base64!" * 20), mm_row(1), mm_row(8, options=("x", "", "", ""))]
    put_table(tmp_path / "MMBench_DEV_EN.tsv", NAMES, rows, tab="\t")
    protocol = PROTOCOLS.get("mmbench")(folder=tmp_path)
    assert [item.id for item in protocol.items()] == ["1", "2"]
    assert protocol.faults == {
        "missing picture": 2, "row without a usable answer": 2, "duplicate id": 1, "row without a usable question": 1,
    }  # fmt: skip


def test_mmbench_with_several_tables_asks_which(mmbench):
    put_table(mmbench.folder / "other.tsv", NAMES, [mm_row(1)], tab="\t")
    with pytest.raises(RecordError, match="file="):
        list(mmbench.items())
    named = PROTOCOLS.get("mmbench")(folder=mmbench.folder, file="other.tsv")
    assert len(list(named.items())) == 1
