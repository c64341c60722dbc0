"""The inventory: the items of every source, in tables ("parts") below RUN/work/inventory."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping

import pyarrow as pa

from infra import beam, storage, tables
from infra.commit import read_json
from infra.hashing import canonical_json
from pipelines.core.run import Run
from pipelines.ingest.sources import registry
from pipelines.ingest.sources.accounting import MemberAccount
from pipelines.ingest.sources.interface import ITEM_SCHEMA, SourceItem

#: Rows of a part.
PART_ROWS = 20_000

#: Characters of text after which a part ends, since it is in memory until it is written (ours).
PART_CHARACTERS = 64 * 2**20


def take_inventory(run: Run) -> tuple[list[list[str]], list[MemberAccount]]:
    """Write the inventory; returns the URIs of its parts and the account of its members, per source."""
    registry.check_readers(run.config.sources, run.document)
    parts: list[list[str]] = []
    accounts: list[MemberAccount] = []
    readers: list[str] = []
    tasks: list[str] = []
    for number, source in enumerate(run.config.sources):
        reader, listing = registry.list_source(source)
        readers.append(reader)
        account = MemberAccount()
        items = account.count([*listing.items, *listing.ignored])
        parts.append(_write_parts(run, f"s{number:03d}-listed", items))
        accounts.append(account)
        containers = [{"path": e.path, "size": e.size, "stamp": e.stamp} for e in listing.containers]
        content = {"reader": reader, "containers": containers}
        storage.write_bytes(run.work("inventory", f"s{number:03d}.json"), canonical_json(content))
        tasks += [f"{number}:{index}" for index in range(len(containers))]
    task = functools.partial(scan_container, run)
    runner = run.runner_for(len(tasks) * PART_ROWS)
    beam.run_tasks("inventory", task, tasks, run.work("inventory.counters.json"), runner)
    for name in tasks:
        number, index = map(int, name.split(":"))
        scanned = read_json(_scan_uri(run, number, index))
        parts[number] += scanned["parts"]
        accounts[number].add(scanned["account"])
    for source, reader, account in zip(run.config.sources, readers, accounts, strict=True):
        registry.check_inputs(source, reader, account)
    return parts, accounts


def _scan_uri(run: Run, number: int, index: int) -> str:
    return run.work("inventory", f"s{number:03d}-{index:06d}.json")


def scan_container(run: Run, task: str) -> Mapping[str, int]:
    """Task "SOURCE:CONTAINER" (numbers): write the items of one container as parts, and the account of its members."""
    number, index = map(int, task.split(":"))
    source = run.config.sources[number]
    content = read_json(run.work("inventory", f"s{number:03d}.json"))
    container = storage.Entry(**content["containers"][index])
    account = MemberAccount()
    items = account.count(registry.scan(source, content["reader"], container, run.work("expanded")))
    uris = _write_parts(run, f"s{number:03d}-{index:06d}", items)
    storage.write_bytes(_scan_uri(run, number, index), canonical_json({"parts": uris, "account": account.to_json()}))
    return {"containers": 1}


def _write_parts(run: Run, name: str, items: Iterable[SourceItem]) -> list[str]:
    uris: list[str] = []
    rows: list[dict[str, object]] = []
    text_size = 0

    def flush() -> None:
        uri = run.work("inventory", f"{name}-{len(uris):05d}.parquet")
        tables.write(uri, pa.Table.from_pylist(rows, schema=ITEM_SCHEMA))
        uris.append(uri)
        rows.clear()

    for item in items:
        rows.append(item.to_row())
        text_size += len(item.text or "")
        if len(rows) >= PART_ROWS or text_size >= PART_CHARACTERS:
            flush()
            text_size = 0
    if rows:
        flush()
    return uris
