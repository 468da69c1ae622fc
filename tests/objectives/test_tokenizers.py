"""Picture tokenizers: on the base's grid, there and back, frozen, and refused where they do not fit."""

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from lynx_moe.errors import CheckpointError, ConfigError, FamilyError
from lynx_moe.objectives.tokenizers import TOKENIZERS, Features, Pixels, Tokenizer
from tests.objectives.vae import tiny_vae

GRID = (2, 3)


@pytest.fixture(scope="module")
def vae_folder(tmp_path_factory) -> str:
    return tiny_vae(tmp_path_factory.mktemp("vae"))


@pytest.fixture(scope="module")
def backbone(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("backbone")
    sizes = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    torch.manual_seed(0)
    transformers.Dinov2Model(transformers.Dinov2Config(**sizes, image_size=28, patch_size=7)).save_pretrained(folder)
    return str(folder)


def picture(tokenizer: Tokenizer, grid: tuple[int, int] = GRID) -> torch.Tensor:
    rows, columns = grid
    return torch.rand(3, rows * tokenizer.cell, columns * tokenizer.cell, generator=torch.Generator().manual_seed(0))


def made(name: str, vae_folder: str, backbone: str) -> Tokenizer:
    return TOKENIZERS.get(name)({"vae": vae_folder, "features": backbone}.get(name))


@pytest.mark.parametrize("name", TOKENIZERS)
def test_gives_a_vector_of_its_channels_for_each_token_of_the_grid(name, vae_folder, backbone):
    tokenizer = made(name, vae_folder, backbone)
    known = tokenizer.encode(picture(tokenizer))
    for seen in (tokenizer.mean(known), tokenizer.draw(known)):
        assert tokenizer.tokens(seen, GRID).shape == (6, tokenizer.channels)
        assert torch.equal(tokenizer.map(tokenizer.tokens(seen, GRID), GRID), seen)
        assert not seen.requires_grad


@pytest.mark.parametrize("name", ["pixels", "features"])
def test_a_change_in_one_cell_of_the_picture_changes_that_token_most(name, vae_folder, backbone):
    tokenizer = made(name, vae_folder, backbone)
    before = picture(tokenizer, (3, 3))
    after, cell = before.clone(), tokenizer.cell
    after[:, cell : 2 * cell, 2 * cell :] = torch.rand(3, cell, cell)
    maps = [tokenizer.mean(tokenizer.encode(each)) for each in (before, after)]
    moved = (tokenizer.tokens(maps[1], (3, 3)) - tokenizer.tokens(maps[0], (3, 3))).norm(dim=1)
    assert moved.argmax() == 5


def test_folded_neighbours_are_those_of_the_cell():
    tokenizer = Pixels(fold=2)
    seen = picture(tokenizer)
    tokens = tokenizer.tokens(tokenizer.mean(tokenizer.encode(seen)), GRID)
    torch.testing.assert_close(tokens[5].view(3, 2, 2), seen[:, 2:4, 4:6] * 2 - 1)


def test_pixels_come_back_as_they_were():
    tokenizer = Pixels()
    seen = picture(tokenizer)
    torch.testing.assert_close(tokenizer.decode(tokenizer.mean(tokenizer.encode(seen))), seen)


def test_latents_are_shifted_and_scaled_as_the_config_says_and_decoded_from_there(vae_folder):
    from diffusers import AutoencoderKL

    tokenizer, plain = TOKENIZERS.get("vae")(vae_folder), AutoencoderKL.from_pretrained(vae_folder)
    assert (tokenizer.cell, tokenizer.channels) == (8, 8)
    seen = picture(tokenizer)
    with torch.no_grad():
        posterior = plain.encode(seen[None] * 2 - 1).latent_dist
        expected, back = (posterior.mean[0] - 0.25) * 2, (plain.decode(posterior.mean).sample[0] + 1) / 2
    found = tokenizer.mean(tokenizer.encode(seen))
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(tokenizer.decode(found), back)


def test_draws_are_spread_as_the_posterior_is(vae_folder):
    tokenizer = TOKENIZERS.get("vae")(vae_folder)
    known = tokenizer.encode(picture(tokenizer))
    drawn = torch.stack([tokenizer.draw(known, torch.Generator().manual_seed(k)) for k in range(400)])
    torch.testing.assert_close(drawn.std(dim=0), 2 * (known["logvar"] / 2).exp(), rtol=0.2, atol=0)
    assert torch.equal(drawn[0], tokenizer.draw(known, torch.Generator().manual_seed(0)))


def test_gradients_flow_through_the_frozen_decoder_and_into_no_weight_of_it(vae_folder):
    tokenizer = TOKENIZERS.get("vae")(vae_folder)
    latent = torch.randn(2, 4, 6, requires_grad=True)
    tokenizer.decode(latent).sum().backward()
    assert latent.grad.any() and not any(p.requires_grad for p in tokenizer.network.parameters())


def test_the_shipped_vae_keeps_rendered_pictures_apart(tmp_path):
    from lynx_moe.pocket.vae import pictures_of, psnr
    from synth import Settings, make

    make(Settings(out=str(tmp_path), size=6, task=["colour"]))
    tokenizer = TOKENIZERS.get("pocket")()
    seen = torch.stack([torch.from_numpy(p.copy()).permute(2, 0, 1) / 255 for p in pictures_of(tmp_path, "train", 6)])
    maps = [tokenizer.mean(tokenizer.encode(each)) for each in seen]
    back = torch.stack([tokenizer.decode(each) for each in maps])
    blank = seen.mean(dim=(2, 3), keepdim=True).expand_as(seen)
    assert psnr(back * 2 - 1, seen * 2 - 1) > psnr(blank * 2 - 1, seen * 2 - 1) + 6
    assert torch.stack(maps).std().item() == pytest.approx(1, abs=0.3)


# ---- identity ----


def test_identity_is_the_contents_and_not_the_places(vae_folder, tmp_path):
    again = tiny_vae(tmp_path / "again")
    assert TOKENIZERS.get("vae")(again).identity == TOKENIZERS.get("vae")(vae_folder).identity
    weights = load_file(tmp_path / "again" / "diffusion_pytorch_model.safetensors")
    weights["encoder.conv_in.bias"][0] += 1
    save_file(weights, tmp_path / "again" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    assert TOKENIZERS.get("vae")(again).identity != TOKENIZERS.get("vae")(vae_folder).identity
    other = tiny_vae(tmp_path / "other", scaling_factor=3.0)
    assert TOKENIZERS.get("vae")(other).identity != TOKENIZERS.get("vae")(vae_folder).identity


# ---- what is refused ----


def test_a_grid_that_cannot_be_matched_is_refused_with_both_sizes(backbone):
    tokenizer = Features(backbone)
    known = tokenizer.encode(picture(tokenizer, (4, 4)))
    with pytest.raises(FamilyError, match="4 x 4 places, where the base's grid of 2 x 3 tokens needs 2 x 3"):
        tokenizer.tokens(tokenizer.mean(known), GRID)


def test_a_tokenizer_without_a_way_back_says_so(backbone):
    with pytest.raises(ConfigError, match="no decoder"):
        Features(backbone).decode(torch.zeros(12, 2, 2))


@pytest.mark.parametrize("name", ["vae", "features"])
@pytest.mark.parametrize("path", [None, "/nowhere"])
def test_a_folder_that_is_none_is_refused(name, path):
    with pytest.raises(ConfigError, match="objective.reconstruction.path"):
        TOKENIZERS.get(name)(path)


def test_models_of_another_kind_and_broken_weights_are_refused(vae_folder, backbone, tmp_path):
    with pytest.raises(ConfigError, match="no diffusers model"):
        TOKENIZERS.get("vae")(backbone)
    with pytest.raises(ConfigError, match="no backbone of patches"):
        Features(vae_folder)
    broken = tiny_vae(tmp_path / "vae")
    (tmp_path / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"nothing")
    tokenizer = TOKENIZERS.get("vae")(broken)
    with pytest.raises(CheckpointError, match="does not load"):
        tokenizer.encode(picture(tokenizer))
    weights = load_file(f"{vae_folder}/diffusion_pytorch_model.safetensors")
    del weights["encoder.conv_in.bias"]
    save_file(weights, tmp_path / "vae" / "diffusion_pytorch_model.safetensors", metadata={"format": "pt"})
    tokenizer = TOKENIZERS.get("vae")(broken)
    with pytest.raises(CheckpointError, match="encoder.conv_in.bias"):
        tokenizer.encode(picture(tokenizer))


def test_loading_a_network_draws_no_random_numbers_of_the_process(vae_folder, backbone):
    before = torch.get_rng_state()
    for tokenizer in (TOKENIZERS.get("vae")(vae_folder), Features(backbone)):
        tokenizer.encode(picture(tokenizer))
    assert torch.equal(torch.get_rng_state(), before)
