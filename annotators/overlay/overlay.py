"""Text in pictures: its position, its characters, and whether it was burned in over the scene or belongs to it.

`annotators.overlay.videos` and `.images` choose where to look, `.lines` finds and reads, `.scene` decides what was
burned in.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pyarrow as pa

from annotators.interface import Column, FrameAnnotator
from annotators.overlay import ocr
from annotators.overlay.columns import BOX
from annotators.overlay.images import look_at_images
from annotators.overlay.settings import OverlaySettings
from annotators.overlay.videos import look_at_video
from infra.media.interface import VISUAL, FramePlan, Frames


class Overlay(FrameAnnotator):
    """Text in the picture, and which of it was burned in."""

    name = "overlay"
    VERSION = 9
    keyed_by = "media"
    modalities = frozenset(VISUAL)
    columns: ClassVar[Mapping[str, Column]] = {
        "area": Column(
            pa.float64(), "share of the frame covered by boxes of burned-in text, 0 to 1, mean over the frames read"
        ),
        "text_area": Column(pa.float64(), "the same of any text"),
        "text": Column(pa.string(), "text read, in reading order, each line once, separated by newlines"),
        "overlay_text": Column(pa.string(), "burned-in text read, likewise"),
        "boxes": Column(pa.list_(BOX), "one per line and frame read, corners as shares of the frame"),
        "frames": Column(pa.int32(), "frames read: only some of a video's where the others could add nothing"),
    }
    settings: OverlaySettings

    @property
    def plan(self) -> FramePlan:
        settings = self.settings
        count, image_size = 2 * settings.frames, max(settings.image_size, settings.page_size)
        return FramePlan("uniform", settings.size, "long", count=count, image_size=image_size)

    def fingerprint_inputs(self) -> Mapping[str, object]:
        parameters = self.settings.model_dump(mode="json", exclude={"det_model", "rec_model"})
        return {**parameters, "weights": dict(ocr.weights_sha256(self.settings)), "device": "cpu"}

    def measure_one(self, sample: Mapping[str, Any], content: Frames) -> Mapping[str, Any]:
        with ocr.borrow(self.settings) as engine:
            if sample["modality"] == "video":
                return look_at_video(content, engine, self.settings)
            return look_at_images(content, engine, self.settings)
