"""Tables: their schemas and version, and one way to write them, so that equal rows give equal bytes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage

#: Raised whenever a column's meaning or type changes. 2: members distinguish tokens of text from those of media.
VERSION = 2

MEDIUM = pa.struct(
    [
        ("uri", pa.string()),  # relative to the source's root
        ("offset", pa.int64()),
        ("length", pa.int64()),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),  # < 0: to the end
        ("sha256", pa.string()),  # of the bytes; "" where they could not be read
    ]
)

SAMPLES = pa.schema(
    [
        ("key", pa.string()),
        ("modality", pa.string()),
        ("source", pa.string()),
        ("container", pa.string()),
        ("position", pa.string()),
        ("media", pa.list_(MEDIUM)),
        ("text", pa.string()),  # raw; null: none
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("extra", pa.string()),  # the rest of the row, as canonical JSON
        ("error", pa.string()),  # reason of a failure at ingest, otherwise null
    ]
)

OTHER_REASON = pa.struct(
    [("filter", pa.string()), ("reason", pa.string()), ("value", pa.float64()), ("threshold", pa.float64())]
)

VERDICTS = pa.schema(
    [
        ("key", pa.string()),
        ("modality", pa.string()),
        ("source", pa.string()),
        ("outcome", pa.string()),  # kept, dropped, duplicate, failed
        ("filter", pa.string()),  # the filter that dropped it, "duplicates", "resample", or the stage that failed
        ("reason", pa.string()),
        ("value", pa.float64()),
        ("threshold", pa.float64()),
        ("duplicate_of", pa.string()),
        ("keep_probability", pa.float64()),
        ("others", pa.list_(OTHER_REASON)),  # every other failing filter among those measured
    ]
)

DUPLICATES = pa.schema(
    [
        ("key", pa.string()),
        ("row", pa.uint64()),
        ("survivor", pa.string()),  # key; the row's own where it survives
        ("component", pa.uint64()),  # smallest row id of the group
        ("similarity", pa.float64()),  # of the strongest edge: cosine, matched share, or estimated Jaccard
        ("match", pa.string()),  # key at the other end of that edge
        ("start_s", pa.float64()),  # matched span in this sample, videos only
        ("end_s", pa.float64()),
        ("match_start_s", pa.float64()),  # and in the other
        ("match_end_s", pa.float64()),
    ]
)

MEMBERS = pa.schema(
    [
        ("key", pa.string()),
        ("shard", pa.string()),
        ("offset", pa.int64()),  # of the first member's header block
        ("size", pa.int64()),  # to the end of the last member's padding
        ("members", pa.list_(pa.struct([("name", pa.string()), ("offset", pa.int64()), ("size", pa.int64())]))),
        ("modality", pa.string()),
        ("source", pa.string()),
        ("licence", pa.string()),
        ("kind", pa.string()),  # kind of text: caption, document, conversation kinds
        ("language", pa.string()),
        ("tokens", pa.int64()),  # of text and media, by the released loader's contract
        ("text_tokens", pa.int64()),  # of the text alone
        ("images", pa.int32()),  # 0 for videos and texts
        ("seconds", pa.float64()),
        ("bytes", pa.int64()),
    ]
)

#: The samples of a mixture, ordered by (vshard, position).
MIXTURE = pa.schema(
    [
        ("key", pa.string()),
        ("vshard", pa.int32()),
        ("position", pa.int32()),  # within the virtual shard
        ("group", pa.int32()),  # of mixture.json's groups
        ("shard", pa.int32()),  # of mixture.json's shards
        ("repeat", pa.int32()),  # 0: the first time that the sample appears in the mixture
        ("offset", pa.int64()),  # of the sample in its shard's tar, as in members
        ("size", pa.int64()),
        ("tokens", pa.int64()),  # by the recipe's contract
        ("seconds", pa.float64()),
        ("bytes", pa.int64()),
    ]
)

#: A turn, its evidence and its outcome; blind_rate: share of right answers without the video, 0..1.
TURN = pa.struct(
    [
        ("question", pa.string()),
        ("answer", pa.string()),
        ("evidence", pa.list_(pa.string())),
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("outcome", pa.string()),  # accepted, rejected
        ("reason", pa.string()),
        ("blind_rate", pa.float64()),  # null: not measured
    ]
)

ITEM = pa.struct(
    [
        ("id", pa.string()),
        ("kind", pa.string()),  # caption, dense, ocr, shot, motion, transcript, facts
        ("start_s", pa.float64()),
        ("end_s", pa.float64()),
        ("text", pa.string()),
    ]
)

DIALOGUES = pa.schema(
    [
        ("key", pa.string()),
        ("kind", pa.string()),
        ("outcome", pa.string()),  # accepted, rejected
        ("reason", pa.string()),
        ("turns", pa.list_(TURN)),
        ("evidence", pa.list_(ITEM)),  # the generator's evidence sheet
        ("generator", pa.string()),  # llm, rules
        ("model", pa.string()),
        ("revision", pa.string()),
        ("prompt", pa.string()),  # hash of the prompt file
        ("schema", pa.string()),  # hash of the answer's JSON schema
        ("candidates", pa.int32()),
        ("tokens_in", pa.int64()),  # of all requests for this row, cached ones included
        ("tokens_out", pa.int64()),
    ]
)

SCHEMAS = {
    "samples": SAMPLES,
    "verdicts": VERDICTS,
    "duplicates": DUPLICATES,
    "dialogues": DIALOGUES,
    "members": MEMBERS,
    "mixture": MIXTURE,
}

_INPUT = b"reelmill.input"
_RETRY = b"reelmill.retry"


def to_bytes(
    table: pa.Table, *, fingerprint: str = "", retry: bool = False, groups: Sequence[int] = (), level: int = 3,
    dictionaries: Sequence[str] | None = None,
) -> bytes:  # fmt: skip
    """`table` as Parquet, the same bytes for the same rows however they are chunked.

    fingerprint: of the inputs, written to the footer. retry: marks a table that the next run must recompute.
    groups: row counts of the row groups, in order; by default one group.
    level: of zstd; for tables that are mostly keys, which are random, 1 takes half the time for the same size.
    dictionaries: columns whose values recur; None: Parquet decides, which costs time where most do not.
    """
    metadata = dict(table.schema.metadata or {})
    metadata[b"reelmill.version"] = str(VERSION).encode()
    if fingerprint:
        metadata[_INPUT] = fingerprint.encode()
    if retry:
        metadata[_RETRY] = b"1"
    table = table.replace_schema_metadata(metadata).combine_chunks()
    sink = io.BytesIO()
    writer = pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=level,
        version="2.6",
        data_page_version="1.0",
        use_dictionary=True if dictionaries is None else list(dictionaries),
        write_statistics=False,  # no reader uses them for a single row group
        write_page_index=False,
        store_schema=True,
    )
    with writer:
        start = 0
        for count in groups or (table.num_rows,):
            writer.write_table(table.slice(start, count), row_group_size=max(count, 1))
            start += count
    return sink.getvalue()


def write(uri: str, table: pa.Table, *, fingerprint: str = "", retry: bool = False, groups: Sequence[int] = ()) -> None:
    """Write a table whole (see `to_bytes`, `storage.write_bytes`)."""
    storage.write_bytes(uri, to_bytes(table, fingerprint=fingerprint, retry=retry, groups=groups))


def read(uri: str, columns: Sequence[str] | None = None) -> pa.Table:
    """A whole table, or some of its columns."""
    with storage.open_read(uri) as file:
        return pq.ParquetFile(file).read(columns=None if columns is None else list(columns), use_threads=False)


def read_group(uri: str, group: int) -> pa.Table:
    """One row group of a table."""
    with storage.open_read(uri) as file:
        return pq.ParquetFile(file).read_row_group(group, use_threads=False)


def read_footer(uri: str) -> tuple[str, int, bool] | None:
    """(input fingerprint, rows, must be recomputed) of a committed table; None when it is missing or damaged."""
    if not storage.is_file(uri):
        return None
    with storage.open_read(uri) as file:
        try:
            metadata = pq.ParquetFile(file).metadata
        except (pa.ArrowInvalid, OSError):  # OSError: a footer that is not Thrift
            return None
    pairs: Mapping[bytes, bytes] = metadata.metadata or {}
    return pairs.get(_INPUT, b"").decode(), metadata.num_rows, _RETRY in pairs


def is_done(uri: str, fingerprint: str) -> bool:
    """Whether a task's table exists, was computed from these inputs, and need not be recomputed."""
    footer = read_footer(uri)
    return footer is not None and footer[0] == fingerprint and not footer[2]


def empty(schema: pa.Schema) -> pa.Table:
    """A table without rows."""
    return pa.Table.from_batches([], schema=schema)
