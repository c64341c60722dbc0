"""Asking a language model and never paying twice: what is asked, what was answered, and the cache between the two.

Request ──▶ CachedClient ──▶ RequestCache: an answer that was committed is never asked for again
          └────▶ Engine: servers (infra/llm/servers.py), or a model in this process
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

#: What an answer's error begins with when the fault was not the item's own: such an answer is never cached.
GAVE_UP = "gave_up"
#: Seconds to wait for another process that holds the cache's lock, which it holds for some 50 µs at a time; ours.
_LOCK_S = 60.0
_FORMAT = 1


@dataclass(frozen=True)
class Request:
    """One request, exactly as it is sent. body: an OpenAI chat-completions body, "model" included, without NaN."""

    body: Mapping[str, Any]

    @cached_property
    def payload(self) -> bytes:
        """The body as JSON: the bytes that are sent. Keys stay in the order in which they were put, as a server writes
        the properties of an answer in the order in which they stand in its schema: a question before its answer.
        BadSample ("text") where it is no Unicode."""
        try:
            return json.dumps(self.body, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
        except UnicodeEncodeError as error:
            raise BadSample("text", f"half of a surrogate pair cannot be sent: {error.object[error.start]!a}") from None

    @cached_property
    def key(self) -> bytes:
        """16 bytes that stand for model, prompt, schema and parameters: all that is in the body."""
        return digest(self.payload)

    @property
    def model(self) -> str:
        return str(self.body["model"])


@dataclass(frozen=True)
class Completion:
    """What came of an request.

    texts: one a choice (n > 1 gives several), () where there is an error; finish: the finish_reason of each.
    tokens_in, tokens_out: as the server counts them, over all choices; tokens_cached: those of tokens_in that it had in
    its prefix cache; 0 where it does not say.
    error: None, or "too_long: …" and "refused: …", the item's own and cached like answers, or "gave_up: …", a fault
    that passed for others and not for this one: never cached, asked again in the next run.
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
        """Whether asking again would be paying twice."""
        return self.error is None or not self.error.startswith(GAVE_UP)

    def to_json(self) -> bytes:
        return json.dumps(vars(self), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "surrogatepass")

    @classmethod
    def from_json(cls, data: bytes) -> Completion:
        """ValueError, KeyError or TypeError where `data` was not made by `to_json`."""
        value = json.loads(data)
        return cls(**{**value, "texts": tuple(value["texts"]), "finish": tuple(value["finish"])})


class RequestCache:
    """Answers by the key of their request, in one SQLite file; many processes of one machine may have it open at once.

    An answer that was put is there after a SIGKILL of any process (it may be lost with the whole machine: the log is
    flushed at checkpoints only). The first answer to an ask stays: whoever puts another gets the first back, so that
    all workers write the same. What was too long or refused is remembered too: where a server was set up anew so that
    it would not be, take another file. The file has to be on a local disk: its log is shared memory between processes.
    """

    def __init__(self, path: str | Path) -> None:
        """Open or make the file. ConfigError for a remote place, StageError where it cannot be used."""
        if not is_local(str(path)):
            raise ConfigError("the cache of answers has to be on a local disk", where=str(path))
        self.path = local_path(str(path))
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # Autocommit: each statement is a transaction. Threads take turns: it may be opened in one, used in another.
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
        give_up = time.monotonic() + _LOCK_S
        while True:
            try:
                self._check()  # before anything is changed: it may be somebody else's file
                mode = self._db.execute("PRAGMA journal_mode=WAL").fetchone()[0]
                break
            except sqlite3.OperationalError as error:
                # Several processes that make the file at once: SQLite does not wait for this lock by itself.
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > give_up:
                    raise
                time.sleep(0.02)
        if mode != "wal":
            raise StageError("this file system cannot hold the cache of answers", where=str(self.path), hint=_LOCAL)
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.execute("BEGIN IMMEDIATE")
        if not self._check():
            self._db.execute("CREATE TABLE answers (key BLOB PRIMARY KEY, model TEXT NOT NULL, answer BLOB NOT NULL)")
            self._db.execute(f"PRAGMA user_version={_FORMAT}")
        self._db.execute("COMMIT")

    def _check(self) -> int:
        """The file's format, 0 where it is new. StageError where it is another's."""
        version = int(self._db.execute("PRAGMA user_version").fetchone()[0])
        tables = self._db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
        if version == _FORMAT or (version == 0 and not tables):
            return version
        raise StageError(
            f"a cache of answers of format {version} is not known here" if version else "not a cache of answers",
            where=str(self.path),
            hint="name another file; this one stays as it is",
        )

    def get(self, key: bytes) -> Completion | None:
        """The answer that was committed for this request, by this process or another."""
        try:
            row = self._db.execute("SELECT answer FROM answers WHERE key = ?", (key,)).fetchone()
        except sqlite3.Error as error:
            self._fail(error)
        try:
            return None if row is None else Completion.from_json(row[0])
        except (ValueError, KeyError, TypeError) as error:
            raise StageError(
                f"the answer {key.hex()} in the cache cannot be read: {error}",
                where=str(self.path),
                hint="the file was written by something else, or damaged; move it away to ask anew",
            ) from None

    def put(self, key: bytes, request: Request, answer: Completion) -> Completion:
        """Commit the answer to `ask`, whose key this is; returns what the cache now holds, an earlier answer if there
        was one. On return it is durable against SIGKILL. ValueError for an answer that must not last."""
        return self._commit(key, request.model, answer)

    def put_read(self, key: bytes, answer: Completion) -> Completion:
        """`put` for an answer that came in a file, whose ask is known by its key only."""
        return self._commit(key, answer.model, answer)

    def _commit(self, key: bytes, model: str, answer: Completion) -> Completion:
        if not answer.is_cacheable:
            raise ValueError(f"not an answer to keep: {answer.error}")
        try:
            row = (key, model, answer.to_json())
            added = self._db.execute("INSERT OR IGNORE INTO answers VALUES (?, ?, ?)", row).rowcount
        except sqlite3.Error as error:
            self._fail(error)
        return answer if added else self.get(key) or answer

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """(key, answer as `Completion.to_json` wrote it) of every answer, in no special order."""
        try:
            yield from self._db.execute("SELECT key, answer FROM answers")
        except sqlite3.Error as error:
            self._fail(error)

    def forget(self, keys: Sequence[bytes]) -> int:
        """Remove answers, and their bytes from the file; returns how many there were."""
        try:
            self._db.execute("PRAGMA secure_delete=ON")
            self._db.execute("BEGIN IMMEDIATE")
            gone = sum(self._db.execute("DELETE FROM answers WHERE key = ?", (key,)).rowcount for key in keys)
            self._db.execute("COMMIT")
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        except sqlite3.Error as error:
            self._fail(error)
        return gone

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
        raise StageError(f"the cache of answers: {error}", where=str(self.path), hint=_LOCAL) from error


_LOCAL = "it has to be a file of its own on a local disk with room, written by one machine"


class CompletionBackend(Protocol):
    """Whatever can answer. retries: attempts beyond the first of each request, so far."""

    @property
    def retries(self) -> int: ...

    async def complete(self, request: Request) -> Completion:
        """Raises StageError where no ask can be answered; what concerns this one ask alone is an Completion's error."""
        ...


class CachedClient:
    """Where everything that is asked goes through; used within one event loop.

    sent: asks given to the engine; hits: answered from the cache, or by an ask like it that was in flight; gave_up:
    asks without a lasting answer; tokens_*: of what was sent, as in Completion. Counted since the desk was made.
    """

    def __init__(self, cache: RequestCache, backend: CompletionBackend) -> None:
        self._cache = cache
        self._backend = backend
        self._flying: dict[bytes, asyncio.Future[Completion | StageError | None]] = {}
        self.sent = self.hits = self.gave_up = 0
        self.tokens_in = self.tokens_out = self.tokens_cached = 0

    @property
    def retries(self) -> int:
        return self._backend.retries

    def counters(self) -> dict[str, int]:
        """What is counted, by name; the sums over all desks of a job are the job's."""
        names = ("sent", "hits", "retries", "gave_up", "tokens_in", "tokens_out", "tokens_cached")
        return {name: getattr(self, name) for name in names}

    async def complete(self, request: Request) -> Completion:
        """The answer from the cache, else from the engine. What the engine answers is committed before this task gives
        way to another: no request can go out in the slot that it leaves while it is not yet in the cache, and a SIGKILL
        loses no more answers than there are slots. What another process commits while this one waits for a slot is not
        seen: have no more asks under way than keep the slots full. Raises what the engine raises.
        """
        key = request.key
        while True:
            found = self._cache.get(key)
            if found is not None:
                self.hits += 1
                return found
            flying = self._flying.get(key)
            if flying is None:
                break
            outcome = await asyncio.shield(flying)
            if isinstance(outcome, StageError):
                raise outcome
            if outcome is not None:
                self.hits += 1
                return outcome
            # The one that had asked was cancelled, this one was not.
        return await self._send(request)

    async def _send(self, request: Request) -> Completion:
        flying = self._flying[request.key] = asyncio.get_running_loop().create_future()
        outcome: Completion | StageError | None = None
        try:
            self.sent += 1
            answer = await self._backend.complete(request)
            if answer.is_cacheable:
                self.tokens_in += answer.tokens_in
                self.tokens_out += answer.tokens_out
                self.tokens_cached += answer.tokens_cached
                answer = self._cache.put(request.key, request, answer)
            else:
                self.gave_up += 1
            outcome = answer
            return answer
        except StageError as error:
            outcome = error
            raise
        finally:
            del self._flying[request.key]
            flying.set_result(outcome)
