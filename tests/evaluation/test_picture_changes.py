"""Changed pictures: what they look like, and that boxes are where the picture is, found by painting them."""

import numpy as np
import pytest
from PIL import Image, ImageDraw

from lynx_moe.errors import ConfigError
from lynx_moe.evaluation.picture_changes import CHANGES, LEVELS, chance, checked_level, homography

SIZE = (160, 120)
MOVING = [name for name in CHANGES if CHANGES.get(name).move]
STILL = [name for name in CHANGES if not CHANGES.get(name).move]


def photograph(size=SIZE):
    """Smooth colours with edges in them, as in a photograph."""
    y, x = np.mgrid[: size[1], : size[0]]
    values = np.stack([128 + 90 * np.sin(x / 17), 128 + 90 * np.cos(y / 13), 60 + 100 * ((x // 20 + y // 20) % 2)], -1)
    return Image.fromarray(values.astype(np.uint8))


def painted(name, level, picture, image_id="p"):
    return CHANGES.get(name).paint(picture, level, chance(name, image_id))


def difference(a, b):
    return np.abs(np.asarray(a, dtype=float) - np.asarray(b, dtype=float)).mean()


@pytest.mark.parametrize("name", STILL)
def test_higher_levels_change_more_and_keep_the_size(name):
    picture = photograph()
    changes = [difference(painted(name, level, picture), picture) for level in LEVELS]
    assert changes == sorted(changes) and changes[0] > 0.5 and changes[-1] > 1.4 * changes[0]
    assert all(painted(name, level, picture).size == SIZE for level in LEVELS)


@pytest.mark.parametrize("name", list(CHANGES))
def test_a_picture_is_changed_by_its_id_alone(name):
    picture = photograph()
    assert painted(name, 3, picture).tobytes() == painted(name, 3, picture).tobytes()
    others = {painted(name, 3, picture, f"p{k}").tobytes() for k in range(8)}
    # JPEG and blur draw nothing; light has two directions.
    assert len(others) == {"jpeg": 1, "blur": 1, "light": 2}.get(name, 8)


@pytest.mark.parametrize("name", list(CHANGES))
@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_any_kind_of_picture_becomes_a_changed_one(name, mode):
    assert painted(name, 2, photograph().convert(mode)).mode == "RGB"


@pytest.mark.parametrize("name", MOVING)
@pytest.mark.parametrize("level", LEVELS)
def test_a_moved_box_is_where_the_painted_box_is(name, level):
    seen = 0
    for k in range(30):
        left, top = 10 + 3 * k, 8 + 2 * k
        box = (left, top, left + 40, top + 30)
        mask = Image.new("RGB", SIZE)
        ImageDraw.Draw(mask).rectangle((left, top, left + 39, top + 29), fill="white")
        found = np.asarray(painted(name, level, mask, f"p{k}"))[..., 0] > 127
        moved = CHANGES.get(name).move(SIZE, level, chance(name, f"p{k}"))
        told, share = moved.box(box)
        assert moved.size == found.shape[::-1]
        if share < 0.05:
            continue
        rows, columns = np.where(found.any(1))[0], np.where(found.any(0))[0]
        assert told == pytest.approx((columns[0], rows[0], columns[-1] + 1, rows[-1] + 1), abs=1.01)
        seen += 1
    assert seen > 10


def test_share_inside_is_that_of_pixels_for_a_crop():
    moved = CHANGES.get("crop").move(SIZE, 5, chance("crop", "p"))
    mask = Image.new("RGB", SIZE)
    ImageDraw.Draw(mask).rectangle((40, 30, 119, 89), fill="white")
    kept = (np.asarray(painted("crop", 5, mask))[..., 0] > 0).sum()
    assert moved.box((40, 30, 120, 90))[1] == pytest.approx(kept / (80 * 60))


def test_points_move_with_the_picture():
    mask = Image.new("RGB", SIZE)
    ImageDraw.Draw(mask).ellipse((77, 57, 83, 63), fill="white")
    moved = CHANGES.get("viewpoint").move(SIZE, 4, chance("viewpoint", "p"))
    y, x = np.where(np.asarray(painted("viewpoint", 4, mask))[..., 0] > 127)
    assert moved.point((80.5, 60.5)) == pytest.approx((x.mean() + 0.5, y.mean() + 0.5), abs=0.5)


def test_homography_takes_four_places_to_four_places():
    rng = np.random.default_rng(0)
    corners = np.array([(0, 0), (10, 0), (10, 8), (0, 8)], dtype=float)
    to = corners + rng.uniform(-1, 1, (4, 2))
    places = (homography(corners, to) @ np.c_[corners, np.ones(4)].T).T
    assert places[:, :2] / places[:, 2:] == pytest.approx(to)


@pytest.mark.parametrize("level", [0, 6, -1])
def test_levels_are_one_to_five(level):
    with pytest.raises(ConfigError, match="1 to 5"):
        checked_level(level)
