"""Metrics on answers written by hand, so that the right number is known."""

import itertools
import json
import random
from dataclasses import replace

import pytest

from lynx_moe.data import target_text
from lynx_moe.data.records import Picture, Record, Step
from lynx_moe.errors import ConfigError
from lynx_moe.evaluation import MEASURES, Answered, compare, mcnemar_p, normalise, print_report, report_table
from lynx_moe.evaluation.answered import named_pictures
from lynx_moe.evaluation.grounding import is_absent, matched
from lynx_moe.evaluation.retention import same_words
from lynx_moe.families.dialects import PercentDialect
from lynx_moe.grounding import iou
from synth.languages import LANGUAGES, load_pack

DIALECT = PercentDialect()
SIZE = (100, 100)


def record(answer="The star is at {box:0}.", boxes=((10.0, 10.0, 50.0, 50.0),), task="find_one", **changes):
    return Record(
        **{"id": "r", "question": "Find it.", "answer": answer, "boxes": boxes, "task": task, "kind": "grounding",
           "size": SIZE, **changes}
    )  # fmt: skip


def score(*pairs, part="grounding"):
    return MEASURES.get(part)([Answered.read(r, text, DIALECT) for r, text in pairs])


def test_true_answers_score_one():
    numbers = score((record(), target_text(record(), DIALECT)))
    assert (numbers["acc50"], numbers["mean_iou"], numbers["unreadable"], numbers["errors"]) == (1.0, 1.0, 0.0, {})


def test_first_box_counts_even_when_a_later_one_is_better():
    numbers = score((record(), "[60, 60, 90, 90] [10, 10, 50, 50]"))
    assert numbers["acc50"] == 0.0 and numbers["errors"] == {"wrong_count": 1}


def test_box_of_a_step_is_not_the_answer():
    numbers = score((record(), "Step 1: Find the cat at [10, 10, 50, 50]. Step 2: It is at [60, 60, 90, 90]."))
    assert numbers["acc50"] == 0.0


def test_overlap_of_exactly_half_is_a_hit():
    numbers = score((record(boxes=((0.0, 0.0, 40.0, 20.0),)), "[0, 0, 20, 20]"))
    assert numbers["acc50"] == 1.0 and numbers["mean_iou"] == pytest.approx(0.5)


def test_answer_without_a_box_scores_zero_and_is_counted():
    numbers = score((record(), "I cannot see it."), (record(), "[10, 10, 50, 50]"))
    assert (numbers["acc50"], numbers["no_box"], numbers["unreadable"]) == (0.5, 0.5, 0.0)


def test_unreadable_answers_are_counted_by_kind():
    numbers = score((record(), "[10, 10, 50"), (record(), "[50, 50, 10, 10]"), (record(), "[10, 10, 50, 50]"))
    assert numbers["unreadable"] == pytest.approx(2 / 3)
    assert numbers["errors"] == {"inverted": 1, "unparseable": 1, "wrong_count": 2}


def test_absent_is_right_only_when_something_is_said_and_no_box_given():
    absent = record("There is no star.", (), "absent")
    numbers = score((absent, "There is no star."), (absent, "At [1, 2, 30, 40]."), (absent, "[oops"), (absent, ""))
    assert numbers["absent"] == {"n": 4, "says_none": 0.25}
    assert numbers["acc50"] is None and numbers["n"] == 0
    said = ["Yes, the star is on the left.", "xyz", "I don't see one.", "星はありません。", "No star at [5, 5]."]
    assert [score((absent, text))["absent"]["says_none"] for text in said] == [0.0, 0.0, 1.0, 1.0, 0.0]


def test_a_question_that_shows_a_point_or_a_box_asks_for_nothing_absent():
    named = record("A cat.", (), "name_point")
    assert is_absent(named)
    assert not is_absent(replace(named, question_points=((1.0, 2.0),)))
    assert not is_absent(replace(named, question_boxes=((1.0, 2.0, 3.0, 4.0),)))


def test_find_all_is_scored_as_a_set():
    all_of = record("Found 2: {box:0} {box:1}.", ((0.0, 0.0, 20.0, 20.0), (50.0, 50.0, 80.0, 80.0)), "find_all")
    numbers = score((all_of, "Found 3: [50, 50, 80, 80] [50, 50, 80, 80] [0, 60, 10, 70]"))
    found = numbers["find_all"]
    assert (found["precision"], found["recall"]) == (pytest.approx(1 / 3), 0.5)
    assert found["f1"] == pytest.approx(2 * (1 / 3) * 0.5 / (1 / 3 + 0.5))
    assert found["repeated"] == pytest.approx(1 / 3) and found["right_count"] == 0.0
    assert numbers["n"] == 0


def test_find_all_with_one_true_box_is_not_referring():
    assert score((record(task="find_all"), "[10, 10, 50, 50]"))["n"] == 0


def test_boxes_of_steps_are_matched_step_by_step():
    stepwise = record(
        "It is a cat.", (), "attribute",
        steps=(Step("Find the dog at {box:0}.", ((0.0, 0.0, 20.0, 20.0),)),
               Step("Left of it at {box:0}.", ((50.0, 50.0, 80.0, 80.0),))),
    )  # fmt: skip
    right = target_text(stepwise, DIALECT)
    swapped = "Step 1: Find the dog at [50, 50, 80, 80]. Step 2: Left at [0, 0, 20, 20]. Step 3: It is the cat"
    numbers = score((stepwise, right), (stepwise, swapped))
    assert numbers["steps"] == {"n": 2, "acc50": 0.5}
    everything = {"n": 2, "accuracy": 1.0}
    assert numbers["in_words"] == {**everything, "by_task": {"attribute": everything}, "by_form": {}}
    assert numbers["absent"] is None


def test_numbers_are_split_by_task():
    numbers = score((record(), "[10, 10, 50, 50]"), (record(task="relation"), "no"))
    assert {task: part["acc50"] for task, part in numbers["by_task"].items()} == {"find_one": 1.0, "relation": 0.0}


def test_matching_finds_the_most_pairs_where_greedy_does_not():
    generator = random.Random(0)
    for _ in range(200):
        found, true = (
            [(x := generator.uniform(0, 4), 0, x + 10, 10) for _ in range(generator.randint(0, 4))] for _ in range(2)
        )
        short, long = sorted((found, true), key=len)
        best = max(
            sum(iou(a, b) >= 0.8 for a, b in zip(short, order, strict=True))
            for order in itertools.permutations(long, len(short))
        )
        assert matched(found, true, 0.8) == best


def understanding(number, answer, task="count"):
    return record(answer, (), task, kind="understanding", id=str(number), question="How many?")


@pytest.mark.parametrize(
    ("written", "true"), [("Three.", "3"), ("A red star", "red star"), ("YES", "yes"), ("upper  left", "Upper left.")]
)
def test_answers_that_mean_the_same_are_equal(written, true):
    assert normalise(written) == normalise(true)


@pytest.mark.parametrize(
    ("written", "true", "same"),
    [("", "A", False), ("the", "A", False), ("a", "A", True), ("-5", "5", False), ("1/2", "1 2", False),
     ("12.", "12", True), ("B", "A", False), ("", "", False)],
)  # fmt: skip
def test_answers_of_little_but_articles_and_signs_are_held_to_them(written, true, same):
    assert same_words(written, true) is same


def test_retention_is_exact_match_by_task():
    numbers = score(
        (understanding(0, "2"), "Two"), (understanding(1, "3"), "2"), (understanding(2, "red", "colour"), "red."),
        part="retention",
    )  # fmt: skip
    assert numbers["accuracy"] == pytest.approx(2 / 3)
    assert numbers["by_task"] == {"colour": {"n": 1, "accuracy": 1.0}, "count": {"n": 2, "accuracy": 0.5}}


def test_protocols_without_records_give_nothing():
    assert score(part="retention") is None
    assert score((understanding(0, "2"), "2")) is None


def result(verdicts, answers=None):
    samples = [
        {"id": str(k), "task": "count", "kind": "understanding", "question": "?", "truth": "2", "right": right,
         "answer": (answers or {}).get(k, "2" if right else "3")}
        for k, right in enumerate(verdicts)
    ]  # fmt: skip
    return {"samples": samples}


def test_flips_are_named_in_both_directions():
    change = compare(result([True, True, False, False]), result([True, False, True, False], {3: "4"}))
    assert (change["n"], change["lost"], change["won"], change["same_text"]) == (4, 1, 1, 0.25)
    assert [(f["id"], f["change"], f["before"], f["after"]) for f in change["flips"]] == [
        ("1", "lost", "2", "3"), ("2", "won", "3", "2"),
    ]  # fmt: skip


def test_results_of_different_records_are_not_compared():
    with pytest.raises(ConfigError, match="1 records"):
        compare(result([True]), result([True, True]))


@pytest.mark.parametrize("lost", range(7))
@pytest.mark.parametrize("won", range(7))
def test_mcnemar_is_the_share_of_coin_sequences_at_least_as_uneven(lost, won):
    flips = list(itertools.product((0, 1), repeat=lost + won))
    as_uneven = sum(min(sum(f), len(f) - sum(f)) <= min(lost, won) for f in flips)
    assert mcnemar_p(lost, won) == pytest.approx(as_uneven / len(flips))


def test_mcnemar_of_many_flips_is_a_number():
    assert 0 < mcnemar_p(4000, 6000) < 1e-50 and mcnemar_p(5000, 5000) == 1.0


def test_report_shows_both_columns_and_the_flips(capsys):
    before = result([True, False]) | {
        "grounding": None, "retention": {"n": 2, "accuracy": 0.5, "by_task": {"count": {"n": 2, "accuracy": 0.5}}}
    }  # fmt: skip
    after = result([True, True]) | {
        "grounding": {"n": 3, "acc50": 0.625, "mean_iou": 0.5, "unreadable": 0.0, "errors": {"inverted": 2}},
        "retention": {"n": 2, "accuracy": 1.0, "by_task": {"count": {"n": 2, "accuracy": 1.0}}},
    }
    print_report(before, after)
    shown = capsys.readouterr().out
    assert "0.625" in shown and "0 lost, 1 won of 2" in shown and "inverted 2" in shown
    assert len(report_table(None, after).columns) == 3
    json.dumps([before, after])


def of_two(answer="The star is in the second picture, at {box:0}.", **changes):
    """A record about a picture of 100 x 100 and one of 200 x 50 pixels, whose answer lies in the second."""
    more = (Picture("b", (200, 50), lambda: None),)
    return record(answer=answer, boxes=((20.0, 5.0, 100.0, 25.0),), more=more, picture=1, **changes)


def test_boxes_are_read_in_the_frame_of_the_picture_of_the_true_ones():
    true = "The star is in the second picture, at [10, 10, 50, 50]."
    assert target_text(of_two(), DIALECT) == true
    numbers = score((of_two(), true))
    assert (numbers["acc50"], numbers["mean_iou"], numbers["errors"]) == (1.0, 1.0, {})


@pytest.mark.parametrize("said", ["is in the first picture", "is there", "is in the first or the second picture"])
def test_the_right_box_in_the_wrong_picture_is_wrong(said):
    numbers = score((of_two(), f"The star {said}, at [10, 10, 50, 50]."))
    assert (numbers["acc50"], numbers["errors"], numbers["unreadable"]) == (0.0, {"other_picture": 1}, 0.0)


def test_where_the_question_tells_the_picture_the_answer_need_not():
    for said in ("It is at", "In the second picture, at"):
        assert score((of_two("It is at {box:0}."), f"{said} [10, 10, 50, 50]."))["acc50"] == 1.0
    step = Step("The first picture shows it at {box:0}.", ((0.0, 0.0, 50.0, 50.0),))
    there = "Step 1: The first picture shows it at [0, 0, 50, 50]. Step 2: It is at [10, 10, 50, 50]."
    numbers = score((of_two("It is at {box:0}.", steps=(step,)), there))
    assert numbers["acc50"] == numbers["steps"]["acc50"] == 1.0


def test_listings_in_another_picture_find_nothing():
    several = of_two("All are in the second picture: {box:0}.", task="find_all")
    for said, f1 in (("second", 1.0), ("first", 0.0)):
        assert score((several, f"All are in the {said} picture: [10, 10, 50, 50]."))["find_all"]["f1"] == f1


def test_pictures_are_known_by_what_every_language_calls_them():
    for language in LANGUAGES:
        words = load_pack(language).words
        assert [named_pictures(words[order]) for order in ("first", "second")] == [{0}, {1}]
