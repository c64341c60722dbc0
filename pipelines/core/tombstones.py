"""RUN/takedown.json: what was taken down from a run and must not come back. Written by takedown, read by every stage.

A sample that is taken down keeps its row: its key, modality, source and licence, and an error that says so; its text,
media and everything that was made from them are gone. Whoever would have risen in its place, a duplicate of it, is
held: its row stays as it is but for the same error. Both end as dropped by the filter "takedown".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage, tables
from infra.commit import Unit, read_json
from infra.errors import StageError
from infra.hashing import canonical_json

#: Raised when a field of the list changes its meaning.
VERSION = 1

NAME = "takedown.json"

#: The filter that a verdict names, and what the error of a sample begins with.
FILTER = "takedown"
PREFIX = f"{FILTER}: "

#: Why a duplicate of a sample that was taken down is held.
COPY = "copy of a sample taken down"

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Taken:
    """erased: key -> why; held: key -> why, of duplicates that must not take its place.

    rewritten: path -> (sha256 as it is, sha256 as its stage wrote it). A take-down is no new input: what it rewrote
    stands for what it was, so that a later `run` of the same config finds everything done.
    """

    erased: Mapping[str, str] = field(default_factory=dict)
    held: Mapping[str, str] = field(default_factory=dict)
    rewritten: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.erased or self.held)

    def origin(self, stage: str, unit: Unit) -> str:
        """The sha256 of a unit's table as its stage wrote it."""
        now, before = self.rewritten.get(f"{stage}/{unit.name}.parquet", ("", ""))
        return before if now == unit.sha256 else unit.sha256

    def misses(self, uri: str) -> bool:
        """Whether a unit's table of samples holds one on the list that is not marked."""
        if not self:
            return False
        samples = tables.read(uri, ["key", "error"])
        return bool(pc.any(pc.and_(self._on_list(samples["key"]), pc.invert(marked(samples["error"])))).as_py())

    def apply(self, samples: pa.Table) -> pa.Table:
        """A table of samples with those on the list erased or held."""
        if not self:
            return samples
        erased = pc.is_in(samples["key"], value_set=pa.array(sorted(self.erased), pa.string()))
        nothing = pa.scalar(None, pa.string())
        blank: dict[str, pa.Scalar] = {
            "container": pa.scalar(""),
            "position": pa.scalar(""),
            "media": pa.scalar([], type=samples.schema.field("media").type),
            "text": nothing,
            "origin": nothing,
            "extra": pa.scalar("{}"),
        }
        for name, value in blank.items():
            samples = _put(samples, name, pc.if_else(erased, value, samples[name]))
        why = {**self.held, **self.erased}
        keys = pa.array(sorted(why), pa.string())
        said = pa.array([f"{PREFIX}{why[key]}" for key in keys.to_pylist()], pa.string())
        errors = said.take(pc.index_in(samples["key"], value_set=keys).combine_chunks())
        return _put(samples, "error", pc.coalesce(errors, samples["error"]))

    def _on_list(self, keys: pa.ChunkedArray) -> pa.ChunkedArray:
        return pc.is_in(keys, value_set=pa.array(sorted({**self.held, **self.erased}), pa.string()))

    def summary(self) -> dict[str, Any]:
        """What run.json says of it: how many, and why."""
        why = sorted(self.erased.values())
        return {
            "erased": len(self.erased),
            "held": len(self.held),
            "reasons": {reason: why.count(reason) for reason in sorted(set(why))},
        }

    def to_bytes(self) -> bytes:
        """The file."""
        value = {
            "takedown": VERSION,
            "erased": dict(self.erased),
            "held": dict(self.held),
            "rewritten": {path: {"is": now, "was": before} for path, (now, before) in self.rewritten.items()},
        }
        return canonical_json(value)


def load(run: str) -> Taken:
    """The list of a run; empty where nothing was taken down.

    Raises StageError where another version of Reelmill wrote it.
    """
    uri = storage.join(run, NAME)
    if not storage.is_file(uri):
        return Taken()
    value = read_json(uri)
    if value.get("takedown") != VERSION:
        raise StageError(
            f"a list of take-downs of version {value.get('takedown')}, not {VERSION}",
            where=uri,
            hint="use the version of Reelmill that wrote it; without the list, what was taken down could come back",
        )
    rewritten = {path: (entry["is"], entry["was"]) for path, entry in value["rewritten"].items()}
    return Taken(value["erased"], value["held"], rewritten)


def marked(errors: pa.ChunkedArray) -> pa.ChunkedArray:
    """bool (n,): rows of samples.error that say that the sample was taken down or is held."""
    return pc.fill_null(pc.starts_with(errors, PREFIX), False)


def reasons(errors: NDArray[Any]) -> NDArray[np.object_]:
    """object (n,): of such errors, what follows the prefix."""
    return np.array([str(error).removeprefix(PREFIX) for error in errors], dtype=object)


def record(verdicts: pa.Table) -> dict[str, Any]:
    """What the card of a shard says of take-downs among the inputs booked to it; {} where there are none."""
    mine = verdicts.filter(pc.fill_null(pc.equal(verdicts["filter"], FILTER), False))
    if not mine.num_rows:
        return {}
    counts = pc.value_counts(mine["reason"]).to_pylist()
    why = dict(sorted((str(entry["values"]), int(entry["counts"])) for entry in counts))
    return {"takedown": {"samples": mine.num_rows, "reasons": why}}


def _put(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), values)
