"""Signals -> judgements: pure functions over Arrow columns, one module per filter."""

from collections.abc import Iterable

from filters.interface import Filter
from infra.plugins import Registry

#: Name in the config -> class, imported where used. Installed packages add to it (docs/extending.md).
FILTERS = Registry(
    "reelmill.filters",
    Filter,
    {
        "caption": "filters.caption:CaptionFilter",
        "quality": "filters.quality:QualityFilter",
        "language": "filters.language:LanguageFilter",
        "facts": "filters.facts:FactsFilter",
        "blank": "filters.blank:BlankFilter",
        "overlay": "filters.overlay:OverlayFilter",
        "alignment": "filters.alignment:AlignmentFilter",
        "video_alignment": "filters.video_alignment:VideoAlignmentFilter",
        "motion": "filters.motion:MotionFilter",
    },
)


def histogram_columns(names: Iterable[str]) -> tuple[str, ...]:
    """Signals whose distribution shard cards show: those of Reelmill's own filters, and of the filters `names`.

    Filters of other packages count only where a run uses them, so that cards do not depend on installed packages.
    """
    filters = [FILTERS[name] for name in dict.fromkeys((*FILTERS.built_in, *names)) if name in FILTERS]
    return tuple(dict.fromkeys(column for filter_ in filters for column in filter_.histogram_columns()))
