"""RUN/takedown.json: the samples taken down from a run, which must not come back. takedown writes it, stages read it.

A sample that is taken down keeps a row with its key, modality, source, licence and an error that gives the reason; its
text, media and everything derived from them are erased. Its duplicates are withheld, so that none of them becomes the
survivor instead: their rows only get such an error. The filter "takedown" drops both.
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
from infra.columns import Mask, equals, to_mask
from infra.commit import Unit, read_json
from infra.errors import StageError
from infra.hashing import canonical_json

#: Incremented when a field of the file changes its meaning.
VERSION = 1

FILE = "takedown.json"

#: The filter named in verdicts, and the prefix of the error of a sample.
FILTER = "takedown"
PREFIX = f"{FILTER}: "

#: The reason of withheld duplicates.
COPY_REASON = "copy of a sample taken down"


@dataclass(frozen=True)
class Tombstones:
    """erased, withheld: key -> reason, of the samples taken down and of their withheld duplicates.

    rewritten: path of a unit's table -> (its sha256 now, its sha256 as its stage wrote it). A take-down is no new
    input: stages use the original sha256 in fingerprints, so that a later `run` of the same config finds its work done.
    """

    erased: Mapping[str, str] = field(default_factory=dict)
    withheld: Mapping[str, str] = field(default_factory=dict)
    rewritten: Mapping[str, tuple[str, str]] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.erased or self.withheld)

    @property
    def reasons(self) -> dict[str, str]:
        """key -> reason, of all listed samples."""
        return {**self.withheld, **self.erased}

    def original_sha256(self, stage: str, unit: Unit) -> str:
        """The sha256 of a unit's table as its stage wrote it."""
        now, before = self.rewritten.get(f"{stage}/{unit.name}.parquet", ("", ""))
        return before if now == unit.sha256 else unit.sha256

    def has_unmarked(self, uri: str) -> bool:
        """Whether a unit's table of samples contains a listed sample without its error."""
        if not self:
            return False
        samples = tables.read(uri, ["key", "error"])
        listed = pc.is_in(samples["key"], value_set=pa.array(sorted(self.reasons), pa.string()))
        return bool((to_mask(listed) & ~is_marked(samples["error"])).any())

    def apply(self, samples: pa.Table) -> pa.Table:
        """Erase and withhold the listed samples of a table."""
        if not self:
            return samples
        erased = pc.is_in(samples["key"], value_set=pa.array(sorted(self.erased), pa.string()))
        null = pa.scalar(None, pa.string())
        blank: dict[str, pa.Scalar] = {
            "container": pa.scalar(""),
            "position": pa.scalar(""),
            "media": pa.scalar([], type=samples.schema.field("media").type),
            "text": null,
            "origin": null,
            "extra": pa.scalar("{}"),
        }
        for name, scalar in blank.items():
            samples = _replace_column(samples, name, pc.if_else(erased, scalar, samples[name]))
        keys, reasons = zip(*sorted(self.reasons.items()), strict=True)
        messages = pa.array([f"{PREFIX}{reason}" for reason in reasons], pa.string())
        index = pc.index_in(samples["key"], value_set=pa.array(keys, pa.string())).combine_chunks()
        return _replace_column(samples, "error", pc.coalesce(messages.take(index), samples["error"]))

    def summarize(self) -> dict[str, Any]:
        """The entry of run.json: counts and reasons."""
        reasons = sorted(self.erased.values())
        return {
            "erased": len(self.erased),
            "held": len(self.withheld),
            "reasons": {reason: reasons.count(reason) for reason in sorted(set(reasons))},
        }

    def to_bytes(self) -> bytes:
        """The content of the file."""
        return canonical_json(
            {
                "takedown": VERSION,
                "erased": dict(self.erased),
                "held": dict(self.withheld),
                "rewritten": {path: {"is": now, "was": before} for path, (now, before) in self.rewritten.items()},
            }
        )


def load(run: str) -> Tombstones:
    """Read the file of a run; empty if nothing was taken down.

    Raises StageError if another version of Reelmill wrote it.
    """
    uri = storage.join(run, FILE)
    if not storage.is_file(uri):
        return Tombstones()
    content = read_json(uri)
    if content.get("takedown") != VERSION:
        raise StageError(
            f"the list of take-downs has version {content.get('takedown')}, expected {VERSION}",
            where=uri,
            hint="use the version of Reelmill that wrote it; without this list, taken-down samples could come back",
        )
    rewritten = {path: (entry["is"], entry["was"]) for path, entry in content["rewritten"].items()}
    return Tombstones(content["erased"], content["held"], rewritten)


def is_marked(errors: pa.ChunkedArray) -> Mask:
    """bool (n,): rows of samples.error of samples that are taken down or withheld."""
    return to_mask(pc.starts_with(errors, PREFIX))


def extract_reasons(errors: NDArray[Any]) -> NDArray[np.object_]:
    """object (n,): the reasons in such errors."""
    return np.array([str(error).removeprefix(PREFIX) for error in errors], dtype=object)


def describe_takedowns(verdicts: pa.Table) -> dict[str, Any]:
    """The entry of a shard's card on take-downs among the inputs booked to it; {} if there are none."""
    rows = verdicts.filter(pa.array(equals(verdicts["filter"], FILTER)))
    if not rows.num_rows:
        return {}
    counts = pc.value_counts(rows["reason"]).to_pylist()
    reasons = dict(sorted((str(entry["values"]), int(entry["counts"])) for entry in counts))
    return {"takedown": {"samples": rows.num_rows, "reasons": reasons}}


def _replace_column(table: pa.Table, name: str, values: pa.ChunkedArray) -> pa.Table:
    index = table.schema.get_field_index(name)
    return table.set_column(index, table.schema.field(index), values)
