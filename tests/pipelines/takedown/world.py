"""A small finished run to take things down from: pictures with a copy, clips with dialogues, documents with a copy."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import yaml

from infra import tables
from infra.beam import Runner
from pipelines import stages
from pipelines.core.run import Run
from tests import corpus

#: What knows this machine, and what may be removed.
NOT_COVERED = ("run.json",)


def write_sources(folder: Path) -> None:
    """Sources: photos, clips and texts."""
    (folder / "photos").mkdir(parents=True)
    for number in range(7):
        (folder / "photos" / f"picture-{number}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number)))
        (folder / "photos" / f"picture-{number}.txt").write_text(corpus.caption(number))
    (folder / "photos" / "picture-copy.jpg").write_bytes(corpus.image_bytes(corpus.picture(2), quality=60))
    (folder / "photos" / "picture-copy.txt").write_text(corpus.caption(90))
    (folder / "clips").mkdir()
    for number in range(3):
        corpus.write_clip(folder / "clips" / f"clip-{number}.mp4", 50 + number, frames=16 + number)
        (folder / "clips" / f"clip-{number}.txt").write_text(corpus.caption(500 + number))
    lines = [
        {
            "id": f"t{n}",
            "text": corpus.document(n),
            "url": f"https://Example.org/page/{n}",
            "licence": ("by", "zero")[n % 2],
        }
        for n in range(12)
    ]
    lines.append({**lines[3], "id": "again", "url": "https://mirror.example.org/3"})
    lines.append({"id": "short", "text": "Too short.", "url": "https://example.org/short", "licence": "zero"})
    (folder / "texts").mkdir()
    (folder / "texts" / "texts.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


@dataclass(frozen=True)
class World:
    """root/raw, root/store, root/run and root/config.yaml."""

    root: Path

    @property
    def run(self) -> Path:
        return self.root / "run"

    def config(self, **changes: Any) -> Path:
        content = {
            "name": "world",
            "seed": 3,
            "store": str(self.root / "store"),
            "out": str(self.run),
            "sources": [
                {"name": "photos", "path": str(self.root / "raw/photos"), "modality": "image", "licence": "CC0"},
                {"name": "clips", "path": str(self.root / "raw/clips"), "modality": "video", "licence": "CC0"},
                {"name": "texts", "path": str(self.root / "raw/texts"), "modality": "text", "id_column": "id",
                 "licence_column": "licence", "origin_column": "url"},
            ],
            "units": {"target_rows": 2},
            "filters": {"caption": None, "quality": {"document": {"min_words": 10}}},
            "duplicates": {"image": {}, "text": {}},
            "annotate": {},
            "export": {"shard_samples": 3},
            **changes,
        }  # fmt: skip
        return corpus.write_config(self.root / "config.yaml", content)

    def open(self, *, replace: bool = False, out: Path | None = None, **changes: Any) -> Run:
        path = self.config(**changes)
        where = None if out is None else str(out)
        return stages.open_for_work(str(path), out=where, replace=replace, runner=Runner(), quiet=True)

    def copy(self, target: Path) -> World:
        """The same elsewhere, with its paths changed in run.json."""
        shutil.copytree(self.root, target)
        summary = target / "run/run.json"
        summary.write_text(summary.read_text().replace(str(self.root), str(target)))
        for path in (target / "run/work").rglob("*.json"):
            path.write_text(path.read_text().replace(str(self.root), str(target)))
        return World(target)

    def rows(self, stage: str) -> dict[str, dict[str, Any]]:
        """Rows of a table by key."""
        matches: dict[str, dict[str, Any]] = {}
        for path in sorted((self.run / stage).glob("*.parquet")):
            matches |= {row["key"]: row for row in tables.read(str(path)).to_pylist()}
        return matches

    def read_json(self, name: str) -> Any:
        return json.loads((self.run / name).read_bytes())

    def key(self, container: str) -> str:
        """The key of the sample at this place, or of the text with this id."""
        return next(k for k, row in self.rows("samples").items() if container in (row["container"], row["position"]))


def make(root: Path) -> World:
    """Sources, and a finished run over them."""
    world = World(root)
    write_sources(root / "raw")
    stages.run_all(world.open())
    return world


def tree(folder: Path, *, work: bool = False) -> dict[str, str]:
    """sha256 of every file by path; RUN/work and what knows this machine only if asked for."""
    matches = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if path.name[0] == ".":  # what a killed writer left beside its file
            continue
        if path.is_file() and (work or ("work" not in path.parts and path.name not in NOT_COVERED)):
            matches[name] = hashlib.sha256(path.read_bytes()).hexdigest()
    return matches


def holders(folder: Path, needles: list[bytes]) -> list[str]:
    """Files that hold one of these byte strings: as they are, or in any column of a table."""
    matches = []
    for path in sorted(folder.rglob("*")):
        if not path.is_file():
            continue
        mixture_ = path.read_bytes()
        if path.suffix == ".parquet":
            table = tables.read(str(path))
            mixture_ += b"".join(_everything(column) for column in table.columns)
        matches += [f"{path.relative_to(folder)}: {needle[:40]!r}" for needle in needles if needle in mixture_]
    return matches


def _everything(column: pa.ChunkedArray) -> bytes:
    return b"".join(bytes(buffer) for chunk in column.chunks for buffer in chunk.buffers() if buffer is not None)


def load(path: Path) -> Any:
    return yaml.safe_load(path.read_text())
