"""From an image file to 8-bit RGB pixels, the same way for every file of a kind (paper §3.1: "resize").

What each kind of file becomes:

- grey, palette, 1-bit, YCbCr, CMYK: Pillow's conversion to RGB;
- transparency: blended over white, as a page would show it;
- 16-bit grey: value / 257, rounded, so that 0..65535 becomes 0..255 (never clipped);
- 16-bit colour: the high byte, which Pillow's decoder keeps;
- animations: the first frame;
- 32-bit integers beyond 16 bits and floating point: refused, their range is unknown.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import UInt8
from PIL import ExifTags, Image
from torch import Tensor
from torch.nn import functional

from sppnet.artifacts import regular
from sppnet.data.picture_files import FORMATS
from sppnet.errors import DataError

# At the largest scale of §4.1, a short side of 1200, such an image has the 50 megapixels that may be decoded.
_MAX_ASPECT = 34
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation; another one is none
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PARTS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"eXIf")  # what pixels and orientation depend on
_FIRST_SWAPPING = 5  # width and height
# What ISO media and others begin with, of pictures that are not decoded here.
_OTHER_KINDS = {b"ftypavi": "AVIF", b"ftyphe": "HEIC", b"ftypmif": "HEIC", b"ftypms": "HEIC",
    b"JXL ": "JPEG XL", b"\xff\x0a": "JPEG XL", b"jP  ": "JPEG 2000", b"8BPS": "Photoshop", b"%PDF": "PDF",
    b"<svg": "SVG", b"FUJIFILM": "raw", b"qoif": "QOI", b"\x00\x00\x01\x00": "ICO"}  # fmt: skip


@final
class BadImageError(DataError):
    """An image file that cannot be used; one line, also when a loader's worker met it."""

    def __init__(self, message: str) -> None:
        # A worker's exception is built again in the training process from a whole traceback, whose
        # last line is this exception's own.
        super().__init__(message.rpartition(f"{type(self).__name__}: ")[2].strip())


def read_image(path: Path, *, upright: bool, max_pixels: int) -> Image.Image:
    """Decode an image file, whatever its name says, to 8-bit RGB.

    Args:
        path: JPEG, MPO, PNG, BMP, GIF, TIFF, WebP or PPM.
        upright: Turn the image as its EXIF orientation asks; False keeps the stored orientation, to
            which annotated boxes refer.
        max_pixels: A larger image is refused before it is decoded.

    Raises:
        BadImageError: Missing, empty, not an image, truncated, too large, too long and narrow, or of
            a kind without a defined conversion.
    """
    with _opened(path, max_pixels, decode=True) as image:
        orientation = _orientation(image) if upright else 1
        turn = _TURNS.get(orientation)
        return _to_rgb(image if turn is None else image.transpose(turn))


@contextmanager
def _opened(path: Path, max_pixels: int | None, *, decode: bool = False) -> Iterator[Image.Image]:
    """An image whose header is read, or all of it; whatever goes wrong with it names the file."""

    def open_checked(source: Path | BytesIO) -> Image.Image:
        image = Image.open(source, formats=FORMATS)
        _check_size(path, image.size, max_pixels)
        if decode:
            image.load()
        return image

    try:
        try:
            image = open_checked(regular(path))
        except (BadImageError, Image.DecompressionBombError):
            raise
        except Exception:  # a PNG's metadata may be the cause, on which the pixels do not depend
            if (bare := _bare_png(path)) is None:
                raise
            image = open_checked(bare)
        with image:
            yield image
    except BadImageError:
        raise
    except Image.DecompressionBombError as error:
        raise BadImageError(
            f"{path}: too many pixels for a photograph ({error}); the limit is "
            f"data_loading.max_pixels={max_pixels}: shrink or remove the file"
        ) from error
    # Decoders of foreign bytes raise nearly anything; whatever it is, this file is the cause.
    except Exception as error:
        raise BadImageError(f"{path}: {_diagnose(path, error)}") from error


def resize_short_side(image: Image.Image, short_side: int) -> UInt8[Tensor, "3 h w"]:
    """Resize so that min(h, w) = `short_side`, keeping the aspect ratio (§3.1).

    Bicubic when enlarging, area average when shrinking, as in cuda-convnet2's make-data. JPEG's draft
    mode is not used: it decodes to other pixels, and for photographs of 500 pixels it is not faster.
    """
    size = size_at(image.size, short_side)
    if short_side < min(image.size):
        image = image.resize(size, Image.Resampling.BOX)
    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    if size != image.size:
        # Pillow's bicubic to two grey levels, at a quarter of its time; "antialias" chooses that kernel.
        pixels = functional.interpolate(pixels[None], size[::-1], mode="bicubic", antialias=True)[0]
    return pixels.contiguous()


def size_at(size: tuple[int, int], short_side: int) -> tuple[int, int]:
    """Width and height of an image of `size` once its short side is `short_side`, pixels."""
    width, height = size
    shorter = min(size)
    return max(1, round(width * short_side / shorter)), max(1, round(height * short_side / shorter))


def image_size(path: Path, *, upright: bool, max_pixels: int | None) -> tuple[int, int]:
    """Width and height of an image as `read_image` would return it, from the file's header alone.

    Raises:
        BadImageError: As `read_image`, but for what only decoding finds.
    """
    with _opened(path, max_pixels) as image:
        is_swapped = upright and _orientation(image) >= _FIRST_SWAPPING
        return (image.height, image.width) if is_swapped else image.size


def image_kind(path: Path) -> str:
    """Format and mode of an image, such as "JPEG CMYK".

    Raises:
        BadImageError: As `image_size`.
    """
    with _opened(path, None) as image:
        return f"{image.format} {image.mode}"


def _bare_png(path: Path) -> BytesIO | None:
    """A PNG without its metadata; None if the file is no PNG, or has none."""
    data = regular(path).read_bytes()
    kept, position = [data[:8]], 8
    while kept[0] == _PNG and position + 12 <= len(data):
        stop = position + 12 + int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] in _PNG_PARTS:
            kept.append(data[position:stop])
        position = stop
    return BytesIO(b"".join(kept)) if 8 < sum(map(len, kept)) < len(data) else None


def _orientation(image: Image.Image) -> int:
    """EXIF orientation, 1 to 8; what cannot be read, or is no orientation, is none: 1."""
    if image.format == "TIFF":  # Pillow turns these itself, their size in the header too
        return 1
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
        return found if found in _TURNS else 1
    # Other people's metadata raises nearly anything; the pixels do not depend on it.
    except Exception:
        return 1


def _check_size(path: Path, size: tuple[int, int], max_pixels: int | None) -> None:
    """Refuse what would take much memory, here or once its short side is resized."""
    width, height = size
    if max_pixels is not None and width * height > max_pixels:
        raise BadImageError(
            f"{path}: {width} x {height} pixels are more than data_loading.max_pixels={max_pixels}: "
            f"shrink or remove the file, or raise the limit"
        )
    if max(size) > _MAX_ASPECT * min(size):
        raise BadImageError(
            f"{path}: {width} x {height} pixels, more than {_MAX_ASPECT} times as long as wide; "
            f"resized by its short side it would be huge: crop or remove the file"
        )


def _to_rgb(image: Image.Image) -> Image.Image:
    """Convert a decoded image of any kind; see the head of this file."""
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in ("I", "F") or image.mode.startswith("I;16"):
        return _scale_to_8_bit(image).convert("RGB")
    if image.has_transparency_data:
        layer = image.convert("RGBA")
        paper = Image.new("RGBA", layer.size, "white")
        return Image.alpha_composite(paper, layer).convert("RGB")
    return image.convert("RGB")


def _scale_to_8_bit(image: Image.Image) -> Image.Image:
    """Grey image of more than 8 bits: 0..65535 to 0..255. Pillow's own conversion clips at 255."""
    values = np.asarray(image)
    if values.dtype.kind == "f" or values.min() < 0 or values.max() > 65535:
        raise ValueError(
            f"pixels of type {values.dtype} beyond 0..65535 have no defined brightness; save as 8 bit"
        )
    return Image.fromarray(np.round(values / 257).astype(np.uint8))


def _diagnose(path: Path, error: Exception) -> str:  # noqa: PLR0911 - one a cause
    """Say what was found instead of an image, and what to do."""
    if not path.exists():
        return f"no such file ({error}); restore it, or remove it from the list that names it"
    if isinstance(error, PermissionError) or not path.is_file():
        return f"{getattr(error, 'strerror', '') or error}; expected an image that may be read"
    num_bytes = path.stat().st_size
    if num_bytes == 0:
        return "the file is empty (0 bytes); copy or download it again"
    with path.open("rb") as stream:
        head = stream.read(12)
    if kind := next((kind for magic, kind in _OTHER_KINDS.items() if magic in head), ""):
        return f"not readable as an image here: {kind}; convert it to JPEG or PNG"
    if head.lstrip()[:1] == b"<":
        return f"a web page or XML ({num_bytes} bytes, starts {head!r}), not an image; download it again"
    return (
        f"not readable as an image ({type(error).__name__}: {error}; {num_bytes} bytes, starts {head!r}); "
        f"copy or download it again, or remove it"
    )
