"""Tables: their schemas and version, and one way to write them, so that equal rows give equal bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import IO

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage

#: Raised whenever a column's meaning or type changes. 2: members distinguish tokens of text from those of media.
VERSION = 2

#: Table, or "table.column" of structs -> column -> meaning, as `reelmill schema` and the documents show it.
#: Threads: safe, filled while this module is imported and never changed.
MEANINGS: dict[str, dict[str, str]] = {}


def _declare(name: str, columns: Sequence[tuple[str, pa.DataType, str]]) -> pa.Schema:
    """The schema of a table from its columns: (name, type, meaning) each."""
    MEANINGS[name] = {column: meaning for column, _, meaning in columns}
    return pa.schema([(column, type_) for column, type_, _ in columns])


def _declare_struct(name: str, columns: Sequence[tuple[str, pa.DataType, str]]) -> pa.StructType:
    """The type of a struct in a table, from its fields; name: "table.column"."""
    return pa.struct(list(_declare(name, columns)))


MEDIUM = _declare_struct(
    "samples.media",
    [
        ("uri", pa.string(), "file, relative to the source's root; /PATH is relative to the run: an expanded tar"),
        ("offset", pa.int64(), "first byte"),
        ("length", pa.int64(), "bytes; below 0: to the end of the file"),
        ("start_s", pa.float64(), "start of the sample's span of a video, seconds"),
        ("end_s", pa.float64(), "its end; below 0: to the end"),
        ("sha256", pa.string(), "of the bytes; empty if they could not be read"),
    ],
)

SAMPLES = _declare(
    "samples",
    [
        (
            "key",
            pa.string(),
            "26 characters [a-z2-7], a hash of source, location and content; the same in every table and in the shards",
        ),
        ("modality", pa.string(), "video, image, multi_image or text"),
        ("source", pa.string(), "name of the source in the config"),
        ("container", pa.string(), "file of the sample, relative to the source"),
        ("position", pa.string(), "position in that file: member name, row=N or id; empty for a file of its own"),
        (
            "media",
            pa.list_(MEDIUM),
            "file, byte range, span in seconds and sha256 of each medium; empty for text",
        ),
        ("text", pa.string(), "raw caption or document; null: none"),
        ("licence", pa.string(), "from the row, else from the source"),
        ("origin", pa.string(), "provenance: from the row, else from the source"),
        ("extra", pa.string(), "the rest of the row, as JSON"),
        ("error", pa.string(), "reason of a failure at ingest; null: none"),
        ("members", pa.int64(), "files, tar members or rows read that the sample accounts for"),
        ("unused_captions", pa.int64(), "captions of its media that `captions.many` leaves out"),
    ],
)

OTHER_REASON = _declare_struct(
    "verdicts.others",
    [
        ("filter", pa.string(), "as in verdicts"),
        ("reason", pa.string(), "as in verdicts"),
        ("value", pa.float64(), "as in verdicts"),
        ("threshold", pa.float64(), "as in verdicts"),
    ],
)

VERDICTS = _declare(
    "verdicts",
    [
        ("key", pa.string(), "as in samples"),
        ("modality", pa.string(), "as in samples"),
        ("source", pa.string(), "as in samples"),
        ("outcome", pa.string(), "kept, dropped, duplicate or failed"),
        (
            "filter",
            pa.string(),
            "the deciding filter, duplicates, resample, or what failed (ingest, measure, environment)",
        ),
        ("reason", pa.string(), "name of the filter's rule that was violated, or the error"),
        ("value", pa.float64(), "the deciding number; for resample P(keep)"),
        ("threshold", pa.float64(), "the limit it was compared with; for resample the draw"),
        ("duplicate_of", pa.string(), "key of the survivor, of duplicates"),
        ("keep_probability", pa.float64(), "P(keep) of resampling, where it applies"),
        ("others", pa.list_(OTHER_REASON), "every other filter that the sample fails, among those measured"),
    ],
)

DUPLICATES = _declare(
    "duplicates",
    [
        ("key", pa.string(), "as in samples; only members of a group are here"),
        ("row", pa.uint64(), "unit << 32 | row in the unit"),
        ("survivor", pa.string(), "key of the member that is kept, which may be this one"),
        ("component", pa.uint64(), "smallest row of the group"),
        (
            "similarity",
            pa.float64(),
            "of the strongest link: cosine (images), matched share of frames (videos, several pictures) or "
            "estimated Jaccard similarity (texts)",
        ),
        ("match", pa.string(), "key at the other end of that link; of images and texts the survivor"),
        ("start_s", pa.float64(), "matched span in this sample, seconds; videos only"),
        ("end_s", pa.float64(), "its end"),
        ("match_start_s", pa.float64(), "matched span in the other sample, seconds"),
        ("match_end_s", pa.float64(), "its end"),
    ],
)

MEMBER = _declare_struct(
    "members.members",
    [
        ("name", pa.string(), "as in the tar: KEY.SUFFIX"),
        ("offset", pa.int64(), "of its content"),
        ("size", pa.int64(), "of its content"),
    ],
)

MEMBERS = _declare(
    "members",
    [
        ("key", pa.string(), "as in samples"),
        ("shard", pa.string(), "name of the tar, without suffix"),
        ("offset", pa.int64(), "byte at which the sample's first member begins in the tar, header included"),
        (
            "size",
            pa.int64(),
            "bytes to the end of its last member, padding included: one range contains the whole sample",
        ),
        (
            "members",
            pa.list_(MEMBER),
            "name, offset and size of each member's content",
        ),
        ("modality", pa.string(), "as in samples"),
        ("source", pa.string(), "as in samples"),
        ("licence", pa.string(), "as in samples"),
        ("kind", pa.string(), "kind of its text: caption, document, conversation or none"),
        ("language", pa.string(), "label of the annotator language; empty where it was not measured"),
        (
            "tokens",
            pa.int64(),
            "tokens of the text (estimated, 4 characters each) and those of its media by Apollo's released loader",
        ),
        ("text_tokens", pa.int64(), "tokens of the text alone"),
        ("images", pa.int32(), "number of images, 0 for videos and texts"),
        ("seconds", pa.float64(), "duration of a video, else 0"),
        ("bytes", pa.int64(), "bytes of all members, without headers"),
    ],
)

#: The samples of a mixture, ordered by (vshard, position).
MIXTURE = _declare(
    "mixture",
    [
        ("key", pa.string(), "as in samples"),
        ("vshard", pa.int32(), "virtual shard, from 0; the table is sorted by it and by position"),
        ("position", pa.int32(), "position within the virtual shard, from 0"),
        ("group", pa.int32(), "index into mixture.json's groups: the group of the recipe that it was drawn for"),
        ("shard", pa.int32(), "index into mixture.json's shards: the tar that contains it"),
        ("repeat", pa.int32(), "0 for the first occurrence of the sample in the mixture, 1 for the second, and so on"),
        ("offset", pa.int64(), "byte at which the sample begins in that tar, as in members"),
        ("size", pa.int64(), "bytes there: one range contains the whole sample"),
        ("tokens", pa.int64(), "tokens of text and media, by the recipe's contract with the loader"),
        ("seconds", pa.float64(), "duration of a video, else 0"),
        ("bytes", pa.int64(), "bytes of all members, without headers"),
    ],
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

DIALOGUES = _declare(
    "dialogues",
    [
        ("key", pa.string(), "as in samples; kept videos, and images with text where configured"),
        ("kind", pa.string(), "kind of dialogue, such as conversation or reasoning"),
        ("outcome", pa.string(), "accepted or rejected"),
        ("reason", pa.string(), 'reason why the whole dialogue was rejected, as "name: detail"'),
        (
            "turns",
            pa.list_(TURN),
            "question, answer, evidence (cited ids), start_s, end_s, outcome, reason, blind_rate",
        ),
        ("evidence", pa.list_(ITEM), "the writer's evidence sheet: id, kind, start_s, end_s, text"),
        ("generator", pa.string(), "llm or rules"),
        ("model", pa.string(), "the requested model; empty for rules"),
        ("revision", pa.string(), "revision of the model, as in the config"),
        ("prompt", pa.string(), "hash of the prompt"),
        ("schema", pa.string(), "hash of the answer's JSON schema"),
        ("candidates", pa.int32(), "number of dialogues drawn, of which this is the best"),
        ("tokens_in", pa.int64(), "prompt tokens of all requests for this row, cached ones too"),
        ("tokens_out", pa.int64(), "completion tokens of these requests"),
    ],
)

SCHEMAS = {
    "samples": SAMPLES,
    "verdicts": VERDICTS,
    "duplicates": DUPLICATES,
    "dialogues": DIALOGUES,
    "members": MEMBERS,
    "mixture": MIXTURE,
}

#: Errors by which a damaged Parquet file shows. OSError: a footer that is not Thrift, or a page's checksum.
DAMAGE = (pa.ArrowException, OSError, ValueError, LookupError, MemoryError)

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
        write_page_checksum=True,
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
    """A whole table, or some of its columns. Raises one of DAMAGE for a damaged file."""
    with storage.open_read(uri) as file:
        return _open(file).read(columns=None if columns is None else list(columns), use_threads=False)


def parse(content: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """The table, or some of its columns, in the bytes of a file. Raises one of DAMAGE for damaged bytes."""
    return _open(io.BytesIO(content)).read(columns=None if columns is None else list(columns), use_threads=False)


def read_group(uri: str, group: int) -> pa.Table:
    """One row group of a table."""
    with storage.open_read(uri) as file:
        return _open(file).read_row_group(group, use_threads=False)


def _open(file: IO[bytes]) -> pq.ParquetFile:
    """A reader that raises OSError for a page whose bytes are not those that were written."""
    return pq.ParquetFile(file, page_checksum_verification=True)


def read_footer(uri: str) -> tuple[str, int, bool] | None:
    """(input fingerprint, rows, must be recomputed) of a committed table; None when it is missing or damaged."""
    if not storage.is_file(uri):
        return None
    with storage.open_read(uri) as file:
        try:
            metadata = pq.ParquetFile(file).metadata
        except DAMAGE:
            return None
    pairs: Mapping[bytes, bytes] = metadata.metadata or {}
    return pairs.get(_INPUT, b"").decode(errors="replace"), metadata.num_rows, _RETRY in pairs


def is_done(uri: str, fingerprint: str) -> bool:
    """Whether a task's table exists, was computed from these inputs, and need not be recomputed."""
    footer = read_footer(uri)
    return footer is not None and footer[0] == fingerprint and not footer[2]


def is_written(uri: str, fingerprint: str) -> bool:
    """Whether a task's table was computed from these inputs, whether or not the next run is to recompute it."""
    footer = read_footer(uri)
    return footer is not None and footer[0] == fingerprint


def is_intact(uri: str, fingerprint: str) -> bool:
    """`is_done` of a table below RUN/work, which no manifest covers; also whether every byte of it is as written.

    Reads the table whole, which costs less than to compute it.
    """
    return is_done(uri, fingerprint) and is_readable(uri)


def is_readable(uri: str) -> bool:
    """Whether a table exists and every byte of it is as it was written: pages have checksums, and the schema is there
    twice, as Parquet's and as Arrow's."""
    if not storage.is_file(uri):
        return False
    try:
        with storage.open_read(uri) as file:
            reader = _open(file)
            reader.read(use_threads=False)
            arrow_schema = base64.b64decode(reader.metadata.metadata[b"ARROW:schema"])
            return bool(pa.ipc.read_schema(pa.BufferReader(arrow_schema)).equals(reader.schema_arrow.remove_metadata()))
    except DAMAGE:
        return False


def empty(schema: pa.Schema) -> pa.Table:
    """A table without rows."""
    return pa.Table.from_batches([], schema=schema)
