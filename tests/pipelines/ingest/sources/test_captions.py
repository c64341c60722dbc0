from __future__ import annotations

from pathlib import Path

from pipelines.ingest.sources.captions import read_sidecars


def test_sidecars(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhi \xff")
    (tmp_path / "a.json").write_text('{"caption": "json", "licence": "CC0"}')
    (tmp_path / "b.json").write_text("[1]")
    assert read_sidecars(str(tmp_path), ["a.json", "a.txt"]) == (
        "hi \ufffd", {"caption": "json", "licence": "CC0"}, None
    )  # fmt: skip
    assert read_sidecars(str(tmp_path), ["a.json"])[0] == "json"
    assert read_sidecars(str(tmp_path), ["b.json"])[2] == "unreadable caption: b.json is not a JSON object"
    assert (read_sidecars(str(tmp_path), ["gone.txt"])[2] or "").startswith("unavailable caption")
