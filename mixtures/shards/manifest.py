"""A mixture on disk: mixture.json and members.parquet over immutable shards. Written by `mix` only."""

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
      mixture: VERSION; seed; recipe: as resolved; unit: of shares and size; contract: see reading.contract;
      parents: [{run, name, members}]: run is a path relative to the mixture's folder (or a URI where they share no
        file system), members the sha256 of its members' manifest;
      shards: [{parent, name, modality, suffixes, bytes, sha256}]: every tar that samples are taken from;
      groups: [{name, modality, cell, available, samples, tokens, seconds, bytes}]: cells of the recipe, the number of
        available samples, and the amounts taken;
      totals: {samples, tokens, seconds, bytes}; achieved: {unit: {modality: share}}, for all four units;
      vshards: number of virtual shards; members: {rows, sha256} of members.parquet;
      warnings: established findings that the recipe contradicts;
      materialized: null, or [{name, samples, bytes, sha256}], one tar per virtual shard, in MIX/shards.
    """

    uri: str
    manifest: Mapping[str, Any]

    @property
    def contract(self) -> Contract:
        return Contract(**self.manifest["contract"])

    def members(self, columns: Sequence[str] | None = None) -> pa.Table:
        """Read members.parquet: columns of infra.tables.MIXTURE, rows by (vshard, position)."""
        return tables.read(storage.join(self.uri, MEMBERS), columns)

    def run(self, parent: int) -> str:
        """URI of a parent's run."""
        run = str(self.manifest["parents"][parent]["run"])
        return run if "://" in run or run.startswith("/") else _resolve_path(self.uri, run)

    def tar(self, shard: int) -> str:
        """URI of the tar of one of `shards`, in its run."""
        entry = self.manifest["shards"][shard]
        return storage.join(self.run(entry["parent"]), "shards", f"{entry['name']}.tar")

    def own_tar(self, vshard: int) -> str:
        """URI of the tar of a virtual shard of a materialized mixture: its samples are contiguous there."""
        return storage.join(self.uri, "shards", f"{self.manifest['materialized'][vshard]['name']}.tar")


def _resolve_path(uri: str, path: str) -> str:
    """Resolve a path relative to `uri`. Object stores do not support "..": behind a scheme it is normalised."""
    scheme, mark, rest = storage.join(uri, path).partition("://")
    return f"{scheme}{mark}{posixpath.normpath(rest)}" if mark else scheme


def is_mixture(uri: str) -> bool:
    """Return whether a folder contains a finished mixture."""
    return storage.is_file(storage.join(uri, MANIFEST))


def open_mixture(uri: str) -> Mixture:
    """Read a mixture's manifest.

    Raises StageError where it is missing or damaged, or another version of Reelmill wrote it.
    """
    where = storage.join(uri, MANIFEST)
    if not storage.is_file(where):
        raise StageError("there is no mixture here", where=uri, hint="`reelmill mix --out` makes one")
    manifest = read_json(where)
    if manifest.get("mixture") != VERSION:
        raise StageError(
            f"this mixture is of version {manifest.get('mixture')}, not {VERSION}",
            where=where,
            hint="make it again with `reelmill mix`: the file contains its recipe, and no media are copied",
        )
    return Mixture(uri, manifest)


def encode_members(members: pa.Table) -> bytes:
    """Encode members.parquet; only columns with few distinct values are dictionary-encoded."""
    return tables.to_bytes(members, level=1, dictionaries=("vshard", "group", "shard", "repeat"))


def write_mixture(uri: str, manifest: Mapping[str, Any], members: pa.Table) -> Mixture:
    """Write members.parquet, then mixture.json with its hash, which completes the mixture."""
    mixture = write_members(uri, manifest, encode_members(members), members.num_rows)
    return rewrite_manifest(uri, mixture.manifest)


def write_members(uri: str, manifest: Mapping[str, Any], content: bytes, rows: int) -> Mixture:
    """Write members.parquet; returns the mixture that `rewrite_manifest` completes. content: of `encode_members`."""
    storage.write_bytes(storage.join(uri, MEMBERS), content)
    entry = {"rows": rows, "sha256": hashlib.sha256(content).hexdigest()}
    return Mixture(uri, {**manifest, "mixture": VERSION, "members": entry})


def rewrite_manifest(uri: str, manifest: Mapping[str, Any]) -> Mixture:
    """Overwrite mixture.json; members.parquet stays as it is."""
    storage.write_bytes(storage.join(uri, MANIFEST), canonical_json(dict(manifest)))
    return Mixture(uri, manifest)
