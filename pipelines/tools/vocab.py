"""vocab: high-quality text -> an n-gram vocabulary for resampling, in MetaCLIP's form.

Each task counts one piece of a file and writes what it found, pairs of words partitioned by their first word. Words
are few and summed here; pairs are many and summed a partition a task, each of which keeps only those that the settings
let in. So memory is that of the words and of one partition, and the result is that of counting everything at once.
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
from pipelines.tools import vocabulary_builder as counting
from pipelines.tools.vocabulary_builder import NgramCounts, VocabularySettings

LINES = (".txt", ".md")
ROWS = (".jsonl", ".ndjson")
TABLES = (".parquet",)

#: Bytes of a file that one task counts; a paragraph or line that begins there is read to its end.
PIECE_BYTES = 64 * 2**20
#: Bytes of text behind one partition of pairs.
PARTITION_BYTES = 256 * 2**20
#: Characters counted at once, and the longest line that is read whole.
_BATCH_CHARS = 4 * 2**20
_LINE_BYTES = 16 * 2**20


@dataclass(frozen=True)
class FileRange:
    """Bytes [start, end) of a file; of a Parquet file all."""

    uri: str
    start: int
    end: int
    stamp: str


@dataclass(frozen=True)
class VocabularyJob:
    """Everything that a task needs to know. Travels to workers by pickle."""

    pieces: tuple[FileRange, ...]
    partitions: int
    settings: VocabularySettings
    column: str
    work: str

    @property
    def names(self) -> list[str]:
        return [f"p{i:06d}" for i in range(len(self.pieces))]

    def stamp(self, name: str) -> str:
        """What the counts of a piece are made from."""
        piece = self.pieces[int(name[1:])]
        value = [piece.uri, piece.start, piece.end, piece.stamp, self.partitions, self.settings.case, self.column]
        return fingerprint(value)


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
    """Write the vocabulary of `texts` to `out` and what it is made of beside it (.notes.json), and return the latter.

    texts: files, or folders of them: .txt and .md (a text is what stands between blank lines), .jsonl and .parquet
    (column `text_column`). titles: a file with one a line, taken as they are.
    Counts lie in `out`.work meanwhile: a build that was interrupted goes on from them.
    Raises ConfigError where there is nothing to read, or no word is left under the settings.
    """
    settings, runner = settings or VocabularySettings(), runner or Runner()
    if not storage.is_local(out):
        raise ConfigError(f"--out must be a local file, not {out}")
    entries = _files(texts)
    listed = _titles(titles)
    pieces = tuple(piece for uri, entry in entries for piece in _pieces(uri, entry))
    size = sum(entry.size for _, entry in entries)
    plan = VocabularyJob(pieces, 1 + size // PARTITION_BYTES, settings, text_column, f"{storage.local_path(out)}.work")
    found = _map(plan, runner, quiet)
    words, number = _words(plan)
    pairs = _reduce(plan, words, runner)
    counts = NgramCounts(words, pairs, number)
    entries_found = counting.build(counts, settings, listed)
    saved = vocabulary.save(storage.local_path(out), entries_found)
    notes = {
        "entries": len(saved.entries),
        "sha256": saved.sha256,
        "texts": number,
        "words": counts.total,
        "different_words": words.num_rows,
        "pairs_let_in": pairs.num_rows,
        "titles": len(listed),
        "broken_rows": found.get("broken", 0),
        "files": [{"name": uri.rsplit("/", 1)[-1], "bytes": entry.size} for uri, entry in entries],
        "settings": settings.model_dump(mode="json"),
        "notes": counting.notes(counts, settings),
        "reelmill": importlib.metadata.version("reelmill"),
    }
    storage.write_bytes(f"{out}.notes.json", canonical_json(notes))
    storage.remove(plan.work)
    return {"vocabulary": out, **notes}


def build_settings(
    small: bool, case: str, min_count: int | None, min_pmi: float | None, min_pair_count: int | None
) -> VocabularySettings:
    """MetaCLIP's limits, or those for small texts, with what was given in their place.

    Raises ConfigError for a case that is none.
    """
    if case not in ("lower", "keep"):
        raise ConfigError(f"--case is lower or keep, not {case!r}")
    given = {"min_count": min_count, "min_pmi": min_pmi, "min_pair_count": min_pair_count, "case": case}
    base = counting.SMALL if small else VocabularySettings()
    return base.model_copy(update={name: value for name, value in given.items() if value is not None})


def show(value: Mapping[str, Any]) -> None:
    """What was built, for people."""
    from pipelines.core.console import open_console

    out = open_console()
    seen = f"{value['words']:,} words in {value['texts']:,} texts"
    out.print(f"{value['vocabulary']}: {value['entries']:,} entries from {seen}", highlight=False, soft_wrap=True)
    if value["broken_rows"]:
        out.print(f"{value['broken_rows']:,} rows could not be read", highlight=False)
    for note in value["notes"]:
        out.print(f"note: {note}", highlight=False, markup=False)


# -- what to read -------------------------------------------------------------------------------------------------


def _files(places: Sequence[str]) -> list[tuple[str, storage.Entry]]:
    found: dict[str, storage.Entry] = {}
    known = (*LINES, *ROWS, *TABLES)
    for place in places:
        if not storage.exists(place):
            raise ConfigError(f"there is nothing at {place}", hint="give files, or folders of them")
        single = storage.is_file(place)
        entries = [e for e in storage.list_files(place) if e.path.lower().endswith(known)]
        if not entries:
            raise ConfigError(f"{place} holds no text that can be read", hint=f"known: {', '.join(known)}")
        for entry in entries:
            found[place if single else storage.join(place, entry.path)] = entry
    return sorted(found.items())


def _titles(path: str | None) -> list[str]:
    if path is None:
        return []
    if not storage.is_file(path):
        raise ConfigError(f"there is no file of titles at {path}")
    return storage.read_bytes(path).decode("utf-8-sig", "replace").splitlines()


def _pieces(uri: str, entry: storage.Entry) -> list[FileRange]:
    if uri.lower().endswith(TABLES):
        return [FileRange(uri, 0, entry.size, entry.stamp)]
    starts = range(0, max(entry.size, 1), PIECE_BYTES)
    return [FileRange(uri, start, min(start + PIECE_BYTES, entry.size), entry.stamp) for start in starts]


def read_texts(piece: FileRange, column: str) -> Iterator[str | None]:
    """The texts that begin within a piece; None for a row that is broken or has no text."""
    name = piece.uri.lower()
    if name.endswith(TABLES):
        yield from _table_texts(piece.uri, column)
    elif name.endswith(ROWS):
        yield from (_row_text(line, column) for line in _lines(piece) if line.strip())
    else:
        yield from _paragraphs(_lines(piece))


def _lines(piece: FileRange) -> Iterator[bytes]:
    """The lines that begin within [start, end)."""
    with storage.open_read(piece.uri) as file:
        if piece.start > 0:
            file.seek(piece.start - 1)
            while (skipped := file.readline(_LINE_BYTES)) and not skipped.endswith(b"\n"):
                pass
        while file.tell() < piece.end and (line := file.readline(_LINE_BYTES)):
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
    # Half a surrogate pair, which JSON can spell, is no text that could be stored.
    return text.encode("utf-8", "replace").decode() if isinstance(text, str) else None


def _table_texts(uri: str, column: str) -> Iterator[str | None]:
    with storage.open_read(uri) as file:
        try:
            table = pq.ParquetFile(file)
        except pa.ArrowInvalid as error:
            raise StageError(f"not a Parquet file: {error}", where=uri) from None
        if column not in table.schema_arrow.names:
            known = ", ".join(table.schema_arrow.names)
            raise ConfigError(f"there is no column {column!r}", where=uri, hint=f"--text-column is one of: {known}")
        for batch in table.iter_batches(columns=[column], batch_size=1024):
            yield from (text if isinstance(text, str) else None for text in batch[0].to_pylist())


# -- counting -----------------------------------------------------------------------------------------------------


def _map(plan: VocabularyJob, runner: Runner, quiet: bool) -> dict[str, int]:
    folder = storage.join(plan.work, "words")
    with progress.watch("vocab", len(plan.pieces), lambda: len(storage.list_names(folder)), what="pieces", quiet=quiet):
        task = functools.partial(count_piece, plan)
        return beam.run_tasks("vocab", task, plan.names, storage.join(plan.work, "counters.json"), runner)


def count_piece(plan: VocabularyJob, name: str) -> Mapping[str, int]:
    """Task: the words of one piece, and its pairs by partition."""
    words_uri = storage.join(plan.work, "words", f"{name}.parquet")
    stamp = plan.stamp(name)
    if tables.is_done(words_uri, stamp):
        return {"broken": int(tables.read(words_uri).schema.metadata[b"broken"])}
    parts: list[NgramCounts] = []
    broken = 0
    for batch in _batches(read_texts(plan.pieces[int(name[1:])], plan.column)):
        given = [text for text in batch if text is not None]
        broken += len(batch) - len(given)
        parts.append(counting.count(given, plan.settings.case))
        if len(parts) == 8:
            parts = [counting.merge(parts)]
    counts = counting.merge(parts)
    pairs_uri = storage.join(plan.work, "pairs", f"{name}.parquet")
    shuffle_files.write(pairs_uri, counts.pairs, _partition(counts.pairs, plan.partitions), plan.partitions, stamp)
    # Written last: it says that both are there.
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
    chosen: NDArray[np.int64] = of_word[encoded.indices.to_numpy()]
    return chosen


def _words(plan: VocabularyJob) -> tuple[pa.Table, int]:
    """The words of all pieces, and the number of texts."""
    total = counting.merge([])
    for name in plan.names:
        table = tables.read(storage.join(plan.work, "words", f"{name}.parquet"))
        texts = int(table.schema.metadata[b"texts"])
        total = counting.merge([total, NgramCounts(table.replace_schema_metadata(None), total.pairs, texts)])
    return total.words, total.texts


def _reduce(plan: VocabularyJob, words: pa.Table, runner: Runner) -> pa.Table:
    """Those pairs of all pieces that the settings let in."""
    tables.write(storage.join(plan.work, "words.parquet"), words)
    tasks = [f"{i:06d}" for i in range(plan.partitions)]
    task = functools.partial(sum_pairs, plan)
    beam.run_tasks("vocab pairs", task, tasks, storage.join(plan.work, "counters.json"), runner)
    read = (tables.read(storage.join(plan.work, "sums", f"{name}.parquet")) for name in tasks)
    return pa.concat_tables([part.replace_schema_metadata(None) for part in read])


def sum_pairs(plan: VocabularyJob, name: str) -> Mapping[str, int]:
    """Task: the pairs of one partition, summed over all pieces, and of them those that belong together."""
    words = tables.read(storage.join(plan.work, "words.parquet")).replace_schema_metadata(None)
    nothing = counting.merge([])
    folder = storage.join(plan.work, "pairs")
    pairs = shuffle_files.read(folder, plan.names, int(name), nothing.pairs.schema)
    merged = counting.merge([NgramCounts(nothing.words, pairs, 0)]).pairs
    if merged.num_rows:
        bits = pa.array(counting.pmi(NgramCounts(words, merged, 0)))
        enough = pc.greater_equal(merged["count"], plan.settings.min_pair_count)
        merged = merged.filter(pc.and_(pc.greater_equal(bits, plan.settings.min_pmi), enough))
    tables.write(storage.join(plan.work, "sums", f"{name}.parquet"), merged)
    return {"pairs": merged.num_rows}
