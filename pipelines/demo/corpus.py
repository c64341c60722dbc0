"""Write a planned demo world as raw files, and yield the truth about each sample."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.demo import captions
from pipelines.demo.planner import PlannedMedium, WorldPlan

#: The truth about a sample.
#: source, container, position: as in the samples table. modality.
#: fault: "" or the filter that should name it ("duplicates", "motion", "overlay", "language", "alignment", "quality"),
#:     or "broken" (should become a failed row). kind: how it was made. hard: "" or the fault that it resembles.
#: group: samples that are copies of each other share it; only copies have fault "duplicates".
#: resample: "", "head" (all its n-grams are frequent) or "tail" (one of them is rare).
#: form, width, height, caption: the format, size and text of the sample.
TRUTH = (
    "source", "container", "position", "modality", "fault", "kind", "hard", "group", "resample", "form", "width",
    "height", "caption",
)  # fmt: skip

SOURCES = {
    "clips": "video", "reels": "video", "photos": "image", "pairs": "image", "notes": "text", "library": "text",
    "albums": "multi_image",
}  # fmt: skip


def write_corpus(plan: WorldPlan, raw: Path, media: Iterable[tuple[str, bytes]]) -> Iterator[dict[str, Any]]:
    """Write the corpus below `raw`; yield a dict with the fields in TRUTH per sample. media: (name, bytes)."""
    for source in SOURCES:
        (raw / source).mkdir(parents=True, exist_ok=True)
    reels: list[dict[str, str]] = []
    pairs: list[tuple[str, str, bytes, str]] = []
    album_files = {name.partition(".")[0]: name for names, _ in plan.albums for name in names}
    for name, content in media:
        if name in album_files:
            (raw / "albums" / album_files[name]).write_bytes(content)
            continue
        planned = plan.planned[name]
        suffix = planned.truth.pop("suffix")
        container, position = f"{name[:1]}/{name}.{suffix}", ""
        in_second_source = int(name[-1], 16) % 2 == 1
        if planned.modality == "video":
            source = "reels" if in_second_source else "clips"
            _write(raw / source / container, content)
            if in_second_source:
                reels.append({"file": container, "text": planned.caption})
            else:
                _write((raw / source / container).with_suffix(".txt"), planned.caption.encode())
        elif in_second_source:
            source, container, position = "pairs", f"pairs-{int(name[:2], 16) % 3:03d}.tar", f"{name}.{suffix}"
            pairs.append((container, position, content, planned.caption))
        else:
            source = "photos"
            _write(raw / source / container, content)
            sidecar = json.dumps({"caption": planned.caption, "author": "the demo"}, ensure_ascii=False)
            _write((raw / source / container).with_suffix(".json"), sidecar.encode())
        yield _truth(source, container, position, planned)
    _write_lines(raw / "reels" / "captions.jsonl", reels)
    _write_pairs(raw / "pairs", pairs)
    yield from _write_albums(raw / "albums", plan)
    yield from _write_texts(raw, plan)
    vocabulary = json.dumps(captions.vocabulary(), ensure_ascii=False, indent=0) + "\n"
    _write(raw / "vocabulary.json", vocabulary.encode())


def _truth(source: str, container: str, position: str, planned: PlannedMedium) -> dict[str, Any]:
    row = {name: 0 if name in ("width", "height") else "" for name in TRUTH}
    where = {"source": source, "container": container, "position": position, "modality": planned.modality}
    return {**row, **where, "caption": planned.caption, **planned.truth}


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    _write(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode())


def _write_pairs(folder: Path, pairs: list[tuple[str, str, bytes, str]]) -> None:
    for container in sorted({pair[0] for pair in pairs}):
        with tarfile.open(folder / container, "w", format=tarfile.USTAR_FORMAT) as archive:
            for _, name, content, caption in sorted(pair for pair in pairs if pair[0] == container):
                for member, payload in ((name, content), (name.partition(".")[0] + ".txt", caption.encode())):
                    info = tarfile.TarInfo(member)
                    info.size = len(payload)
                    archive.addfile(info, io.BytesIO(payload))


def _write_albums(folder: Path, plan: WorldPlan) -> Iterator[dict[str, Any]]:
    rows = []
    for i, (names, answer) in enumerate(plan.albums):
        name = f"album-{i:03d}"
        question = "<image>\n" * len(names) + "What do these pictures show?"
        turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
        rows.append({"id": name, "image": names, "conversations": turns})
        planned = PlannedMedium("multi_image", name, answer, {"form": "llava"})
        yield _truth("albums", "albums.json", name, planned)
    _write(folder / "albums.json", (json.dumps(rows, ensure_ascii=False, indent=1) + "\n").encode())


def _write_texts(raw: Path, plan: WorldPlan) -> Iterator[dict[str, Any]]:
    half = len(plan.texts) // 2
    notes, library = plan.texts[:half], plan.texts[half:]
    rows = ({"text": text, "shelf": number % 7} for number, (text, _) in enumerate(notes))
    _write_lines(raw / "notes" / "notes.jsonl", rows)
    table = pa.table({"text": [text for text, _ in library], "shelf": [i % 7 for i in range(len(library))]})
    pq.write_table(table, raw / "library" / "library.parquet", compression="zstd")
    for source, container, texts in (("notes", "notes.jsonl", notes), ("library", "library.parquet", library)):
        for number, (text, truth) in enumerate(texts):
            yield _truth(source, container, f"row={number}", PlannedMedium("text", "", text, truth))
