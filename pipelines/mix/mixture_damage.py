"""Verify the plan of an existing mixture before it is written again; copies of damaged files are kept for a person."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from infra import storage
from infra.commit import find_json
from infra.terminal import write_line
from mixtures.cards import schemas
from mixtures.shards.manifest import MANIFEST, MEMBERS, is_mixture
from pipelines.mix.mixture_card import CARD


def read_existing(uri: str) -> dict[str, Any] | None:
    """Read mixture.json: None if there is none, {} if it is damaged."""
    if not is_mixture(uri):
        return None
    manifest = find_json(storage.join(uri, MANIFEST))
    is_valid = isinstance(manifest, dict) and not schemas.find_errors("mixture", manifest)
    return manifest if is_valid else {}


def is_on_card(uri: str) -> bool:
    """Whether card.json names mixture.json by its sha256: then it is as it was written."""
    card = find_json(storage.join(uri, CARD))
    return isinstance(card, dict) and card.get("manifest") == hashlib.sha256(_read(uri, MANIFEST)).hexdigest()


def has_members(uri: str, members: bytes) -> bool:
    """Whether members.parquet has this content."""
    return _read(uri, MEMBERS) == members


def keep_damaged_copies(uri: str, existing: Mapping[str, Any] | None, members: bytes) -> None:
    """Copy mixture.json and members.parquet to MIX/work/damaged if they are damaged, before they are written anew.

    existing: see `read_existing`; members: the new content. The files stay in place until then, so that an interrupted
    command leaves a mixture.
    """
    if existing is None:
        return
    copies = {} if existing else {MANIFEST: _read(uri, MANIFEST)}
    before = _read(uri, MEMBERS)
    sums = {existing["members"]["sha256"], hashlib.sha256(members).hexdigest()} if existing else set()
    if existing and before and hashlib.sha256(before).hexdigest() not in sums:
        copies[MEMBERS] = before
    for name, content in copies.items():
        target = storage.join(uri, "work", "damaged", name)
        storage.write_bytes(target, content)
        write_line(f"reelmill: {storage.join(uri, name)} is damaged: copied to {target}; it is written again")


def _read(uri: str, name: str) -> bytes:
    """The bytes of a file, none if it is missing."""
    path = storage.join(uri, name)
    return storage.read_bytes(path) if storage.is_file(path) else b""
