"""Writing a dataset folder: same settings same bytes, an interruption costs one shard, nothing finished is lost."""

import hashlib
import io
import json
import multiprocessing
import subprocess
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

import synth
from synth import folder
from synth.errors import OutputError, OutputExistsError, RecordError, SettingsError
from synth.languages import load_pack
from synth.sources import SOURCES, PictureFault
from synth.sources import SourceKind as Kind
from synth.sources.rendered import RenderedSource
from synth.tasks import TASKS, Draft, Task

ROOT = Path(__file__).resolve().parents[2]
TASK = ["count", "exists", "find_one"]


def settings(out, **changes):
    return synth.Settings(**{"out": str(out), "task": TASK, "size": 6, "shard_size": 2, **changes})


def rows(out, part="records", split="train"):
    return [row for path in sorted(Path(out, part).glob(f"{split}-*")) for row in pq.read_table(path).to_pylist()]


def digests(out):
    files = [path for path in Path(out).rglob("*") if path.is_file()]
    return {path.relative_to(out).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


class Stumbling(RenderedSource):
    """The rendered source until picture ``at``, where the process is interrupted or the picture is bad."""

    def __init__(self, at, error):
        super().__init__()
        self.at, self.error = at, error

    def scene(self, index, split, seed):
        if index == self.at:
            raise self.error
        return super().scene(index, split, seed)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("made") / "data"
    return out, synth.make(settings(out))


def test_two_processes_write_the_same_bytes_as_one(made, tmp_path):
    synth.make(settings(tmp_path / "d", workers=2))
    assert digests(tmp_path / "d") == digests(made[0])


def test_records_join_pictures_of_their_own_shard_that_have_the_stated_size(made):
    out, _ = made
    for records in sorted((out / "records").iterdir()):
        pictures = {row["image_id"]: row for row in pq.read_table(out / "images" / records.name).to_pylist()}
        assert {row["image_id"] for row in pq.read_table(records).to_pylist()} == set(pictures)
        for row in pictures.values():
            assert Image.open(io.BytesIO(row["image"]["bytes"])).size == (row["width"], row["height"])


def test_manifest_counts_and_digests_agree_with_the_files(made):
    out, manifest = made
    assert manifest == json.loads((out / "manifest.json").read_text()) and manifest["finished"] is True
    found = digests(out)
    assert manifest["files"] == {name: digest for name, digest in found.items() if name != "manifest.json"}
    by_task = {task: sum(row["task"] == task for row in rows(out)) for task in TASK}
    assert manifest["counts"]["train"] == by_task and all(by_task.values())
    assert manifest["splits"]["train"]["pictures"] == len(rows(out, "images")) == 6
    assert manifest["licences"] == sorted({row["licence"] for row in rows(out)})


def test_ids_are_unique_and_no_work_files_stay(made):
    ids = [row["id"] for row in rows(made[0])]
    assert len(ids) == len(set(ids))
    assert sorted(p.name for p in made[0].iterdir()) == ["README.md", "images", "manifest.json", "records"]


def test_datasets_loads_both_configs_without_a_network(made, tmp_path, monkeypatch):
    import datasets

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    records = datasets.load_dataset(str(made[0]), "records", cache_dir=str(tmp_path))["train"]
    images = datasets.load_dataset(str(made[0]), "images", cache_dir=str(tmp_path))["train"]
    assert records.to_list() == rows(made[0])
    assert images[0]["image"].size == (images[0]["width"], images[0]["height"])


def test_a_tasks_rows_do_not_depend_on_the_other_tasks_or_on_the_size(made, tmp_path):
    synth.make(settings(tmp_path / "d", task="exists", size=3))
    alone = rows(tmp_path / "d")
    assert alone and alone == [r for r in rows(made[0]) if r["task"] == "exists" and int(r["id"].split("/")[2]) < 3]


def test_splits_and_neighbouring_seeds_share_no_picture(made, tmp_path):
    synth.make(settings(tmp_path / "seed", seed=1))
    synth.make(settings(tmp_path / "split", split="val"))
    here = {row["image"]["bytes"] for row in rows(made[0], "images")}
    assert not here & {row["image"]["bytes"] for row in rows(tmp_path / "seed", "images")}
    assert not here & {row["image"]["bytes"] for row in rows(tmp_path / "split", "images", "val")}


def test_questions_per_image_keeps_that_many_of_the_full_set(made, tmp_path):
    synth.make(settings(tmp_path / "d", questions_per_image=3))
    few, full = rows(tmp_path / "d"), {row["id"]: row for row in rows(made[0])}
    assert all(row == full[row["id"]] for row in few)
    kept = Counter(row["image_id"] for row in few)
    assert kept == {image: min(3, number) for image, number in Counter(r["image_id"] for r in full.values()).items()}
    assert len({row["task"] for row in few}) > 1


def test_the_questions_kept_are_the_same_every_time(tmp_path):
    for name in "ab":
        synth.make(settings(tmp_path / name, questions_per_image=3, size=3))
    assert digests(tmp_path / "a") == digests(tmp_path / "b")


def test_same_settings_again_touch_nothing(made):
    before = {p: p.stat().st_mtime_ns for p in made[0].rglob("*")}
    assert synth.make(settings(made[0], workers=2)) == made[1]
    assert {p: p.stat().st_mtime_ns for p in made[0].rglob("*")} == before


def test_other_settings_are_refused_naming_what_differs(made):
    before = digests(made[0])
    with pytest.raises(OutputExistsError, match="size: 6 there, 7 asked"):
        synth.make(settings(made[0], size=7))
    assert digests(made[0]) == before


def test_overwrite_replaces_the_split_and_leaves_no_old_shards(tmp_path):
    synth.make(settings(tmp_path / "d", size=6))
    synth.make(settings(tmp_path / "d", size=2, overwrite=True))
    synth.make(settings(tmp_path / "fresh", size=2))
    assert digests(tmp_path / "d") == digests(tmp_path / "fresh")


def test_a_second_split_joins_the_folder_and_keeps_the_first(tmp_path):
    synth.make(settings(tmp_path / "d", size=2))
    first = digests(tmp_path / "d")
    manifest = synth.make(settings(tmp_path / "d", size=2, split="val"))
    assert list(manifest["counts"]) == ["train", "val"]
    assert {name: digest for name, digest in digests(tmp_path / "d").items() if "/train-" in name} == {
        name: digest for name, digest in first.items() if "/train-" in name
    }


def test_an_interrupted_run_keeps_finished_shards_and_ends_as_if_never_interrupted(made, tmp_path, monkeypatch):
    out = tmp_path / "d"
    with monkeypatch.context() as patch:
        stumbling = replace(SOURCES["rendered"], open=lambda s, work: Stumbling(3, KeyboardInterrupt()))
        patch.setitem(SOURCES, "rendered", stumbling)
        with pytest.raises(KeyboardInterrupt):
            synth.make(settings(out))
    assert not (out / "manifest.json").exists()
    kept = next((out / folder.PARTIAL).rglob("0.records.parquet"))
    inode = kept.stat().st_ino
    assert not list(out.rglob("1.records.parquet")) and not list(out.rglob("*.tmp"))
    synth.make(settings(out))
    assert (out / "records" / "train-00000-of-00003.parquet").stat().st_ino == inode
    assert digests(out) == digests(made[0])


def test_a_damaged_or_foreign_partial_shard_is_made_again(made, tmp_path, monkeypatch):
    out = tmp_path / "d"
    for seed in (0, 1):  # the second run's partial shards have other settings and must not leak into the first's
        with monkeypatch.context() as patch:
            patch.setitem(
                SOURCES,
                "rendered",
                Kind(lambda s, work: Stumbling(3, KeyboardInterrupt()), SOURCES["rendered"].fingerprint),
            )
            with pytest.raises(KeyboardInterrupt):
                synth.make(settings(out, seed=seed))
    for damaged in out.rglob("0.images.parquet"):
        damaged.write_bytes(damaged.read_bytes()[:-10])
    synth.make(settings(out))
    assert digests(out) == digests(made[0])


def test_an_interruption_while_publishing_is_repaired(made, tmp_path, monkeypatch):
    out, moved = tmp_path / "d", []
    replace = folder.os.replace

    def break_after_three(a, b):
        if str(b).startswith(str(out / "images")) or str(b).startswith(str(out / "records")):
            moved.append(b)
            if len(moved) == 4:
                raise KeyboardInterrupt
        replace(a, b)

    with monkeypatch.context() as patch:
        patch.setattr(folder.os, "replace", break_after_three)
        with pytest.raises(KeyboardInterrupt):
            synth.make(settings(out))
    assert not (out / "manifest.json").exists()
    synth.make(settings(out))
    assert digests(out) == digests(made[0])


def _make_when_the_others_are_ready(out, split, ready, failed):
    """In a process of its own: what is read of the manifest is old by the time it is written."""
    publish, read = folder.publish, folder.read_manifest

    def slowly(path):
        found = read(path)
        time.sleep(0.5)
        return found

    def together(*args):
        ready.wait(timeout=60)
        folder.read_manifest = slowly
        return publish(*args)

    folder.publish = together
    try:
        synth.make(settings(out, split=split))
    except BaseException:
        failed.set()
        raise


def test_splits_that_are_finished_at_the_same_time_are_all_in_the_manifest(tmp_path):
    spawn, names = multiprocessing.get_context("spawn"), ["a", "b"]
    ready, failed = spawn.Barrier(len(names)), spawn.Event()
    made = [
        spawn.Process(target=_make_when_the_others_are_ready, args=(tmp_path / "d", name, ready, failed))
        for name in names
    ]
    for process in made:
        process.start()
    for process in made:
        process.join(120)
    assert not failed.is_set() and [process.exitcode for process in made] == [0, 0]
    manifest = folder.read_manifest(tmp_path / "d")
    assert sorted(manifest["splits"]) == names
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["README.md", "images", "manifest.json", "records"]


def test_a_lost_file_is_made_again_instead_of_called_done(made, tmp_path):
    synth.make(settings(tmp_path / "d"))
    (tmp_path / "d/images/train-00001-of-00003.parquet").unlink()
    synth.make(settings(tmp_path / "d"))
    assert digests(tmp_path / "d") == digests(made[0])


FOREIGN = [("notes.txt", "mine"), ("manifest.json", '{"mine": 1}'), ("manifest.json", "{")]


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("name, text", FOREIGN)
def test_a_folder_with_other_files_is_never_touched(tmp_path, name, text, overwrite):
    (tmp_path / name).write_text(text)
    with pytest.raises(OutputExistsError):
        synth.make(settings(tmp_path, overwrite=overwrite))
    assert [p.name for p in tmp_path.iterdir()] == [name] and (tmp_path / name).read_text() == text


def test_a_disk_that_refuses_gives_a_typed_error_and_keeps_finished_shards(made, tmp_path, monkeypatch):
    from synth import shard

    out, real = tmp_path / "d", shard.pq.ParquetWriter

    def full(path, *args, **kwargs):
        if path.name.startswith("1."):
            raise OSError(28, "No space left on device")
        return real(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(shard.pq, "ParquetWriter", full)
        with pytest.raises(OutputError, match="No space left"):
            synth.make(settings(out))
    assert list(out.rglob("0.json")) and not list(out.rglob("*.tmp"))
    synth.make(settings(out))
    assert digests(out) == digests(made[0])


def test_an_output_path_through_a_file_gives_a_typed_error(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(OutputError):
        synth.make(settings(tmp_path / "file" / "d"))


def test_bad_pictures_are_counted_by_reason_and_the_rest_is_kept(tmp_path, monkeypatch):
    monkeypatch.setitem(SOURCES, "rendered", Kind(lambda s, work: Stumbling(3, PictureFault("torn", "3.jpg"))))
    manifest = synth.make(settings(tmp_path / "d"))
    assert manifest["quarantined"] == {"train": {"torn": 1}}
    assert manifest["splits"]["train"]["faults"] == [["torn", "3.jpg"]]
    assert {row["id"].split("/")[2] for row in rows(tmp_path / "d")} == set("01245")


def register(monkeypatch, name, **parts):
    """A task of these parts, for one test; its words are its own."""
    parts = {"kind": "grounding", "propose": lambda scene, rng: [{"n": rng.randrange(9)}], **parts}
    monkeypatch.setitem(TASKS, name, Task(name=name, **parts))
    monkeypatch.setitem(load_pack("en").tasks, name, {})


def test_text_only_tasks_have_no_picture_and_store_none(tmp_path, monkeypatch):
    def tell(scene, facts, say):
        return Draft(question=f"What follows {facts['n']}?", answer="a number")

    register(monkeypatch, "texty", kind="understanding", tell=tell, needs_image=False)
    synth.make(settings(tmp_path / "d", task="texty"))
    assert {row["image_id"] for row in rows(tmp_path / "d")} == {""} and len(rows(tmp_path / "d")) == 6
    assert rows(tmp_path / "d", "images") == []


def test_scenes_that_cannot_carry_a_task_are_counted_as_refused(tmp_path, monkeypatch):
    register(monkeypatch, "never", tell=lambda scene, facts, say: None)
    manifest = synth.make(settings(tmp_path / "d", task=["never", "exists"]))
    assert manifest["splits"]["train"]["refused"] == {"never": 6}


def test_a_task_that_breaks_the_format_stops_the_run_with_its_name(tmp_path, monkeypatch):
    def tell(scene, facts, say):
        return Draft(question="q", answer="{box:0}", boxes=[(0, 0, scene.width + 5, 1)])

    register(monkeypatch, "wrong", tell=tell)
    with pytest.raises(RecordError, match="wrong"):
        synth.make(settings(tmp_path / "d", task="wrong"))
    assert not (tmp_path / "d" / "manifest.json").exists()


def test_a_worker_that_dies_gives_a_typed_error_that_says_what_to_try(tmp_path):
    # A script without a __main__ guard is imported again by every worker, which then cannot start.
    script = tmp_path / "script.py"
    made = f"synth.Settings(out={str(tmp_path / 'd')!r}, size=4, shard_size=2, task='exists', workers=2)"
    script.write_text(f"import sys\nsys.path.insert(0, {str(ROOT)!r})\nimport synth\nsynth.make({made})\n")
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True)
    assert done.returncode == 1 and "a worker process died" in done.stderr and "__main__" in done.stderr


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"task": "find_oen"}, "task=find_one"),
        ({"task": []}, "names no task"),
        ({"task": 3}, "names no task"),
        ({"size": 0}, "size=0"),
        ({"workers": None}, "workers=None"),
        ({"questions_per_image": -1}, "questions_per_image=-1"),
        ({"split": "../up"}, "plain word"),
        ({"seed": 1.5}, "seed=1.5"),
        ({"source": "rendred"}, "source=rendered"),
    ],
)
def test_unusable_settings_raise_before_anything_is_written(tmp_path, changes, said):
    with pytest.raises(SettingsError) as caught:
        synth.make(settings(tmp_path / "d", **changes))
    assert said in str(caught.value) and not (tmp_path / "d").exists()


def test_grounding_share_gives_every_picture_one_kind_of_question(tmp_path):
    synth.make(settings(tmp_path / "one", grounding_share=0.5, size=12))
    kinds: dict[str, set[str]] = {}
    for row in rows(tmp_path / "one"):
        kinds.setdefault(row["image_id"], set()).add(row["kind"])
    kinds.pop("", None)  # text-only rows have no picture
    assert all(len(found) == 1 for found in kinds.values())
    assert set.union(*kinds.values()) == {"grounding", "understanding"}


def test_a_tuple_is_the_list_that_the_manifest_gives_back(tmp_path):
    given = synth.Settings(out=str(tmp_path), size=2, difficulty=(1, 5), task=("find_one", "count"))
    assert synth.make(given) == synth.make(given)
