"""VQAv2, TextVQA and VizWiz: readers of the true files, and the official accuracy of answers."""

import pytest

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.protocols import PROTOCOLS
from tests.evaluation.protocols.understanding import ask_all, put_json, put_pictures

TRUTHS = {1: ["yes"] * 10, 2: ["2"] * 3 + ["two"] * 2 + ["3"] * 5, 3: ["on the table"] * 2 + ["table"] * 8}
KINDS = {1: "yes/no", 2: "number", 3: "other"}


def put_vqav2(folder, questions=(1, 2, 3), answered=(1, 2, 3)):
    put_json(folder / "v2_OpenEnded_mscoco_val2014_questions.json", {
        "info": {}, "task_type": "Open-Ended", "data_type": "mscoco", "data_subtype": "val2014", "license": {},
        "questions": [{"image_id": 40 + n % 2, "question": f"What is {n}?", "question_id": n} for n in questions],
    })  # fmt: skip
    put_json(folder / "v2_mscoco_val2014_annotations.json", {
        "info": {}, "license": {}, "data_type": "mscoco", "data_subtype": "val2014",
        "annotations": [
            {
                "question_type": "what is", "multiple_choice_answer": TRUTHS[n][-1], "image_id": 40 + n % 2,
                "answer_type": KINDS[n], "question_id": n,
                "answers": [
                    {"answer": a, "answer_confidence": "yes", "answer_id": k} for k, a in enumerate(TRUTHS[n], start=1)
                ],
            }
            for n in answered
        ],
    })  # fmt: skip
    put_pictures(folder, *(f"val2014/COCO_val2014_{image:012d}.jpg" for image in (40, 41)))


def test_vqav2_is_vqa_accuracy_by_answer_type(tmp_path):
    put_vqav2(tmp_path)
    protocol = PROTOCOLS.get("vqav2")(folder=tmp_path)
    answers = {"1": "Yes.", "2": "Two", "3": "on the table"}
    rows = ask_all(protocol, lambda record: answers[record.id])
    # "2" and "two" are one answer, so five agree; of "on table" two do: of ten left out, two see one, eight see two.
    expected = {"1": 1.0, "2": 1.0, "3": (2 * 1 / 3 + 8 * 2 / 3) / 10}
    assert {row.id: row.numbers["accuracy"] for row in rows} == pytest.approx(expected)
    summary = protocol.summarise(rows)
    assert summary["accuracy"] == pytest.approx(2.6 / 3) and summary["by_group"]["other"]["accuracy"] == pytest.approx(
        0.6
    )
    assert summary["chance"] == {"accuracy": None} and summary["interval"] == {"accuracy": None}  # pictures are shared


def test_vqav2_compares_unanimous_answers_as_written_if_wanted(tmp_path):
    put_vqav2(tmp_path)
    protocol = PROTOCOLS.get("vqav2")(folder=tmp_path, agreed_as_written=True)
    assert protocol.accuracy("Yes.", TRUTHS[1]) == 0 and protocol.accuracy("yes\n", TRUTHS[1]) == 1
    assert protocol.accuracy("Two.", TRUTHS[2]) == 1


def test_vqav2_asks_the_question_in_the_usual_words_about_its_picture(tmp_path):
    put_vqav2(tmp_path)
    item = next(PROTOCOLS.get("vqav2")(folder=tmp_path).items())
    record = item.asks[0].record
    assert record.question == "What is 1?\nAnswer the question using a single word or phrase."
    assert (record.answer, record.size, record.image().size, item.group) == ("yes", (6, 4), (6, 4), "yes/no")
    assert item.truth["images"] == ["val2014/COCO_val2014_000000000041.jpg"]


def test_vqav2_counts_what_it_cannot_use(tmp_path):
    put_vqav2(tmp_path, questions=(1, 1, 2, 3), answered=(1, 3))
    (tmp_path / "val2014/COCO_val2014_000000000041.jpg").write_bytes(b"no picture")
    with pytest.raises(RecordError, match="nothing to ask") as caught:
        list(PROTOCOLS.get("vqav2")(folder=tmp_path).items())
    assert "unreadable picture" in caught.value.why and "question without answers" in caught.value.why
    with pytest.raises(ConfigError, match="test2015"):
        PROTOCOLS.get("vqav2")(folder=tmp_path, split="test2015")


def test_textvqa_normalises_both_sides_as_its_server_does(tmp_path):
    rows = [
        {
            "question": "what is written?", "image_id": "abc", "image_classes": [], "image_width": 6, "image_height": 4,
            "answers": ["St. John's"] * 5 + ["st johns"] * 5, "question_tokens": [], "question_id": 34602,
            "set_name": "val",
        },
        {"question": "?", "image_id": "abc", "answers": [1], "question_id": 2},
        {"question": "?", "image_id": "def", "answers": ["x"], "question_id": 3},
    ]  # fmt: skip
    put_json(tmp_path / "TextVQA_0.5.1_val.json", {"dataset_type": "val", "data": rows})
    put_pictures(tmp_path, "train_images/abc.jpg")
    protocol = PROTOCOLS.get("textvqa")(folder=tmp_path)
    assert ask_all(protocol, lambda record: "ST JOHN'S")[0].numbers == {"accuracy": 1.0}
    assert ask_all(protocol, lambda record: "St. Johns")[0].numbers == {"accuracy": 1.0}
    assert ask_all(protocol, lambda record: "John")[0].numbers == {"accuracy": 0.0}
    assert protocol.faults == {"row without usable answers": 1, "missing picture": 1}


def test_vizwiz_reads_its_annotations_and_tells_kinds_of_answers(tmp_path):
    rows = [
        {
            "image": f"VizWiz_val_{k:08d}.jpg", "question": "What is this?", "answer_type": kind, "answerable": int(k),
            "answers": [{"answer_confidence": "yes", "answer": answer}] * 10,
        }
        for k, (kind, answer) in enumerate([("unanswerable", "unanswerable"), ("other", "basil leaves")])
    ]  # fmt: skip
    put_json(tmp_path / "Annotations/val.json", [*rows, rows[0], 7])
    put_pictures(tmp_path, *(f"val/{row['image']}" for row in rows))
    protocol = PROTOCOLS.get("vizwiz")(folder=tmp_path)
    summary = protocol.summarise(ask_all(protocol, lambda record: "Unanswerable"))
    assert summary["by_group"] == {"other": {"n": 1, "accuracy": 0.0}, "unanswerable": {"n": 1, "accuracy": 1.0}}
    assert protocol.faults == {"duplicate id": 1, "unreadable row": 1}
    assert "'Unanswerable'" in next(protocol.items()).asks[0].record.question


@pytest.mark.parametrize("name", ["vqav2", "textvqa", "vizwiz"])
def test_without_its_files_or_with_a_broken_one_it_is_refused(name, tmp_path):
    with pytest.raises(RecordError):
        list(PROTOCOLS.get(name)(folder=tmp_path).items())
    put_vqav2(tmp_path)
    for file in ("TextVQA_0.5.1_val.json", "val.json", "v2_mscoco_val2014_annotations.json"):
        (tmp_path / file).write_text('{"data": [{')
    with pytest.raises(RecordError):
        list(PROTOCOLS.get(name)(folder=tmp_path).items())
