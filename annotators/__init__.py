"""Media and text -> signals. One module per thing measured; nothing here knows of Beam or thresholds."""

from annotators.interface import Annotator
from infra.plugins import Registry

#: Name in the config -> class, imported where used. Installed packages add to it (docs/extending.md).
ANNOTATORS = Registry(
    "reelmill.annotators",
    Annotator,
    {
        "clean": "annotators.clean:Clean",
        "quality": "annotators.quality:Quality",
        "language": "annotators.language:Language",
        "minhash": "annotators.minhash:MinHash",
        "ngrams": "annotators.ngrams:Ngrams",
        "facts": "annotators.facts:Facts",
        "blank": "annotators.blank:Blank",
        "motion": "annotators.motion:Motion",
        "shots": "annotators.shots:Shots",
        "overlay": "annotators.overlay.overlay:Overlay",
        "alignment": "annotators.alignment:Alignment",
        "video_alignment": "annotators.alignment:VideoAlignment",
        "fingerprint": "annotators.fingerprint:Fingerprint",
    },
)
