"""Still images: decode one picture per file, upright and in RGB. Runs in the decoder's child only."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra.errors import BadSample
from infra.media.interface import FramePlan
from infra.media.pixels import STRIP_ROWS, CodecGuard, Limits, Medium, Pixels, blend_on_white, fit_size, resize

# Recognised by content, never by name. Excluded are formats that run programs (EPS), that have no signature (TGA) or
# that are not used for photographs.
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "GIF", "BMP", "DIB", "TIFF", "PPM", "JPEG2000", "ICO", "QOI")

_ORIENTATION = 0x0112
# A few bytes may declare a blank picture of any size, which costs as much as a photograph and shows nothing. Scans of
# blank pages have up to 8,000 pixels per byte (PNG, 1 bit). Both limits are ours.
_PIXELS_PER_BYTE = 2**16
_BLANK_PIXELS = 2**24  # up to this size a blank picture is a picture


def read_header(medium: Medium, limits: Limits) -> tuple[Any, dict[str, Any], int]:
    """Read the header only. Returns the opened picture, its header and its EXIF orientation (1 to 8).

    Of an animated file the first picture is used; `frames` is the number of pictures. EXIF that cannot be read is
    ignored: the picture itself may well be sound. Raises BadSample decode, too_large.
    """
    from PIL import Image

    _ignore_texts_of_png()
    # Threads: both are settings of the decoder's child, which has one thread.
    Image.MAX_IMAGE_PIXELS = limits.max_pixels  # for what a plugin allocates while it opens; the real check is below
    warnings.simplefilter("ignore")  # threads: as above
    webp_size = _read_webp_size(medium.rewound().read(30))
    if webp_size is not None:  # Pillow's plugin allocates two pictures when it opens the file
        width, height = webp_size
        _check_size(width, height, medium, limits)
        np.empty((2, height, width, 4), dtype=np.uint8)  # MemoryError: the plugin's own error would not say so
    with CodecGuard("decode"):
        try:
            image = Image.open(medium.rewound(), formats=FORMATS)
        except Image.DecompressionBombError as error:
            raise BadSample("too_large", f"more than {limits.max_pixels} pixels") from error
        width, height = image.size
    _check_size(width, height, medium, limits)
    if width < 1 or height < 1:
        raise BadSample("decode", f"{width} x {height} pixels")
    frames = int(getattr(image, "n_frames", 1)) if image.format in ("PNG", "WEBP", "AVIF", "MPO") else 1
    if image.format in ("GIF", "TIFF"):  # counting walks the file and moves its position
        try:
            with CodecGuard("decode"):
                frames = int(getattr(image, "n_frames", 1))
        except BadSample:
            frames = 1  # a later picture is damaged; only the first is used
        with CodecGuard("decode"):
            image = Image.open(medium.rewound(), formats=FORMATS)
    orientation = _orientation(image.info.get("exif"))
    # Pillow itself turns a TIFF while loading it, and reports the turned size from the start.
    turned = orientation in (5, 6, 7, 8) and image.format != "TIFF"
    header = {
        "kind": "image",
        "format": image.format or "",
        "mode": image.mode,
        "width": height if turned else width,
        "height": width if turned else height,
        "pixel_aspect": 1.0,  # viewers ignore what a few formats declare
        "frames": frames,
        "bytes": medium.size,
    }
    return image, header, orientation


def _ignore_texts_of_png() -> None:
    """Texts and colour profiles in a PNG are not used, so their size is no reason to refuse the picture, as Pillow does
    where one unpacks to more than 1 MB. Threads: a setting of the decoder's child, which has one thread."""
    from PIL.PngImagePlugin import PngStream

    def skip(stream: Any, position: int, length: int) -> bytes:
        return bytes(stream.fp.read(length))

    for name in ("tEXt", "zTXt", "iTXt", "iCCP"):
        setattr(PngStream, f"chunk_{name}", skip)


def _check_size(width: int, height: int, medium: Medium, limits: Limits) -> None:
    """Raises BadSample too_large."""
    if width * height > limits.max_pixels:
        raise BadSample("too_large", f"{width} x {height} pixels, limit {limits.max_pixels}")
    if width * height > max(_BLANK_PIXELS, _PIXELS_PER_BYTE * medium.size):
        raise BadSample("too_large", f"{width} x {height} pixels in {medium.size} bytes")


def _read_webp_size(head: bytes) -> tuple[int, int] | None:
    """(width, height) in the first 30 bytes of a WebP file; None for another format, and for a damaged header."""
    if len(head) < 25 or head[:4] != b"RIFF" or head[8:12] != b"WEBP":
        return None
    kind, body = head[12:16], head[20:]
    if kind == b"VP8L":
        bits = int.from_bytes(body[1:5], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8X" and len(body) == 10:
        return int.from_bytes(body[4:7], "little") + 1, int.from_bytes(body[7:10], "little") + 1
    if kind == b"VP8 " and len(body) == 10:
        return int.from_bytes(body[6:8], "little") & 0x3FFF, int.from_bytes(body[8:10], "little") & 0x3FFF
    return None


def _orientation(exif: bytes | None) -> int:
    """The orientation in an EXIF block; 1 if unreadable. `image.getexif()` would load the picture and hide errors."""
    from PIL import Image

    if not isinstance(exif, bytes):
        return 1
    try:
        with CodecGuard("decode"):
            tags = Image.Exif()
            tags.load(exif)
            orientation = tags.get(_ORIENTATION, 1)
    except BadSample:
        return 1
    return orientation if isinstance(orientation, int) else 1


def decode_picture(image: Any, orientation: int) -> Pixels:
    """Decode: uint8 RGB (height, width, 3), turned upright, transparency blended on white. Colour profiles are not
    applied. Raises BadSample decode."""
    with CodecGuard("decode"):
        image.load()
    if image.format != "TIFF":
        from PIL import Image

        turns = {
            2: Image.Transpose.FLIP_LEFT_RIGHT,
            3: Image.Transpose.ROTATE_180,
            4: Image.Transpose.FLIP_TOP_BOTTOM,
            5: Image.Transpose.TRANSPOSE,
            6: Image.Transpose.ROTATE_270,
            7: Image.Transpose.TRANSVERSE,
            8: Image.Transpose.ROTATE_90,
        }
        if orientation in turns:
            image = image.transpose(turns[orientation])
    if image.mode.startswith("I;16"):
        grey = (np.asarray(image).astype(np.uint16) >> 8).astype(np.uint8)
        return np.stack([grey] * 3, axis=-1)
    if image.mode in ("I", "F"):
        return _wide_grey(np.asarray(image), fractions=image.mode == "F")
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        with CodecGuard("decode"):
            rgba = np.asarray(image.convert("RGBA"))
        return blend_on_white(rgba)
    with CodecGuard("decode"):
        return np.asarray(image if image.mode == "RGB" else image.convert("RGB"), dtype=np.uint8)


def _wide_grey(values: Any, fractions: bool) -> Pixels:
    """Convert 32-bit grey, which has no standard white: 1 for fractions in 0..1, else 255 if no value is above, else
    65535."""
    strips = [slice(top, top + STRIP_ROWS) for top in range(0, len(values), STRIP_ROWS)]
    top = max(float(_to_finite(values[strip]).max(initial=0.0)) for strip in strips)
    white = 1.0 if fractions and top <= 1.0 else 255.0 if top <= 255.0 else 65535.0
    grey = np.empty(values.shape, dtype=np.uint8)
    for strip in strips:  # in float64, a whole picture would take eight times its size
        grey[strip] = np.clip(np.rint(_to_finite(values[strip]) * (255.0 / white)), 0, 255).astype(np.uint8)
    return np.stack([grey] * 3, axis=-1)


def _to_finite(values: Any) -> NDArray[np.float64]:
    return np.nan_to_num(np.asarray(values, dtype=np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def resize_for_plans(pixels: Pixels, plans: Mapping[str, FramePlan]) -> dict[str, Pixels]:
    """By annotator, the picture at the size of its plan; equal sizes share one array."""
    height, width = pixels.shape[:2]
    sizes = {
        name: fit_size(width, height, plan.image_size or plan.size, "long" if plan.image_size else plan.fit)
        for name, plan in plans.items()
    }
    by_size = {size: resize(pixels, *size) for size in dict.fromkeys(sizes.values())}
    return {name: by_size[size] for name, size in sizes.items()}
