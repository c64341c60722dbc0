from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from infra import tables
from infra.commit import Unit
from infra.errors import StageError
from pipelines.core import tombstones
from pipelines.core.tombstones import Tombstones

MEDIUM = {"uri": "a.jpg", "offset": 0, "length": -1, "start_s": 0.0, "end_s": -1.0, "sha256": "ab"}


def samples(*keys: str) -> pa.Table:
    rows = [
        {"key": key, "modality": "image", "source": "s", "container": "a.jpg", "position": "p", "media": [MEDIUM],
         "text": f"About {key}.", "licence": "by", "origin": "http://e.org", "extra": '{"x":1}',
         "members": 3, "unused_captions": 2,
         "error": "broken" if key == "broken" else None}
        for key in keys
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=tables.SAMPLES)


LIST = Tombstones(
    {"gone": "key", "broken": "url"}, {"copy": tombstones.COPY_REASON}, {"samples/u000001.parquet": ("new", "old")}
)


def test_erased_rows_keep_only_what_accounts_for_them() -> None:
    before = samples("stays", "gone", "copy", "broken")
    after = LIST.apply(before).to_pylist()
    assert after[0] == before.to_pylist()[0]
    for row, error in ((after[1], "takedown: key"), (after[3], "takedown: url")):
        assert row == {"key": row["key"], "modality": "image", "source": "s", "licence": "by", "container": "",
                       "position": "", "media": [], "text": None, "origin": None, "extra": "{}",
                       "members": 3, "unused_captions": 2, "error": error}  # fmt: skip
    assert after[2] == {**before.to_pylist()[2], "error": f"takedown: {tombstones.COPY_REASON}"}
    assert LIST.apply(LIST.apply(before)).equals(LIST.apply(before))
    assert Tombstones().apply(before) is before


def test_a_table_that_holds_one_of_them_unmarked_is_noticed(tmp_path: Path) -> None:
    uri = str(tmp_path / "u.parquet")
    tables.write(uri, samples("stays", "copy"))
    assert LIST.has_unmarked(uri) and not Tombstones().has_unmarked(uri)
    tables.write(uri, LIST.apply(samples("stays", "copy")))
    assert not LIST.has_unmarked(uri)


def test_a_rewritten_table_is_accepted_for_its_original() -> None:
    assert LIST.original_sha256("samples", Unit("u000001", 1, "new")) == "old"
    assert LIST.original_sha256("samples", Unit("u000001", 1, "made again")) == "made again"
    assert LIST.original_sha256("verdicts", Unit("u000001", 1, "new")) == "new"


def test_the_list_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert tombstones.load(str(tmp_path)) == Tombstones()
    (tmp_path / tombstones.FILE).write_bytes(LIST.to_bytes())
    assert tombstones.load(str(tmp_path)) == LIST
    (tmp_path / tombstones.FILE).write_bytes(LIST.to_bytes().replace(b'"takedown":1', b'"takedown":2'))
    with pytest.raises(StageError, match="has version 2"):
        tombstones.load(str(tmp_path))
    assert LIST.summarize() == {"erased": 2, "held": 1, "reasons": {"key": 1, "url": 1}}
