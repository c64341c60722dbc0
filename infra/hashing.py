"""Sample keys, fingerprints and deterministic pseudo-random draws, all from blake2b."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


def canonical_json(content: Any) -> bytes:
    """`content` as JSON with sorted keys, fixed separators and a final newline: equal content gives equal bytes.

    Raises ValueError for NaN and infinities, which JSON cannot express.
    """
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return text.encode() + b"\n"


def digest(*parts: bytes, size: int = 16) -> bytes:
    """blake2b of `parts`, each preceded by its length so that different lists of parts differ in their bytes."""
    state = hashlib.blake2b(digest_size=size)
    for block in parts:
        state.update(len(block).to_bytes(8, "little"))
        state.update(block)
    return state.digest()


def fingerprint(content: Any) -> str:
    """32 hex digits that identify a JSON value."""
    return digest(canonical_json(content)).hex()


def sample_key(source: str, container: str, position: str, media_sha256: str, text: str) -> str:
    """The key of a sample: 26 characters [a-z2-7], no dot.

    A function of its content and its position in the source, never of the order of a run.
    """
    text_hash = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    parts = (p.encode("utf-8", "surrogatepass") for p in (source, container, position, media_sha256, text_hash))
    return base64.b32encode(digest(*parts)).decode().lower().rstrip("=")


def draw_integers(seed: int, keys: Iterable[str], purpose: str) -> NDArray[np.uint64]:
    """uint64 (n,): one uniform draw per key, a function of (seed, key, purpose) only."""
    head = hashlib.blake2b(f"{seed}\x00{purpose}\x00".encode(), digest_size=8)
    digests = []
    for key in keys:
        state = head.copy()
        state.update(key.encode())
        digests.append(state.digest())
    return np.frombuffer(b"".join(digests), dtype="<u8").astype(np.uint64)


def draw_fractions(seed: int, keys: Iterable[str], purpose: str) -> NDArray[np.float64]:
    """float64 (n,) in [0, 1): `draw_integers` as fractions."""
    return (draw_integers(seed, keys, purpose) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def mix64(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """uint64, shaped as `x`: splitmix64's finalizer (Steele et al. 2014): every output bit depends on every input bit.

    For millions of draws at once, from numbers that a key of (seed, purpose) has been mixed into.
    """
    with np.errstate(over="ignore"):
        x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(x ^ (x >> np.uint64(31)), dtype=np.uint64)


def file_sha256(path: str | Path) -> str:
    """sha256 of a local file, as hex."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def rows_fingerprint(ids: pa.Array | pa.ChunkedArray) -> str:
    """32 hex digits that identify an ordered column of ids (binary or string)."""
    state = hashlib.blake2b(digest_size=16)
    if pa.types.is_fixed_size_binary(ids.type) and not ids.null_count:
        array = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else ids
        width = ids.type.byte_width
        rows = np.empty((len(array), 8 + width), dtype=np.uint8)
        rows[:, :8] = np.frombuffer(width.to_bytes(8, "little"), dtype=np.uint8)
        if len(array):
            flat = np.frombuffer(array.buffers()[1], dtype=np.uint8, offset=array.offset * width)
            rows[:, 8:] = flat[: len(array) * width].reshape(-1, width)
        state.update(rows.data)
        return state.hexdigest()
    for row_id in ids.to_pylist():
        block = row_id.encode() if isinstance(row_id, str) else row_id
        state.update(len(block).to_bytes(8, "little"))
        state.update(block)
    return state.hexdigest()
