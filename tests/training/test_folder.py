import pytest

from lynx_moe.errors import LynxError, OutputExistsError
from lynx_moe.training.folder import BY_NAME, CHECKPOINT_FILES, RunFolder

PLAIN_FILES = (*CHECKPOINT_FILES, "optimizer.pt", "scheduler.pt")
DIVIDED_FILES = (*CHECKPOINT_FILES, "global_step6/bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt", "scheduler.pt")


def checkpoint(run: RunFolder, step: int, without: str = "", names: tuple[str, ...] = PLAIN_FILES) -> None:
    folder = run.checkpoints / f"checkpoint-{step}"
    for name in names:
        if name != without:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
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


@pytest.mark.parametrize("names", [PLAIN_FILES, DIVIDED_FILES, (*CHECKPOINT_FILES, BY_NAME)])
def test_checkpoint_that_lacks_a_part_is_passed_over(run, names):
    checkpoint(run, 5, names=names)
    for step, missing in enumerate(names, start=6):
        checkpoint(run, step, without=missing, names=names)
    assert run.last_checkpoint().name == "checkpoint-5"


def test_checkpoint_that_was_being_written_does_not_count(run):
    (run.checkpoints / ".writing-checkpoint-7" / "checkpoint-7").mkdir(parents=True)
    assert run.last_checkpoint() is None
