"""What holds of every protocol that scores places, on small files in its own format."""

import json

import pytest
from PIL import Image

from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.evaluation.protocols import PROTOCOLS
from lynx_moe.evaluation.protocols.base import Write
from lynx_moe.evaluation.protocols.grounding import GroundingProtocol
from tests.evaluation.protocols.made import WRITERS, made, rows

OURS = [name for name in PROTOCOLS.names() if issubclass(PROTOCOLS.get(name), GroundingProtocol)]
BEST = {"perbench": 100.0}


def test_every_grounding_protocol_has_files_here():
    assert sorted(WRITERS) == OURS


@pytest.fixture(params=OURS)
def protocol(request, tmp_path):
    return made(request.param, tmp_path)


def shown(protocol):
    """The files of the pictures that are asked about."""
    names = {ask.record.image_id.split("/")[-1] for item in protocol.items() for ask in item.asks}
    return sorted(path for path in protocol.folder.rglob("*.jpg") if path.name in names)


def test_true_answers_score_full(protocol):
    result = protocol.summarise(rows(protocol))
    assert result["n"] > 0 and result[protocol.headline] == pytest.approx(BEST.get(protocol.name, 1.0))
    assert result["unanswered"] == 0 and result["errors"] == {}


def test_answers_without_boxes_score_nothing_and_break_nothing(protocol):
    result = protocol.summarise(rows(protocol, lambda item, ask: "I do not know."))
    nothing = 1 / 3 if protocol.name == "grefcoco" else 0.0  # one of its phrases means nothing
    assert result[protocol.headline] == pytest.approx(nothing)


def test_no_rows_have_no_numbers(protocol):
    result = protocol.summarise([])
    assert result["n"] == 0 and result[protocol.headline] is None and result["by_group"] == {}


def test_result_is_plain_json_and_the_same_from_rows_alone(protocol, tmp_path):
    made_rows = rows(protocol)
    result = protocol.summarise(made_rows)
    fresh = type(protocol)(folder=protocol.folder, **protocol.settings()).summarise(made_rows)
    assert json.loads(json.dumps(result)) == result
    same = {key: value for key, value in fresh.items() if key not in ("unanswered", "faults")}
    assert same == {key: value for key, value in result.items() if key not in ("unanswered", "faults")}


def test_questions_hold_no_answer_and_show_a_picture(protocol):
    items = list(protocol.items())
    asks = [ask for item in items for ask in item.asks]
    assert all(isinstance(ask, Write) and not ask.record.answer and not ask.record.boxes for ask in asks)
    assert len({ask.record.id for ask in asks}) == len(asks)
    assert asks[0].record.image().size == asks[0].record.size == (100, 100)
    assert all("{" not in ask.record.question.replace("{box:0}", "") for ask in asks)


def test_reading_opens_no_pixels(protocol, monkeypatch):
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("a picture was decoded"))
    assert list(protocol.items())


def test_missing_picture_is_left_out_and_counted_once(protocol):
    before = len(list(protocol.items()))
    shown(protocol)[0].unlink()
    try:
        assert len(list(protocol.items())) < before
    except RecordError as refused:
        assert "missing picture" in refused.why
    assert protocol.faults["missing picture"] == 1
    assert protocol.summarise([])["faults"]["missing picture"] == 1


def test_picture_of_another_size_or_broken_is_left_out_and_counted(protocol):
    first, *others = shown(protocol)
    first.write_bytes(b"no picture")
    stated = protocol.name not in ("flickr30k_entities", "grounded_caption", "perbench")
    if others and stated:
        Image.new("RGB", (31, 17)).save(others[0])
    try:
        list(protocol.items())
    except RecordError:
        pass
    assert protocol.faults["unreadable picture"] == 1
    assert protocol.faults["size differs from the annotation"] == int(bool(others) and stated)


def test_link_out_of_the_folder_is_not_followed(protocol, tmp_path_factory):
    outside = tmp_path_factory.mktemp("outside") / "secret.jpg"
    Image.new("RGB", (100, 100)).save(outside)
    first = shown(protocol)[0]
    first.unlink()
    first.symlink_to(outside)
    try:
        files = {ask.record.image_id for item in protocol.items() for ask in item.asks}
    except RecordError:
        files = set()
    assert protocol.faults["path leaves the folder"] == 1 and first.name not in {f.split("/")[-1] for f in files}


def test_answers_for_unknown_ids_and_repeated_ones_are_counted_and_left_out(protocol):
    some = rows(protocol)
    strange = type(some[0])(**{**{f: getattr(some[0], f) for f in some[0].__dataclass_fields__}, "id": "nobody"})
    result = protocol.summarise([*some, some[0], strange])
    assert result["faults"]["two answers for one id"] == 1 and result["faults"]["answer for an unknown id"] == 1
    assert result["n"] == len(some) and result == {**protocol.summarise(some), "faults": result["faults"]}


def test_missing_answers_are_told(protocol):
    some = rows(protocol)
    assert protocol.summarise(some[1:])["unanswered"] == 1


def test_folder_without_its_files_is_refused(protocol, tmp_path_factory):
    empty = type(protocol)(folder=tmp_path_factory.mktemp("empty"), **protocol.settings())
    with pytest.raises(RecordError) as refused:
        list(empty.items())
    assert refused.value.fix


def test_split_that_is_not_there_is_refused(protocol):
    name = "annotations" if protocol.name == "pin" else "split"
    if name not in protocol.settings():  # a benchmark of one split is refused when nothing of it is left
        (protocol.folder / "perbench.json").write_text("[]")
    changed = {key: "nowhere" if key == name else value for key, value in protocol.settings().items()}
    other = type(protocol)(folder=protocol.folder, **changed)
    with pytest.raises(RecordError):
        list(other.items())


def test_pictures_elsewhere_are_found_by_the_setting(protocol):
    folder = next(protocol.folder.rglob("*.jpg")).parent
    named = folder.relative_to(protocol.folder).as_posix()
    if protocol.name == "lvis_detection":  # its names hold the folder
        named = "."
    again = type(protocol)(folder=protocol.folder, **(protocol.settings() | {"images": named}))
    assert len(list(again.items())) == len(list(protocol.items()))
    lost = type(protocol)(folder=protocol.folder, **(protocol.settings() | {"images": "no/such"}))
    with pytest.raises(RecordError, match="no folder of pictures"):
        list(lost.items())


@pytest.mark.parametrize("name", [name for name in OURS if name not in ("grounded_caption", "perbench")])
def test_prompt_without_a_place_for_what_is_asked_is_refused(name, tmp_path):
    with pytest.raises(ConfigError, match="has no place"):
        list(made(name, tmp_path, prompt="Find it.").items())
