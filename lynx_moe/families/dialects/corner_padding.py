"""Processors that put a resized picture into the upper left corner of a larger canvas and fill the rest.

Each class is one such rule. Called with the (width, height) of a picture it gives the width and height of the canvas in
pixels of the original picture, so that the canvas is a window like any other.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class TiledCanvas:
    """Mllama: the canvas is a grid of at most `tiles` square tiles of side `tile`; a picture keeps its proportions.

    The rule is `get_optimal_tiled_canvas` and `get_image_size_fit_to_canvas` of transformers' `mllama`.
    """

    tile: int
    tiles: int

    def __call__(self, size: Size) -> tuple[float, float]:
        width, height = size
        grids = [(w, h) for h in range(1, self.tiles + 1) for w in range(1, self.tiles // h + 1)]
        scales = {grid: min(grid[0] * self.tile / width, grid[1] * self.tile / height) for grid in grids}
        enlarging = [scale for scale in scales.values() if scale >= 1]
        chosen = min(enlarging) if enlarging else max(scales.values())
        # Of equally good grids the one with the fewest tiles; there is only one such.
        columns, rows = min((grid for grid in grids if scales[grid] == chosen), key=math.prod)
        canvas = columns * self.tile, rows * self.tile
        goal = [min(max(side, self.tile), end) for side, end in zip(size, canvas, strict=True)]
        x_scale, y_scale = goal[0] / width, goal[1] / height
        if x_scale < y_scale:
            resized = goal[0], min(math.floor(height * x_scale) or 1, goal[1])
        else:
            resized = min(math.floor(width * y_scale) or 1, goal[0]), goal[1]
        return width * canvas[0] / resized[0], height * canvas[1] / resized[1]


@dataclass(frozen=True, slots=True)
class PatchCanvas:
    """Kimi: a picture is only ever made smaller, and filled up to multiples of `factor` pixels.

    The rule is `navit_resize` of transformers' `kimi_k25`.
    """

    patch: int
    factor: int
    max_patches: int
    max_side: int

    def __call__(self, size: Size) -> tuple[float, float]:
        patches = math.prod(max(1, side // self.patch) for side in size)
        longest = self.max_side * self.patch
        scale = min(1.0, math.sqrt(self.max_patches / patches), *(longest / side for side in size))
        resized = [min(max(1, int(side * scale)), longest) for side in size]
        padded = [math.ceil(side / self.factor) * self.factor for side in resized]
        return size[0] * padded[0] / resized[0], size[1] * padded[1] / resized[1]


@dataclass(frozen=True, slots=True)
class SquareCanvas:
    """Aria: the longer side becomes `side` pixels, the shorter one at least `least`, in a square of `side`."""

    side: int
    least: int

    def __call__(self, size: Size) -> tuple[float, float]:
        scale = self.side / max(size)
        resized = [self.side if side == max(size) else max(int(side * scale), self.least) for side in size]
        return size[0] * self.side / resized[0], size[1] * self.side / resized[1]


@dataclass(frozen=True, slots=True)
class PatchRows:
    """Fuyu: a picture is only ever made smaller, to fit `height` x `width`, and filled up to whole patches.

    The rule is that of transformers' `fuyu`, image processor and processor.
    """

    patch_height: int
    patch_width: int
    height: int
    width: int

    def __call__(self, size: Size) -> tuple[float, float]:
        width, height = size
        scale = min(1.0, self.height / height, self.width / width)
        resized = (width, height) if scale == 1 else (int(width * scale), int(height * scale))
        ends, patches = (self.width, self.height), (self.patch_width, self.patch_height)
        padded = [
            min(end, math.ceil(side / patch) * patch) for side, end, patch in zip(resized, ends, patches, strict=True)
        ]
        return width * padded[0] / resized[0], height * padded[1] / resized[1]


CornerPadding = TiledCanvas | PatchCanvas | SquareCanvas | PatchRows


def corner_padding(images: object) -> CornerPadding | None:
    """The rule by which this image processor pads at the right and at the bottom; None when it does not."""
    if getattr(images, "do_pad", False) and getattr(images, "max_image_tiles", None) is not None:
        return TiledCanvas(int(_read(images.size, "height")), images.max_image_tiles)
    patch = getattr(images, "patch_size", None)
    if getattr(images, "padding_mode", None) and _read(patch, "height") and _read(images.size, "height"):
        sides = _read(images.size, "height"), _read(images.size, "width")
        return PatchRows(_read(patch, "height"), _read(patch, "width"), *sides)
    if getattr(images, "max_patches", None) is not None and _read(getattr(images, "size", None), "max_height"):
        factor = images.patch_size * images.merge_size
        return PatchCanvas(images.patch_size, factor, images.max_patches, int(_read(images.size, "max_height")))
    if getattr(images, "max_image_size", None) is not None and hasattr(images, "split_image"):
        return None if images.split_image else SquareCanvas(images.max_image_size, images.min_image_size)
    return None


def _read(size: object, name: str) -> int | None:
    return size.get(name) if isinstance(size, dict) else getattr(size, name, None)
