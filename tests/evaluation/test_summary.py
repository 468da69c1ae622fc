"""Claims over rows: intervals against closed forms and brute force, flips against counting by hand."""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from lynx_moe.evaluation.protocols.base import Protocol, Row
from lynx_moe.evaluation.summary import at_most, by_picture, change_of, largest_share, result_of, share_interval
from lynx_moe.interval import paired_interval


@dataclass
class Share(Protocol):
    """How many rows are right."""

    name, citation, headline = "share", "a test", "accuracy"
    folder: Path = Path()

    def items(self):
        return iter(())

    def judge(self, item, replies):
        return Row(id=item.id)

    def summarise(self, rows):
        return {"n": len(rows), "accuracy": sum(r.right for r in rows) / len(rows)}


@dataclass
class Middle(Share):
    """A number that is no share of right rows, and None where there is one row only."""

    name, headline = "middle", "median"

    def summarise(self, rows):
        assert len({row.id for row in rows}) == len(rows), "drawn rows need ids of their own"
        return {"median": float(np.median([r.numbers["iou"] for r in rows])) if len(rows) > 1 else None}


def rows(verdicts, **changes):
    return [Row(id=str(k), right=right, answers=[f"{right}"], **changes) for k, right in enumerate(verdicts)]


def test_interval_of_a_share_covers_what_the_normal_law_says():
    drawn = rows([k % 4 == 0 for k in range(400)])
    low, high = result_of(Share(), drawn, {})["interval"]
    half = 1.96 * math.sqrt(0.25 * 0.75 / 400)
    assert low == pytest.approx(0.25 - half, abs=0.006) and high == pytest.approx(0.25 + half, abs=0.006)


def test_questions_about_one_picture_are_drawn_together():
    alone = rows([k % 2 == 0 for k in range(100)])
    # Ten pictures of ten questions that are all right or all wrong: as sure as ten questions, not as a hundred.
    together = [replace(row, picture=str(k // 10), right=k // 10 % 2 == 0) for k, row in enumerate(alone)]
    assert len(by_picture(together)) == 10 and len(by_picture(alone)) == 100
    ten = rows([k % 2 == 0 for k in range(10)])
    narrow, wide, of_ten = (share_interval([float(r.right) for r in each], each) for each in (alone, together, ten))
    assert wide == of_ten and wide[1] - wide[0] > 2.5 * (narrow[1] - narrow[0])


def test_interval_is_the_same_again():
    drawn = rows([k % 3 == 0 for k in range(60)])
    assert result_of(Share(), drawn, {}) == result_of(Share(), drawn, {})


def test_numbers_that_are_no_share_are_summed_up_again():
    values = np.random.default_rng(1).normal(size=200)
    measured = [Row(id=str(k), numbers={"iou": float(v)}) for k, v in enumerate(values)]
    result = result_of(Middle(), measured, {"missing picture": 2})
    rng = np.random.default_rng(7)
    medians = [np.median(rng.choice(values, 200)) for _ in range(4000)]
    assert result["interval"] == pytest.approx(np.quantile(medians, [0.025, 0.975]), abs=0.06)
    assert "summed up anew" in result["interval_by"] and result["faults"] == {"missing picture": 2}
    assert result_of(Middle(), measured[:1], {})["interval"] is None


def test_all_wrong_or_all_right_is_not_said_to_be_sure():
    assert result_of(Share(), rows([False] * 10), {})["interval"] == pytest.approx((0, 1 - 0.025**0.1))
    assert result_of(Share(), rows([True] * 10), {})["interval"] == pytest.approx((0.025**0.1, 1))


@pytest.mark.parametrize(("count", "n"), [(0, 1), (0, 40), (3, 17), (7, 7), (5, 2000)])
def test_largest_share_leaves_five_percent_to_luck(count, n):
    end = largest_share(count, n)
    if count == n:
        assert end == pytest.approx(1)
        return
    exact = sum(math.comb(n, k) * Fraction(end) ** k * (1 - Fraction(end)) ** (n - k) for k in range(count + 1))
    assert float(exact) == pytest.approx(0.05, abs=1e-9) and at_most(count, n, end) == pytest.approx(float(exact))


def test_flips_are_named_and_counted_by_group():
    before = [Row(id=str(k), group="ab"[k % 2], right=k < 6, answers=["x"]) for k in range(10)]
    after = [replace(row, right=k in (0, 1, 2, 8)) for k, row in enumerate(before)]
    change = change_of(Share(), before, after)
    assert (change["n"], change["lost"], change["won"], change["unpaired"]) == (10, 3, 1, 0)
    assert {f["id"]: f["change"] for f in change["flips"]} == {"3": "lost", "4": "lost", "5": "lost", "8": "won"}
    assert change["change"] == pytest.approx(-0.2) and change["mcnemar_p"] == pytest.approx(2 * (1 + 4) / 16)
    assert change["by_group"]["a"]["lost"] == 1 and change["by_group"]["b"]["lost"] == 2
    assert change["same_text"] == 1.0


def test_paired_interval_is_that_of_the_multinomial():
    before = rows([k < 150 for k in range(300)])
    after = [replace(row, right=k < 130 or k >= 290) for k, row in enumerate(before)]
    expected = paired_interval(20, 10, 300)
    assert change_of(Share(), before, after)["interval"] == pytest.approx(expected, abs=0.004)


def test_pairs_are_surer_than_two_separate_intervals():
    before = rows([k % 2 == 0 for k in range(200)])
    after = [replace(row, right=row.right and k != 0) for k, row in enumerate(before)]
    low, high = change_of(Share(), before, after)["interval"]
    alone = result_of(Share(), before, {})["interval"]
    assert high - low < 0.2 * (alone[1] - alone[0])


def test_no_flip_does_not_say_that_nothing_can_be_lost():
    few, many = (change_of(Share(), rows([True] * n), rows([True] * n)) for n in (5, 5000))
    assert few["interval"] == many["interval"] == (0, 0)
    assert few["lost_at_most"] > 0.4 and many["lost_at_most"] < 0.001


def test_rows_of_one_model_only_are_counted_and_not_compared():
    before, after = rows([True, True, False]), rows([True, False, False, True])[1:]
    change = change_of(Share(), before, after)
    assert (change["n"], change["unpaired"], change["lost"]) == (2, 2, 1)
    nothing = change_of(Share(), rows([True]), [Row(id="other", right=True)])
    assert (nothing["n"], nothing["change"], nothing["mcnemar_p"]) == (0, None, None)


def test_a_change_of_another_number_is_drawn_in_pairs():
    values = np.random.default_rng(2).normal(size=80)
    before = [Row(id=f"{k}#1", numbers={"iou": float(v)}, picture=str(k // 2)) for k, v in enumerate(values)]
    after = [replace(row, numbers={"iou": row.numbers["iou"] + 0.5}) for row in before]
    change = change_of(Middle(), before, after)
    assert change["change"] == pytest.approx(0.5) and change["interval"] == pytest.approx((0.5, 0.5))
    assert change["judged"] == 0 and change["lost"] is None and change["flips"] == []


def test_rows_that_share_one_of_their_pictures_belong_together():
    pictures = ["a\nb", "b\na", "c", "a", "d\nc", "", ""]
    drawn = [replace(row, picture=name) for row, name in zip(rows([True] * 7), pictures, strict=True)]
    assert by_picture(drawn) == [[0, 1, 3], [2, 4], [5], [6]]


def test_questions_about_few_pictures_promise_no_more_than_the_pictures():
    before = [replace(row, picture=str(k % 5)) for k, row in enumerate(rows([True] * 500))]
    change = change_of(Share(), before, before)
    assert change["lost_at_most"] == pytest.approx(1 - 0.05 ** (1 / 5))
    # All that was lost was lost on one picture: a hundred questions, and still one picture in five.
    after = [replace(row, right=row.picture != "0") for row in before]
    change = change_of(Share(), before, after)
    assert change["lost"] == 100 and change["mcnemar_p"] < 1e-20 and change["pictures_p"] == 1.0


@dataclass
class Twice(Share):
    """Twice the share of the first half: it equals the share of all where both halves are alike, by chance."""

    headline = "score"

    def summarise(self, rows):
        right = [row.right for row in rows]
        return {"score": sum(right[: len(right) // 2]) / max(1, len(right) // 2)}


def test_a_headline_that_happens_to_be_the_accuracy_is_not_taken_for_it():
    alike = rows([k % 2 == 0 for k in range(40)])
    assert Twice().summarise(alike)["score"] == 0.5
    assert "summed up anew" in result_of(Twice(), alike, {})["interval_by"]
    assert "summed" not in result_of(Share(), alike, {})["interval_by"]
