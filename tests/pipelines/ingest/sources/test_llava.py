from __future__ import annotations

import json
from pathlib import Path

from tests.pipelines.ingest.sources.items import make_source, read_items


def test_llava_rows_name_their_media_and_nothing_outside_the_source(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    for name in ("in/a.jpg", "in/b.jpg", "in/v.mp4"):
        (tmp_path / name).write_bytes(b"xyz")
    (tmp_path / "secret.jpg").write_bytes(b"x")
    turns = [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]
    rows = [
        {"id": "one", "image": "a.jpg", "conversations": turns},
        {"id": "two", "image": ["a.jpg", "b.jpg"], "conversations": turns},
        {"id": "video", "video": "v.mp4", "conversations": turns},
        {"id": "none", "conversations": turns},
        *({"id": f"bad{i}", "image": path} for i, path in enumerate(
            ["../secret.jpg", "/etc/passwd", "file:///etc/passwd", "http://x/y.jpg", "a\x00.jpg", "\ud800.jpg",
             "gone.jpg"])),
    ]  # fmt: skip
    (tmp_path / "in" / "rows.json").write_text(json.dumps(rows))
    items = {item.position: item for item in read_items(make_source(tmp_path / "in", format="llava"))}
    assert {name: (item.modality, len(item.media)) for name, item in items.items() if item.error is None} == {
        "one": ("image", 1),
        "two": ("multi_image", 2),
        "video": ("video", 1),
        "none": ("text", 0),
    }
    assert [(items[f"bad{i}"].error or "").split(":")[0] for i in range(7)] == ["hostile path"] * 5 + [
        "missing medium"
    ] * 2
    assert all(not items[f"bad{i}"].media for i in range(7))
