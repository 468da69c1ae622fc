import json

import pytest

from lynx_moe.errors import InUseError, LynxError, OutputExistsError
from lynx_moe.training.checkpoints import seal
from lynx_moe.training.folder import RunFolder
from lynx_moe.training.settings import Settings
from lynx_moe.training.started_with import started_with


def checkpoint(run: RunFolder, step: int) -> None:
    folder = run.checkpoints / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / "weights").write_text(f"of step {step}")
    seal(folder, {})


@pytest.fixture
def run(tmp_path) -> RunFolder:
    return RunFolder(tmp_path / "run")


def chosen(run: RunFolder, *, overwrite: bool = False, seed: int = 0, **trainer) -> Settings:
    settings = Settings(output_dir=str(run.path), overwrite=overwrite, seed=seed)
    for name, value in trainer.items():
        setattr(settings.trainer, name, value)
    return settings


def start(run: RunFolder, **settings) -> None:
    """Claims the folder, as every process does that begins or goes on."""
    with run.owned():
        run.claim(chosen(run, **settings))


def unfinished(run: RunFolder, *steps: int, **settings) -> None:
    start(run, **settings)
    for step in steps or (5,):
        checkpoint(run, step)


def finish(run: RunFolder, **settings) -> None:
    unfinished(run, **settings)
    run.adapter.mkdir(parents=True)
    run.card.write_text('{"train": {"steps": 5}}')


def names(run: RunFolder) -> list[str]:
    return sorted(p.name for p in run.path.iterdir())


def test_fresh_folder_says_what_is_being_run_in_it_and_keeps_no_lock(run):
    start(run, seed=3)
    assert names(run) == ["settings.json"]
    assert json.loads(run.settings.read_text())["settings"]["seed"] == 3


@pytest.mark.parametrize("resume", ["auto", "always", "never"])
def test_finished_run_is_refused(run, resume):
    finish(run)
    with pytest.raises(OutputExistsError, match="finished run") as caught:
        start(run, resume=resume)
    assert isinstance(caught.value, LynxError) and isinstance(caught.value, FileExistsError)
    assert "overwrite=true" in caught.value.fix and run.card.exists()


def test_overwrite_removes_what_a_run_wrote_and_nothing_else(run):
    finish(run)
    (run.path / "notes.txt").write_text("mine")
    start(run, overwrite=True)
    assert names(run) == ["notes.txt", "settings.json"]


def test_the_same_command_goes_on_from_the_newest_checkpoint(run):
    # By number: in the alphabet 900 comes last.
    unfinished(run, 900, 1000)
    start(run)
    assert run.go_on_from().name == "checkpoint-1000"


def test_the_same_command_goes_on_also_when_it_says_overwrite(run):
    unfinished(run, overwrite=True)
    start(run, overwrite=True)
    assert run.go_on_from().name == "checkpoint-5"


def test_settings_that_change_no_result_may_differ_and_the_place_be_spelled_otherwise(run, tmp_path, monkeypatch):
    unfinished(run)
    monkeypatch.chdir(tmp_path)
    other = RunFolder("run/../run")
    start(other, keep=7, log_every=1, save_every=3, progress=False, overwrite=True)
    assert other.go_on_from().name == "checkpoint-5"


def test_other_settings_are_each_named_with_both_values(run):
    unfinished(run)
    with pytest.raises(OutputExistsError) as caught:
        start(run, seed=1, learning_rate=2e-3, max_steps=9, keep=1)
    assert "trainer.max_steps was null, is 9; trainer.learning_rate was 0.001, is 0.002; seed was 0, is 1" in str(
        caught.value
    )
    assert "keep" not in caught.value.message
    assert all(word in caught.value.fix for word in ("trainer.resume=always", "overwrite=true", "output_dir"))
    assert run.go_on_from().name == "checkpoint-5"


def test_always_goes_on_with_other_settings_and_notes_them(run):
    unfinished(run)
    start(run, seed=1, resume="always")
    assert run.go_on_from().name == "checkpoint-5"
    start(run, seed=1)


def test_overwrite_throws_away_an_unfinished_run_of_other_settings(run):
    unfinished(run)
    start(run, seed=1, overwrite=True)
    assert run.go_on_from() is None and names(run) == ["settings.json"]


def test_never_refuses_an_unfinished_run_and_with_overwrite_starts_again(run):
    unfinished(run)
    with pytest.raises(OutputExistsError, match="checkpoint-5"):
        start(run, resume="never")
    start(run, resume="never", overwrite=True)
    assert run.go_on_from() is None


def test_run_that_ended_before_its_first_checkpoint_stands_in_nobodys_way(run):
    start(run)
    start(run, seed=1)
    start(run, seed=2, resume="never")
    assert names(run) == ["settings.json"]


def test_checkpoints_of_nobody_knows_which_run_are_not_gone_on_with_unasked(run):
    # Left so when throwing away a finished run is interrupted: what it was started with goes first.
    unfinished(run)
    run.settings.unlink()
    with pytest.raises(OutputExistsError, match="no settings.json"):
        start(run)
    start(run, overwrite=True)
    assert run.go_on_from() is None


def test_another_number_of_processes_is_another_setting(run):
    unfinished(run)
    with run.owned(), pytest.raises(OutputExistsError, match="number of processes was 1, is 2"):
        run.claim(chosen(run), processes=2)


def test_data_is_the_same_however_its_folder_is_spelled(tmp_path, monkeypatch):
    one, other = Settings(), Settings()
    one.data.folder, other.data.folder = str(tmp_path / "data"), "data"
    monkeypatch.chdir(tmp_path)
    run = RunFolder(tmp_path / "run")
    for settings in (one, other):
        with run.owned():
            run.claim(settings)
        if settings is one:
            checkpoint(run, 1)
    assert run.go_on_from()


def test_folder_has_one_owner_at_a_time(run):
    with run.owned(), pytest.raises(InUseError) as caught, RunFolder(run.path).owned(patience=0.1):
        pass
    assert isinstance(caught.value, BlockingIOError) and str(run.path) in caught.value.message
    with run.owned():
        pass


def test_half_written_things_of_a_killed_run_are_removed_and_displaced_ones_return(run):
    unfinished(run, 5)
    (run.checkpoints / ".writing-checkpoint-7" / "checkpoint-7").mkdir(parents=True)
    (run.checkpoints / "checkpoint-5").rename(run.checkpoints / ".writing-old-checkpoint-5")
    (run.path / ".writing-adapter").mkdir()
    (run.path / ".writing-run.json").write_text("{")
    start(run)
    assert [p.name for p in run.checkpoints.iterdir()] == ["checkpoint-5"]
    assert names(run) == ["checkpoints", "settings.json"] and run.go_on_from()


def test_finished_run_is_known_by_its_settings(run):
    assert run.finished_with(chosen(run)) is None
    unfinished(run)
    assert run.finished_with(chosen(run)) is None
    run.card.write_text('{"train": {"steps": 5}}')
    assert run.finished_with(chosen(run, keep=9, overwrite=True)) == {"train": {"steps": 5}}
    assert run.finished_with(chosen(run, seed=1)) is None


def test_setting_that_an_older_version_did_not_have_counts_as_its_default(run):
    unfinished(run)
    written = started_with(chosen(run))
    del written["settings"]["trainer"]["evaluate_every"]
    run.settings.write_text(json.dumps(written))
    start(run)
    del written["settings"]["trainer"]["epochs"]
    run.settings.write_text(json.dumps(written))
    with pytest.raises(OutputExistsError, match="epochs was 1.0, is 2.0"):
        start(run, epochs=2.0)
