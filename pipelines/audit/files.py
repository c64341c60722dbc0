"""Files of an audited run or mixture: each is hashed once, in a thread, and read without trusting its contents."""

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

#: Bytes hashed between two updates of the progress; hashlib releases the interpreter's lock meanwhile.
BLOCK = 2**23

#: Hashing threads (ours: hashing is the expensive step, and disks rarely feed more).
HASHERS = max(1, min(4, (os.cpu_count() or 2) - 1))

#: What pyarrow raises on bytes that are not Parquet; OSError covers a footer that is not Thrift.
DAMAGED = (pa.ArrowException, OSError, MemoryError)


class AuditFiles:
    """Files below `uri`. A damaged or missing file becomes a finding, never an exception."""

    def __init__(self, uri: str, findings: AuditFindings, listing: Iterable[storage.Entry] = ()) -> None:
        self.uri = uri
        self.findings = findings
        self.sizes: dict[str, int] = {entry.path: entry.size for entry in listing}
        self.hashed = 0
        self._pool = ThreadPoolExecutor(HASHERS)
        self._digests: dict[str, Future[str]] = {}

    def at(self, path: str) -> str:
        """The URI of a file."""
        return storage.join(self.uri, path)

    def close(self) -> None:
        """Stop hashing."""
        self._pool.shutdown(cancel_futures=True)

    def _exists(self, path: str) -> bool:
        if path not in self.sizes:
            self.findings.add(path, "file", "a file", "no file")
        return path in self.sizes

    # -- hashes -----------------------------------------------------------------------------------------------------

    def start_hash(self, path: str, view: memoryview | None = None) -> None:
        """Start to hash a file; `view`: its bytes, if they are mapped already."""
        if path in self.sizes and path not in self._digests:
            self._digests[path] = self._pool.submit(self._hash, path, view)

    def _hash(self, path: str, view: memoryview | None) -> str:
        state = hashlib.sha256()
        # A small file is read in one block: opening it is the expensive step.
        blocks = (
            (view[start : start + BLOCK] for start in range(0, len(view), BLOCK))
            if view is not None
            else storage.read_blocks(self.at(path), size=min(BLOCK, max(self.sizes[path], 1)))
        )
        for block in blocks:
            state.update(block)
            self.hashed += len(block)
        return state.hexdigest()

    def digest(self, path: str) -> str | None:
        """Wait for a file's sha256 (hex); None if there is no such file."""
        self.start_hash(path)
        return self._digests[path].result() if path in self._digests else None

    # -- contents ---------------------------------------------------------------------------------------------------

    def read_json(self, path: str, schema: str | None = None) -> Any:
        """Read a canonical JSON file; None, with a finding, if it is missing, damaged, or breaks a published schema."""
        if not self._exists(path):
            return None
        content = storage.read_bytes(self.at(path))
        try:
            document = json.loads(content)
            canonical = canonical_json(document)
        except (ValueError, RecursionError) as error:
            self.findings.add(path, "json", "JSON", f"{type(error).__name__}: {error}")
            return None
        if canonical != content:
            difference = _describe_difference(canonical, content)
            self.findings.add(path, "json", "canonical JSON (sorted keys, no blanks, one line)", difference)
        return document if schema is None or self.is_valid(path, document, schema) else None

    def is_valid(self, path: str, document: Any, schema: str) -> bool:
        """Check a JSON document against a published schema; violations become findings."""
        errors = schemas.find_errors(schema, document)
        for field, message in errors:
            self.findings.add(path, field or "value", f"valid under {schema}.json", message)
        return not errors

    def read_table(
        self, path: str, schema: pa.Schema | None, columns: Iterable[str] | None = None, sha256: str | None = None
    ) -> pa.Table | None:
        """Read those of `columns` that a table has; None, with a finding, if it is missing or damaged, if its sha256
        is not `sha256`, or if its schema is not `schema` (None: any schema)."""
        if not self._exists(path):
            return None
        if sha256 is not None and not self.findings.compare(path, "sha256", sha256, self.digest(path)):
            return None  # checksum mismatch: do not trust its contents
        try:
            with storage.open_read(self.at(path)) as file:
                parquet = pq.ParquetFile(file)
                actual = parquet.schema_arrow
                if schema is not None and not actual.equals(schema):
                    self.findings.add(path, "schema", _describe_schema(schema), _describe_schema(actual))
                    return None
                # A nested column such as "media.list.element.sha256" is in the schema under its root's name.
                present = None if columns is None else [c for c in columns if c.split(".list.")[0] in actual.names]
                return parquet.read(columns=present, use_threads=False).replace_schema_metadata(None)
        except DAMAGED as error:
            self.findings.add(path, "parquet", "a table", f"{type(error).__name__}: {error}")
            return None

    def map(self, path: str) -> memoryview | None:
        """Map a file's bytes into memory; a remote file is downloaded once. None, with a finding, if it is missing."""
        return map_file(self.at(path)) if self._exists(path) else None


def map_file(uri: str) -> memoryview:
    """Map the bytes of a file into memory; they are released with the last reference to them."""
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


def _describe_schema(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def _describe_difference(expected: bytes, actual: bytes) -> str:
    shared = min(len(expected), len(actual))
    position = next((i for i in range(shared) if expected[i] != actual[i]), shared)
    return f"other bytes from byte {position}"
