import pytest

from lynx_moe.errors import LynxError, OutputExistsError
from lynx_moe.training.folder import CHECKPOINT_FILES, RunFolder


def checkpoint(run: RunFolder, step: int, without: str = "") -> None:
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    for name in CHECKPOINT_FILES:
        if name != without:
            (folder / name).write_text("x")


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def finish(run: RunFolder) -> None:
    run.adapter.mkdir(parents=True)
    run.card.write_text("{}")


def test_fresh_folder_is_made(run):
    run.claim(resume=False, overwrite=False)
    assert run.path.is_dir()


@pytest.mark.parametrize("resume", [False, True])
def test_finished_run_is_refused(run, resume):
    finish(run)
    with pytest.raises(OutputExistsError, match="finished run") as caught:
        run.claim(resume=resume, overwrite=False)
    assert isinstance(caught.value, LynxError) and isinstance(caught.value, FileExistsError)
    assert "overwrite=true" in caught.value.fix and run.card.exists()


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(run):
    finish(run)
    checkpoint(run, 5)
    (run.path / "notes.txt").write_text("mine")
    run.claim(resume=False, overwrite=True)
    assert [p.name for p in run.path.iterdir()] == ["notes.txt"]


def test_unfinished_run_is_not_lost_unasked(run):
    checkpoint(run, 5)
    with pytest.raises(OutputExistsError, match="checkpoint-5"):
        run.claim(resume=False, overwrite=False)
    run.claim(resume=True, overwrite=False)
    assert run.last_checkpoint().name == "checkpoint-5"


def test_resume_keeps_the_checkpoints_of_an_unfinished_run_even_with_overwrite(run):
    checkpoint(run, 5)
    run.claim(resume=True, overwrite=True)
    assert run.last_checkpoint().name == "checkpoint-5"


def test_newest_checkpoint_is_the_highest_step_not_the_last_in_the_alphabet(run):
    for step in (900, 1000):
        checkpoint(run, step)
    assert run.last_checkpoint().name == "checkpoint-1000"


@pytest.mark.parametrize("missing", CHECKPOINT_FILES)
def test_checkpoint_that_lacks_a_part_is_passed_over(run, missing):
    checkpoint(run, 5)
    checkpoint(run, 6, without=missing)
    assert run.last_checkpoint().name == "checkpoint-5"


def test_checkpoint_that_was_being_written_does_not_count(run):
    (run.checkpoints / ".writing-checkpoint-7" / "checkpoint-7").mkdir(parents=True)
    assert run.last_checkpoint() is None
