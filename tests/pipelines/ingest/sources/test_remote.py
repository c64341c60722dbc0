"""Every reader gives the same samples wherever the files are, whatever their names."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import shutil
import tarfile
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from infra import storage
from pipelines.ingest import ingest
from tests import corpus, remote
from tests.tiny import Tiny, rows

#: Names that mean something to URLs, globs, shells or URIs of archives, and names in several scripts.
NAMES = [
    "two words",
    "hash#1",
    "100%",
    "a%20b",
    "plus+plus",
    "this&that=1",
    "semi;colon",
    "colon::twice",
    "what?",
    "[0-9]*",
    "~tilde@home",
    "'quoted\"",
    "名前",
    "приве́т",
    "cafe\u0301",
    "caf\u00e8",
    "🎬",
]

COMPRESSIONS: Mapping[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda raw: pa.compress(raw, "zstd", asbytes=True),
}

TINY: dict[str, dict[str, Any]] = {
    "photos": {"modality": "image"},
    "captioned": {"modality": "image", "captions": "captions.jsonl"},
    "archive": {"modality": "image"},
    "llava": {"modality": "image", "format": "llava"},
    "clips": {"modality": "video"},
    "texts": {"modality": "text", "id_column": "id"},
}

OWN: dict[str, dict[str, Any]] = {
    "named": {"modality": "image"},
    "named texts": {"modality": "text", "format": "folder"},
    "captions +1": {"modality": "image", "captions": "captions #1.csv"},
    "llava 100%": {"modality": "multi_image"},
    "tables": {"modality": "text", "format": "table", "text_column": "text"},
    "embedded": {"modality": "image", "format": "table"},
    "tars": {"modality": "image"},
    "tars of several": {"modality": "multi_image", "format": "webdataset"},
    "tables/rows #1 100%.csv.gz": {"modality": "text", "text_column": "text"},
    "tars/名前 +1.tar.gz": {"modality": "image"},
}


def png(number: int) -> bytes:
    return corpus.image_bytes(corpus.picture(number, 24, 18), "PNG")


def write_own(root: Path) -> None:
    """The folders of OWN."""
    for name in ("named/sub #1+%/名前", "named texts/a b", "captions +1/in [1]", *OWN):
        if "." not in name:
            (root / name).mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NAMES):
        folder = ("named", "named/sub #1+%", "named/sub #1+%/名前")[number % 3]
        (root / folder / f"{name}.png").write_bytes(png(number))
        (root / folder / f"{name}.txt").write_text(f"caption of {name}")
        (root / "named texts" / ("", "a b")[number % 2] / f"{name}.txt").write_text(f"text {name}")
        (root / "captions +1" / ("", "in [1]")[number % 2] / f"{name}.png").write_bytes(png(50 + number))
        (root / "llava 100%" / f"{name}.png").write_bytes(png(100 + number))
    cells = "".join('"{}.png","a picture, {}"\n'.format(*[name.replace('"', '""')] * 2) for name in NAMES)
    (root / "captions +1" / "captions #1.csv").write_text(f"file,text\n{cells}")
    turns = [{"from": "human", "value": "<image><image>\nCompare."}, {"from": "gpt", "value": "They differ in colour."}]
    pairs = [{"image": [f"{a}.png", f"{b}.png"], "conversations": turns} for a, b in pairwise(NAMES)]
    (root / "llava 100%" / "pairs.json").write_text(json.dumps(pairs))
    write_tables(root)
    write_tars(root)


def write_tables(root: Path) -> None:
    table = [{"text": f"row {number} of {name}", "n": str(number)} for number, name in enumerate(NAMES)]
    for suffix, delimiter in ((".csv", ","), (".tsv", "\t")):
        lines = [delimiter.join(('"{}"'.format(row["text"].replace('"', '""')), row["n"])) for row in table]
        text = "\n".join([delimiter.join(("text", "n")), *lines])
        for packed, compress in COMPRESSIONS.items():
            (root / "tables" / f"rows #1 100%{suffix}{packed}").write_bytes(compress(text.encode()))
    for packed, compress in COMPRESSIONS.items():
        (root / "tables" / f"a+b.jsonl{packed}").write_bytes(compress("\n".join(map(json.dumps, table)).encode()))
        (root / "tables" / f"名前.json{packed}").write_bytes(compress(json.dumps(table, indent=1).encode()))
    pq.write_table(pa.Table.from_pylist(table), root / "tables" / "two words?.parquet", row_group_size=5)
    images = [{"image": {"bytes": png(number), "path": None}, "text": name} for number, name in enumerate(NAMES)]
    pq.write_table(pa.Table.from_pylist(images), root / "embedded" / "train #1.parquet")


def write_tars(root: Path) -> None:
    single = {f"{name}.{suffix}": raw for number, name in enumerate(NAMES)
              for suffix, raw in (("png", png(number)), ("txt", name.encode()))}  # fmt: skip
    several = {
        f"{name}.{index}.png": png(3 * number + index) for number, name in enumerate(NAMES) for index in range(3)
    }
    several |= {f"{name}.json": json.dumps({"caption": f"three of {name}"}).encode() for name in NAMES}
    for folder, members in (("tars", single), ("tars of several", several)):
        raw = io.BytesIO()
        with tarfile.open(fileobj=raw, mode="w") as tar:
            for name, content in members.items():
                corpus.add_member(tar, name, content)
        for packed, compress in COMPRESSIONS.items():
            (root / folder / f"名前 +1.tar{packed}").write_bytes(compress(raw.getvalue()))


def ingest_sources(root: str, tiny: Tiny, name: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of samples by the path of their source."""
    settings = {**TINY, **OWN}
    paths = {f"s{number}": path for number, path in enumerate(settings)}
    sources = [{"name": name, "path": storage.join(root, path), **settings[path]} for name, path in paths.items()]
    run = tiny.open(name, sources=sources, units={})
    ingest.run(run)
    samples: dict[str, list[dict[str, Any]]] = {path: [] for path in settings}
    for row in rows(run, "samples"):
        samples[paths[row["source"]]].append(row)
    return samples


@pytest.fixture(scope="module")
def inputs(tiny: Tiny, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("inputs")
    write_own(root)
    for name in TINY:
        shutil.copytree(tiny.root / name, root / name)
    return root


@pytest.fixture(scope="module")
def local(inputs: Path, tiny: Tiny) -> dict[str, list[dict[str, Any]]]:
    """The samples as they are read from this disk."""
    samples = ingest_sources(str(inputs), tiny, "from-disk")
    assert {path: len(samples[path]) for path in samples if len(samples[path]) < 3} == {}
    assert [row["error"] for path in OWN for row in samples[path] if row["error"]] == []
    return samples


@pytest.mark.parametrize("kind", ["memory", "http", "s3"])
def test_samples_are_the_same_as_from_this_disk(
    kind: str, inputs: Path, local: dict[str, Any], tiny: Tiny, request: pytest.FixtureRequest
) -> None:
    with remote.publish(kind, inputs, request) as uri:
        samples = ingest_sources(uri, tiny, f"from-{kind}")
    for path in local:
        assert samples[path] == local[path], path
