"""The pocket VAE's recipe: a few steps lower the error, and what it writes is opened by diffusers."""

import numpy as np
import pytest
import torch

from lynx_moe.objectives.tokenizers import TOKENIZERS
from lynx_moe.pocket.vae import Recipe, build, crops, pictures_of, psnr, train
from synth import Settings, make


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    out = tmp_path_factory.mktemp("pictures")
    for split in ("train", "validation"):
        make(Settings(out=str(out), split=split, size=6, task=["colour"]))
    return out


def test_the_recipe_learns_and_writes_what_the_tokenizer_opens(pictures, tmp_path):
    found = [
        train(pictures, tmp_path / f"{steps}", Recipe(steps=steps, batch=4, crop=16, pictures=6)) for steps in (1, 60)
    ]
    assert [each["steps"] for each in found] == [1, 60] and found[1]["psnr"] > found[0]["psnr"] + 0.4
    tokenizer = TOKENIZERS.get("vae")(str(tmp_path / "60"), 4)
    assert (tokenizer.cell, tokenizer.channels) == (16, 32) == (TOKENIZERS.get("pocket")().cell, 32)
    seen = torch.from_numpy(pictures_of(pictures, "train", 1)[0].copy()).permute(2, 0, 1) / 255
    assert tokenizer.mean(tokenizer.encode(seen)).std().item() == pytest.approx(1, abs=0.5)


def test_a_fresh_encoder_says_what_it_means_with_little_noise():
    torch.manual_seed(0)
    assert build().encode(torch.rand(1, 3, 16, 16)).latent_dist.std.max() < 0.1


def test_crops_are_squares_of_the_pictures(pictures):
    own = pictures_of(pictures, "train", 2)
    made = crops([own[0]], 3, 16, np.random.default_rng(0))
    assert made.shape == (3, 3, 16, 16) and -1 <= made.min() and made.max() <= 1
    colours = {tuple(each) for each in own[0].reshape(-1, 3).tolist()}
    assert {
        tuple(each) for each in ((made + 1) * 127.5).round().permute(0, 2, 3, 1).reshape(-1, 3).int().tolist()
    } <= colours


def test_psnr_of_an_error_of_a_tenth_of_the_range_is_20_db():
    assert psnr(torch.full((1, 3, 2, 2), 0.2), torch.zeros(1, 3, 2, 2)) == pytest.approx(20)
