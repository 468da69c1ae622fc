"""Foreign pictures: read right or refused with a reason, whatever their bytes are, and never from outside."""

import io
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo

from synth.sources.fault import PictureFault
from synth.sources.pictures import PictureFolder, size_of, upright

SIZE = (40, 30)


def coded(image, form, **more):
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return buffer.getvalue()


def noise(mode="RGB"):
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)).convert(mode)


def shown(data, size=SIZE):
    made, extension = upright(data, size, "x")
    image = Image.open(io.BytesIO(made))
    image.load()
    assert image.format.lower().replace("jpeg", "jpg") == extension and image.size == size
    return image


def refused(call):
    with pytest.raises(PictureFault) as caught:
        call()
    return caught.value.fault.reason


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_a_plain_picture_comes_back_as_it_is(form):
    data = coded(noise(), form)
    assert upright(data, SIZE, "x")[0] == data


NAMES = ("gps", "maker", "owner", "remark", "later")  # of secrets in a file


def with_secrets(form):
    """A picture with a colour profile that says where it was taken, by whom and with what, in all places it can."""
    exif = Image.Exif()
    exif[0x010F] = "a maker"
    exif.get_ifd(0x8825)[29] = "gps day"
    more = {"exif": exif, "icc_profile": ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()}
    if form == "PNG":
        said = PngInfo()
        said.add_text("Comment", "a remark")
        said.add_itxt("XML:com.adobe.xmp", "<x>an owner</x>")
        return coded(noise(), form, pnginfo=said, **more) + b"later"
    if form == "WEBP":
        return coded(noise(), form, lossless=True, xmp=b"<x>an owner, a remark</x>", **more) + b"later"
    data = coded(noise(), form, comment="a remark", xmp=b"<x>an owner</x>", progressive=True, quality=90, **more)
    iptc = b"Photoshop 3.0\0 an owner"
    return data[:2] + b"\xff\xff\xed" + (len(iptc) + 2).to_bytes(2, "big") + iptc + data[2:] + b"later"


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_of_places_and_names_in_a_picture_nothing_is_stored_and_no_pixel_changes(form):
    data = with_secrets(form)
    assert all(name.encode() in data for name in NAMES)
    made, extension = upright(data, SIZE, "x")
    assert not any(name.encode() in made for name in NAMES)
    before, after = Image.open(io.BytesIO(data)), Image.open(io.BytesIO(made))
    assert after.format == form == {"jpg": "JPEG"}.get(extension, extension.upper())
    assert after.tobytes() == before.tobytes() and not after.getexif()
    assert after.info["icc_profile"] == before.info["icc_profile"]
    assert upright(made, SIZE, "x")[0] == made


@pytest.mark.parametrize("form", ["BMP", "TIFF", "GIF", "PPM"])
def test_other_formats_become_png_with_the_same_pixels(form):
    image = noise("P" if form == "GIF" else "RGB")
    made = shown(coded(image, form))
    assert made.format == "PNG" and made.mode == "RGB"
    assert np.array_equal(np.asarray(made), np.asarray(image.convert("RGB")))


def test_cmyk_is_read_as_the_colours_it_shows():
    made = shown(coded(Image.new("CMYK", SIZE, (0, 255, 255, 0)), "JPEG"))
    red, green, blue = made.getpixel((5, 5))
    assert made.mode == "RGB" and red > 240 and green < 15 and blue < 15


@pytest.mark.parametrize("mode, form", [("RGBA", "PNG"), ("LA", "PNG"), ("RGBA", "WEBP")])
def test_what_is_transparent_shows_white_not_the_colour_hidden_below(mode, form):
    image = Image.new(mode, SIZE, (0, 0) if mode == "LA" else (0, 0, 0, 0))
    image.paste((0, 255) if mode == "LA" else (0, 0, 0, 255), (0, 0, 20, 30))
    made = shown(coded(image, form, **({"lossless": True} if form == "WEBP" else {})))
    assert made.getpixel((5, 5)) == (0, 0, 0) and made.getpixel((30, 5)) == (255, 255, 255)


def test_a_palette_with_a_transparent_entry_shows_white_there():
    image = Image.new("P", SIZE, 1)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.paste(0, (0, 0, 20, 30))
    made = shown(coded(image, "PNG", transparency=1))
    assert made.getpixel((5, 5)) == (10, 20, 30) and made.getpixel((30, 5)) == (255, 255, 255)


@pytest.mark.parametrize("form", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_cut(form):
    grey = np.linspace(0, 65535, 1200).astype(np.uint16).reshape(30, 40)
    made = np.asarray(shown(coded(Image.fromarray(grey), form)))
    assert np.array_equal(made[..., 0], grey >> 8)


def test_pixels_without_a_range_are_refused():
    data = coded(Image.new("F", SIZE, 0.5), "TIFF")
    assert refused(lambda: upright(data, SIZE, "x")) == "pixels without a known range"


@pytest.mark.parametrize("form", ["GIF", "PNG", "WEBP"])
def test_a_film_is_refused_since_nobody_says_which_frame_is_annotated(form):
    data = coded(noise(), form, save_all=True, append_images=[Image.new("RGB", SIZE, "red")])
    assert refused(lambda: upright(data, SIZE, "x")) == "animated picture"


def test_of_a_phone_picture_with_a_second_one_inside_the_first_is_taken():
    data = coded(Image.new("RGB", SIZE, "red"), "MPO", save_all=True, append_images=[Image.new("RGB", SIZE, "blue")])
    assert shown(data).getpixel((5, 5))[0] > 240


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "TIFF"])
def test_every_orientation_is_turned_upright_and_the_header_tells_that_size(orientation, form, tmp_path):
    stored = Image.new("RGB", SIZE, "blue")
    stored.paste("red", (0, 0, 20, 15))
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = coded(stored, form, exif=exif, **({"quality": 95} if form == "JPEG" else {}))
    size = SIZE if orientation < 5 else SIZE[::-1]
    (tmp_path / "x").write_bytes(data)
    assert size_of(tmp_path / "x", "x") == size
    made = shown(data, size)
    # Where EXIF says that the first row and the first column of the file lie in the picture.
    right, bottom = orientation in (2, 3, 6, 7), orientation in (3, 4, 7, 8)
    corner = (size[0] - 6 if right else 5, size[1] - 6 if bottom else 5)
    assert made.getpixel(corner)[0] > 200 and made.getexif().get(0x0112, 1) == 1


@pytest.mark.parametrize("share", [0.0, 0.3, 0.6, 0.95])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "BMP", "GIF"])
def test_a_torn_file_is_refused(form, share):
    data = coded(noise(), form)
    assert refused(lambda: upright(data[: int(len(data) * share)], SIZE, "x")) == "unreadable picture"


def test_a_decompression_bomb_is_refused_before_it_is_opened():
    bomb = coded(Image.new("1", (30_000, 30_000)), "PNG")
    assert len(bomb) < 200_000
    assert refused(lambda: upright(bomb, (30_000, 30_000), "x")) == "picture too large"


def test_a_format_that_would_start_another_program_is_not_tried():
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 40 30\n%%EndComments\nshowpage\n%%EOF\n"
    assert refused(lambda: upright(postscript, SIZE, "x")) == "unreadable picture"


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(["JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF"]), st.data())
def test_no_damage_of_the_bytes_is_more_than_a_counted_reason(form, data):
    raw = bytearray(coded(noise(), form))
    for at in data.draw(st.lists(st.integers(0, len(raw) - 1), min_size=1, max_size=8)):
        raw[at] = data.draw(st.integers(0, 255))
    try:
        made, _ = upright(bytes(raw), SIZE, "x")
    except PictureFault as fault:
        assert fault.fault.reason
    else:
        image = Image.open(io.BytesIO(made))
        assert image.size == SIZE and image.mode in ("RGB", "L")


def test_content_decides_not_the_extension(tmp_path):
    (tmp_path / "photo.jpg").write_bytes(coded(noise(), "PNG"))
    folder = PictureFolder(tmp_path)
    assert folder.size("photo.jpg") == SIZE
    assert upright(folder.read("photo.jpg"), SIZE, "photo.jpg")[1] == "png"


@pytest.mark.parametrize(
    "name, reason",
    [
        ("../secret.png", "path leaves the folder"), ("a/../../secret.png", "path leaves the folder"),
        ("/etc/hostname", "path leaves the folder"), ("C:\\secret.png", "path leaves the folder"),
        ("..\\secret.png", "path leaves the folder"), ("", "path leaves the folder"),
        ("a\0.png", "path leaves the folder"), ("link.png", "path leaves the folder"),
        ("linked/secret.png", "path leaves the folder"), ("nothing.png", "missing picture"),
        ("circle.png", "missing picture"), ("sub", "missing picture"), ("x" * 5000, "missing picture"),
    ],
)  # fmt: skip
def test_nothing_outside_the_folder_is_opened(tmp_path, name, reason):
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret.png").write_bytes(coded(noise(), "PNG"))
    os.symlink(tmp_path / "secret.png", root / "link.png")
    os.symlink(tmp_path, root / "linked")
    os.symlink("circle.png", root / "circle.png")
    folder = PictureFolder(root)
    for call in (folder.read, folder.size, folder.require):
        assert refused(lambda call=call: call(name)) == reason


def test_a_colon_in_a_name_is_no_drive(tmp_path):
    (tmp_path / "10:59:01.png").write_bytes(coded(noise(), "PNG"))
    assert PictureFolder(tmp_path).size("10:59:01.png") == SIZE


def test_a_link_that_stays_inside_is_followed(tmp_path):
    (tmp_path / "a.png").write_bytes(coded(noise(), "PNG"))
    os.symlink("a.png", tmp_path / "b.png")
    assert PictureFolder(tmp_path).size("b.png") == SIZE
