"""A mixture on disk: mixture.json and members.parquet over immutable shards. `mix` writes it, all others read it."""

from __future__ import annotations

import hashlib
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra import storage, tables
from infra.commit import read_json
from infra.errors import StageError
from infra.hashing import canonical_json
from mixtures.reading.contract import Contract

#: Raised when a field of mixture.json changes its meaning.
VERSION = 1

MANIFEST = "mixture.json"
MEMBERS = "members.parquet"


@dataclass(frozen=True)
class Mixture:
    """An open mixture.

    manifest, as mixture.json contains it:
      mixture: VERSION; seed; recipe: as resolved; unit: the one that binds; contract: see tokens.Contract;
      parents: [{run, name, members}]: run is a path relative to the mixture's folder (or a URI where they share no
        file system), members the sha256 of its members' manifest;
      shards: [{parent, name, modality, suffixes, bytes, sha256}]: every tar of which something is taken;
      groups: [{name, modality, cell, available, samples, tokens, seconds, bytes}]: cells of the recipe, what there is
        and what was taken;
      totals: {samples, tokens, seconds, bytes}; achieved: {unit: {modality: share}}, for all four units;
      vshards: how many virtual shards; members: {rows, sha256} of members.parquet;
      warnings: what the recipe contradicts;
      materialized: null, or [{name, samples, bytes, sha256}], one tar a virtual shard, in MIX/shards.
    """

    uri: str
    manifest: Mapping[str, Any]

    @property
    def contract(self) -> Contract:
        return Contract(**self.manifest["contract"])

    def members(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Rows of infra.tables.MIXTURE, by (vshard, position)."""
        return tables.read(storage.join(self.uri, MEMBERS), columns)

    def run(self, parent: int) -> str:
        """Where a parent's run lies."""
        run = str(self.manifest["parents"][parent]["run"])
        return run if "://" in run or run.startswith("/") else _below(self.uri, run)

    def tar(self, shard: int) -> str:
        """The tar of one of `shards`, in its run."""
        found = self.manifest["shards"][shard]
        return storage.join(self.run(found["parent"]), "shards", f"{found['name']}.tar")

    def own_tar(self, vshard: int) -> str:
        """The tar of a virtual shard of a materialized mixture: its samples lie there one after another."""
        return storage.join(self.uri, "shards", f"{self.manifest['materialized'][vshard]['name']}.tar")


def _below(uri: str, path: str) -> str:
    """`path` seen from `uri`; an object store knows no "..", so behind a scheme they are taken out here."""
    scheme, mark, rest = storage.join(uri, path).partition("://")
    return f"{scheme}{mark}{posixpath.normpath(rest)}" if mark else scheme


def is_mixture(uri: str) -> bool:
    """Whether a folder holds a finished mixture."""
    return storage.is_file(storage.join(uri, MANIFEST))


def open_mixture(uri: str) -> Mixture:
    """Read a mixture's manifest.

    Raises StageError where there is none, it is damaged, or another version of Reelmill wrote it.
    """
    where = storage.join(uri, MANIFEST)
    if not storage.is_file(where):
        raise StageError("there is no mixture here", where=uri, hint="`reelmill mix --out` makes one")
    value = read_json(where)
    if value.get("mixture") != VERSION:
        raise StageError(
            f"this mixture is of version {value.get('mixture')}, not {VERSION}",
            where=where,
            hint="make it again with `reelmill mix`: its recipe stands in it, and no media are copied",
        )
    return Mixture(uri, value)


def encode_members(members: pa.Table) -> bytes:
    """members.parquet: columns of which most are as good as random are not looked through for what recurs."""
    return tables.to_bytes(members, level=1, dictionaries=("vshard", "group", "shard", "repeat"))


def write_mixture(uri: str, value: Mapping[str, Any], members: pa.Table) -> Mixture:
    """Write members.parquet, then mixture.json with its hash; the mixture exists from here on.

    Tars that were made of these very members stay part of it.
    """
    data = encode_members(members)
    digest = hashlib.sha256(data).hexdigest()
    held = read_json(storage.join(uri, MANIFEST)) if is_mixture(uri) else {}
    if held.get("members", {}).get("sha256") == digest:
        value = {**value, "materialized": held.get("materialized")}
    else:
        storage.write_bytes(storage.join(uri, MEMBERS), data)
    return rewrite_manifest(uri, {**value, "mixture": VERSION, "members": {"rows": members.num_rows, "sha256": digest}})


def rewrite_manifest(uri: str, value: Mapping[str, Any]) -> Mixture:
    """Write mixture.json anew; its members stay as they are."""
    storage.write_bytes(storage.join(uri, MANIFEST), canonical_json(dict(value)))
    return Mixture(uri, value)
