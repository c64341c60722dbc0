"""Does the caption describe the whole video? The second, more expensive check after `alignment` saw one frame, in the
order of Llama 3 (arXiv 2407.21783, section 7.1); model and cut-off are unpublished."""

from __future__ import annotations

from filters.alignment import AlignmentFilter
from filters.interface import Threshold


class VideoAlignmentFilter(AlignmentFilter):
    """value is the score over the video's frames, threshold min_score; reason "low_score", or "missing"."""

    name = "video_alignment"
    modalities = frozenset({"video"})
    thresholds = (Threshold("min_score", "video_alignment.score", "min", "low_score"),)

    def default_min_score(self, model: str, weights: str) -> float | None:
        """None: no threshold for pooled frames or a video-text model is published; the config must set one."""
        return None
