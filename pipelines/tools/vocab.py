"""vocab: build an n-gram vocabulary for resampling from high-quality text, in MetaCLIP's form.

Each task counts one span of a file and writes its counts, with pairs of words partitioned by their first word. Words
are few and summed in this process; pairs are many and summed by one task per partition, which writes only those that
the settings accept. So memory is bounded by the words and one partition, and the vocabulary is that of a single count.
"""

from __future__ import annotations

import functools
import importlib.metadata
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from infra import beam, progress, storage, tables, vocabulary
from infra.beam import Runner
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json, fingerprint
from pipelines.core import shuffle_files
from pipelines.core.console import print_text
from pipelines.tools import vocabulary_builder
from pipelines.tools.vocabulary_builder import VocabularyCounts, VocabularySettings

LINES = (".txt", ".md")
ROWS = (".jsonl", ".ndjson")
TABLES = (".parquet",)

#: Bytes of a file that one task counts; a paragraph or line that begins in them is read to its end.
SPAN_BYTES = 64 * 2**20
#: Bytes of text behind one partition of pairs.
PARTITION_BYTES = 256 * 2**20
#: Characters counted at once, and bytes of the longest line that is read whole.
_BATCH_CHARS = 4 * 2**20
_LINE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FileSpan:
    """Bytes [start, end) of a file; a Parquet file is always whole."""

    uri: str
    start: int
    end: int
    stamp: str


@dataclass(frozen=True)
class VocabularyJob:
    """The input of all tasks, sent to workers by pickle."""

    spans: tuple[FileSpan, ...]
    partitions: int
    settings: VocabularySettings
    column: str
    work: str

    @property
    def names(self) -> list[str]:
        return [f"p{i:06d}" for i in range(len(self.spans))]

    def stamp(self, name: str) -> str:
        """Fingerprint of the inputs of a span's counts."""
        span = self.spans[int(name[1:])]
        inputs = [span.uri, span.start, span.end, span.stamp, self.partitions, self.settings.case, self.column]
        return fingerprint(inputs)


def run(
    texts: Sequence[str],
    out: str,
    *,
    titles: str | None = None,
    settings: VocabularySettings | None = None,
    text_column: str = "text",
    runner: Runner | None = None,
    quiet: bool = False,
) -> dict[str, Any]:
    """Write the vocabulary of `texts` to `out`, and its sources and counts to `out`.notes.json; return the latter.

    texts: files, or folders of them: .txt and .md (texts are separated by blank lines), .jsonl and .parquet
    (column `text_column`). titles: a file with one title per line, used unchanged.
    Counts are in `out`.work until then: an interrupted build resumes from them.
    Raises ConfigError where there is nothing to read, or the settings accept no word.
    """
    settings, runner = settings or VocabularySettings(), runner or Runner()
    if not storage.is_local(out):
        raise ConfigError(f"--out must be a local file, not {out}")
    entries = _files(texts)
    listed = _titles(titles)
    spans = tuple(span for uri, entry in entries for span in _split_file(uri, entry))
    size = sum(entry.size for _, entry in entries)
    plan = VocabularyJob(spans, 1 + size // PARTITION_BYTES, settings, text_column, f"{storage.local_path(out)}.work")
    counters = _map(plan, runner, quiet)
    words, number = _words(plan)
    pairs = _reduce(plan, words, runner)
    counts = VocabularyCounts(words, pairs, number)
    entries_saved = vocabulary_builder.build(counts, settings, listed)
    saved = vocabulary.save(storage.local_path(out), entries_saved)
    notes = {
        "entries": len(saved.entries),
        "sha256": saved.sha256,
        "texts": number,
        "words": counts.total,
        "different_words": words.num_rows,
        "pairs_let_in": pairs.num_rows,
        "titles": len(listed),
        "broken_rows": counters.get("broken", 0),
        "files": [{"name": uri.rsplit("/", 1)[-1], "bytes": entry.size} for uri, entry in entries],
        "settings": settings.model_dump(mode="json"),
        "notes": vocabulary_builder.notes(counts, settings),
        "reelmill": importlib.metadata.version("reelmill"),
    }
    storage.write_bytes(f"{out}.notes.json", canonical_json(notes))
    storage.remove(plan.work)
    return {"vocabulary": out, **notes}


def build_settings(
    small: bool, case: str, min_count: int | None, min_pmi: float | None, min_pair_count: int | None
) -> VocabularySettings:
    """MetaCLIP's limits, or those for small texts, overridden by the options that are not None.

    Raises ConfigError for an unknown case.
    """
    if case not in ("lower", "keep"):
        raise ConfigError(f"--case is lower or keep, not {case!r}")
    options = {"min_count": min_count, "min_pmi": min_pmi, "min_pair_count": min_pair_count, "case": case}
    base = vocabulary_builder.SMALL if small else VocabularySettings()
    return base.model_copy(update={name: option for name, option in options.items() if option is not None})


def show(summary: Mapping[str, Any]) -> None:
    """Print what was built."""
    source = f"{summary['words']:,} words in {summary['texts']:,} texts"
    print_text(f"{summary['vocabulary']}: {summary['entries']:,} entries from {source}")
    if summary["broken_rows"]:
        print_text(f"{summary['broken_rows']:,} rows could not be read")
    print_text(*(f"note: {note}" for note in summary["notes"]))


# -- reading ------------------------------------------------------------------------------------------------------


def _files(uris: Sequence[str]) -> list[tuple[str, storage.Entry]]:
    files: dict[str, storage.Entry] = {}
    suffixes = (*LINES, *ROWS, *TABLES)
    for uri in uris:
        if not storage.exists(uri):
            raise ConfigError(f"{uri} does not exist", hint="give files, or folders of them")
        single = storage.is_file(uri)
        entries = [e for e in storage.list_files(uri) if e.path.lower().endswith(suffixes)]
        if not entries:
            raise ConfigError(f"{uri} contains no text file", hint=f"supported: {', '.join(suffixes)}")
        for entry in entries:
            files[uri if single else storage.join(uri, entry.path)] = entry
    return sorted(files.items())


def _titles(path: str | None) -> list[str]:
    if path is None:
        return []
    if not storage.is_file(path):
        raise ConfigError(f"the file of titles {path} does not exist")
    return storage.read_bytes(path).decode("utf-8-sig", "replace").splitlines()


def _split_file(uri: str, entry: storage.Entry) -> list[FileSpan]:
    if uri.lower().endswith(TABLES):
        return [FileSpan(uri, 0, entry.size, entry.stamp)]
    starts = range(0, max(entry.size, 1), SPAN_BYTES)
    return [FileSpan(uri, start, min(start + SPAN_BYTES, entry.size), entry.stamp) for start in starts]


def read_texts(span: FileSpan, column: str) -> Iterator[str | None]:
    """The texts that begin within a span; None for a row that is broken or has no text."""
    name = span.uri.lower()
    if name.endswith(TABLES):
        yield from _table_texts(span.uri, column)
    elif name.endswith(ROWS):
        yield from (_row_text(line, column) for line in _lines(span) if line.strip())
    else:
        yield from _paragraphs(_lines(span))


def _lines(span: FileSpan) -> Iterator[bytes]:
    """The lines that begin within [start, end)."""
    with storage.open_read(span.uri) as file:
        if span.start > 0:
            file.seek(span.start - 1)
            while (skipped := file.readline(_LINE_BYTES)) and not skipped.endswith(b"\n"):
                pass
        while file.tell() < span.end and (line := file.readline(_LINE_BYTES)):
            yield line


def _paragraphs(lines: Iterable[bytes]) -> Iterator[str]:
    gathered: list[bytes] = []
    size = 0
    for line in lines:
        if line.strip() and size < _LINE_BYTES:
            gathered.append(line)
            size += len(line)
            continue
        if gathered:
            yield b"".join(gathered).decode("utf-8", "replace")
        gathered, size = ([line], len(line)) if line.strip() else ([], 0)
    if gathered:
        yield b"".join(gathered).decode("utf-8", "replace")


def _row_text(line: bytes, column: str) -> str | None:
    try:
        row = json.loads(line.decode("utf-8-sig", "replace"))
    except (ValueError, RecursionError):
        return None
    text = row.get(column) if isinstance(row, dict) else None
    # JSON can contain half a surrogate pair, which cannot be stored.
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else None


def _table_texts(uri: str, column: str) -> Iterator[str | None]:
    with storage.open_read(uri) as file:
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise StageError(f"not a Parquet file: {error}", where=uri) from None
        if column not in table.schema_arrow.names:
            columns = ", ".join(table.schema_arrow.names)
            raise ConfigError(f"there is no column {column!r}", where=uri, hint=f"--text-column is one of: {columns}")
        for batch in table.iter_batches(columns=[column], batch_size=1024):
            yield from (text if isinstance(text, str) else None for text in batch[0].to_pylist())


# -- counting -----------------------------------------------------------------------------------------------------


def _map(plan: VocabularyJob, runner: Runner, quiet: bool) -> dict[str, int]:
    folder = storage.join(plan.work, "words")
    with progress.watch("vocab", len(plan.spans), lambda: len(storage.list_names(folder)), what="spans", quiet=quiet):
        task = functools.partial(count_span, plan)
        return beam.run_tasks("vocab", task, plan.names, storage.join(plan.work, "counters.json"), runner)


def count_span(plan: VocabularyJob, name: str) -> Mapping[str, int]:
    """Task: count the words of one span, and its pairs by partition."""
    words_uri = storage.join(plan.work, "words", f"{name}.parquet")
    stamp = plan.stamp(name)
    if tables.is_intact(words_uri, stamp):
        return {"broken": int(tables.read(words_uri).schema.metadata[b"broken"])}
    parts: list[VocabularyCounts] = []
    broken = 0
    for batch in _batches(read_texts(plan.spans[int(name[1:])], plan.column)):
        present = [text for text in batch if text is not None]
        broken += len(batch) - len(present)
        parts.append(vocabulary_builder.count(present, plan.settings.case))
        if len(parts) == 8:
            parts = [vocabulary_builder.merge(parts)]
    counts = vocabulary_builder.merge(parts)
    pairs_uri = storage.join(plan.work, "pairs", f"{name}.parquet")
    shuffle_files.write(pairs_uri, counts.pairs, _partition(counts.pairs, plan.partitions), plan.partitions, stamp)
    # Written last: it marks both as complete.
    extra = {"texts": str(counts.texts), "broken": str(broken)}
    tables.write(words_uri, counts.words.replace_schema_metadata(extra), fingerprint=stamp)
    return {"broken": broken}


def _batches(texts: Iterable[str | None]) -> Iterator[list[str | None]]:
    batch: list[str | None] = []
    size = 0
    for text in texts:
        batch.append(text)
        size += len(text or "")
        if size >= _BATCH_CHARS or len(batch) >= 100_000:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _partition(pairs: pa.Table, count: int) -> NDArray[np.int64]:
    """int64 (n,): a pair's partition, from its first word alone."""
    if pairs.num_rows == 0:
        return np.zeros(0, np.int64)
    encoded = pairs["first"].combine_chunks().dictionary_encode()
    of_word = np.array([zlib.crc32(word.encode()) % count for word in encoded.dictionary.to_pylist()], np.int64)
    partitions: NDArray[np.int64] = of_word[encoded.indices.to_numpy()]
    return partitions


def _words(plan: VocabularyJob) -> tuple[pa.Table, int]:
    """The words of all spans, and the number of texts."""
    total = vocabulary_builder.merge([])
    for name in plan.names:
        table = tables.read(storage.join(plan.work, "words", f"{name}.parquet"))
        texts = int(table.schema.metadata[b"texts"])
        total = vocabulary_builder.merge(
            [total, VocabularyCounts(table.replace_schema_metadata(None), total.pairs, texts)]
        )
    return total.words, total.texts


def _reduce(plan: VocabularyJob, words: pa.Table, runner: Runner) -> pa.Table:
    """The pairs of all spans that the settings accept."""
    tables.write(storage.join(plan.work, "words.parquet"), words)
    tasks = [f"{i:06d}" for i in range(plan.partitions)]
    task = functools.partial(sum_pairs, plan)
    beam.run_tasks("vocab pairs", task, tasks, storage.join(plan.work, "counters.json"), runner)
    read = (tables.read(storage.join(plan.work, "sums", f"{name}.parquet")) for name in tasks)
    return pa.concat_tables([table.replace_schema_metadata(None) for table in read])


def sum_pairs(plan: VocabularyJob, name: str) -> Mapping[str, int]:
    """Task: sum the pairs of one partition over all spans, and write those that the settings accept."""
    words = tables.read(storage.join(plan.work, "words.parquet")).replace_schema_metadata(None)
    nothing = vocabulary_builder.merge([])
    folder = storage.join(plan.work, "pairs")
    pairs = shuffle_files.read(folder, plan.names, int(name), nothing.pairs.schema)
    merged = vocabulary_builder.merge([VocabularyCounts(nothing.words, pairs, 0)]).pairs
    if merged.num_rows:
        bits = pa.array(vocabulary_builder.pmi(VocabularyCounts(words, merged, 0)))
        enough = pc.greater_equal(merged["count"], plan.settings.min_pair_count)
        merged = merged.filter(pc.and_(pc.greater_equal(bits, plan.settings.min_pmi), enough))
    tables.write(storage.join(plan.work, "sums", f"{name}.parquet"), merged)
    return {"pairs": merged.num_rows}
