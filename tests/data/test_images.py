"""Every kind of image file becomes the RGB pixels it should, or an error that helps."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from sppnet.data.images import BadImageError, read_image, resize_short_side
from sppnet.errors import DataError


def pixels(path, upright=True, max_pixels=50_000_000):
    return np.asarray(read_image(path, upright=upright, max_pixels=max_pixels))


def save(tmp_path, image, name="image.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.new("RGB", (2, 2), (10, 20, 30)), (10, 20, 30)),
        (Image.new("L", (2, 2), 77), (77, 77, 77)),
        (Image.new("1", (2, 2), 1), (255, 255, 255)),
        (Image.new("LA", (2, 2), (100, 255)), (100, 100, 100)),
        # Half transparent over white: 0.5 * 0 + 0.5 * 255.
        (Image.new("RGBA", (2, 2), (0, 0, 0, 128)), (127, 127, 127)),
        (Image.new("RGBA", (2, 2), (200, 10, 10, 0)), (255, 255, 255)),
        (Image.new("RGB", (2, 2), (10, 20, 30)).quantize(4), (10, 20, 30)),
    ],
    ids=["RGB", "L", "1", "LA", "RGBA half", "RGBA clear", "P"],
)
def test_a_png_of_each_kind_has_its_golden_pixels(tmp_path, image, expected):
    assert (pixels(save(tmp_path, image)) == expected).all()


def test_a_transparent_palette_colour_shows_white(tmp_path):
    image = Image.new("P", (2, 2), 1)
    image.putpalette([9, 9, 9, 50, 60, 70])
    assert (pixels(save(tmp_path, image, transparency=1)) == 255).all()


def test_cmyk_ink_darkens(tmp_path):
    # A third of cyan ink and no other: red is 255 - 85.
    path = save(tmp_path, Image.new("CMYK", (8, 8), (85, 0, 0, 0)), "ink.jpg", quality=100)
    assert np.abs(pixels(path).astype(int) - (170, 255, 255)).max() <= 2


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    path = save(tmp_path, frames[0], "two.gif", save_all=True, append_images=frames[1:])
    assert (pixels(path) == (255, 0, 0)).all()


@pytest.mark.parametrize("name", ["deep.png", "deep.tif"])
def test_16_bits_are_scaled_and_not_clipped(tmp_path, name):
    values = np.array([[0, 257, 25700, 65535]], dtype=np.uint16)
    path = save(tmp_path, Image.fromarray(values), name)
    assert pixels(path)[0, :, 0].tolist() == [0, 1, 100, 255]


def test_a_16_bit_ramp_keeps_its_mean(tmp_path):
    ramp = np.linspace(0, 65535, 256 * 256).astype(np.uint16).reshape(256, 256)
    assert pixels(save(tmp_path, Image.fromarray(ramp))).mean() == pytest.approx(127.5, abs=0.5)


def test_16_bit_colour_keeps_the_high_byte(tmp_path):
    # Pillow cannot write this kind: one row of two pixels, by hand.
    row = b"\0" + struct.pack(">6H", 65535, 25700, 0, 0, 257, 65535)

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">2I5B", 2, 1, 16, 2, 0, 0, 0)
    path = tmp_path / "deep.png"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(row))
        + chunk(b"IEND", b"")
    )
    assert pixels(path).tolist() == [[[255, 100, 0], [0, 1, 255]]]


def test_brightness_without_a_known_range_is_refused(tmp_path):
    path = save(tmp_path, Image.fromarray(np.array([[0.5, 7e5]], dtype=np.float32)), "float.tif")
    with pytest.raises(DataError, match="save as 8 bit"):
        pixels(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_upright_photograph_is_turned_as_exif_says(tmp_path, orientation):
    # A red pixel in the top left corner of the scene; how a camera held in that way stores it:
    scene = np.zeros((16, 24, 3), dtype=np.uint8)
    scene[:8, :8] = (255, 0, 0)
    stored = {
        1: scene,
        2: scene[:, ::-1],
        3: scene[::-1, ::-1],
        4: scene[::-1],
        5: scene.transpose(1, 0, 2),
        6: np.rot90(scene),
        7: scene[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(scene, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = save(tmp_path, Image.fromarray(np.ascontiguousarray(stored)), "photo.png", exif=exif)
    assert (pixels(path) == scene).all()
    assert (pixels(path, upright=False) == stored).all()


def test_a_png_named_jpg_is_read_by_its_content(tmp_path):
    image = Image.new("RGB", (3, 3), (1, 2, 3))
    image.save(tmp_path / "wrong.jpg", format="PNG")
    assert (pixels(tmp_path / "wrong.jpg") == (1, 2, 3)).all()


def noisy_jpeg(path: Path) -> bytes:
    random = np.random.default_rng(0)
    Image.fromarray(random.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(path, format="JPEG")
    return path.read_bytes()


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda content: b"", "0 bytes"),
        (lambda content: b"<!DOCTYPE html><html>404</html>", "a web page"),
        (lambda content: content[: len(content) // 2], "truncated"),
        (lambda content: content[:-2], "truncated"),
        (lambda content: b"\0" * 100, "not readable as an image"),
        (lambda content: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not readable as an image"),
    ],
    ids=["empty", "html", "half", "two bytes short", "zeros", "postscript"],
)
def test_a_damaged_file_is_named_with_what_was_found_and_what_to_do(tmp_path, damage, found):
    path = tmp_path / "photo.jpg"
    path.write_bytes(damage(noisy_jpeg(path)))
    with pytest.raises(DataError, match=found) as caught:
        pixels(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert "download it again" in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="gone.jpg: no such file"):
        pixels(tmp_path / "gone.jpg")


def test_a_large_image_is_refused_before_it_is_decoded(tmp_path):
    # A header that promises 30,000 x 30,000 pixels, and nothing behind it.
    path = save(tmp_path, Image.new("RGB", (8, 8)))
    content = bytearray(path.read_bytes())
    for side, message in ((30_000, "max_pixels"), (5_000, "max_pixels=1000000")):
        content[16:24] = struct.pack(">2I", side, side)
        content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            pixels(path, max_pixels=1_000_000)


@pytest.mark.parametrize("size", [(5000, 1), (1, 5000)])
def test_a_long_narrow_image_is_refused(tmp_path, size):
    path = save(tmp_path, Image.new("RGB", size))
    with pytest.raises(DataError, match="34 times as long as wide"):
        pixels(path)


def with_chunk(path: Path, kind: bytes, body: bytes, check: int | None = None) -> Path:
    content = path.read_bytes()
    check = zlib.crc32(kind + body) if check is None else check
    chunk = struct.pack(">I", len(body)) + kind + body + struct.pack(">I", check)
    path.write_bytes(content[:33] + chunk + content[33:])
    return path


@pytest.mark.parametrize(
    ("kind", "body", "check"),
    [
        (b"zTXt", b"Comment\0\0" + zlib.compress(b"\0" * 100_000_000, 9), None),  # a bomb
        (b"tEXt", b"a\0b", 0),
        (b"pHYs", b"\0\0", None),
        (b"gAMA", b"", None),
    ],
)
def test_the_pixels_of_a_png_do_not_depend_on_its_metadata(tmp_path, kind, body, check):
    plain = save(tmp_path, Image.new("RGB", (8, 8), (1, 2, 3)), "plain.png")
    odd = with_chunk(save(tmp_path, Image.new("RGB", (8, 8), (1, 2, 3))), kind, body, check)
    np.testing.assert_array_equal(pixels(odd), pixels(plain))


def test_pixels_of_a_png_that_are_damaged_are_refused_though_exif_is_looked_for(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = save(tmp_path, Image.fromarray(noise))
    content = bytearray(path.read_bytes())
    content[60] ^= 255
    path.write_bytes(content)
    with pytest.raises(DataError, match="not readable as an image"):
        pixels(path)


def test_a_workers_error_arrives_as_the_one_line_it_was():
    # What torch's ExceptionWrapper hands to the constructor in the training process.
    text = (
        "Caught BadImageError in DataLoader worker process 0.\nOriginal Traceback (most recent call last):\n"
        '  File "x.py", line 1, in f\nsppnet.data.images.BadImageError: a.jpg: the file is empty\n'
    )
    assert str(BadImageError(text)) == "a.jpg: the file is empty"


def test_shrinking_averages_areas():
    values = np.arange(16, dtype=np.uint8).reshape(4, 4) * 10
    image = Image.fromarray(np.repeat(values[..., None], 3, axis=2))
    # Means of the four 2 x 2 squares: (0 + 10 + 40 + 50) / 4 and so on.
    assert resize_short_side(image, 2)[0].tolist() == [[25, 45], [105, 125]]


@pytest.mark.parametrize(
    ("size", "expected"),
    [((500, 375), (256, 341)), ((375, 500), (341, 256)), ((1, 1), (256, 256)), ((256, 300), (300, 256))],
)
def test_the_short_side_becomes_256_and_the_aspect_stays(size, expected):
    resized = resize_short_side(Image.new("RGB", size), 256)
    assert resized.shape == (3, *expected)
    assert resized.dtype == torch.uint8
