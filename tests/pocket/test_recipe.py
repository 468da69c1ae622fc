"""The recipe of the pocket base on a handful of pictures: it goes on where it stopped, and asks what is weak."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from lynx_moe.pocket import path
from lynx_moe.pocket.material import GRID, attention_mask, load, pack
from lynx_moe.pocket.recipe import Lessons, Recipe, train
from synth import Settings, make

TASKS = ["colour", "where", "count", "numbers"]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    for split in ("train", "val"):
        make(Settings(out=str(out), split=split, size=8, task=TASKS))
    return out


def recipe(steps: int) -> Recipe:
    return Recipe(steps=steps, warmup_steps=2, batch=4, lr=1e-3, compile=False, log_every=2, save_every=2)


def test_training_goes_on_where_it_stopped_to_the_bit(pictures, tmp_path, monkeypatch):
    whole = load_file(train([pictures], tmp_path / "whole", recipe(6), start=path()) / "model.safetensors")

    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("lynx_moe.pocket.recipe._release", stop)  # it comes after the state of step 2 was saved
        train([pictures], tmp_path / "parts", recipe(6), start=path())
    assert int(load_file(tmp_path / "parts" / "state.safetensors")["step"]) == 2
    parts = load_file(train([pictures], tmp_path / "parts", recipe(6), start=path()) / "model.safetensors")
    log = (tmp_path / "parts" / "log.txt").read_text()
    assert log.count("step 6 ") == 1 and log.count("step 2 ") == 1
    assert set(whole) == set(parts) and all(torch.equal(whole[name], parts[name]) for name in whole)


def test_a_text_part_and_another_question_are_not_seen():
    parts = [(np.array([5, 6]), np.array([7, 8]), 0), (np.array([9]), np.array([10]), 1)]
    ids, labels, positions, owner = pack([1, 2, 3], parts, 12, pad=0)
    assert ids.tolist() == [1, 2, 3, 5, 6, 7, 8, 9, 10, 0, 0, 0]
    assert labels.tolist() == [-100] * 5 + [7, 8, -100, 10] + [-100] * 3
    assert positions.tolist() == [0, 1, 2, 3, 4, 5, 6, 3, 4, 0, 0, 0]
    seen = attention_mask(torch.from_numpy(owner)[None])[0, 0] == 0
    assert seen[8, [0, 1, 2, 7, 8]].all() and not seen[8, 3:7].any(), "the second question saw the first"
    assert not seen[3, 4:].any(), "a token saw what comes after it"


def test_material_knows_the_task_of_every_question_and_the_words_of_every_patch(pictures):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(path())
    material = load([pictures], "train", tokenizer)
    names = list(material.tasks)
    assert set(names) == {"colour", "where", "count"} and len(material.games) == 16
    assert sum(material.tasks.values()) == sum(map(len, material.asked))
    for questions in material.asked:
        for question, _, task in questions:
            asked_for_number = "many" in (text := tokenizer.decode(question)) or "number of" in text
            assert asked_for_number == (names[task] == "count"), text
    assert (material.words[:, :, 0] >= 0).any(1).all() and material.words.shape[1] == GRID**2


def test_what_is_known_less_is_asked_more():
    lessons = Lessons({"easy": 100, "hard": 100, "rare": 25})
    for _ in range(200):
        lessons.mark(np.array([0, 0, 1, 2]), np.array([True, True, False, True]))
    easy, hard, rare = lessons.weights()
    assert hard > 5 * easy
    assert rare == pytest.approx(2 * easy, rel=0.05)
    assert str(lessons) == "easy 0.99 hard 0.01 rare 0.99"
