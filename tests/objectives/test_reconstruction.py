"""Reconstruction: which pictures and tokens it reads, in closed form where nothing is learned yet, and its cache."""

import numpy as np
import pytest
import torch
from PIL import Image

from lynx_moe.data import Collator, SampleBuilder
from lynx_moe.errors import ConfigError, RecordError
from lynx_moe.families.dialects import get_dialect
from lynx_moe.objectives.grids import grid_targets
from lynx_moe.objectives.reconstructed import reconstructed
from lynx_moe.objectives.reconstruction import PictureTargets, Reconstruction
from lynx_moe.objectives.seen import PICTURE, Pictures
from lynx_moe.objectives.tokenizers import Pixels
from lynx_moe.ops.diffusion import cosine_alpha_bar
from tests.objectives.test_grids import batch_of
from tests.objectives.test_regions import record
from tests.objectives.vae import tiny_vae
from tests.tiny import tiny_llava_with_processor

WIDTH = 12
CHOSEN = {
    "weight": 1.0, "predict": "denoise", "tokenizer": "pixels", "path": None, "fold": 2, "through_decoder": False,
    "width": 16, "depth": 2, "heads": 2, "draws": 4, "cache_dir": None,
}  # fmt: skip
MIXED = [[(2, 3), (4, 4)], [], [(2, 3)]]


def head(**more) -> Reconstruction:
    torch.manual_seed(0)
    made = Reconstruction(WIDTH, **{**CHOSEN, **more})
    made.settings = {**CHOSEN, **more}
    return made


def pictured(sizes: list[list[tuple[int, int]]], cell: int = 2) -> tuple[dict, torch.Tensor]:
    """A batch of rows that show grids of these sizes, random pictures, and states."""
    torch.manual_seed(1)
    batch = batch_of(sizes)[0]
    shown = [size for row in sizes for size in row]
    if shown:
        largest = [cell * max(sides) for sides in zip(*shown, strict=True)]
        made = torch.zeros(len(shown), 3, *largest, dtype=torch.uint8)
        for k, (rows, columns) in enumerate(shown):
            made[k, :, : rows * cell, : columns * cell] = torch.randint(0, 256, (3, rows * cell, columns * cell))
        batch[PICTURE] = made
    return batch, torch.randn(*batch["target_grid_row"].shape, WIDTH, requires_grad=True)


# ---- targets ----


@pytest.fixture(scope="module")
def processor():
    return tiny_llava_with_processor()[1]


def test_the_target_is_the_window_of_the_grid_at_its_cells_and_grey_beside_the_picture(processor):
    image = Image.new("RGB", (48, 32), (200, 10, 30))  # padded to 48 x 48, 4 x 4 tokens
    (made,) = PictureTargets(12).of_image(processor, image)[PICTURE]
    assert made.shape == (3, 48, 48) and made.dtype == np.uint8
    assert (made[:, 8:40] == np.array([200, 10, 30])[:, None, None]).all()
    assert (made[:, :8] == 127).all() and (made[:, 40:] == 127).all()


def test_a_sample_brings_its_picture_and_where_its_tokens_are(processor):
    builder = SampleBuilder(processor, get_dialect("percent", processor), targets=[PictureTargets(2)])
    image = Image.new("RGB", (48, 32), (200, 10, 30))
    sample = builder(record(load=lambda: image))
    assert sample[PICTURE].shape == (1, 3, 8, 8)
    assert (sample["target_grid_row"] > 0).sum() == (grid_targets(processor, (48, 32))["target_grid_row"] > 0).sum()
    text = builder(record(size=None, load=None, boxes=(), answer="no"))
    batch = Collator(processor)([sample, text, sample])
    assert head().counts(batch).tolist() == [2]


# ---- what is counted ----


def test_a_fresh_head_loses_the_variance_of_the_noise_for_each_picture():
    batch, states = pictured([[(4, 4)]] * 40)
    lost = head()(states, batch)
    assert (lost / head().counts(batch)).item() == pytest.approx(1, abs=0.02)


def test_pictures_are_counted_and_rows_without_one_are_not():
    batch, states = pictured(MIXED)
    assert head().counts(batch).tolist() == [3]
    batch, states = pictured([[], []])
    made = head()
    lost = made(states, batch)
    lost.sum().backward()
    assert made.counts(batch).tolist() == [0] == lost.tolist()
    assert all(not p.grad.any() for p in made.parameters())


@pytest.mark.parametrize("through_decoder", [False, True])
def test_fresh_regression_is_the_mean_square_of_each_pictures_own_pixels(through_decoder):
    batch, states = pictured(MIXED)
    made = head(predict="regress", through_decoder=through_decoder)
    with torch.no_grad():
        made.net.net[2].weight.zero_()
        made.net.net[2].bias.zero_()
    expected, unit = 0.0, 0.5 if through_decoder else 1.0  # pixels are in 0..1, tokens in -1..1
    for pixels, (rows, columns) in zip(batch[PICTURE], [(2, 3), (4, 4), (2, 3)], strict=True):
        own = pixels[:, : rows * 2, : columns * 2].float() / 127.5 - 1
        expected += ((unit * own) ** 2).mean().item()
    assert made(states, batch).item() == pytest.approx(expected, rel=1e-5)
    batch, states = pictured([[]])
    made(states, batch).sum().backward()
    assert all(p.grad is not None and not p.grad.any() for p in made.parameters())


def test_pixels_behind_the_decoder_need_no_latents_of_the_picture(monkeypatch):
    batch, states = pictured(MIXED)
    made = head(predict="regress", through_decoder=True)
    monkeypatch.setattr(made.tokenizer, "encode", lambda *_: pytest.fail("encoded for nothing"))
    assert made(states, batch).item() > 0


def test_the_sum_over_pictures_is_that_of_each_alone():
    batch, states = pictured(MIXED)
    made = head(predict="regress")
    parts = []
    for row, pictures in ((0, [0, 1]), (2, [2])):
        own = {name: value[row : row + 1] for name, value in batch.items() if name != PICTURE}
        parts.append(made(states[row : row + 1], own | {PICTURE: batch[PICTURE][pictures]}))
    torch.testing.assert_close(made(states, batch), sum(parts))


def test_a_denoiser_that_is_narrower_than_a_token_is_refused():
    with pytest.raises(ConfigError, match="width is 16, and tokens of pixels have 48"):
        head(fold=4)
    head(fold=4, predict="regress")


def test_states_are_read_at_picture_tokens_alone_and_all_of_them():
    batch, states = pictured(MIXED)
    made = head()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    made(states, batch).sum().backward()
    assert torch.equal(states.grad.abs().sum(-1) > 0, batch["target_grid_row"] > 0)


def test_sequences_are_row_by_row_with_their_places():
    batch, states = pictured(MIXED)
    seen = Pictures.of(states, batch, 2)
    assert seen.states_PND.shape == (3, 16, WIDTH) and seen.is_token_PN.sum(1).tolist() == [6, 16, 6]
    assert seen.place_PN2[2, :6].tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1], [1, 2]]
    torch.testing.assert_close(seen.states_PND[2, :6], states[2, batch["target_grid_row"][2] > 0])
    twice = seen.repeated(2)
    assert torch.equal(twice.states_PND[2:4], seen.states_PND[[1, 1]]) and twice.grids[2:4] == [(4, 4)] * 2


def test_mixed_up_pictures_have_another_ones_states_at_about_the_same_place():
    batch, states = pictured(MIXED)  # (2, 3), (4, 4), (2, 3)
    seen = Pictures.of(states, batch, 2)
    mixed = seen.mixed_up().states_PND
    assert torch.equal(mixed[0, :6], seen.states_PND[2, :6])
    assert torch.equal(mixed[1], seen.states_PND[0, [0, 0, 1, 2] * 2 + [3, 3, 4, 5] * 2])
    assert torch.equal(mixed[2, :6], seen.states_PND[1, [0, 1, 2, 8, 9, 10]])


def test_a_batch_with_more_grids_than_pictures_is_refused():
    batch, states = pictured(MIXED)
    with pytest.raises(RecordError, match="3 grids bring 2 pictures"):
        head()(states, batch | {PICTURE: batch[PICTURE][:2]})


# ---- draws ----


def test_training_draws_from_the_process_and_measuring_always_the_same():
    batch, states = pictured(MIXED)
    made = head()
    with torch.no_grad():
        made.net.out.weight.normal_()
    lost = lambda: made(states, batch).item()  # noqa: E731
    made.train()
    torch.manual_seed(5)
    first, second = lost(), lost()
    torch.manual_seed(5)
    assert lost() == first != second
    made.eval()
    before = torch.get_rng_state()
    assert lost() == lost() and torch.equal(torch.get_rng_state(), before)


# ---- the tokenizer stands beside the model ----


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory) -> str:
    return tiny_vae(tmp_path_factory.mktemp("vae"))


def test_nothing_of_the_teacher_is_registered_and_its_hash_is_in_the_settings(vae_folder):
    made = head(tokenizer="vae", path=vae_folder, fold=1)
    batch, states = pictured(MIXED, 4)
    made(states, batch).sum().backward()
    teacher = {id(p) for p in made.tokenizer.network.parameters()}
    assert not teacher & {id(p) for p in made.parameters()} and not list(made.buffers())
    assert all(p.grad is None for p in made.tokenizer.network.parameters())
    assert made.goes_with == {"the tokenizer KL": made.tokenizer.identity} and len(made.tokenizer.identity) == 64


def test_latents_from_disk_have_the_bits_of_those_made_anew_and_a_second_run_makes_none(vae_folder, tmp_path):
    batch, states = pictured(MIXED, 4)
    vae = {"tokenizer": "vae", "path": vae_folder, "fold": 1}

    def lost(**more) -> tuple[float, Reconstruction]:
        made = head(**vae, **more)
        torch.manual_seed(3)
        return made(states, batch).item(), made

    plain, _ = lost()
    first, one = lost(cache_dir=str(tmp_path))
    second, two = lost(cache_dir=str(tmp_path))
    assert plain == first == second
    assert one._store.counts == {"read": 0, "computed": 3, "damaged": 0}
    assert two._store.counts == {"read": 3, "computed": 0, "damaged": 0}
    assert "network" not in two.tokenizer.__dict__  # its weights were not even loaded
    for path in tmp_path.rglob("*.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    assert (lost(cache_dir=str(tmp_path)))[0] == plain


def test_another_teacher_never_meets_the_same_latents(vae_folder, tmp_path):
    batch, states = pictured(MIXED, 4)
    other = tiny_vae(tmp_path / "other", scaling_factor=3.0)
    for path in (vae_folder, other):
        made = head(tokenizer="vae", path=path, fold=1, cache_dir=str(tmp_path / "cache"))
        made(states, batch)
        assert made._store.counts["computed"] == 3


def test_pixels_are_kept_on_no_disk(tmp_path):
    batch, states = pictured(MIXED)
    head(cache_dir=str(tmp_path))(states, batch)
    assert not list(tmp_path.iterdir())


def test_target_maker_and_head_agree_on_the_size_of_a_cell(vae_folder):
    assert Reconstruction.target_maker({**CHOSEN, "tokenizer": "vae", "path": vae_folder, "fold": None}).cell == 8
    assert Reconstruction.target_maker(CHOSEN).cell == Pixels(fold=2).cell == 2


# ---- pictures told again ----


def told_by_heart(head: Reconstruction, clean_PNC: torch.Tensor):
    """A denoiser that knows the clean tokens, whatever it is shown."""

    def noise(noisy_PNC, time_P, *_):
        left_P = cosine_alpha_bar()[time_P].float()[:, None, None]
        return (noisy_PNC - left_P.sqrt() * clean_PNC) / (1 - left_P).sqrt()

    return noise


def test_sampling_with_the_true_noise_gives_the_picture_back(monkeypatch):
    batch, states = pictured(MIXED)
    made = head()
    seen = Pictures.of(states, batch, 2)
    clean = torch.zeros(3, 16, made.tokenizer.channels)
    for k, (pixels, grid) in enumerate(zip(seen.pixels, seen.grids, strict=True)):
        clean[k, : grid[0] * grid[1]] = made.tokenizer.tokens(made.tokenizer.mean(made.known(pixels)), grid)
    monkeypatch.setattr(made.net, "forward", told_by_heart(made, clean))
    for steps in (1, 10):
        for found, true in zip(reconstructed(made, seen, steps=steps), seen.pixels, strict=True):
            torch.testing.assert_close(found, true, rtol=0, atol=0.05)


def test_a_trained_head_tells_pictures_from_their_own_states_and_not_from_anothers():
    """Each picture is one colour, which its states say; fitted within 150 steps."""
    sizes = [[(2, 2)]] * 8
    batch, _ = pictured(sizes)
    torch.manual_seed(0)
    colour = torch.randint(0, 256, (8, 3))
    batch[PICTURE] = colour[:, :, None, None].expand(-1, -1, 4, 4).to(torch.uint8)
    states = torch.zeros(8, batch["target_grid_row"].shape[1], WIDTH)
    states[..., :3] = (colour / 127.5 - 1)[:, None]
    states[..., 3:6] = -states[..., :3]
    states[..., 6] = 1.0
    made = head(width=32, draws=16)
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    seen = Pictures.of(states, batch, 2)
    for _ in range(150):
        optimizer.zero_grad()
        (made.lost(seen) / 8).backward()
        optimizer.step()
    made.eval()
    with torch.no_grad():
        own, another = made.lost(seen) / 8, made.lost(seen.mixed_up()) / 8
    assert own < 0.1 and another > 5 * own
    found = torch.stack(reconstructed(made, seen, steps=20))
    far = (found - torch.stack(seen.pixels)).abs().mean()
    assert far < 0.1 and (found.roll(1, dims=0) - torch.stack(seen.pixels)).abs().mean() > 3 * far
