"""Whole runs with an S3 server: sources there, and store and run there."""

from __future__ import annotations

import json

import pytest

from infra import storage
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
