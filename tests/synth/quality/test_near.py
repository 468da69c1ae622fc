"""Pictures that look alike are found, others are not, and nothing is compared with everything."""

import io
import random

import numpy as np
import pytest
from PIL import Image, ImageEnhance

from synth.errors import SettingsError
from synth.quality.hashes import distance, look_of, picture_hash, picture_hashes
from synth.quality.near import THRESHOLD, close_pairs, groups, second_threshold
from synth.sources.rendered import RenderedSource


@pytest.fixture(scope="module")
def pictures():
    source = RenderedSource()
    found = [source.scene(k, "train", 0).image_bytes()[0] for k in range(40)]
    return [Image.open(io.BytesIO(data)).convert("RGB") for data in found]


def recoded(picture, kind="JPEG", **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


CHANGES = {
    "half": lambda p: p.resize((p.width // 2, p.height // 2)),
    "wider": lambda p: p.resize((200, 150)),
    "poor jpeg": lambda p: Image.open(io.BytesIO(recoded(p, quality=40))),
    "webp": lambda p: Image.open(io.BytesIO(recoded(p, "WEBP", quality=60))),
    "darker": lambda p: ImageEnhance.Brightness(p).enhance(0.75),
    "more contrast": lambda p: ImageEnhance.Contrast(p).enhance(1.15),
    "grey": lambda p: p.convert("L"),
    "cropped": lambda p: p.crop((2, 2, p.width - 2, p.height - 2)),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_near_its_original(pictures, change):
    pairs = [(picture_hashes(p), picture_hashes(CHANGES[change](p))) for p in pictures]
    apart = [tuple(map(distance, one, other)) for one, other in pairs]
    near = sum(first <= THRESHOLD and second <= second_threshold(THRESHOLD) for first, second in apart)
    assert near >= 0.95 * len(pictures), apart


def test_other_pictures_are_not_near(pictures):
    hashes = [picture_hash(p) for p in pictures]
    apart = [distance(one, other) for k, one in enumerate(hashes) for other in hashes[:k]]
    assert min(apart) > THRESHOLD
    assert 25 < np.mean(apart) < 35  # as far apart as coin tosses


def test_what_has_the_same_lowest_frequencies_by_chance_is_told_apart_by_the_second_look():
    value, steps = 0xF9A0BA9E86B2BF, 0xFF
    for bits, pairs in ((0, 1), (second_threshold(THRESHOLD), 1), (second_threshold(THRESHOLD) + 1, 0), (40, 0)):
        looks = np.array([(value, steps), (value ^ 1, steps ^ ((1 << bits) - 1))], np.uint64)
        assert sum(len(one) for one, _, _ in close_pairs(looks)) == pairs
        named = [("a", (value, steps)), ("b", (value ^ 1, steps ^ ((1 << bits) - 1)))]
        assert len(set(groups(named).values())) == 2 - pairs


@pytest.mark.parametrize("change", ["poor jpeg", "webp", "half"])
def test_a_flat_picture_has_no_steps_however_it_is_encoded(change):
    flat = Image.new("RGB", (90, 70), (120, 130, 140))
    assert picture_hashes(flat)[1] == picture_hashes(CHANGES[change](flat))[1] == 0


def test_a_mirrored_picture_is_another(pictures):
    apart = [distance(picture_hash(p), picture_hash(p.transpose(Image.Transpose.FLIP_LEFT_RIGHT))) for p in pictures]
    assert np.mean(apart) > 20


def test_pixels_decide_what_is_the_same_not_the_file(pictures):
    one, two = look_of(recoded(pictures[0], "PNG")), look_of(recoded(pictures[0], "WEBP", lossless=True))
    assert one == two and one.exact != look_of(recoded(pictures[0], quality=40)).exact


def test_a_picture_turned_by_exif_is_the_same_as_the_upright_one(pictures):
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees clockwise
    lying = pictures[0].transpose(Image.Transpose.ROTATE_90)
    assert look_of(recoded(lying, "PNG", exif=exif)) == look_of(recoded(pictures[0], "PNG"))


@pytest.mark.parametrize("colours", [((9, 9, 9), (200, 10, 10)), ((0, 0, 0), (255, 255, 255))])
def test_flat_pictures_have_no_noise_in_their_hash(colours):
    one, two = (Image.new("RGB", (64, 48), colour) for colour in colours)
    assert picture_hash(one) == picture_hash(two) == 0


def both(values):
    """The hashes with a second one beside them that is equal for all."""
    return np.column_stack([values, np.zeros_like(values)])


@pytest.mark.parametrize("threshold", [0, 3, 6, 8, 15])
def test_pairs_are_those_of_comparing_all_with_all(threshold):
    rng = random.Random(threshold)
    values = [rng.getrandbits(64) for _ in range(150)]
    for value in values[:100]:  # neighbours at every distance around the threshold
        bits = rng.sample(range(64), rng.randint(0, 18))
        values.append(value ^ sum(1 << b for b in bits))
    values += [values[0] ^ 0b1111, values[0] ^ (0b1111 << 16)]
    array = np.unique(np.array(values, np.uint64))
    found = [
        (i, j, d)
        for one, two, apart in close_pairs(both(array), threshold)
        for i, j, d in zip(one, two, apart, strict=True)
    ]
    ints = array.tolist()
    wanted = [
        (i, j, distance(ints[i], ints[j]))
        for i in range(len(ints)) for j in range(i + 1, len(ints)) if distance(ints[i], ints[j]) <= threshold
    ]  # fmt: skip
    assert sorted(found) == wanted and (wanted or threshold == 0)


def test_candidates_are_looked_at_in_pieces(monkeypatch):
    monkeypatch.setattr("synth.quality.near._AT_ONCE", 3)
    values = np.arange(64, dtype=np.uint64)  # all in one place of three of the four tables
    pairs = [
        (i, j) for one, two, _ in close_pairs(both(values), 15) for i, j in zip(one.tolist(), two.tolist(), strict=True)
    ]
    assert sorted(pairs) == [(i, j) for i in range(64) for j in range(i + 1, 64)]


def test_groups_have_the_smallest_name_and_reach_over_chains():
    first = [("c.jpg", 0b0), ("b.jpg", 0b111111), ("d/a.jpg", 0b111111 << 6), ("z.jpg", 2**63 - 1), ("a.jpg", 0b0)]
    hashes = [(file, (value, 0)) for file, value in first]
    found = groups(hashes, 6)
    assert found == {"a.jpg": "a.jpg", "b.jpg": "a.jpg", "c.jpg": "a.jpg", "d/a.jpg": "a.jpg", "z.jpg": "z.jpg"}
    assert groups(reversed(hashes), 6) == found
    assert groups(hashes, 5)["b.jpg"] == "b.jpg"
    assert groups([], 6) == {}


def test_many_equal_pictures_cost_no_more_than_as_many_others():
    found = groups(((f"{k:06d}.jpg", (k % 7, 0)) for k in range(50_000)), 6)
    assert set(found.values()) == {"000000.jpg"}


@pytest.mark.parametrize("threshold", [-1, 16, 2.5, True])
def test_a_threshold_that_says_nothing_is_refused(threshold):
    with pytest.raises(SettingsError, match="threshold"):
        groups([("a", (1, 1))], threshold)
