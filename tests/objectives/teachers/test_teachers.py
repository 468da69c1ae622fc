"""Teachers of real classes: their maps lie over the picture, are computed once, and nothing of them is half loaded."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file

from lynx_moe.digests import network_sha256
from lynx_moe.errors import ConfigError, FamilyError
from lynx_moe.objectives.teachers import TEACHERS as REGISTERED
from lynx_moe.objectives.teachers import TeacherFeatures
from lynx_moe.objectives.teachers.features import content_of
from lynx_moe.objectives.teachers.files import Preparing, teacher_folder
from tests.objectives.teachers.tiny_teachers import SIDE, SMALL, TEACHERS, dinov2, made, vit_for_classes

PLAIN = {"layer": -1, "size": 0, "dtype": "float32"}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, str]:
    root = tmp_path_factory.mktemp("teachers")
    return {maker.__name__: made(root / maker.__name__, maker) for _, maker, _ in TEACHERS}


def features(kind: str, path: str, cache: Path, **more) -> TeacherFeatures:
    return TeacherFeatures(**{**PLAIN, "kind": kind, "path": path, **more}, cache_dir=str(cache))


def picture(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (3, SIDE, SIDE), dtype=np.uint8)


def ask(taught: TeacherFeatures, seen: np.ndarray) -> torch.Tensor:
    return taught(torch.from_numpy(seen), content_of(seen))


@pytest.mark.parametrize(("kind", "maker", "shape"), TEACHERS, ids=[m.__name__ for _, m, _ in TEACHERS])
def test_a_teachers_last_map_has_the_stride_of_its_class(kind, maker, shape, folders, tmp_path):
    taught = features(kind, folders[maker.__name__], tmp_path)
    assert taught.shape == shape and ask(taught, picture()).dtype == torch.float16


@pytest.mark.parametrize(("kind", "maker", "shape"), TEACHERS[2:4], ids=["dinov2", "vit"])
def test_what_is_painted_in_a_corner_moves_that_corner_of_the_map_most(kind, maker, shape, folders, tmp_path):
    taught = features(kind, folders[maker.__name__], tmp_path, layer=0)  # before attention mixes places
    blank = np.full((3, SIDE, SIDE), 90, dtype=np.uint8)
    for row, column in ((0, 0), (7, 0), (0, 7), (3, 5)):
        marked = blank.copy()
        marked[:, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 250
        moved = (ask(taught, marked).float() - ask(taught, blank).float()).norm(dim=0)
        assert divmod(int(moved.argmax()), 8) == (row, column)


def test_reading_gives_the_bits_that_computing_gave_and_a_second_run_computes_nothing(folders, tmp_path):
    first = features("sam2", folders["sam2"], tmp_path)
    made_now = [ask(first, picture(seed)) for seed in range(3)]
    assert first.store.counts == {"read": 0, "computed": 4, "damaged": 0}  # with the blank one that tells the shape
    second = features("sam2", folders["sam2"], tmp_path)
    read = [ask(second, picture(seed)) for seed in range(3)]
    assert second.store.counts == {"read": 4, "computed": 0, "damaged": 0} and second._teacher is None
    assert all(torch.equal(a, b) for a, b in zip(made_now, read, strict=True))


def test_a_damaged_file_is_counted_and_made_again(folders, tmp_path):
    first = features("backbone", folders["dinov2"], tmp_path)
    before = ask(first, picture())
    path = first.store._path(first.store.key(content_of(picture())))
    path.write_bytes(path.read_bytes()[:-7])
    second = features("backbone", folders["dinov2"], tmp_path)
    assert torch.equal(ask(second, picture()), before)
    assert second.store.counts == {"read": 1, "computed": 1, "damaged": 1}


def test_other_weights_layers_sizes_and_kinds_never_meet_in_the_cache(folders, tmp_path):
    other = made(tmp_path / "other", dinov2)
    state = load_file(Path(other) / "model.safetensors")
    state["layernorm.bias"] = state["layernorm.bias"] + 1
    save_file(state, Path(other) / "model.safetensors", metadata={"format": "pt"})
    all_made = [
        features("backbone", folders["dinov2"], tmp_path / "cache", **more)
        for more in ({}, {"layer": 1}, {"size": 32}, {"dtype": "bfloat16"})
    ]
    all_made.append(features("backbone", other, tmp_path / "cache"))
    assert len({taught.store.folder for taught in all_made}) == 5
    assert network_sha256(Path(other)) != network_sha256(Path(folders["dinov2"]))


def test_loading_a_teacher_leaves_the_random_numbers_that_follow_as_they_were(folders, tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    features("mask2former", folders["mask2former"], tmp_path)
    assert torch.equal(torch.rand(4), expected)


# ---- how it sees a picture ----


def test_the_window_fills_the_teachers_picture_and_padding_has_its_mean_colour(tmp_path):
    preparing = Preparing(8, 16, (0.5, 0.25, 0.0), (1.0, 1.0, 1.0))
    seen = preparing.seen(Image.new("RGB", (100, 60), (255, 0, 0)), (0.0, -20.0, 100.0, 100.0))
    assert seen.shape == (3, 8, 16)
    assert seen[:, 0, 0].tolist() == [128, 64, 0] and seen[:, -1, -1].tolist() == [128, 64, 0]
    assert seen[:, 4, 8].tolist() == [255, 0, 0]
    normal = preparing.normalised(torch.from_numpy(seen)[None])
    assert normal[0, :, 0, 0].abs().max() < 0.01  # what is no picture says nothing


def test_a_window_inside_the_picture_is_all_that_is_seen():
    image = Image.new("RGB", (100, 60), (0, 0, 255))
    image.paste((0, 255, 0), (20, 0, 80, 60))
    seen = Preparing(6, 6, (0.5,) * 3, (1.0,) * 3).seen(image, (20.0, 0.0, 60.0, 60.0))
    assert (seen[1] == 255).all() and not seen[2].any()


@pytest.mark.parametrize(
    ("said", "sides"),
    [
        ({"size": {"height": 10, "width": 20}}, (10, 20)),
        ({"size": {"shortest_edge": 30, "longest_edge": 90}}, (30, 30)),
        ({"size": {"shortest_edge": 30}, "do_center_crop": True, "crop_size": {"height": 24, "width": 24}}, (24, 24)),
    ],
)
def test_the_size_is_what_the_image_processor_says(said, sides, tmp_path):
    written = {**said, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (tmp_path / "processor_config.json").write_text(json.dumps({"image_processor": written}))
    preparing = Preparing.from_folder(tmp_path)
    assert (preparing.height, preparing.width) == sides
    assert Preparing.from_folder(tmp_path, 40).width == 40


# ---- what is refused ----


def test_a_folder_without_safetensors_and_a_name_that_is_nowhere_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="holds no teacher"):
        teacher_folder(str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(ConfigError, match="there is no teacher"):
        teacher_folder("nobody/has-this-teacher")


def test_a_folder_that_does_not_say_how_it_wants_pictures_is_refused(tmp_path):
    with pytest.raises(FamilyError, match="does not say how"):
        Preparing.from_folder(tmp_path)


def test_a_kind_that_the_folder_is_not_of_is_refused(folders, tmp_path):
    with pytest.raises(FamilyError):
        features("sam2", folders["dinov2"], tmp_path)


def test_code_of_a_folders_own_is_never_offered_to_be_run(tmp_path, monkeypatch):
    path = Path(made(tmp_path / "own", dinov2))
    config = json.loads((path / "config.json").read_text()) | {
        "model_type": "mystery", "auto_map": {"AutoConfig": "m.C", "AutoModel": "m.M"},
    }  # fmt: skip
    (path / "config.json").write_text(json.dumps(config))
    (path / "m.py").write_text("open('ran', 'w')")
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked to run it"))
    with pytest.raises(FamilyError):
        features("backbone", str(path), tmp_path / "cache")


def test_the_hubs_silence_is_no_other_error(monkeypatch):
    def silent(*_, **__):
        raise TimeoutError

    monkeypatch.setattr("huggingface_hub.snapshot_download", silent)
    with pytest.raises(ConfigError, match="there is no teacher") as caught:
        teacher_folder("some/where")
    assert "TimeoutError" in caught.value.why


def test_weights_that_are_missing_are_named_and_not_drawn(tmp_path):
    path = Path(made(tmp_path / "cut", vit_for_classes))
    state = load_file(path / "model.safetensors")
    gone = next(name for name in state if name.endswith("query.weight") or name.endswith("q_proj.weight"))
    del state[gone]
    save_file(state, path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FamilyError, match="lacks 1 weights"):
        features("backbone", str(path), tmp_path / "cache")


@pytest.mark.parametrize(("more", "says"), [({"layer": 9}, "no layer 9"), ({"size": 8}, "map of 1 x 1")])
def test_a_layer_that_is_not_there_and_a_map_of_one_cell_are_refused(more, says, folders, tmp_path):
    with pytest.raises(FamilyError, match=says):
        features("backbone", folders["dinov2"], tmp_path, **more)


def tokens_left_out():
    """Its encoder sees a quarter of the patches, in random order."""
    return transformers.ViTMAEModel(
        transformers.ViTMAEConfig(hidden_size=16, num_hidden_layers=1, intermediate_size=16, **SMALL)
    )


def no_pictures():
    return transformers.BertModel(
        transformers.BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    )


@pytest.mark.parametrize(
    ("maker", "says"), [(tokens_left_out, "which are no grid"), (no_pictures, "does not take pictures")]
)
def test_a_network_whose_states_are_no_grid_or_that_takes_no_pictures_is_refused(maker, says, tmp_path):
    with pytest.raises(FamilyError, match=says):
        features("backbone", made(tmp_path / "it", maker), tmp_path / "cache")


@pytest.mark.skipif(importlib.util.find_spec("timm") is not None, reason="timm is installed")
def test_timm_is_asked_for_where_it_lacks(folders):
    with pytest.raises(ConfigError, match="needs timm"):
        REGISTERED.get("timm")(Path(folders["dinov2"]))


def test_timms_stages_are_maps_and_its_config_says_how_it_wants_pictures(tmp_path):
    timm = pytest.importorskip("timm", exc_type=ImportError)
    network = timm.create_model("resnet10t", pretrained=False)
    timm.models._hub.save_for_hf(network, str(tmp_path / "t"), safe_serialization=True)
    taught = features("timm", str(tmp_path / "t"), tmp_path / "cache", size=SIDE, layer=-2)
    assert taught.shape == (256, SIDE // 16, SIDE // 16)
    assert taught.preparing.mean == (0.485, 0.456, 0.406)
    state = load_file(tmp_path / "t" / "model.safetensors")
    del state["layer2.0.conv1.weight"]
    save_file(state, tmp_path / "t" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(FamilyError, match=r"layer2\.0\.conv1\.weight"):
        features("timm", str(tmp_path / "t"), tmp_path / "cache", size=SIDE, layer=-2)
