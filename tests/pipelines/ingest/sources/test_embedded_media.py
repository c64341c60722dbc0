from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.core.run import Run
from pipelines.ingest import ingest
from tests.tiny import rows

BYTES = [b"\xff\xd8 one", b"\x89PNG two", b"three"]


def ingest_table(root: Path, make_run: Callable[..., Run], columns: dict[str, Any], **settings: Any) -> list[Any]:
    (root / "in").mkdir()
    pq.write_table(pa.table(columns), root / "in" / "train-00000-of-00001.parquet")
    run = make_run([{"name": "s", "path": str(root / "in"), "modality": "image", **settings}])
    ingest.run(run)
    return rows(run, "samples")


def test_embedded_media_are_inputs_with_their_captions(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    images = pa.array([{"bytes": content, "path": f"{n}.jpg"} for n, content in enumerate(BYTES)])
    columns = {"image": images, "text": pa.array(["a", "b", None]), "rights": pa.array(["x", "y", "z"])}
    samples = ingest_table(tmp_path, make_run, columns, licence_column="rights")
    assert [[m["sha256"] for m in row["media"]] for row in samples] == [[hashlib.sha256(b).hexdigest()] for b in BYTES]
    assert [(row["position"], row["text"], row["licence"], row["error"]) for row in samples] == [
        ("row=0", "a", "x", None), ("row=1", "b", "y", None), ("row=2", None, "z", None),
    ]  # fmt: skip


def test_lists_of_embedded_media_are_samples_of_several_images(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    images = pa.array([[{"bytes": content, "path": ""} for content in BYTES], [], None])
    columns = {"images": images, "text": pa.array(["a", "b", "c"])}
    samples = ingest_table(tmp_path, make_run, columns, modality="multi_image")
    assert [len(row["media"]) for row in samples] == [3, 0, 0]
    assert [row["error"] for row in samples] == [None, *["missing medium: its row has no bytes"] * 2]


@pytest.mark.parametrize(
    ("columns", "error"),
    [
        ({"image": ["a"], "text": ["t"]}, "unreadable table: not one column of {bytes, path} among 'image', 'text'"),
        ({"image": [{"bytes": b"x"}], "label": [1]}, "broken row: no column 'text'; it has 'label'"),
        ({"image": pa.array([{"bytes": None}], pa.struct([("bytes", pa.binary())])), "text": ["t"]}, "missing medium"),
    ],
)  # fmt: skip
def test_tables_and_rows_without_media_fail(
    tmp_path: Path, make_run: Callable[..., Run], columns: dict[str, Any], error: str
) -> None:
    (sample,) = ingest_table(tmp_path, make_run, columns)
    assert sample["error"].startswith(error) and not sample["media"]
