"""Rendered 3-D pictures: things on a plane with true occlusion and depth, by PyBullet's software renderer."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from synth.compose import jpeg, visible_objects
from synth.errors import SettingsError
from synth.render import COLOURS, add_noise
from synth.scene import Scene
from synth.sources.ranges import is_range

LICENCE = "rendered with PyBullet (zlib licence); meshes of pybullet_data, each of its own origin"
# Name: file, scale, height of its middle above the ground, how it must be turned to stand.
_THINGS = {
    "duck": ("duck_vhacd.urdf", 6.0, 0.0, math.pi / 2), "teddy bear": ("teddy_vhacd.urdf", 5.0, 0.0, math.pi / 2),
    "football": ("soccerball.urdf", 0.5, 0.25, 0.0), "robot": ("r2d2.urdf", 0.9, 0.45, 0.0),
    "car": ("racecar/racecar.urdf", 1.3, 0.05, 0.0),
}  # fmt: skip
_SHAPES = {"cube": ("cube.urdf", 0.45, 0.225, 0.0), "ball": ("sphere2.urdf", 0.45, 0.225, 0.0)}
_APART = 0.75  # metres between the middles of two things
_NEAR, _FAR = 0.1, 20.0
_LEAST_SEEN = 0.35  # of a thing: less would be a crumb that nobody could name
_FEWEST_PIXELS = 0.004  # of the picture
_TRIES = 8  # layouts drawn before the one with fewest crumbs is taken


@dataclass(kw_only=True, slots=True)
class SolidOptions:
    """What 3-D pictures are like."""

    objects: Any = field(default_factory=lambda: [2, 5], metadata={"help": "source=solid: fewest and most things"})
    side: int = field(default=224, metadata={"help": "source=solid: pixels of the square picture's side, 96 to 1024"})

    def check(self) -> None:
        """Raise ``SettingsError`` for a value that nothing can be drawn with."""
        if not is_range(self.objects, 1, 7):
            raise SettingsError(
                f"solid.objects={self.objects!r} is not a range of whole numbers from 1 to 7",
                why="more things would stand behind each other", fix="for example solid.objects=[2,5]",
            )  # fmt: skip
        if type(self.side) is not int or not 96 <= self.side <= 1024:
            raise SettingsError(
                f"solid.side={self.side!r} is not a whole number from 96 to 1024", why="it is in pixels",
                fix="for example solid.side=336",
            )  # fmt: skip


class SolidSource:
    """Pictures of a few things on a plane; picture ``index`` never needs the ones before it.

    Boxes and masks are of what is seen; ``Obj.depth`` is the distance along the view of the middle of what is seen, in
    metres; ``Obj.visible`` the seen share. Raises ``SettingsError`` when PyBullet is not installed.
    """

    name = "solid"

    def __init__(self, options: SolidOptions) -> None:
        options.check()
        self._options = options
        try:
            import pybullet
        except ImportError as problem:
            raise SettingsError(
                "source=solid needs PyBullet", why="it is not installed", fix='pip install "lynx-moe[solid]"'
            ) from problem
        # Its wheel lays the meshes beside the library, as a package of another name.
        self._bullet, self._assets = pybullet, str(Path(pybullet.__file__).with_name("pybullet_data"))
        self._client = pybullet.connect(pybullet.DIRECT)

    def __len__(self) -> int:
        return 2**31 - 1

    def scene(self, index: int, split: str, seed: int | str) -> Scene:
        """Return picture ``index`` of ``split``: the same for ever under the same seed and version of PyBullet."""
        rng = random.Random(f"{seed}/{split}/solid/{index}")
        best = None
        for _ in range(_TRIES):
            drawn = self._draw(rng)
            crumbs = drawn[0]
            if best is None or crumbs < best[0]:
                best = drawn
            if not crumbs:
                break
        crumbs, objects, pixels = best
        picture, quality = add_noise(rng, Image.fromarray(pixels)), rng.randint(80, 95)
        side = self._options.side
        return Scene(
            index=index, width=side, height=side, objects=objects, complete=not crumbs, source=self.name,
            image_bytes=lambda: jpeg(picture, quality), licence=LICENCE, vocabulary=(*sorted(_THINGS), *_SHAPES),
        )  # fmt: skip

    def _draw(self, rng: random.Random):
        """(things that are crumbs, objects, pixels) of one layout."""
        bullet, side = self._bullet, self._options.side
        bullet.resetSimulation(physicsClientId=self._client)
        bullet.setAdditionalSearchPath(self._assets, physicsClientId=self._client)
        bullet.loadURDF("plane.urdf", physicsClientId=self._client)
        bodies = [self._put(rng, spot) for spot in _spots(rng, rng.randint(*self._options.objects))]
        around, far = rng.uniform(-0.5, 0.5), rng.uniform(3.2, 4.4)
        eye = (far * math.cos(around), far * math.sin(around), rng.uniform(1.3, 2.6))
        view = bullet.computeViewMatrix(eye, (0, 0, 0.15), (0, 0, 1))
        lens = bullet.computeProjectionMatrixFOV(rng.uniform(38, 50), 1.0, _NEAR, _FAR)
        light = (rng.uniform(-2, 3), rng.uniform(-3, 3), rng.uniform(3, 6))
        pixels, depth, owner = self._look(side, view, lens, light)
        numbers = np.full_like(owner, -1)
        for k, (body, _, _) in enumerate(bodies):
            numbers[owner == body] = k
        whole = [self._alone(body, [b for b, _, _ in bodies], view, lens) for body, _, _ in bodies]
        seen = [float((numbers == k).mean() / whole[k]) if whole[k] else 0.0 for k in range(len(bodies))]
        objects = visible_objects(numbers, [name for _, name, _ in bodies], seen)
        for obj in objects:
            colour = bodies[obj.id][2]
            obj.attributes.update({"colour": colour} if colour else {})
            obj.kind = "shape" if colour else "thing"
            obj.depth = float(np.median(depth[obj.mask]))
        good = [o for o in objects if o.visible >= _LEAST_SEEN and o.mask.mean() >= _FEWEST_PIXELS]
        return len(objects) - len(good), good, pixels

    def _put(self, rng: random.Random, spot: tuple[float, float]) -> tuple[int, str, str | None]:
        """Load one thing or coloured shape at a place; returns (body, name, colour)."""
        shape = rng.random() < 0.5
        name = rng.choice(sorted(_SHAPES if shape else _THINGS))
        file, scale, height, tilt = (_SHAPES if shape else _THINGS)[name]
        scale *= (size := rng.uniform(0.85, 1.2))
        turn = self._bullet.getQuaternionFromEuler((tilt, 0, rng.uniform(-math.pi, math.pi)))
        client = {"physicsClientId": self._client}
        body = self._bullet.loadURDF(file, (*spot, height * size), turn, globalScaling=scale, **client)
        colour = rng.choice(sorted(COLOURS)) if shape else None
        if colour:
            paint = (*(c / 255 for c in COLOURS[colour]), 1)
            for part in range(-1, self._bullet.getNumJoints(body, **client)):
                self._bullet.changeVisualShape(body, part, rgbaColor=paint, textureUniqueId=-1, **client)
        return body, name, colour

    def _look(self, side: int, view, lens, light=(1, 1, 4)):
        """(pixels, metres from the camera, body at each pixel, -1 for nothing)."""
        _, _, rgb, depth, segments = self._bullet.getCameraImage(
            side, side, view, lens, lightDirection=light, shadow=1, renderer=self._bullet.ER_TINY_RENDERER,
            physicsClientId=self._client,
        )  # fmt: skip
        rgb = np.reshape(rgb, (side, side, 4))[..., :3].astype(np.uint8)
        metres = _FAR * _NEAR / (_FAR - (_FAR - _NEAR) * np.reshape(depth, (side, side)))
        segments = np.reshape(segments, (side, side))
        return rgb, metres, np.where(segments >= 0, segments & ((1 << 24) - 1), -1)

    def _alone(self, body: int, bodies: list[int], view, lens) -> float:
        """Share of the picture that a body covers with nothing before it, seen coarsely."""
        client = {"physicsClientId": self._client}
        places = {b: self._bullet.getBasePositionAndOrientation(b, **client) for b in bodies if b != body}
        for other, (_, turn) in places.items():
            self._bullet.resetBasePositionAndOrientation(other, (0, 0, -50), turn, **client)
        _, _, owner = self._look(96, view, lens)
        for other, (place, turn) in places.items():
            self._bullet.resetBasePositionAndOrientation(other, place, turn, **client)
        return float((owner == body).mean())


def _spots(rng: random.Random, wanted: int) -> list[tuple[float, float]]:
    """Places on the ground with room between them."""
    spots: list[tuple[float, float]] = []
    for _ in range(200):
        x, y = rng.uniform(-1.4, 1.1), rng.uniform(-1.2, 1.2)
        if len(spots) < wanted and all(math.dist((x, y), spot) > _APART for spot in spots):
            spots.append((x, y))
    return spots
