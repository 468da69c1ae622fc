"""Where the geometry says that a model looks is where the family's own image processor really looks."""

import ast
import math
from pathlib import Path

import numpy as np
import pytest
import transformers
from PIL import Image
from transformers.models.mllama.image_processing_pil_mllama import get_all_supported_aspect_ratios

from lynx_moe.errors import DialectError, FamilyError
from lynx_moe.families.dialects import Geometry, Qwen25VLDialect, get_dialect
from lynx_moe.families.dialects.corner_padding import PatchCanvas
from lynx_moe.families.dialects.smart_resize import SmartResize

SIZES = [(96, 96), (300, 200), (200, 300), (97, 400), (1000, 130), (777, 641)]
EDGE = {"size": {"shortest_edge": 96}, "crop_size": {"height": 96, "width": 96}}


def first(made, _):
    return made["pixel_values"].reshape(-1, *made["pixel_values"].shape[-3:])[0]


def last(made, _):
    return made["pixel_values"].reshape(-1, *made["pixel_values"].shape[-3:])[-1]


def joined(made, images):
    """Qwen's flat patches in their order: groups of merge x merge, each channel by channel."""
    _, rows, columns = made["image_grid_thw"][0]
    merge, side, frames = images.merge_size, images.patch_size, images.temporal_patch_size
    groups = made["pixel_values"].reshape(rows // merge, columns // merge, merge, merge, 3, frames, side, side)
    return groups[..., 0, :, :].transpose(4, 0, 2, 5, 1, 3, 6).reshape(3, rows * side, columns * side)


def raster(made, images):
    """Patches row by row, each channel by channel."""
    _, rows, columns = made["image_grid_thw"][0]
    side = images.patch_size
    patches = made["pixel_values"].reshape(rows, columns, 3, side, side)
    return patches.transpose(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side)


def placed(made, images):
    """Gemma 4's patches, each with its column and row."""
    columns_rows, side = made["image_position_ids"][0], images.patch_size
    real = columns_rows[:, 0] >= 0
    columns, rows = columns_rows[real].max(axis=0) + 1
    whole = np.zeros((rows * side, columns * side, 3))
    for (column, row), patch in zip(columns_rows[real], made["pixel_values"][0][real], strict=True):
        whole[row * side : (row + 1) * side, column * side : (column + 1) * side] = patch.reshape(side, side, 3)
    return whole.transpose(2, 0, 1)


def tiled(made, images):
    """Mllama's tiles of one canvas."""
    rows, columns = get_all_supported_aspect_ratios(images.max_image_tiles)[
        int(made["aspect_ratio_ids"].ravel()[0]) - 1
    ]
    tiles = made["pixel_values"][0, 0, : rows * columns]
    _, _, height, width = tiles.shape
    whole = tiles.reshape(rows, columns, 3, height, width).transpose(2, 0, 3, 1, 4)
    return whole.reshape(3, rows * height, columns * width)


def cut(made, _):
    """Pixtral fills a batch up to its largest picture."""
    height, width = made["image_sizes"][0]
    return first(made, _)[:, :height, :width]


PROCESSORS = {
    "LLaVA, pads": (transformers.LlavaImageProcessorPil(do_pad=True, **EDGE), first),
    "LLaVA, crops": (transformers.LlavaImageProcessorPil(**EDGE), first),
    "CLIP, crops unevenly": (
        transformers.CLIPImageProcessorPil(size={"shortest_edge": 120}, crop_size={"height": 96, "width": 80}), first
    ),
    "LLaVA-NeXT": (transformers.LlavaNextImageProcessorPil(), first),
    "LLaVA-OneVision": (transformers.LlavaOnevisionImageProcessorPil(), first),
    "Qwen2-VL": (transformers.Qwen2VLImageProcessorPil(), joined),
    "Qwen2.5-VL, few pixels": (transformers.Qwen2VLImageProcessorPil(max_pixels=200 * 200), joined),
    "Qwen3-VL": (
        transformers.Qwen2VLImageProcessorPil(patch_size=16, size={"shortest_edge": 65536, "longest_edge": 16777216}),
        joined,
    ),
    "GLM-4V": (transformers.Glm4vImageProcessorPil(), joined),
    "InternVL": (transformers.GotOcr2ImageProcessorPil(crop_to_patches=True), last),
    "InternVL, one tile": (transformers.GotOcr2ImageProcessorPil(), first),
    "SmolVLM": (transformers.SmolVLMImageProcessorPil(), last),
    "Idefics3": (transformers.Idefics3ImageProcessorPil(do_image_splitting=False), first),
    "Idefics2": (transformers.Idefics2ImageProcessorPil(), first),
    "PaliGemma": (transformers.SiglipImageProcessorPil(size={"height": 224, "width": 224}), first),
    "Gemma 3": (transformers.Gemma3ImageProcessorPil(), first),
    "Gemma 3, pan and scan": (
        transformers.Gemma3ImageProcessorPil(
            do_pan_and_scan=True, pan_and_scan_min_crop_size=32, pan_and_scan_max_num_crops=4,
            pan_and_scan_min_ratio_to_activate=1.2,
        ),
        first,
    ),
    "Gemma 4": (transformers.Gemma4ImageProcessorPil(), placed),
    "Mllama": (transformers.MllamaImageProcessorPil(max_image_tiles=6), tiled),
    "Aria": (transformers.AriaImageProcessorPil(max_image_size=490), first),
    "Ovis2": (transformers.Ovis2ImageProcessorPil(), first),
    "Pixtral": (transformers.PixtralImageProcessorPil(), cut),
    "Janus": (transformers.JanusImageProcessorPil(), first),
    "Ernie 4.5 VL": (transformers.Ernie4_5_VLMoeImageProcessorPil(), joined),
    "PaddleOCR-VL": (transformers.PaddleOCRVLImageProcessorPil(), raster),
    "VideoLLaMA 3": (transformers.VideoLlama3ImageProcessorPil(), joined),
    "GLM-4.6V": (transformers.Glm46VImageProcessorPil(), joined),
    "Hunyuan-VL": (transformers.HunYuanVLImageProcessorPil(), raster),
    "Chameleon": (transformers.ChameleonImageProcessorPil(), first),
    "DeepSeek-VL": (transformers.DeepseekVLImageProcessorPil(), first),
}  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("kind", PROCESSORS)
def test_a_mark_is_found_where_the_window_says(kind, size):
    images, whole = PROCESSORS[kind]
    left, top, width, height = window = Geometry.from_processor(images).window(size)
    # A mark in what can be seen, off the middle in both directions, so that no wrong shift or turn goes unnoticed.
    seen = max(left, 0), max(top, 0), min(left + width, size[0]), min(top + height, size[1])
    share = (0.55, 0.6, 0.85, 0.95)
    mark = [round(seen[k % 2] + share[k] * (seen[k % 2 + 2] - seen[k % 2])) for k in range(4)]
    picture = Image.new("RGB", size)
    picture.paste((255, 255, 255), tuple(mark))
    made = images(images=picture, do_normalize=False, do_rescale=False, return_tensors="np")
    pixels = whole({name: np.asarray(value) for name, value in made.items()}, images)
    if pixels.max() <= 1:  # this processor rescales whatever it is told
        pixels = pixels * 255
    background = np.median(pixels[0][:2])  # DeepSeek fills with grey, of which the mark is not
    assert background < 128
    rows, columns = np.nonzero(pixels.min(axis=0) > 160)
    per_x, per_y = pixels.shape[2] / width, pixels.shape[1] / height
    expected = [(mark[0] - left) * per_x, (mark[1] - top) * per_y, (mark[2] - left) * per_x, (mark[3] - top) * per_y]
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    # Blurred edges and rounded sizes: a pixel of the view, and a pixel of the picture.
    slack = [1.6 + per_x, 1.6 + per_y] * 2
    for got, true, allowed in zip(found, expected, slack, strict=True):
        assert abs(got - true) <= allowed, (found, expected, window)


@pytest.mark.parametrize("size", [(96, 96), (120, 60), (60, 120), (97, 55), (50, 201)])
@pytest.mark.parametrize("kind", ["LLaVA, pads", "LLaVA, crops", "CLIP, crops unevenly", "PaliGemma"])
def test_both_ends_of_the_window_are_where_a_ramp_of_colours_says(kind, size):
    """Measured: a picture whose red grows with x and whose green grows with y goes through the processor itself."""
    images, _ = PROCESSORS[kind]
    width, height = size
    ramp = np.zeros((height, width, 3), dtype=np.uint8)
    ramp[..., 0] = (50 + np.arange(width) * 200 / width).round()[None, :]
    ramp[..., 1] = (50 + np.arange(height) * 200 / height).round()[:, None]
    ramp[..., 2] = 255
    made = images(images=Image.fromarray(ramp), do_normalize=False, do_rescale=False, return_tensors="np")
    red, green, blue = made["pixel_values"][0].astype(float)
    rows, columns = np.nonzero(blue > 254.5)  # only the picture itself is fully blue, padding is not
    inside = slice(2, -2) if len(np.unique(columns)) > 8 else slice(None)
    columns_seen, rows_seen = np.unique(columns)[inside], np.unique(rows)[inside]
    out_height, out_width = red.shape
    middle_row, middle_column = rows_seen[len(rows_seen) // 2], columns_seen[len(columns_seen) // 2]
    # Value -> original coordinate of a pixel's centre; a line through them gives both ends of the window.
    original_x = (red[middle_row, columns_seen] - 50) / 200 * width + 0.5
    original_y = (green[rows_seen, middle_column] - 50) / 200 * height + 0.5
    slope_x, start_x = np.polyfit(columns_seen + 0.5, original_x, 1)
    slope_y, start_y = np.polyfit(rows_seen + 0.5, original_y, 1)
    left, top, window_width, window_height = Geometry.from_processor(images).window(size)
    pixel = max(slope_x, slope_y, 1.0)
    assert start_x == pytest.approx(left, abs=1.5 * pixel)
    assert start_y == pytest.approx(top, abs=1.5 * pixel)
    assert slope_x * out_width == pytest.approx(window_width, abs=2.5 * pixel)
    assert slope_y * out_height == pytest.approx(window_height, abs=2.5 * pixel)


def test_mllamas_canvas_is_the_one_that_its_processor_chooses():
    images = transformers.MllamaImageProcessorPil(max_image_tiles=7, size={"height": 14, "width": 14})
    draw = np.random.default_rng(0)
    for width, height in draw.integers(1, 200, (150, 2)).tolist():
        blank = Image.new("RGB", (width, height))
        rows, columns = tiled(
            {k: np.asarray(v) for k, v in images(images=blank, return_tensors="np").items()}, images
        ).shape[1:]
        resized, _ = images.resize(np.zeros((3, height, width), np.uint8), images.size, images.max_image_tiles)
        _, _, window_width, window_height = Geometry.from_processor(images).window((width, height))
        assert window_width == pytest.approx(width * columns / resized.shape[2])
        assert window_height == pytest.approx(height * rows / resized.shape[1])


def kimis_own_rule():
    """`navit_resize` from the source of transformers, whose module cannot be imported without torchvision."""
    source = Path(transformers.__file__).parent / "models" / "kimi_k25" / "image_processing_kimi_k25.py"
    tree = ast.parse(source.read_text(encoding="utf-8"))
    (rule,) = [node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "navit_resize"]
    names = {"math": math}
    exec(compile(ast.Module([rule], type_ignores=[]), str(source), "exec"), names)
    return names["navit_resize"]


def test_kimis_canvas_is_the_one_of_its_own_rule():
    rule, canvas = kimis_own_rule(), PatchCanvas(patch=14, factor=28, max_patches=1000, max_side=60)
    draw = np.random.default_rng(0)
    for width, height in draw.integers(1, 3000, (500, 2)).tolist():
        (new_height, new_width), (padded_height, padded_width) = rule(height, width, 14, 2, 1000, 60)
        assert canvas((width, height)) == (width * padded_width / new_width, height * padded_height / new_height)


@pytest.mark.parametrize("kind", ["Qwen2-VL", "Qwen2.5-VL, few pixels", "Qwen3-VL"])
def test_absolute_pixels_are_those_of_the_processors_own_grid(kind):
    images, _ = PROCESSORS[kind]
    rule = SmartResize.from_processor(images)
    draw = np.random.default_rng(0)
    for width, height in [(1, 1), (27, 29), (14, 2000), *draw.integers(9, 900, (25, 2)).tolist()]:
        grid = images(images=Image.new("RGB", (width, height)), return_tensors="np")["image_grid_thw"][0]
        assert rule((width, height)) == (grid[2] * images.patch_size, grid[1] * images.patch_size)


def test_absolute_pixels_follow_the_processors_settings():
    size, box = (1600, 1200), (0, 0, 1600, 600)
    texts = [
        get_dialect("qwen2_5_vl", transformers.Qwen2VLImageProcessorPil(**given)).encode(box, size)
        for given in ({}, {"max_pixels": 28 * 28 * 100}, {"patch_size": 16}, {"do_resize": False})
    ]
    assert texts == [
        '{"bbox_2d": [0, 0, 1148, 420]}',
        '{"bbox_2d": [0, 0, 308, 112]}',
        '{"bbox_2d": [0, 0, 1152, 432]}',
        '{"bbox_2d": [0, 0, 1600, 600]}',
    ]


@pytest.mark.parametrize("images", [transformers.SiglipImageProcessorPil(), transformers.Glm4vImageProcessorPil()])
def test_absolute_pixels_need_a_processor_of_their_family(images):
    with pytest.raises(FamilyError, match=type(images).__name__):
        Qwen25VLDialect.from_processor(images)


def test_a_square_that_is_padded_moves_a_box_and_a_plain_resize_does_not():
    size = (200, 100)
    assert get_dialect("percent", PROCESSORS["LLaVA, pads"][0]).encode((0, 0, 200, 100), size) == "[0, 25, 100, 75]"
    assert get_dialect("percent", PROCESSORS["PaliGemma"][0]).encode((0, 0, 200, 100), size) == "[0, 0, 100, 100]"


def test_padding_in_the_corner_makes_numbers_smaller_for_who_counts_in_what_is_seen_and_not_for_others():
    aria, size = PROCESSORS["Aria"][0], (490, 245)
    assert get_dialect("percent", aria).encode((0, 0, 490, 245), size) == "[0, 0, 100, 69]"  # 336 of 490 rows
    assert get_dialect("qwen3_vl", aria).encode((0, 0, 490, 245), size) == '{"bbox_2d": [0, 0, 1000, 1000]}'


def test_centre_crop_hides_the_ends_of_a_wide_picture_from_every_frame():
    images = PROCESSORS["LLaVA, crops"][0]
    assert get_dialect("llava", images).encode((0, 0, 200, 100), (200, 100)) == "[0.00, 0.00, 1.00, 1.00]"
    assert get_dialect("qwen3_vl", images).encode((0, 0, 200, 100), (200, 100)) == '{"bbox_2d": [250, 0, 750, 1000]}'
    for name in ("llava", "qwen3_vl"):
        with pytest.raises(DialectError, match="nothing of the box"):
            get_dialect(name, images).encode((0, 0, 49, 100), (200, 100))


def test_padding_that_cannot_be_placed_is_refused():
    images = transformers.SiglipImageProcessorPil()
    images.do_pad = True
    with pytest.raises(FamilyError, match="SiglipImageProcessorPil"):
        Geometry.from_processor(images)


def test_view_shows_the_seen_part_of_the_picture():
    image = Image.new("RGB", (200, 100), "white")
    assert Geometry.from_processor(PROCESSORS["LLaVA, pads"][0]).view(image).size == (200, 200)
    assert Geometry.from_processor(PROCESSORS["LLaVA, crops"][0]).view(image).size == (100, 100)
    padded = Geometry.from_processor(PROCESSORS["Mllama"][0]).view(Image.new("RGB", (448, 100), "white"))
    assert (
        padded.size == (448, 224)
        and padded.getpixel((10, 99)) == (255, 255, 255)
        and padded.getpixel((10, 100)) == (0, 0, 0)
    )
