import errno

import pytest
from safetensors import SafetensorError

from lynx_moe.errors import CheckpointError
from lynx_moe.whole import whole_folder, write_json


def names(folder) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_folder_appears_whole_under_its_name(tmp_path):
    with whole_folder(tmp_path / "adapter") as folder:
        (folder / "weights").write_text("new")
        assert not (tmp_path / "adapter").exists()
    assert names(tmp_path) == ["adapter"] and (tmp_path / "adapter/weights").read_text() == "new"


def test_old_content_stays_until_the_new_is_whole_and_is_then_replaced_not_mixed(tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/old").write_text("old")
    with whole_folder(tmp_path / "adapter") as folder:
        (folder / "weights").write_text("new")
        assert (tmp_path / "adapter/old").read_text() == "old"
    assert names(tmp_path) == ["adapter"] and names(tmp_path / "adapter") == ["weights"]


FAILURES = [
    OSError(errno.ENOSPC, "No space left on device"),
    RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
    SafetensorError('IoError(Os { code: 28, kind: StorageFull, message: "No space left on device" })'),
]


@pytest.mark.parametrize("failure", FAILURES, ids=["system", "torch", "safetensors"])
def test_failed_write_leaves_the_old_folder_and_no_litter(tmp_path, failure):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter/old").write_text("old")
    with pytest.raises(CheckpointError, match="could not save") as caught, whole_folder(tmp_path / "adapter") as folder:
        (folder / "weights").write_text("ne")
        raise failure
    assert caught.value.__cause__ is failure
    assert names(tmp_path) == ["adapter"] and (tmp_path / "adapter/old").read_text() == "old"


@pytest.mark.parametrize("failure", [FAILURES[0], FAILURES[2]], ids=["system", "safetensors"])
def test_full_disk_is_called_a_full_disk(tmp_path, failure):
    with pytest.raises(CheckpointError) as caught, whole_folder(tmp_path / "adapter"):
        raise failure
    assert caught.value.why == "the disk is full"


def test_error_of_the_program_itself_is_not_dressed_up_as_a_disk_error(tmp_path):
    with pytest.raises(KeyError), whole_folder(tmp_path / "adapter"):
        raise KeyError("a bug")
    assert names(tmp_path) == []


def test_json_is_replaced_whole(tmp_path):
    write_json(tmp_path / "run.json", {"a": 1})
    with pytest.raises(TypeError):
        write_json(tmp_path / "run.json", {"a": object()})
    assert names(tmp_path) == ["run.json"] and '"a": 1' in (tmp_path / "run.json").read_text()
