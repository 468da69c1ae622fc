import shutil

import pytest

from lynx_moe.errors import CheckpointError
from lynx_moe.training.checkpoints import (
    MANIFEST,
    fault_of,
    keep_newest,
    newest_whole,
    read_manifest,
    refuse_torn,
    seal,
)
from lynx_moe.training.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    for step in (4, 8, 12):
        checkpoint = tmp_path / f"checkpoint-{step}"
        (checkpoint / "deep").mkdir(parents=True)
        (checkpoint / "weights").write_bytes(b"w" * 1000)
        (checkpoint / "deep/state").write_bytes(b"s" * step)
        seal(checkpoint, {"prompt_gate": {"fitted": step == 8}})
    return tmp_path


def truncate(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def zero(path):
    path.write_bytes(bytes(path.stat().st_size))


def change_one_bit(path):
    content = path.read_bytes()
    path.write_bytes(bytes([content[0] ^ 1]) + content[1:])


TEARS = {"truncated": truncate, "zeros": zero, "one bit": change_one_bit, "missing": lambda path: path.unlink()}


@pytest.mark.parametrize("name", ["weights", "deep/state", MANIFEST])
@pytest.mark.parametrize("tear", TEARS.values(), ids=TEARS)
def test_torn_checkpoint_is_recognised_and_the_one_before_is_taken(folder, name, tear):
    torn = folder / "checkpoint-12"
    assert newest_whole(folder) == (torn, {})
    tear(torn / name)
    found, faults = newest_whole(folder)
    assert found.name == "checkpoint-8" and list(faults) == [torn] and name in faults[torn]
    with pytest.raises(CheckpointError, match="is torn"):
        refuse_torn(torn)


def test_manifest_says_what_it_was_told_beside_the_files(folder):
    manifest = read_manifest(folder / "checkpoint-8")
    assert manifest["prompt_gate"] == {"fitted": True} and set(manifest["files"]) == {"weights", "deep/state"}
    assert manifest["files"]["deep/state"]["bytes"] == 8


def test_a_changed_number_in_the_manifest_itself_is_noticed(folder):
    manifest = folder / "checkpoint-12" / MANIFEST
    manifest.write_text(manifest.read_text().replace("false", "true"))
    assert newest_whole(folder)[0].name == "checkpoint-8"


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {}}'])
def test_manifest_that_is_none_is_a_checkpoint_error(folder, content):
    (folder / "checkpoint-4" / MANIFEST).write_text(content)
    with pytest.raises(CheckpointError, match="no readable manifest"):
        read_manifest(folder / "checkpoint-4")


def test_going_on_says_which_were_torn_and_removes_them(folder, capsys):
    run = RunFolder(folder)
    run.checkpoints = folder
    truncate(folder / "checkpoint-12/weights")
    assert run.go_on_from().name == "checkpoint-8"
    said = capsys.readouterr().out
    assert "checkpoint-12 is torn and skipped: weights has 500 of 1000 bytes" in said and "from checkpoint-8" in said
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-4", "checkpoint-8"]


def test_when_all_are_torn_the_beginning_is_where_to_start_and_it_is_said_loudly(folder, capsys):
    run = RunFolder(folder)
    run.checkpoints = folder
    for path in folder.iterdir():
        zero(path / "weights")
    assert run.go_on_from() is None
    assert "starts from the BEGINNING" in capsys.readouterr().out and not list(folder.iterdir())


def test_newest_and_best_are_kept(folder):
    keep_newest(folder, 1, best=folder / "checkpoint-4")
    assert sorted(p.name for p in folder.iterdir()) == ["checkpoint-12", "checkpoint-4"]
    keep_newest(folder, 1)
    assert [p.name for p in folder.iterdir()] == ["checkpoint-12"] and fault_of(folder / "checkpoint-12") is None


def test_other_folders_are_no_checkpoints(folder):
    for name in ("checkpoint-x", "checkpoint-99-old", "notes"):
        shutil.copytree(folder / "checkpoint-4", folder / name)
    assert newest_whole(folder)[0].name == "checkpoint-12"
