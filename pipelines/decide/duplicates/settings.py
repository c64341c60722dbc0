"""Settings of the search for duplicates: the config key `duplicates`."""

from __future__ import annotations

from pydantic import Field

from infra.config import Strict
from infra.media.interface import VISUAL

#: PDQ hashes count as copies up to 31 of 256 bits apart (Meta's ThreatExchange recommendation): cosine 1 - 62/256.
PDQ_THRESHOLD = 0.757812
#: Share of matched images from which two samples of several images are duplicates (ours).
MULTI_IMAGE_SHARE = 0.5


class ImageDuplicates(Strict):
    """Duplicates among images.

    threshold: cosine of fingerprints from which two images are copies. It belongs to the fingerprint engine (SSCD's
    README: 0.75 for sscd_disc_mixup; PDQ: 0.758). probes: cells in which each vector is searched at least.
    """

    threshold: float | None = Field(default=None, gt=0, le=1)
    probes: int = Field(default=4, ge=1)


class VideoDuplicates(ImageDuplicates):
    """Duplicates among videos: at least `min_share` of the shorter one's sampled frames match frames of the longer one
    in order (ours)."""

    min_share: float = Field(default=0.5, gt=0, le=1)


class TextDuplicates(Strict):
    """Duplicates among texts: exact after normalisation, and near at an estimated Jaccard similarity of at least
    `threshold` (0.8 is the field's habit: Lee et al., arXiv 2107.06499); null searches exact duplicates only."""

    threshold: float | None = Field(default=0.8, gt=0, le=1)


class Duplicates(Strict):
    """Which modalities are deduplicated, and how; a modality that is absent is not deduplicated.

    buckets: number of partitions of each search, a file and a task each (names have five digits); by default it follows
        from the amount of data.
    """

    image: ImageDuplicates | None = None
    multi_image: ImageDuplicates | None = None
    video: VideoDuplicates | None = None
    text: TextDuplicates | None = None
    buckets: int | None = Field(default=None, ge=1, le=100_000)

    def for_modality(self, modality: str) -> ImageDuplicates | TextDuplicates | None:
        """The settings of a modality; None where it is not deduplicated."""
        return self.text if modality == "text" else self.for_visual(modality)

    def for_visual(self, modality: str) -> ImageDuplicates | None:
        """The settings of a modality that is searched by fingerprints (videos: a VideoDuplicates)."""
        return {"image": self.image, "multi_image": self.multi_image, "video": self.video}[modality]

    @property
    def uses_fingerprints(self) -> bool:
        """Whether any modality is searched by fingerprints."""
        return any(self.for_visual(modality) is not None for modality in VISUAL)

    def min_share(self, modality: str) -> float:
        """Share of matched frames from which two videos, or two samples of several images, are duplicates."""
        return self.video.min_share if modality == "video" and self.video is not None else MULTI_IMAGE_SHARE

    def edge_threshold(self, modality: str) -> float:
        """The similarity from which two samples of a modality are duplicates, as verdicts state it."""
        if modality in ("video", "multi_image"):
            return self.min_share(modality)
        settings = self.for_modality(modality)
        return 1.0 if settings is None else float(settings.threshold or 1.0)

    def with_default_thresholds(self) -> Duplicates:
        """These settings with PDQ's threshold wherever a search by fingerprints has none."""
        searches = {modality: self.for_visual(modality) for modality in VISUAL}
        return self.model_copy(update={
            modality: settings.model_copy(update={"threshold": PDQ_THRESHOLD})
            for modality, settings in searches.items() if settings is not None and settings.threshold is None
        })  # fmt: skip
