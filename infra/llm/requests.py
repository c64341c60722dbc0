"""Request a language model's completions and never pay for one twice: requests, completions and their cache.

CachedClient ──▶ RequestCache: a completion that was committed is never requested again
             └─▶ CompletionBackend: servers (infra/llm/servers.py), batch files or a model in this process
"""

from __future__ import annotations

import asyncio
import json
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, NoReturn, Protocol

from infra.errors import BadSample, ConfigError, StageError
from infra.hashing import digest
from infra.storage import is_local, local_path

#: Beginning of a completion's error where the fault was not the request's own: such a completion is never cached.
GAVE_UP = "gave_up"
#: Seconds to wait for the database lock, which another process holds for some 50 µs at a time; ours.
_LOCK_S = 60.0
_FORMAT = 1
_LOCATION_HINT = "use a file of its own on a local disk with free space, written by one machine only"


@dataclass(frozen=True)
class Request:
    """One request, exactly as it is sent. body: an OpenAI chat-completions body with "model" and without NaN.
    Threads: a request belongs to one event loop."""

    body: Mapping[str, Any]

    @cached_property
    def payload(self) -> bytes:
        """The body as the JSON bytes that are sent. Keys keep their order: a server writes the properties of an answer
        in the order of its schema, a question before its answer. BadSample ("text") for text that is not Unicode."""
        try:
            return json.dumps(self.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except UnicodeEncodeError as error:
            raise BadSample("text", f"half of a surrogate pair cannot be sent: {error.object[error.start]!a}") from None

    @cached_property
    def key(self) -> bytes:
        """16 bytes: a hash of the whole body (model, prompt, schema and parameters)."""
        return digest(self.payload)

    @property
    def model(self) -> str:
        return str(self.body["model"])


@dataclass(frozen=True)
class Completion:
    """The outcome of a request.

    texts: one per choice (n > 1 requests several), () with an error; finish: the finish_reason of each.
    tokens_in, tokens_out: as the server counts them, over all choices; tokens_cached: the part of tokens_in that was
    in the server's prefix cache; 0 where it does not report them.
    error: None; or "too_long: …" and "refused: …", which are the request's own fault and cached; or "gave_up: …", a
    fault that may pass: never cached, requested again in the next run.
    """

    texts: tuple[str, ...]
    finish: tuple[str, ...]
    model: str
    tokens_in: int = 0
    tokens_out: int = 0
    tokens_cached: int = 0
    error: str | None = None

    @property
    def is_cacheable(self) -> bool:
        return self.error is None or not self.error.startswith(GAVE_UP)

    def to_json(self) -> bytes:
        return json.dumps(vars(self), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    @classmethod
    def from_json(cls, raw: bytes) -> Completion:
        """Read what `to_json` wrote; ValueError, KeyError or TypeError for anything else."""
        fields = json.loads(raw)
        return cls(**{**fields, "texts": tuple(fields["texts"]), "finish": tuple(fields["finish"])})


class RequestCache:
    """Completions by the key of their request, in one SQLite file that many processes of one machine may share.

    A committed completion survives SIGKILL of any process (a crash of the whole machine may lose it: the log is flushed
    at checkpoints only). The first completion of a request stays: `put` returns it to everybody, so that all workers
    write the same. "too_long" and "refused" are cached too: use another file after reconfiguring a server. The file
    must be on a local disk, because processes share its log through memory.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or create the file. ConfigError for a remote path, StageError for an unusable file."""
        if not is_local(str(path)):
            raise ConfigError("the request cache must be on a local disk", where=str(path))
        self.path = local_path(str(path))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: each statement is a transaction. It may be opened in one thread and used in another.
            self._db = sqlite3.connect(self.path, timeout=_LOCK_S, isolation_level=None, check_same_thread=False)
        except (sqlite3.Error, OSError) as error:
            self._fail(error)
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._db.close()
            self._fail(error)
        except StageError:
            self._db.close()
            raise

    def _prepare(self) -> None:
        deadline = time.monotonic() + _LOCK_S
        while True:
            try:
                self._check_format()  # before any change: the file may belong to another program
                mode = self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                # Several processes create the file at once: SQLite does not wait for this lock by itself.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        if mode != "wal":
            raise StageError(
                "this file system does not support the request cache", where=str(self.path), hint=_LOCATION_HINT
            )
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        if not self._check_format():
            self._db.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, model TEXT NOT NULL, answer BLOB NOT NULL)")
            self._db.execute(f"PRAGMA user_version={_FORMAT}")
        self._db.execute("COMMIT")

    def _check_format(self) -> int:
        """Return the file's format, 0 for a new file. StageError for another program's file."""
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == _FORMAT or (version == 0 and not tables):
            return version
        raise StageError(
            f"unknown request cache format {version}" if version else "not a request cache",
            where=str(self.path),
            hint="name another file; this one was not changed",
        )

    def get(self, key: bytes) -> Completion | None:
        """Return the completion that this or another process committed under `key`, or None."""
        try:
            row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._fail(error)
        try:
            return None if row is None else Completion.from_json(row[0])
        except (ValueError, KeyError, TypeError) as error:
            raise StageError(
                f"cannot read the completion {key.hex()} in the request cache: {error}",
                where=str(self.path),
                hint="the file is damaged or written by another program; move it away to request everything again",
            ) from None

    def put(self, key: bytes, model: str, completion: Completion) -> Completion:
        """Commit a completion of `model` and return what the cache now contains under `key`: an earlier completion if
        there was one. On return it survives SIGKILL. ValueError for a completion that is not cacheable."""
        if not completion.is_cacheable:
            raise ValueError(f"not a cacheable completion: {completion.error}")
        try:
            row = (key, model, completion.to_json())
            added = self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", row).rowcount
        except sqlite3.Error as error:
            self._fail(error)
        return completion if added else self.get(key) or completion

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """Iterate (key, completion as `Completion.to_json` wrote it), in no particular order."""
        try:
            yield from self._db.execute("SELECT key, answer FROM answers")
        except sqlite3.Error as error:
            self._fail(error)

    def forget(self, keys: Sequence[bytes]) -> int:
        """Remove completions, and their bytes from the file; return how many were removed."""
        try:
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("BEGIN IMMEDIATE")
            removed = sum(self._db.execute("DELETE FROM answers WHERE key = ?", (key,)).rowcount for key in keys)
            self._db.execute("COMMIT")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            self._fail(error)
        return removed

    def __len__(self) -> int:
        try:
            return int(self._db.execute("SELECT count(*) FROM answers").fetchone()[0])
        except sqlite3.Error as error:
            self._fail(error)

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> RequestCache:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def _fail(self, error: Exception) -> NoReturn:
        raise StageError(f"request cache: {error}", where=str(self.path), hint=_LOCATION_HINT) from error


class CompletionBackend(Protocol):
    """Anything that completes requests. retries: attempts beyond the first of each request, so far."""

    @property
    def retries(self) -> int: ...

    async def complete(self, request: Request) -> Completion:
        """Raise StageError if no request can be completed; an error of this request alone is in its Completion."""
        ...


class CachedClient:
    """A backend behind the request cache, for use within one event loop.

    sent: requests passed to the backend; hits: completed from the cache, or by an equal request in flight; gave_up:
    requests without a cacheable completion; tokens_*: of `sent`, as in Completion.
    """

    def __init__(self, cache: RequestCache, backend: CompletionBackend) -> None:
        self._cache = cache
        self._backend = backend
        self._in_flight: dict[bytes, asyncio.Future[Completion | StageError | None]] = {}
        self.sent = self.hits = self.gave_up = 0
        self.tokens_in = self.tokens_out = self.tokens_cached = 0

    @property
    def retries(self) -> int:
        return self._backend.retries

    def counters(self) -> dict[str, int]:
        """Return all counters by name; those of a job are the sums over its clients."""
        names = ("sent", "hits", "retries", "gave_up", "tokens_in", "tokens_out", "tokens_cached")
        return {name: getattr(self, name) for name in names}

    async def complete(self, request: Request) -> Completion:
        """Return the completion from the cache, else from the backend, whose errors are raised.

        A completion is committed before this task yields to another: no request can take the free slot while it is not
        yet cached, so that a SIGKILL loses no more completions than there are slots. Commits by other processes are
        not seen while this request waits for a slot: start no more requests than keep the slots full.
        """
        key = request.key
        while True:
            completion = self._cache.get(key)
            if completion is not None:
                self.hits += 1
                return completion
            pending = self._in_flight.get(key)
            if pending is None:
                break
            outcome = await asyncio.shield(pending)
            if isinstance(outcome, StageError):
                raise outcome
            if outcome is not None:
                self.hits += 1
                return outcome
            # The task that had sent it was cancelled, this one was not.
        return await self._send(request)

    async def _send(self, request: Request) -> Completion:
        pending = self._in_flight[request.key] = asyncio.get_running_loop().create_future()
        outcome: Completion | StageError | None = None
        try:
            self.sent += 1
            completion = await self._backend.complete(request)
            if completion.is_cacheable:
                self.tokens_in += completion.tokens_in
                self.tokens_out += completion.tokens_out
                self.tokens_cached += completion.tokens_cached
                completion = self._cache.put(request.key, request.model, completion)
            else:
                self.gave_up += 1
            outcome = completion
            return completion
        except StageError as error:
            outcome = error
            raise
        finally:
            del self._in_flight[request.key]
            pending.set_result(outcome)
