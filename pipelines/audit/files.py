"""The files of a run or a mixture: each hashed once, beside whatever else is done with it, and read without trust."""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import tempfile
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.hashing import canonical_json
from mixtures.cards import schemas
from pipelines.audit.findings import AuditFindings

#: Bytes that are hashed between two signs of progress; hashlib lets other threads run meanwhile.
BLOCK = 2**23

#: Threads that hash (ours: hashing is the dear part, and disks rarely feed more).
HASHERS = max(1, min(4, (os.cpu_count() or 2) - 1))

#: What pyarrow raises on bytes that are no Parquet; OSError covers a footer that is no Thrift.
DAMAGED = (pa.ArrowException, OSError, MemoryError)


class AuditFiles:
    """Files below `uri`. Hashing runs in threads; what is wrong with a file becomes a finding, never an error."""

    def __init__(self, uri: str, findings: AuditFindings, listing: Iterable[storage.Entry] = ()) -> None:
        self.uri = uri
        self.findings = findings
        self.sizes: dict[str, int] = {entry.path: entry.size for entry in listing}
        self.hashed = 0
        self._pool = ThreadPoolExecutor(HASHERS)
        self._digests: dict[str, Future[str]] = {}

    def at(self, path: str) -> str:
        """Where a file lies."""
        return storage.join(self.uri, path)

    def close(self) -> None:
        """Stop hashing."""
        self._pool.shutdown(cancel_futures=True)

    # -- hashes -----------------------------------------------------------------------------------------------------

    def hash(self, path: str, view: memoryview | None = None) -> None:
        """Begin to hash a file, from memory where it is mapped already."""
        if path in self.sizes and path not in self._digests:
            self._digests[path] = self._pool.submit(self._hash, path, view)

    def _hash(self, path: str, view: memoryview | None) -> str:
        state = hashlib.sha256()
        size = self.sizes[path]
        # A big file is read in blocks, a small one at once: opening it is what costs.
        blocks = (
            (view[at : at + BLOCK] for at in range(0, len(view), BLOCK))
            if view is not None
            else storage.read_blocks(self.at(path), size=min(BLOCK, max(size, 1)))
        )
        for block in blocks:
            state.update(block)
            self.hashed += len(block)
        return state.hexdigest()

    def digest(self, path: str) -> str | None:
        """sha256 of a file as hex, waited for; None where there is no such file."""
        self.hash(path)
        return self._digests[path].result() if path in self._digests else None

    # -- contents ---------------------------------------------------------------------------------------------------

    def json(self, path: str) -> Any:
        """A canonical JSON file's value; None where it is missing or damaged, which is found."""
        if path not in self.sizes:
            self.findings.add(path, "file", "a file", "no file")
            return None
        data = storage.read_bytes(self.at(path))
        try:
            value = json.loads(data)
            canonical = canonical_json(value)
        except (ValueError, RecursionError) as error:
            self.findings.add(path, "json", "JSON", f"{type(error).__name__}: {error}")
            return None
        if canonical != data:
            self.findings.add(
                path, "json", "canonical JSON (sorted keys, no blanks, one line)", _first(canonical, data)
            )
        return value

    def checked_json(self, path: str, schema: str) -> Any:
        """The same, held against a published schema; None where it breaks that, too."""
        value = self.json(path)
        if value is None:
            return None
        wrong = schemas.find_errors(schema, value)
        for place, message in wrong:
            self.findings.add(path, place or "value", f"as {schema}.json has it", message)
        return None if wrong else value

    def table(
        self, path: str, schema: pa.Schema | None, columns: Iterable[str] | None = None, sha256: str | None = None
    ) -> pa.Table | None:
        """Columns of a table (those that it has); None where it is missing, damaged, or its bytes are not `sha256`.

        schema: what the whole table's must be; None: it is not held against one.
        """
        if path not in self.sizes:
            self.findings.add(path, "file", "a file", "no file")
            return None
        if sha256 is not None and not self.findings.same(path, "sha256", sha256, self.digest(path)):
            return None  # what it holds is nobody's word
        try:
            with storage.open_read(self.at(path)) as file:
                parquet = pq.ParquetFile(file)
                held = parquet.schema_arrow
                if schema is not None and not held.equals(schema):
                    self.findings.add(path, "schema", _names(schema), _names(held))
                    return None
                # A nested column is named as "media.list.element.sha256"; its root is what the schema knows.
                wanted = None if columns is None else [c for c in columns if c.split(".list.")[0] in held.names]
                return parquet.read(columns=wanted, use_threads=False).replace_schema_metadata(None)
        except DAMAGED as error:
            self.findings.add(path, "parquet", "a table", f"{type(error).__name__}: {error}")
            return None

    def map(self, path: str) -> memoryview | None:
        """A file's bytes without reading them; a remote file is fetched once. None where there is no such file."""
        if path not in self.sizes:
            self.findings.add(path, "file", "a file", "no file")
            return None
        return map_file(self.at(path))


def map_file(uri: str) -> memoryview:
    """The bytes of a file as memory, let go of with the last reference to them."""
    if storage.is_local(uri):
        with open(storage.local_path(uri), "rb") as file:
            return _map(file.fileno())
    with tempfile.TemporaryFile() as spool:
        for block in storage.read_blocks(uri, size=BLOCK):
            spool.write(block)
        spool.flush()
        return _map(spool.fileno())


def _map(descriptor: int) -> memoryview:
    if os.fstat(descriptor).st_size == 0:
        return memoryview(b"")
    return memoryview(mmap.mmap(descriptor, 0, access=mmap.ACCESS_READ))


def _names(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _first(expected: bytes, found: bytes) -> str:
    shared = min(len(expected), len(found))
    place = next((i for i in range(shared) if expected[i] != found[i]), shared)
    return f"other bytes from byte {place}"
