"""Sources, and the items that their readers find."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from infra.config import Source
from pipelines.ingest.sources.interface import ITEM_SCHEMA, SourceItem
from pipelines.ingest.sources.registry import list_source, scan


def make_source(path: Path | str, modality: str = "image", **settings: Any) -> Source:
    return Source.model_validate({"name": "s", "path": str(path), "modality": modality, **settings})


def read_items(source: Source) -> list[SourceItem]:
    """All items of a source, listed and scanned; they can be stored, and no two have one position."""
    reader, listing = list_source(source)
    items = list(listing.items)
    scratch = str(Path(source.path).parent / f"{Path(source.path).name}-expanded")
    for container in listing.containers:
        items += [record for record in scan(source, reader, container, scratch) if isinstance(record, SourceItem)]
    pa.Table.from_pylist([item.to_row() for item in items], schema=ITEM_SCHEMA)
    positions = [(item.container, item.position) for item in items]
    assert len(set(positions)) == len(positions)
    return items


def fates(items: Sequence[SourceItem]) -> dict[str, str | None]:
    """Position -> the kind of its error."""
    return {item.position: item.error and item.error.split(":")[0] for item in items}
