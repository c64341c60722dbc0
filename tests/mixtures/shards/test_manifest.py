from __future__ import annotations

import hashlib
from pathlib import Path

import pyarrow as pa
import pytest

from infra import tables
from infra.errors import StageError
from mixtures.reading.contract import Contract
from mixtures.shards import manifest
from mixtures.shards.manifest import is_mixture, open_mixture, write_mixture

FIELDS = {
    "contract": {"tokens_per_frame": 16},
    "parents": [{"run": "../run"}, {"run": "s3://bucket/run"}, {"run": "/data/run"}],
    "shards": [{"parent": 0, "name": "a"}, {"parent": 1, "name": "b"}, {"parent": 2, "name": "c"}],
    "materialized": None,
}


def members(count: int) -> pa.Table:
    row = {field.name: 0 for field in tables.MIXTURE} | {"key": "k"}
    return pa.Table.from_pylist([row | {"position": i} for i in range(count)], schema=tables.MIXTURE)


def test_a_mixture_exists_once_its_manifest_does(tmp_path: Path) -> None:
    uri = str(tmp_path / "mix")
    assert not is_mixture(uri)
    with pytest.raises(StageError, match="no mixture here") as caught:
        open_mixture(uri)
    assert "reelmill mix" in caught.value.hint
    write_mixture(uri, FIELDS, members(3))
    mixture = open_mixture(uri)
    assert is_mixture(uri) and mixture.manifest["members"]["rows"] == 3
    assert mixture.members(["position"])["position"].to_pylist() == [0, 1, 2]
    assert mixture.contract == Contract(tokens_per_frame=16)
    assert mixture.manifest["members"]["sha256"] == hashlib.sha256(
        (tmp_path / "mix" / "members.parquet").read_bytes()).hexdigest()  # fmt: skip


def test_shards_are_located_in_their_runs_and_materialized_tars_in_the_mixture(tmp_path: Path) -> None:
    mixture = write_mixture(str(tmp_path / "mix"), {**FIELDS, "materialized": [{"name": "mix-000000"}]}, members(1))
    assert Path(mixture.tar(0)).resolve() == tmp_path / "run" / "shards" / "a.tar"
    assert mixture.tar(1) == "s3://bucket/run/shards/b.tar" and mixture.tar(2) == "/data/run/shards/c.tar"
    assert Path(mixture.own_tar(0)) == tmp_path / "mix" / "shards" / "mix-000000.tar"


def test_the_same_mixture_is_the_same_bytes(tmp_path: Path) -> None:
    for name, table in (("a", members(3)), ("b", pa.concat_tables([members(3).slice(i, 1) for i in range(3)]))):
        write_mixture(str(tmp_path / name), FIELDS, table)
    for name in (manifest.MANIFEST, manifest.MEMBERS):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


@pytest.mark.parametrize(("text", "words"), [(b'{"mixture":99}\n', "version 99, not 1"), (b'{"mixt', "not valid JSON")])
def test_a_manifest_that_cannot_be_used_says_why(tmp_path: Path, text: bytes, words: str) -> None:
    (tmp_path / "mixture.json").write_bytes(text)
    with pytest.raises(StageError, match=words):
        open_mixture(str(tmp_path))
