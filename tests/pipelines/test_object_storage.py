"""Whole runs with an S3 server: sources there, and store and run there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from infra import storage
from infra.errors import StageError
from pipelines import stages
from pipelines.core.environment import find_failures
from pipelines.core.run import Run
from tests import remote
from tests.tiny import Tiny, read_json_of

pytestmark = pytest.mark.usefixtures("s3")


def test_sources_on_an_object_store_give_the_bytes_of_local_ones(
    cold: Run, tiny: Tiny, request: pytest.FixtureRequest
) -> None:
    with remote.publish("s3", tiny.root, request) as uri:
        sources = [
            {**source.model_dump(mode="json", exclude_unset=True), "path": source.path.replace(str(tiny.root), uri)}
            for source in cold.config.sources
        ]
        measure = {"ngrams": {"vocabulary": f"{uri}/vocabulary.json"}}
        run = tiny.run("distant", store=tiny.folder / "distant-store", sources=sources, measure=measure)
    assert read_json_of(run, "ledger.json") == read_json_of(cold, "ledger.json"), find_failures(run)
    first, second = read_json_of(cold, "checksums.json"), read_json_of(run, "checksums.json")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_a_store_and_a_run_on_an_object_store_have_the_bytes_of_local_ones(
    cold: Run, tiny: Tiny, request: pytest.FixtureRequest
) -> None:
    (tiny.folder / "nothing").mkdir()
    with remote.publish("s3", tiny.folder / "nothing", request) as uri:
        tiny.run("on-s3", store=f"{uri}/store", out=f"{uri}/run 1")
        checksums = json.loads(storage.read_bytes(f"{uri}/run 1/checksums.json"))
    assert checksums == read_json_of(cold, "checksums.json")


@pytest.mark.parametrize("key", ["store", "out"])
def test_a_bucket_that_is_not_there_stops_the_run_before_any_work(
    key: str, tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    (tmp_path / "a.txt").write_text("A text.")
    run = make_run(
        [{"name": "a", "path": str(tmp_path / "a.txt"), "modality": "text"}], **{key: "s3://no-such-bucket/a"}
    )
    with pytest.raises(
        StageError, match=r"no-such-bucket/a/\.\w+: the storage cannot be reached: .*bucket does not exist"
    ):
        stages.run_all(run)
    assert not (tmp_path / "run" / "samples").exists()
