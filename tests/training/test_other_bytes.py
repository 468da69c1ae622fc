"""A run's adapter knows the very bytes it was trained beside."""

import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText

from lynx_moe.errors import CheckpointError
from lynx_moe.loading import load
from lynx_moe.training import run


@pytest.fixture
def finished(settings):
    chosen = settings(max_steps=1)
    return chosen, run(chosen)


def test_a_base_of_the_same_shapes_and_other_weights_is_refused(finished, base_folder, tmp_path):
    settings, card = finished
    other = tmp_path / "other"
    shutil.copytree(base_folder, other)
    model = AutoModelForImageTextToText.from_pretrained(base_folder)
    with torch.no_grad():
        model.lm_head.weight[3, 5] += 1e-3
    model.save_pretrained(other)
    for path in (settings.output_dir, f"{settings.output_dir}/adapter"):
        load(path)
        with pytest.raises(CheckpointError, match=card["base"]["sha256_before"][:16]) as caught:
            load(path, base=other)
        assert str(other) in str(caught.value)
        # Another number type has other bytes, whatever the weights: nothing can be said.
        load(path, base=other, dtype="bfloat16")
