"""The frozen-prefix cache: the losses are those without it, later runs compute nothing again, none meets another's."""

import json
import multiprocessing
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoProcessor, CLIPVisionModel

from lynx_moe.data import SampleBuilder
from lynx_moe.errors import ConfigError
from lynx_moe.tensor_store import Damaged
from lynx_moe.training import run, running
from lynx_moe.training.prefix_cache import PrefixCache
from lynx_moe.training.prefix_store import PrefixStore
from lynx_moe.training.preparing import prepare

ROOT = Path(__file__).resolve().parents[2]
UPPER = {"layers": "upper_half", "attention_rank": 2}


def losses(chosen) -> list[float]:
    rows = map(json.loads, Path(chosen.output_dir, "log.jsonl").read_text().splitlines())
    return [row["loss"] for row in rows if "loss" in row]


def both(settings, tmp_path, mode: str, **given) -> list:
    """Losses without a cache, of the run that fills one, and of one that reads it; and the last run's card."""
    found, card = [], None
    for prefix_cache in ("off", mode, mode):
        chosen = settings(
            epochs=2, learning_rate=1e-2, prefix_cache=prefix_cache, cache_dir=str(tmp_path / "cache"),
            **{"adapter": UPPER} | given,
        )  # fmt: skip
        chosen.overwrite = True
        card = run(chosen)["prefix_cache"]
        found.append(losses(chosen))
    return [*found, card]


@pytest.mark.parametrize(
    ("mode", "given"),
    [
        pytest.param("decoder", {"retention_kl": 1.0, "accumulate": 2}, id="decoder, micro-batches"),
        pytest.param("decoder", {"retention_kl": 1.0, "data": {"pack_tokens": 120}}, id="decoder, packed rows"),
        pytest.param("decoder", {"adapter": {"layers": "upper_half"}, "retention_kl": 1.0}, id="decoder, from the FFN"),
        pytest.param("vision", {"retention_kl": 1.0}, id="vision", marks=pytest.mark.slow),
        pytest.param("decoder", {}, id="decoder, grounding alone", marks=pytest.mark.slow),
        pytest.param("vision", {"data": {"pack_tokens": 120, "workers": 2}}, id="workers", marks=pytest.mark.slow),
        pytest.param("decoder", {"checkpointing": "reentrant"}, id="reentrant", marks=pytest.mark.slow),
        pytest.param("decoder", {"checkpointing": "non_reentrant"}, id="non_reentrant", marks=pytest.mark.slow),
    ],
)
def test_losses_are_those_without_a_cache_bit_for_bit(settings, tmp_path, mode, given):
    off, filling, reading, card = both(settings, tmp_path, mode, **given)
    assert filling == off and reading == off
    assert off[0] != off[-1] and len(off) >= 4
    assert card["read"] > 0 and card["computed"] == card["damaged"] == 0


@pytest.fixture(scope="module")
def filled(tmp_path_factory, base_folder, data_folder):
    """Settings of a run that has filled a cache, with what its card and its log say."""
    from lynx_moe.training.settings import AdapterSettings, DataSettings, ModelSettings, Settings, TrainerSettings

    here = tmp_path_factory.mktemp("filled")
    chosen = Settings(
        model=ModelSettings(path=base_folder),
        adapter=AdapterSettings(prompt_gate="on", layers="upper_half"),
        data=DataSettings(folder=data_folder),
        trainer=TrainerSettings(
            batch_size=4, log_every=1, save_every=0, progress=False, precision="fp32", prefix_cache="decoder",
            cache_dir=str(here / "cache"),
        ),
        output_dir=str(here / "run"),
    )  # fmt: skip
    chosen.objective.retention_kl = 1.0
    chosen.overwrite = True
    card = run(chosen)
    return chosen, card["prefix_cache"], losses(chosen)


def test_second_run_decodes_no_picture_and_runs_no_vision_tower(filled, monkeypatch):
    chosen, first, before = filled
    called = []
    forward, pixels, after = CLIPVisionModel.forward, SampleBuilder.pixels, running.refuse_changed_base
    monkeypatch.setattr(CLIPVisionModel, "forward", lambda *a, **k: called.append("tower") or forward(*a, **k))
    monkeypatch.setattr(SampleBuilder, "pixels", lambda *a, **k: called.append("picture") or pixels(*a, **k))
    # Called between the training and the look at the gates for the card, which runs the whole model.
    monkeypatch.setattr(running, "refuse_changed_base", lambda *a: called.append("end") or after(*a))
    card = run(chosen)["prefix_cache"]
    assert called[0] == "end" and "tower" in called and "picture" in called
    assert first["computed"] == 24 and first["read"] == 0
    assert card["read"] == 24 and card["computed"] == card["damaged"] == 0
    assert losses(chosen) == before


def test_damaged_file_is_counted_and_made_again(filled):
    chosen, card, before = filled
    rows = sorted(Path(card["folder"]).rglob("*.safetensors"))
    torn, changed = rows[0], rows[-1]
    content = torn.read_bytes(), changed.read_bytes()
    torn.write_bytes(content[0][:-7])
    changed.write_bytes(content[1][:-5] + bytes([content[1][-5] ^ 1]) + content[1][-4:])
    assert run(chosen)["prefix_cache"]["damaged"] == 2
    assert losses(chosen) == before
    assert (torn.read_bytes(), changed.read_bytes()) == content


def test_another_base_processor_layer_or_row_never_meets_the_same_states(filled, tmp_path):
    chosen, card, _ = filled
    prepared = prepare(chosen, quiet=True)
    cache = PrefixCache(prepared, chosen)
    assert str(cache.store.folder) == card["folder"]
    one, other = cache.dataset[0]["prefix"], cache.dataset[1]["prefix"]
    assert one.states_SD is not None and one.key != other.key
    # The same words about another picture, and other words about the same one.
    text = cache.dataset.rows.text(0)
    content = {
        cache.dataset._content(words, len(text["input_ids"]), pictures)
        for words in (text, text | {"input_ids": text["input_ids"].flip(0)})
        for pictures in ([0], [1])
    }
    assert len(content) == 4

    folders = {card["folder"]}
    object.__setattr__(prepared, "base_hash", type(prepared.base_hash)({"w": "0"}))
    folders.add(str(PrefixCache(prepared, chosen).store.folder))
    prepared = prepare(chosen, quiet=True)
    prepared.processor.image_processor.image_mean = [0.1, 0.2, 0.3]
    folders.add(str(PrefixCache(prepared, chosen).store.folder))
    chosen.trainer.precision = "bf16"
    folders.add(str(PrefixCache(prepared, chosen).store.folder))
    chosen.trainer.precision, chosen.trainer.prefix_cache = "fp32", "vision"
    folders.add(str(PrefixCache(prepared, chosen).store.folder))
    chosen.trainer.prefix_cache = "decoder"
    chosen.adapter.layers = [3]
    folders.add(str(PrefixCache(prepare(chosen, quiet=True), chosen).store.folder))
    chosen.adapter.layers = "upper_half"
    assert len(folders) == 6


def test_sixteen_bits_are_stored_where_training_computes_in_them(settings, tmp_path):
    chosen = settings(
        max_steps=2, precision="bf16", prefix_cache="decoder", cache_dir=str(tmp_path / "cache"), adapter=UPPER
    )
    card = run(chosen)["prefix_cache"]
    store = PrefixStore(tmp_path / "none", {})
    store.folder = Path(card["folder"])
    path = next(store.folder.rglob("*.safetensors"))
    assert store.get(path.parent.name + path.stem)["states"].dtype == torch.bfloat16


def test_folder_that_cannot_be_written_is_refused_and_a_full_disk_is_not(tmp_path, monkeypatch, capsys):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ConfigError, match="cannot write"):
        PrefixStore(tmp_path / "file", {})
    store = PrefixStore(tmp_path / "room", {})
    store.folder = tmp_path / "file"  # every write fails from here on, as on a full disk
    store.put("ab" * 32, {"states": torch.zeros(2, 3)})
    store.put("cd" * 32, {"states": torch.zeros(2, 3)})
    assert store.full and capsys.readouterr().out.count("stores nothing more") == 1


def write_rows(folder: Path, keys: list[str], value: float) -> None:
    store = PrefixStore(folder, {"base": "x"})
    for key in keys:
        store.put(key, {"states": torch.full((40, 50), value)})


def test_processes_that_fill_at_once_lose_and_tear_nothing(tmp_path):
    store = PrefixStore(tmp_path, {"base": "x"})
    keys = [store.key(str(number).encode()) for number in range(200)]
    fork = multiprocessing.get_context("fork")
    writers = [fork.Process(target=write_rows, args=(tmp_path, keys, value)) for value in (1.0, 2.0)]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        found = [row for row in map(store.get, keys) if row is not None]  # Damaged would end the test
        assert all(row["states"].unique().tolist() in ([1.0], [2.0]) for row in found)
    assert all(writer.exitcode == 0 for writer in writers)
    assert all(store.get(key) is not None for key in keys)
    assert not list(store.folder.glob(".writing-*"))
    path = store._path(keys[0])
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(Damaged):
        store.get(keys[0])
    assert store.get(keys[0]) is None


def test_states_follow_the_processor_that_was_saved(base_folder):
    from lynx_moe.training.prefix_cache import transform_of

    processor = AutoProcessor.from_pretrained(base_folder)
    before = transform_of(processor)
    assert transform_of(AutoProcessor.from_pretrained(base_folder)) == before
    processor.image_processor.resample = 0
    assert transform_of(processor) != before


def train(folder: Path, base_folder: str, data_folder: str, *given: str, processes: int = 1) -> subprocess.Popen:
    launcher = ["-m", "torch.distributed.run", f"--nproc-per-node={processes}", "--standalone"] if processes > 1 else []
    arguments = [
        "model=path", f"model.path={base_folder}", "data=folder", f"data.folder={data_folder}", f"output_dir={folder}",
        "trainer.max_steps=6", "trainer.precision=fp32", "trainer.save_every=0", "trainer.log_every=1",
        "adapter.prompt_gate=on", "adapter.layers=upper_half", *given,
    ]  # fmt: skip
    command = [sys.executable, *launcher, str(ROOT / "train.py"), *arguments]
    return subprocess.Popen(command, cwd=folder.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def card(folder: Path, process: subprocess.Popen) -> dict:
    said, _ = process.communicate(timeout=500)
    assert process.returncode == 0, said[-3000:]
    return json.loads((folder / "run.json").read_text())


@pytest.mark.slow
def test_runs_that_fill_one_cache_at_once_train_as_without_it(tmp_path, base_folder, data_folder):
    here = (base_folder, data_folder)
    cached = ("trainer.batch_size=4", "trainer.prefix_cache=decoder", f"trainer.cache_dir={tmp_path / 'cache'}")
    names = ("a", "b", "off")
    started = [
        train(tmp_path / name, *here, *(cached if name != "off" else cached[:1]), f"seed={7 if name == 'b' else 0}")
        for name in names
    ]
    done = {name: card(tmp_path / name, process) for name, process in zip(names, started, strict=True)}
    a, b = (done[name]["prefix_cache"] for name in "ab")
    assert a["damaged"] == b["damaged"] == 0 and a["computed"] + a["read"] == b["computed"] + b["read"] == 24
    assert done["a"]["train"]["last_loss"] == pytest.approx(done["off"]["train"]["last_loss"], rel=1e-5)
    again = card(tmp_path / "c", train(tmp_path / "c", *here, *cached, "seed=3"))["prefix_cache"]
    assert again["computed"] == 0 and again["read"] == 24


@pytest.mark.slow
def test_two_processes_share_a_cache_and_train_as_without_it(tmp_path, base_folder, data_folder):
    cached = ("trainer.prefix_cache=decoder", f"trainer.cache_dir={tmp_path / 'cache'}")
    done = {}
    for name, given in (("off", ()), ("filling", cached), ("reading", cached)):
        started = train(tmp_path / name, base_folder, data_folder, "trainer.batch_size=2", *given, processes=2)
        done[name] = card(tmp_path / name, started)
    assert done["filling"]["prefix_cache"]["computed"] == 24 and done["reading"]["prefix_cache"]["read"] == 24
    for name in ("filling", "reading"):
        assert done[name]["train"]["last_loss"] == done["off"]["train"]["last_loss"]
