"""Pictures of an evaluation set are found in a data set, and kept out of a new one; licences are kept to."""

import io
from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageEnhance

import synth.__main__ as cli
from synth.errors import SettingsError, SourceError
from synth.quality.contamination import contamination
from synth.quality.gate import Gate
from synth.settings import Settings
from synth.sources import PictureFault
from synth.sources.rendered import RenderedSource

from .conftest import HandMade


def picture(index, split="train"):
    return Image.open(io.BytesIO(HandMade().scene(index, split, 0).image_bytes()[0])).convert("RGB")


@pytest.fixture
def evaluation(tmp_path):
    """Five other pictures, one stored without loss, one resized and re-encoded, and a file that is no picture."""
    folder = tmp_path / "eval"
    (folder / "sub").mkdir(parents=True)
    for k in range(5):
        picture(k, "elsewhere").save(folder / f"{k}.png")
    picture(7).save(folder / "sub/seven.png")
    ImageEnhance.Brightness(picture(11).resize((180, 120))).enhance(0.8).save(folder / "eleven.jpg", quality=60)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8 no picture")
    (folder / "notes.txt").write_text("not looked at")
    return folder


def test_exact_and_near_copies_are_found_and_told_apart(hand_made, tmp_path, evaluation):
    hand_made(tmp_path / "d", source=HandMade(20))
    missed = []
    found = {f.picture: f for f in contamination(tmp_path / "d", [evaluation], unreadable=missed)}
    assert set(found) == {"train/hand/7", "train/hand/11"} and missed == ["broken.jpg"]
    assert (found["train/hand/7"].evaluation, found["train/hand/7"].distance) == ("sub/seven.png", None)
    assert found["train/hand/11"].evaluation == "eleven.jpg" and 0 <= found["train/hand/11"].distance <= 6


def test_the_command_lists_them_and_fails_only_when_there_are_any(hand_made, tmp_path, evaluation, capsys):
    hand_made(tmp_path / "d", source=HandMade(20))
    assert cli.main(["contamination", str(tmp_path / "d"), "--against", str(evaluation)]) == 1
    said = capsys.readouterr().out
    assert "train/hand/7\tsub/seven.png\tsame pixels" in said and "2 pictures of" in said
    hand_made(tmp_path / "clean", source=HandMade(5))
    assert cli.main(["contamination", str(tmp_path / "clean"), "--against", str(evaluation)]) == 0
    assert "0 pictures of" in capsys.readouterr().out


def test_a_data_set_is_compared_with_another_one(hand_made, tmp_path):
    hand_made(tmp_path / "d", source=HandMade(20))
    hand_made(tmp_path / "e", source=HandMade(4), split="val")
    hand_made(tmp_path / "e", source=HandMade(3), split="train")
    found = [f.picture for f in contamination(tmp_path / "d", [tmp_path / "e"])]
    assert found == ["train/hand/0", "train/hand/1", "train/hand/2"]


@pytest.mark.parametrize("workers", [1, 2])
def test_pictures_of_an_evaluation_set_stay_out_of_a_new_data_set(hand_made, tmp_path, evaluation, workers):
    arguments = {"source": "rendered", "task": ["find_one"], "size": 8, "shard_size": 4, "workers": workers}
    from synth.sources.rendered import RenderedSource

    (evaluation / "rendered.jpg").write_bytes(RenderedSource().scene(5, "train", 0).image_bytes()[0])
    import synth

    manifest = synth.make(synth.Settings(out=str(tmp_path / "d"), against=[str(evaluation)], **arguments))
    entry = manifest["splits"]["train"]
    assert entry["quarantined"] == {"in an evaluation set": 1} and entry["pictures"] == 7
    assert entry["faults"] == [["in an evaluation set", "rendered/5: rendered.jpg"]]
    assert list(contamination(tmp_path / "d", [evaluation])) == []


def test_other_evaluation_sets_make_another_data_set(hand_made, tmp_path, evaluation):
    hand_made(tmp_path / "d", source=HandMade(8), against=[str(evaluation)])
    first = hand_made(tmp_path / "d", source=HandMade(8), against=[str(evaluation)])  # nothing to do
    picture(3).save(evaluation / "three.png")
    again = hand_made(tmp_path / "d", source=HandMade(8), against=[str(evaluation)], overwrite=True)
    assert (first["splits"]["train"]["pictures"], again["splits"]["train"]["pictures"]) == (7, 6)


def test_an_evaluation_set_without_pictures_is_named(hand_made, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(SourceError, match="empty holds no readable picture"):
        hand_made(tmp_path / "d", against=[str(tmp_path / "empty")])
    assert not (tmp_path / "d").exists()


def test_links_out_of_the_evaluation_folder_are_not_followed(hand_made, tmp_path, evaluation):
    picture(2).save(tmp_path / "outside.png")
    (evaluation / "link.png").symlink_to(tmp_path / "outside.png")
    hand_made(tmp_path / "d", source=HandMade(5))
    assert list(contamination(tmp_path / "d", [evaluation])) == []


def test_only_allowed_licences_come_in(hand_made, tmp_path):
    source = HandMade(9, licences=("CC0", "CC BY 4.0", "all rights reserved"))
    manifest = hand_made(tmp_path / "d", source=source, licences=["CC0", "CC BY 4.0"])
    entry = manifest["splits"]["train"]
    assert entry["quarantined"] == {"licence not allowed": 3} and manifest["licences"] == ["CC BY 4.0", "CC0"]
    assert entry["faults"][0] == ["licence not allowed", "002.png: all rights reserved"]
    (path,) = (tmp_path / "d/images").glob("*.parquet")
    assert pq.read_table(path).num_rows == 6


@pytest.mark.parametrize("override", ["licences=[]", "against=[]"])
def test_an_empty_list_is_refused(override):
    with pytest.raises(SettingsError, match="neither null nor a list"):
        cli.settings_from([override]).check()


def test_lists_arrive_from_the_command_line():
    made = cli.settings_from(['licences=["CC BY 4.0",CC0]', "against=[a,b/c]", "balance=true"])
    assert (made.licences, made.against, made.balance) == (["CC BY 4.0", "CC0"], ["a", "b/c"], True)


def test_help_tells_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "python -m synth report" in said and "python -m synth contamination" in said
    with pytest.raises(SystemExit) as ended:
        cli.main(["contamination", "--help"])
    assert ended.value.code == 0 and "--against" in capsys.readouterr().out
    assert cli.main(["contamination", "nowhere", "--against", "x"]) == 1


@pytest.mark.parametrize(
    "licence, allowed", [("A; B", True), ("B", True), ("C; D", True), ("A; C", False), ("", False)]
)
def test_of_a_pasted_picture_every_part_must_be_allowed(licence, allowed):
    gate = Gate(Settings(licences=["A", "B", "C; D"]))
    scene = replace(RenderedSource().scene(0, "train", 0), licence=licence)
    if allowed:
        assert gate.check(scene) is None
    else:
        with pytest.raises(PictureFault):
            gate.check(scene)
