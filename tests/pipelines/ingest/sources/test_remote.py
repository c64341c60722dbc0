"""Every reader gives the same items wherever the files are."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fsspec
import pytest

from infra.config import Source
from pipelines.ingest.sources import registry
from tests.tiny import Tiny

SOURCES: dict[str, dict[str, Any]] = {
    "photos": {"modality": "image"},
    "captioned": {"modality": "image", "captions": "captions.jsonl"},
    "archive": {"modality": "image"},
    "llava": {"modality": "image", "format": "llava"},
    "clips": {"modality": "video"},
    "texts": {"modality": "text", "id_column": "id"},
}


class QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002
        pass


@pytest.fixture(params=["memory", "http"])
def location(request: pytest.FixtureRequest, tiny: Tiny) -> Iterator[str]:
    """The URI of a copy of the corpus."""
    if request.param == "memory":
        files = fsspec.filesystem("memory")
        for path in (path for path in tiny.root.rglob("*") if path.is_file()):
            files.pipe_file(f"/readers/{path.relative_to(tiny.root)}", path.read_bytes())
        yield "memory://readers"
        files.rm("/readers", recursive=True)
        return
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(QuietHandler, directory=str(tiny.root)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


def read(uri: str, scratch: Path, settings: dict[str, Any]) -> list[tuple[str, ...]]:
    source = Source(name="s", path=uri, **settings)
    reader, listing = registry.list_source(source)
    items = list(listing.items)
    for container in listing.containers:
        items += registry.scan(source, reader, container, str(scratch))
    fields = ("modality", "container", "position", "media", "sidecars", "text", "licence", "origin", "extra", "error")
    rows = [item.to_row() for item in items if hasattr(item, "to_row")]
    return sorted(tuple(str(row.get(field)) for field in fields) for row in rows)


@pytest.mark.parametrize("name", SOURCES)
def test_items_are_the_same_as_from_this_disk(name: str, location: str, tiny: Tiny, tmp_path: Path) -> None:
    local = read(str(tiny.root / name), tmp_path / "a", SOURCES[name])
    assert len(local) >= 3
    assert read(f"{location}/{name}", tmp_path / "b", SOURCES[name]) == local
