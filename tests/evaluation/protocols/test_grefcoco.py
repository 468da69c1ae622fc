"""gRefCOCO: phrases for none, one and several, scored as the authors' evaluator scores them."""

import pytest

from tests.evaluation.protocols.made import at, made, reply, rows, truth


def result_of(tmp_path, say, **settings):
    protocol = made("grefcoco", tmp_path, **settings)
    return protocol.summarise(rows(protocol, say))


def test_no_target_and_several_targets_are_read(tmp_path):
    items = {item.id: item.truth["boxes"] for item in made("grefcoco", tmp_path).items()}
    assert items == {"1-0": [[10, 10, 50, 40], [60, 20, 90, 80]], "2-0": [], "3-0": [[0, 0, 50, 50]]}


def test_box_for_nothing_costs_n_acc_alone(tmp_path):
    result = result_of(tmp_path, lambda item, ask: truth(item, ask) if item.truth["boxes"] else at((1, 1, 9, 9)))
    assert (result["n_acc"], result["t_acc"]) == (0.0, 1.0) and result["precision_f1"] == pytest.approx(2 / 3)


def test_silence_about_targets_costs_t_acc_alone(tmp_path):
    result = result_of(tmp_path, lambda item, ask: "There is none.")
    assert (result["n_acc"], result["t_acc"]) == (1.0, 0.0) and result["precision_f1"] == pytest.approx(1 / 3)


def test_one_of_two_is_not_enough_and_one_too_many_neither(tmp_path):
    half = result_of(tmp_path, lambda item, ask: at(*item.truth["boxes"][:1]) or "None.")
    assert half["several"] == {"n": 1, "precision_f1": 0.0} and half["precision_f1"] == pytest.approx(2 / 3)
    assert half["mean_f1"] == pytest.approx((2 / 3 + 1 + 1) / 3)
    more = result_of(tmp_path, lambda item, ask: at(*item.truth["boxes"], (0, 90, 9, 99)))
    assert more["precision_f1"] == 0.0 and more["t_acc"] == 1.0


def test_unreadable_box_does_not_pass_for_saying_nothing(tmp_path):
    result = result_of(tmp_path, lambda item, ask: "[50, 50, 1, 1]")
    assert result["n_acc"] == 0.0 and result["precision_f1"] == 0.0
    assert result_of(tmp_path, lambda item, ask: "")["n_acc"] == 0.0


def test_authors_code_is_stricter_than_the_papers_text(tmp_path):
    protocol = made("grefcoco", tmp_path)
    item = next(item for item in protocol.items() if item.id == "3-0")
    row = protocol.judge(item, [reply(at((9, 9, 59, 59)))])  # IoU 0.51, and less when the empty corners cost
    assert row.right is True and row.numbers["f1_giou"] == 0.0
    assert protocol.summarise([row])["precision_f1_giou"] == 0.0


def test_unsure_boxes_are_left_out_where_it_is_asked_for(tmp_path):
    protocol = made("grefcoco", tmp_path, min_confidence=0.7)
    item = next(item for item in protocol.items() if item.id == "3-0")
    text = at((0, 0, 50, 50), (60, 60, 90, 90))
    assert protocol.judge(item, [reply(text, (0.9, 0.6))]).right is True
    assert protocol.judge(item, [reply(text, (0.9, 0.8))]).right is False
    assert protocol.judge(item, [reply(text)]).right is False
