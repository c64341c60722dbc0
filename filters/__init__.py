"""Signals -> verdicts. Pure functions over Arrow columns; one module per question asked."""

#: name in the config -> module. Loaded where used.
FILTERS = {
    "caption": "filters.caption",
    "quality": "filters.quality",
    "language": "filters.language",
    "facts": "filters.facts",
    "overlay": "filters.overlay",
    "alignment": "filters.alignment",
    "video_alignment": "filters.video_alignment",
    "motion": "filters.motion",
}
