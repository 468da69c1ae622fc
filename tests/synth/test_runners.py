"""Runners: a local Ray cluster writes the bytes of one process, and its errors are those of one process."""

import hashlib
import io
import tempfile
from pathlib import Path

import pytest
from rich.console import Console

import synth
import synth.shard
from synth.engines.options import LlmOptions
from synth.errors import OutputError
from synth.runners.shown import Shown
from synth.settings import Settings
from tests.synth.engines.chat_server import honest, serving

KEY = "sk-very-secret-0123456789"


def digests(out):
    return {p.relative_to(out).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in out.rglob("*.parquet")}


def settings(out, **changes):
    return Settings(**{"out": str(out), "size": 9, "shard_size": 3, "task": ["find_one", "exists"], **changes})


@pytest.fixture
def quiet():
    return Console(file=io.StringIO())


@pytest.mark.slow
def test_ray_writes_the_bytes_of_one_process_and_finishes_what_it_began(tmp_path, quiet, monkeypatch):
    alone = synth.make(settings(tmp_path / "alone"), console=quiet)
    assert synth.make(settings(tmp_path / "ray", runner="ray", workers=2), console=quiet) == alone
    assert digests(tmp_path / "ray") == digests(tmp_path / "alone")

    with monkeypatch.context() as patch:  # begun by one process, finished by Ray
        made = synth.shard.make_picture
        calls = iter(range(5))

        def until_the_fifth(*args, **kwargs):
            if next(calls, None) is None:
                raise KeyboardInterrupt
            return made(*args, **kwargs)

        patch.setattr(synth.shard, "make_picture", until_the_fifth)
        with pytest.raises(KeyboardInterrupt):
            synth.make(settings(tmp_path / "both"), console=quiet)
    assert len(list((tmp_path / "both").rglob("*.records.parquet"))) == 1
    assert synth.make(settings(tmp_path / "both", runner="ray"), console=quiet) == alone
    assert digests(tmp_path / "both") == digests(tmp_path / "alone")


@pytest.mark.slow
def test_the_key_reaches_actors_that_lack_it_and_no_file(tmp_path, quiet, monkeypatch):
    import ray

    monkeypatch.delenv("SOME_KEY", raising=False)
    with serving(honest, key=KEY) as server, tempfile.TemporaryDirectory() as logs:
        ray.init(_temp_dir=logs, include_dashboard=False, num_cpus=1)  # its workers have the environment of now
        try:
            monkeypatch.setenv("SOME_KEY", KEY)
            options = LlmOptions(url=server.url, model="m", key_env="SOME_KEY", max_tries=2)
            made = {"engine": "llm", "llm": options, "runner": "ray", "size": 1}
            manifest = synth.make(settings(tmp_path / "d", **made), console=quiet)
        finally:
            ray.shutdown()
        assert manifest["splits"]["train"]["rejected"] == {} and set(server.keys) == {f"Bearer {KEY}"}
        written = [path for root in (logs, tmp_path) for path in Path(root).rglob("*") if path.is_file()]
        assert len(written) > 10 and not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in quiet.file.getvalue()


@pytest.mark.slow
def test_an_error_in_a_ray_actor_is_the_error_itself(tmp_path, quiet, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(synth.shard, "make_picture", lambda *args, **kwargs: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            synth.make(settings(tmp_path / "d"), console=quiet)
    (work,) = (tmp_path / "d" / ".partial").iterdir()
    (work / "1.records.parquet").mkdir()  # where a file of the second shard is to go
    with pytest.raises(OutputError, match="1.records.parquet"):
        synth.make(settings(tmp_path / "d", runner="ray"), console=quiet)


def test_a_run_tells_records_per_second_and_what_was_left_out(quiet):
    with Shown(quiet, "pictures", size=10, before=4) as shown:
        shown.shard({"counts": {"find_one": 1200, "exists": 34}, "quarantined": {"missing picture": 2}, "rejected": {}})
        shown.shard({"counts": {}, "quarantined": {"missing picture": 1}, "rejected": {"boxes changed": 7}})
        assert shown.news().startswith("1,234 records, ")
        assert shown.news().endswith("left out: 7 x boxes changed, 3 x missing picture")


def test_one_process_tells_it_too(tmp_path):
    told = io.StringIO()
    synth.make(settings(tmp_path / "d"), console=Console(file=told, width=200, force_terminal=True))
    assert "records, " in told.getvalue() and "/s" in told.getvalue()
