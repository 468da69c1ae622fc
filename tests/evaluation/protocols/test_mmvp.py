"""MMVP and MMVP-VLM: odd and even rows are a pair, and a pair is right as a whole."""

import pytest

from lynx_moe.evaluation.protocols import PROTOCOLS, Reply
from tests.evaluation.protocols.understanding import ask_all, put_pictures, put_table, random_scores


def mmvp_rows(n):
    return [[k, "Open or closed?", "(a) Open (b) Closed", "(a)" if k % 2 else "(b)"] for k in range(1, n + 1)]


@pytest.fixture(params=[("Index", "MMVP Images"), ("lndex", "MMVP_Images")])
def mmvp(request, tmp_path):
    index, images = request.param
    put_table(tmp_path / "Questions.csv", [index, "Question", "Options", "Correct Answer"], mmvp_rows(8))
    put_pictures(tmp_path, *(f"{images}/{k}.jpg" for k in range(1, 9)))
    return PROTOCOLS.get("mmvp")(folder=tmp_path)


def test_a_pair_is_right_if_both_answers_are(mmvp):
    answers = {
        "1": "(a)", "2": "(b)", "3": "(a) Open", "4": "(a)", "5": "It is open.", "6": "Closed", "7": "A",
        "8": "neither (a) nor (b)",
    }  # fmt: skip
    rows = ask_all(mmvp, lambda record: answers[record.id])
    assert [row.right for row in rows] == [True, False, True, False]
    summary = mmvp.summarise(rows)
    assert (summary["pair"], summary["individual"]) == (0.5, 6 / 8)
    assert summary["errors"] == {"no option could be read": 1} and summary["chance"] == {
        "pair": 0.25,
        "individual": 0.5,
    }
    assert summary["interval"]["pair"][0] <= 0.5 <= summary["interval"]["pair"][1]


def test_the_question_is_put_with_its_options_and_the_picture(mmvp):
    item = next(mmvp.items())
    assert [ask.record.question for ask in item.asks] == ["Open or closed? (a) Open (b) Closed"] * 2
    assert [ask.record.answer for ask in item.asks] == ["(a)", "(b)"]
    assert item.asks[0].record.size == (6, 4) and item.asks[0].record.image().size == (6, 4)


def test_corrections_turn_the_four_answers(tmp_path):
    put_table(tmp_path / "Questions.csv", ["Index", "Question", "Options", "Correct Answer"], mmvp_rows(300)[98:100])
    put_pictures(tmp_path, "MMVP Images/99.jpg", "MMVP Images/100.jpg")
    kind = PROTOCOLS.get("mmvp")
    assert next(kind(folder=tmp_path).items()).truth["letters"] == ["A", "B"]
    assert next(kind(folder=tmp_path, corrected=True).items()).truth["letters"] == ["B", "A"]


def test_pairs_without_both_rows_or_pictures_are_left_out_and_counted(tmp_path):
    rows = [
        *mmvp_rows(6)[:3],
        ["x", "?", "(a) 1 (b) 2", "(a)"],
        [5, "?", "(a) 1 (b) 2", "(c)"],
        [6, "?", "(a) 1 (b) 2", "(a)"],
    ]
    put_table(tmp_path / "Questions.csv", ["Index", "Question", "Options", "Correct Answer"], [*rows, rows[2]])
    put_pictures(tmp_path, *(f"MMVP Images/{k}.jpg" for k in (1, 2, 3, 5, 6)))
    protocol = PROTOCOLS.get("mmvp")(folder=tmp_path)
    assert [item.id for item in protocol.items()] == ["1"]
    assert protocol.faults == {
        "row without a usable Index": 1, "duplicate id": 1, "row without a usable question": 1,
        "pair without both rows": 1,
    }  # fmt: skip


@pytest.fixture
def vlm(tmp_path):
    rows = [[k, "Texts" if k > 6 else "State and Condition", f"a dog facing {k}"] for k in range(1, 13)]
    put_table(tmp_path / "Questions.csv", ["Question ID", "Type", "Statement"], rows)
    put_pictures(tmp_path, *(f"MLLM_VLM Images/{kind}/{k}.jpg" for k, kind, _ in rows))
    return PROTOCOLS.get("mmvp_vlm")(folder=tmp_path)


def test_statements_choose_their_picture_as_in_the_published_code(vlm):
    found, scores = random_scores(vlm, ties=False)

    def published(one_on_1, one_on_2, two_on_1, two_on_2):
        # softmax over pictures, first above a half: picture 1
        return one_on_1 > one_on_2, not two_on_1 > two_on_2

    pairs = [published(*s) for s in scores.values()]
    summary = vlm.summarise(found)
    assert summary["pair"] == pytest.approx(sum(map(all, pairs)) / 6)
    assert summary["individual"] == pytest.approx(sum(map(sum, pairs)) / 12)
    assert {kind: part["n"] for kind, part in summary["by_group"].items()} == {"State and Condition": 3, "Texts": 3}


def test_a_tie_is_wrong_for_both_statements(vlm):
    row = vlm.judge(next(vlm.items()), [Reply(score=0.5)] * 4)
    assert row.numbers == {"pair": 0.0, "individual": 0.0}


def test_statements_come_with_the_questions_of_their_own_file(tmp_path, vlm):
    put_table(tmp_path / "Questions-llava.csv", ["lndex", "Question"], [[k, f"Which way {k}?"] for k in range(1, 13)])
    protocol = PROTOCOLS.get("mmvp_vlm")(folder=tmp_path, questions="Questions-llava.csv")
    asks = list(protocol.items())[1].asks
    assert {ask.question for ask in asks} == {"Which way 3?"}
    assert [(ask.text, ask.image_id) for ask in asks] == [
        ("a photo of a dog facing 3", "3"), ("a photo of a dog facing 3", "4"),
        ("a photo of a dog facing 4", "3"), ("a photo of a dog facing 4", "4"),
    ]  # fmt: skip
