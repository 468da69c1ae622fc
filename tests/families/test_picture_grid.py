"""Grids of picture tokens on real processors and models: what stands at a place moves the states of its cell most."""

import functools
import re

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from lynx_moe.data import SampleBuilder
from lynx_moe.errors import FamilyError
from lynx_moe.families.dialects import PercentDialect
from lynx_moe.families.last_states import last_states
from lynx_moe.families.picture_grid import GRIDS, NO_GRID, picture_grid
from tests.data.test_sample import tiled_processor
from tests.tiny import (
    CHAT_TEMPLATE,
    IMAGE,
    QWEN_TOKENS,
    TEXT,
    VISION,
    _build,
    llava_config,
    tiny_llava_with_processor,
    tiny_tokenizer,
)

SQUARE = {"height": 32, "width": 32}
SIGLIP = {**VISION, "image_size": 32, "patch_size": 8, "model_type": "siglip_vision_model"}
ROPE = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}


def tokenizer_with(**named: str) -> transformers.PreTrainedTokenizerFast:
    """The tiny one with further special tokens, by the names that a processor asks it for."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_tokens(list(named.values()), special_tokens=True)
    for name, token in named.items():
        setattr(tokenizer, name, token)
        setattr(tokenizer, f"{name}_id", tokenizer.convert_tokens_to_ids(token))
    return tokenizer


def without_video(kind: type, image_processor, tokenizer, **attributes):
    """A family's processor without its video part, which needs torchvision."""

    class Pictures(kind):
        def __init__(self, image_processor=None, tokenizer=None, chat_template=None):
            transformers.ProcessorMixin.__init__(self, image_processor, tokenizer, chat_template=chat_template)

    made = Pictures.__new__(Pictures)
    image_token, video_token = "<image>", "<video>"
    image_id, video_id = tokenizer.convert_tokens_to_ids([image_token, video_token])
    tokens = {"image_token": image_token, "video_token": video_token, "image_token_id": image_id}
    for name, value in {**tokens, "video_token_id": video_id, **attributes}.items():
        setattr(made, name, value)
    made.__init__(image_processor, tokenizer)
    return made


def text_of(tokenizer, **more) -> dict:
    return {**TEXT, "vocab_size": len(tokenizer), **more}


def llava():
    return tiny_llava_with_processor()


def llava_cropped_with_class_token():
    model, processor = tiny_llava_with_processor()
    config = llava_config(vocab_size=len(processor.tokenizer))
    config.vision_feature_select_strategy = processor.vision_feature_select_strategy = "full"
    config.image_seq_length = 17
    processor.image_processor = transformers.CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size=SQUARE)
    return _build(transformers.LlavaForConditionalGeneration, config), processor


def llava_next():
    processor = tiled_processor()
    config = transformers.LlavaNextConfig(
        vision_config=transformers.CLIPVisionConfig(**VISION, image_size=32, patch_size=8, projection_dim=32),
        text_config=transformers.LlamaConfig(**text_of(processor.tokenizer)),
        image_token_index=IMAGE,
        image_grid_pinpoints=[[32, 64], [64, 32]],
        vision_feature_layer=-1,
    )
    return _build(transformers.LlavaNextForConditionalGeneration, config), processor


def llava_onevision():
    tokenizer = tokenizer_with(video_token="<video>")
    images = transformers.LlavaOnevisionImageProcessorPil(size=SQUARE, image_grid_pinpoints=[[32, 64], [64, 32]])
    processor = without_video(
        transformers.LlavaOnevisionProcessor, images, tokenizer,
        num_image_tokens=16, vision_feature_select_strategy="full", vision_aspect_ratio="anyres_max_9",
    )  # fmt: skip
    config = transformers.LlavaOnevisionConfig(
        vision_config=SIGLIP,
        text_config={**text_of(tokenizer), "model_type": "qwen2"},
        image_token_index=IMAGE,
        video_token_index=tokenizer.video_token_id,
        image_grid_pinpoints=[[32, 64], [64, 32]],
        vision_feature_select_strategy="full",
        vision_feature_layer=-1,
    )
    return _build(transformers.LlavaOnevisionForConditionalGeneration, config), processor


def qwen2_5_vl():
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "window_size": 16, "fullatt_block_indexes": [1],
    }  # fmt: skip
    tokenizer = tokenizer_with(video_token="<video>")
    images = transformers.Qwen2VLImageProcessorPil(
        patch_size=4, merge_size=2, size={"shortest_edge": 64, "longest_edge": 4096}
    )
    processor = without_video(transformers.Qwen2_5_VLProcessor, images, tokenizer)
    tokens = {**QWEN_TOKENS, "video_token_id": tokenizer.video_token_id}
    config = transformers.Qwen2_5_VLConfig(
        vision_config=vision, text_config={**text_of(tokenizer), "rope_parameters": ROPE}, **tokens
    )
    return _build(transformers.Qwen2_5_VLForConditionalGeneration, config), processor


def internvl(cuts=True):
    tokenizer = tokenizer_with(
        start_image_token="<img>", end_image_token="</img>", context_image_token="<image>", video_token="<video>"
    )
    images = transformers.GotOcr2ImageProcessorPil(size=SQUARE, crop_to_patches=cuts, max_patches=4)
    named = {name: getattr(tokenizer, name) for name in ("start_image_token", "end_image_token")}
    processor = without_video(
        transformers.InternVLProcessor, images, tokenizer, image_seq_length=16, **named,
        start_image_token_id=tokenizer.start_image_token_id, end_image_token_id=tokenizer.end_image_token_id,
        multimodal_pattern=re.compile("(?P<image><image>)|(?P<video><video>)"),
    )  # fmt: skip
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [32, 32], "patch_size": [4, 4]},
        text_config={**text_of(tokenizer), "model_type": "qwen2"},
        image_token_id=IMAGE,
        image_seq_length=16,
        downsample_ratio=0.5,
    )
    return _build(transformers.InternVLForConditionalGeneration, config), processor


def smolvlm():
    tokenizer = tokenizer_with(
        fake_image_token="<fake>", global_image_token="<global-img>", end_of_utterance_token="<end>",
        video_token="<video>", **{f"row{r}col{c}": f"<row_{r}_col_{c}>" for r in range(1, 5) for c in range(1, 5)},
    )  # fmt: skip
    images = transformers.SmolVLMImageProcessorPil(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    named = {name: getattr(tokenizer, name) for name in ("fake_image_token", "global_image_token")}
    processor = without_video(transformers.SmolVLMProcessor, images, tokenizer, image_seq_len=16, **named)
    config = transformers.SmolVLMConfig(
        vision_config={**VISION, "image_size": 32, "patch_size": 4},
        text_config={"model_type": "llama", **text_of(tokenizer)},
        image_token_id=IMAGE,
        scale_factor=2,
        pad_token_id=0,
    )
    return _build(transformers.SmolVLMForConditionalGeneration, config), processor


def gemma3():
    tokenizer = tokenizer_with(boi_token="<boi>", eoi_token="<eoi>")
    images = transformers.Gemma3ImageProcessorPil(size=SQUARE)
    processor = transformers.Gemma3Processor(image_processor=images, tokenizer=tokenizer, image_seq_length=16)
    config = transformers.Gemma3Config(
        vision_config={**SIGLIP, "patch_size": 4},
        text_config={**text_of(tokenizer), "head_dim": 8, "sliding_window": 8,
                     "layer_types": ["sliding_attention", "full_attention"] * 2},
        mm_tokens_per_image=16,
        image_token_index=IMAGE,
        boi_token_index=tokenizer.boi_token_id,
        eoi_token_index=tokenizer.eoi_token_id,
    )  # fmt: skip
    model = _build(transformers.Gemma3ForConditionalGeneration, config)
    projection = model.model.multi_modal_projector.mm_input_projection_weight  # zeros in a fresh model
    with torch.no_grad():
        projection.copy_(torch.randn(projection.shape, generator=torch.Generator().manual_seed(2)))
    return model, processor


def paligemma():
    tokenizer = tiny_tokenizer()
    images = transformers.SiglipImageProcessorPil(size=SQUARE)
    images.image_seq_length = 16
    processor = transformers.PaliGemmaProcessor(image_processor=images, tokenizer=tokenizer)
    config = transformers.PaliGemmaConfig(
        vision_config={**SIGLIP, "projection_dim": 32},
        text_config={**text_of(processor.tokenizer), "model_type": "gemma", "head_dim": 8},
        image_token_index=IMAGE,
        projection_dim=32,
        hidden_size=32,
    )
    return _build(transformers.PaliGemmaForConditionalGeneration, config), processor


def qwen3_vl():
    """The picture enters after the first layers too (deepstack)."""
    _, processor = qwen2_5_vl()
    tokenizer = processor.tokenizer
    processor = without_video(transformers.Qwen3VLProcessor, processor.image_processor, tokenizer)
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 32, "patch_size": 4,
        "spatial_merge_size": 2, "temporal_patch_size": 2, "num_position_embeddings": 16,
        "deepstack_visual_indexes": [0, 1],
    }  # fmt: skip
    tokens = {**QWEN_TOKENS, "video_token_id": tokenizer.video_token_id}
    text = {**text_of(tokenizer), "head_dim": 8, "rope_parameters": ROPE}
    config = transformers.Qwen3VLConfig(vision_config=vision, text_config=text, **tokens)
    return _build(transformers.Qwen3VLForConditionalGeneration, config), processor


FAMILIES = [llava, llava_cropped_with_class_token, llava_next, llava_onevision, qwen2_5_vl, internvl, smolvlm, gemma3,
            paligemma, qwen3_vl]  # fmt: skip


@functools.cache
def built(make):
    """The model with attention that says little: random weights would carry a mark to every other place."""
    model, processor = make()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if re.search(
                r"attn.*(o_proj|out_proj|projection_layer|proj)\.weight$|attention.*projection_layer.weight$", name
            ):
                if not re.search(r"[qkv]_proj", name):
                    parameter.mul_(0.05)
    return model, processor


def states_of_cells(model, processor, image, grid) -> torch.Tensor:
    """(rows * columns, D)"""
    inputs = processor(images=image, text=f"{processor.image_token}find", return_tensors="pt")
    inputs.pop("num_patches", None)
    for name in ("rows", "cols", "batch_num_images"):
        inputs.pop(name, None)
    blank = processor(images=image, text=processor.image_token, add_special_tokens=False)["input_ids"][0]
    ids = inputs["input_ids"][0].tolist()
    # Where in the prompt the tokens are that the processor writes for the picture alone.
    at = next(k for k in range(len(ids)) if ids[k : k + max(grid.places) + 1] == blank[: max(grid.places) + 1])
    with torch.no_grad(), last_states(model) as seen:
        model(**inputs)
    return seen.over(inputs["input_ids"])[0, at + torch.from_numpy(grid.places)]


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(64, 64), (96, 60)], ids=["square", "wide"])
def test_a_mark_on_the_picture_moves_the_states_of_its_cell_most(make, size):
    model, processor = built(make)
    grid = picture_grid(processor, size)
    blank = Image.new("RGB", size, (90, 90, 90))
    before = states_of_cells(model, processor, blank, grid)
    left, top, width, height = grid.window
    cells, looked_at = grid.cells(), 0
    for cell in range(0, len(cells), max(1, len(cells) // 16)):
        x, y, w, h = cells[cell] * [width, height, width, height]
        box = [round(v) for v in (left + x - w / 2, top + y - h / 2, left + x + w / 2, top + y + h / 2)]
        if min(box) < 0 or box[2] > size[0] or box[3] > size[1]:
            continue  # in the padding
        marked = blank.copy()
        marked.paste((250, 30, 200), box)
        moved = (states_of_cells(model, processor, marked, grid) - before).norm(dim=-1)
        assert int(moved.argmax()) == cell, (grid.rows, grid.columns)
        looked_at += 1
    assert looked_at >= 8


@pytest.mark.parametrize("make", FAMILIES, ids=lambda make: make.__name__)
@pytest.mark.parametrize("size", [(64, 64), (96, 60)], ids=["square", "wide"])
def test_cells_are_as_large_as_the_patches_that_a_token_is_made_of(make, size):
    model, processor = built(make)
    vision = next(part for name, part in model.named_modules() if isinstance(part, torch.nn.Conv2d | torch.nn.Conv3d))
    patch = vision.kernel_size[-1]
    grid = picture_grid(processor, size)
    made = processor(images=Image.new("RGB", size), text=processor.image_token, return_tensors="pt")
    if "image_grid_thw" in made:
        patches = int(made["image_grid_thw"].prod())
    else:
        patches = made["pixel_values"].shape[-1] * made["pixel_values"].shape[-2] // patch**2
    assert grid.cell**2 * grid.rows * grid.columns == patches * patch**2


def test_cells_tile_their_window_row_by_row():
    _, processor = built(qwen2_5_vl)
    grid = picture_grid(processor, (96, 60))
    cells = grid.cells().reshape(grid.rows, grid.columns, 4)
    assert (grid.rows, grid.columns) == (6, 10) and np.allclose((cells[..., 2] * cells[..., 3]).sum(), 1)
    assert np.allclose(np.diff(cells[:, 0, 1]), 1 / 6) and np.allclose(np.diff(cells[0, :, 0]), 1 / 10)
    assert (cells[0, :, 1] == cells[0, 0, 1]).all() and (cells[:, 0, 0] == cells[0, 0, 0]).all()


def test_padding_is_part_of_the_window_and_a_crop_is_not():
    assert picture_grid(built(llava)[1], (96, 60)).window == (0.0, -18.0, 96.0, 96.0)
    left, top, width, height = picture_grid(built(llava_cropped_with_class_token)[1], (96, 60)).window
    assert left > 0 and width < 96 and (top, height) == (0.0, 60.0)


@pytest.mark.parametrize("name", NO_GRID)
def test_a_family_whose_tokens_lie_on_no_grid_is_refused_by_name_and_with_the_reason(name):
    processor = type(name, (), {})()
    with pytest.raises(FamilyError, match=name) as caught:
        picture_grid(processor, (64, 64))
    assert caught.value.why == NO_GRID[name]


def test_a_family_that_nobody_looked_at_is_refused_with_those_that_are_known():
    class NewProcessor:
        pass

    with pytest.raises(FamilyError, match="NewProcessor") as caught:
        picture_grid(NewProcessor(), (64, 64))
    assert all(name in caught.value.why for name in GRIDS)


def test_settings_that_do_not_agree_with_the_tokens_are_refused():
    _, processor = tiny_llava_with_processor()
    processor.patch_size = 32
    processor.num_additional_image_tokens = 0  # with the class token dropped: not one token is left
    with pytest.raises(FamilyError, match="1 x 1"):
        picture_grid(processor, (64, 64))


@pytest.mark.parametrize("cuts", [True, False])
def test_a_picture_is_cut_as_its_tokens_are_counted_whatever_the_image_processor_says_alone(cuts):
    _, processor = internvl(cuts)
    processor.chat_template = CHAT_TEMPLATE
    builder = SampleBuilder(processor, PercentDialect())
    tokens = (builder.picture_ids((96, 60)) == builder.image_token_id).sum()
    pixels = builder.pixels(Image.new("RGB", (96, 60)))["pixel_values"]
    assert tokens == len(pixels) * processor.image_seq_length and len(pixels) > 1
