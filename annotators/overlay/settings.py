"""Settings of the search for text in pictures."""

from __future__ import annotations

from pydantic import Field

from annotators.overlay import ocr


class OverlaySettings(ocr.OcrSettings):
    """frames: pictures of a video in which text may be searched, spread evenly: first half of them (in videos of more
        than 12 s three quarters), the others only where they may add information. As many frames between them are
        evidence, and searched only where a line like a caption was seen once.
    size: their long side in pixels; never enlarged.
    image_size: the same of an image, whose letters are mostly smaller: of a page, 0.6 of the words are read at 480
        pixels and 0.93 at 1280.
    page_size: the same of an image with small print, which is searched in strips.
    image_min_read: the same as min_read, of images, whose text is joined to captions.
    min_find, min_read: confidences (0..1) of the detector and of the recogniser below which a box is dropped. A box
        that cannot be read still counts when it stands still in a moving scene: a script unknown to the model.
    All defaults are ours."""

    frames: int = Field(default=4, ge=1, le=64)
    size: int = Field(default=480, ge=64, le=2048)
    image_size: int = Field(default=1280, ge=64, le=4096)
    page_size: int = Field(default=2560, ge=64, le=4096)
    min_find: float = Field(default=0.5, ge=0, le=1)
    min_read: float = Field(default=0.6, ge=0, le=1)
    image_min_read: float = Field(default=0.75, ge=0, le=1)
