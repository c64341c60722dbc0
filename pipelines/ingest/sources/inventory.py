"""What lies in a source: containers and the items in them, without opening any medium.

An item is what becomes one row of samples: a medium with its caption, a text row, an orphan caption, or a failure to
read one of these. Functions here list and scan; pipelines.ingest.ingest cuts the items into units and hashes their
media.
"""

from __future__ import annotations

import csv
import fnmatch
import io
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from infra import storage
from infra.config import Source
from infra.errors import ConfigError
from infra.hashing import canonical_json
from pipelines.core.sample_media import source_root

SUFFIXES: Mapping[str, tuple[str, ...]] = {
    "video": (".mp4", ".mkv", ".webm", ".mov", ".avi", ".m4v", ".mpg", ".mpeg", ".ts", ".ps", ".3gp", ".flv", ".wmv",
              ".ogv", ".gif"),
    "image": (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm", ".avif", ".heic"),
    "multi_image": (),
    "text": (".txt", ".md"),
}  # fmt: skip
TABLES = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")
CAPTION_SUFFIXES = (".txt", ".json")

#: A caption or text row larger than this is a failed input, not a text (ours).
MAX_TEXT_BYTES = 16 * 2**20

#: Levels of a row's other fields that are kept; far below where Python's stack would end (ours).
MAX_DEPTH = 64

#: WebDataset's rule: the key ends at the first dot of the base name.
_MEMBER = re.compile(r"^((?:.*/|)[^.]+)[.]([^/]*)$")
_CAPTION_KEYS = ("caption", "text", "description", "title")

ITEMS = pa.schema(
    [
        ("container", pa.string()),
        ("position", pa.string()),
        ("modality", pa.string()),
        ("media", pa.list_(pa.struct([("uri", pa.string()), ("offset", pa.int64()), ("length", pa.int64())]))),
        ("text", pa.string()),
        ("sidecars", pa.list_(pa.string())),  # files that hold the caption, read when the unit is ingested
        ("licence", pa.string()),
        ("origin", pa.string()),
        ("extra", pa.string()),
        ("size", pa.int64()),
        ("stamp", pa.string()),
        ("error", pa.string()),
    ]
)


@dataclass
class SourceItem:
    """One row of ITEMS."""

    container: str
    position: str
    modality: str
    media: list[dict[str, Any]] = field(default_factory=list)
    text: str | None = None
    sidecars: list[str] = field(default_factory=list)
    licence: str | None = None
    origin: str | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)
    size: int = 0
    stamp: str = ""
    error: str | None = None

    def row(self) -> dict[str, Any]:
        value = dict(self.__dict__)
        value["container"], value["position"] = valid(self.container), valid(self.position)
        for name in ("text", "licence", "origin", "error"):
            value[name] = None if value[name] is None else valid(value[name])
        value["extra"] = canonical_json(jsonable(self.extra)).decode().strip()
        return value


@dataclass(frozen=True)
class Listing:
    """A source's containers. `items` are complete for folders; tars and tables are still to be scanned."""

    items: list[SourceItem]
    containers: list[storage.Entry]
    ignored: int


def valid(text: str) -> str:
    """`text` as it can be stored: surrogates that are no pair become U+FFFD, one each; a pair becomes its character."""
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def name_of(raw: str) -> str:
    """A name of a file or member as it can be stored: bytes that are no Unicode are told by their number, so that names
    that differ stay different."""
    return valid(re.sub("[\udc80-\udcff]", lambda found: f"\ufffd{ord(found.group()) - 0xDC00:02x}", raw))


def list_source(source: Source) -> Listing:
    """List a source.

    Raises ConfigError when there is nothing at its path, or its captions file is not there.
    """
    if not storage.exists(source.path):
        raise ConfigError(
            f"source {source.name!r}: there is nothing at {source.path}", hint="check the path and its ${VARIABLES}"
        )
    # A name that is no Unicode cannot be stored; the one given here opens nothing, so its file becomes a failed row.
    entries = [replace(entry, path=name_of(entry.path)) for entry in storage.list_files(source.path)]
    wanted: list[storage.Entry] = []
    others: list[storage.Entry] = []
    for entry in entries:
        match = source.include is None or any(fnmatch.fnmatch(entry.path, p) for p in source.include)
        (wanted if match else others).append(entry)
    kind = source.format or _guess(source, wanted)
    if kind == "folder":
        return _list_folder(source, wanted, others)
    suffixes = {"webdataset": (".tar",), "table": TABLES, "llava": (".json", ".jsonl")}[kind]
    containers = [entry for entry in wanted if entry.path.lower().endswith(suffixes)]
    ignored = len(wanted) - len(containers) + len(others)
    if kind == "llava":
        # The media that the rows name lie beside them; they are inputs through their rows.
        ignored = 0
    return Listing([], containers, ignored)


def is_folder(source: Source, listing: Listing) -> bool:
    """Whether the listing's items are complete."""
    return not listing.containers


def _guess(source: Source, entries: Sequence[storage.Entry]) -> str:
    names = [entry.path.lower() for entry in entries]
    if any(name.endswith(".tar") for name in names):
        return "webdataset"
    if source.modality == "text":
        return "table" if any(name.endswith(TABLES) for name in names) else "folder"
    if source.modality == "multi_image" or (len(names) == 1 and names[0].endswith((".json", ".jsonl"))):
        return "llava"
    return "folder"


def _stem(path: str) -> str:
    pure = PurePosixPath(path)
    return str(pure.with_suffix("")) if pure.suffix else path


def _list_folder(source: Source, entries: Sequence[storage.Entry], others: Sequence[storage.Entry]) -> Listing:
    ignored = len(others)
    suffixes = SUFFIXES[source.modality]
    media = [entry for entry in entries if entry.path.lower().endswith(suffixes)]
    if source.modality == "text":
        items = [SourceItem(e.path, "", "text", sidecars=[e.path], size=e.size, stamp=e.stamp) for e in media]
        return Listing(items, [], ignored + len(entries) - len(media))
    captions_file = source.captions.file
    table = _captions_table(source) if captions_file else {}
    beside: dict[str, list[str]] = {}
    if not captions_file:
        for entry in entries:
            if entry.path.lower().endswith(CAPTION_SUFFIXES):
                beside.setdefault(_stem(entry.path), []).append(entry.path)
    # A caption that is written anew leaves its medium as it was: both stamps stand for the sample.
    stamps = {entry.path: f"{entry.stamp}+{entry.size}" for entry in entries}
    items, used, named = [], set(), set()
    for entry in media:
        stem = _stem(entry.path)
        sidecars = beside.get(stem, beside.get(entry.path, []))
        used.update(sidecars)
        row = _caption_for(table, entry.path)
        if row is not None:
            named.add(row["__key__"])
        items.append(
            SourceItem(
                entry.path,
                "",
                source.modality,
                media=[{"uri": entry.path, "offset": 0, "length": -1}],
                text=None if row is None else _text_of(row.get(source.captions.text_column)),
                sidecars=sorted(sidecars),
                licence=_column(row, source.licence_column),
                origin=_column(row, source.origin_column),
                extra={} if row is None else _rest(row, ("__key__", source.captions.text_column)),
                size=entry.size,
                stamp=" ".join([entry.stamp, *(stamps[path] for path in sorted(sidecars))]),
            )
        )
    all_sidecars = {path for paths in beside.values() for path in paths}
    for path in sorted(all_sidecars - used):
        items.append(SourceItem(path, "", source.modality, error="orphan caption: there is no medium beside it"))
    # A captions file may serve several sources: a medium that this one leaves out is no missing medium.
    left_out = {name for entry in others for name in _names_of(entry.path)}
    for key in sorted(set(table) - named - left_out):
        items.append(
            SourceItem(
                captions_file or "",
                key,
                source.modality,
                text=_text_of(table[key].get(source.captions.text_column)),
                error="orphan caption: the medium that it names is not there",
            )
        )
    seen = len(media) + len(all_sidecars) + sum(entry.path == captions_file for entry in entries)
    items.sort(key=lambda item: (item.container, item.position))
    return Listing(items, [], ignored + len(entries) - seen)


def _caption_for(table: Mapping[str, dict[str, Any]], path: str) -> dict[str, Any] | None:
    for name in _names_of(path):
        if name in table:
            return table[name]
    return None


def _names_of(path: str) -> tuple[str, ...]:
    """What a captions file may call a medium: path or base name, with or without suffix."""
    return path, PurePosixPath(path).name, _stem(path), PurePosixPath(_stem(path)).name


def _captions_table(source: Source) -> dict[str, dict[str, Any]]:
    uri = storage.join(source.path, source.captions.file or "")
    if not storage.is_file(uri):
        raise ConfigError(f"source {source.name!r}: there is no captions file at {uri}")
    found: dict[str, dict[str, Any]] = {}
    column = source.captions.media_column
    for _, row, error in _rows(uri):
        if error is None and isinstance(row, dict) and row.get(column) is not None:
            found[str(row[column])] = {**row, "__key__": str(row[column])}
    return found


def scan(source: Source, entry: storage.Entry) -> Iterator[SourceItem]:
    """The items of one tar or table, in position order; an archive that breaks off ends with a failed item."""
    name = entry.path.lower()
    uri = entry_uri(source, entry.path)
    if name.endswith(".tar"):
        found: Iterator[SourceItem] = _scan_tar(source, entry, uri)
    elif source.format == "llava" or (source.format is None and source.modality != "text"):
        found = _scan_llava(source, entry, uri)
    else:
        found = _scan_table(source, entry, uri)
    try:
        for item in found:
            item.stamp = f"{entry.stamp} {item.stamp}".strip()
            yield item
    except OSError as error:
        why = f"unreadable archive: {error.strerror or error}"
        yield SourceItem(entry.path, "", source.modality, stamp=entry.stamp, error=why)


def entry_uri(source: Source, path: str) -> str:
    """Where a file of a source lies; a source may itself be one file."""
    if storage.is_file(source.path):
        return source.path
    return storage.join(source.path, path)


def _scan_tar(source: Source, entry: storage.Entry, uri: str) -> Iterator[SourceItem]:
    groups: dict[str, dict[str, tarfile.TarInfo]] = {}
    failed: list[SourceItem] = []
    seen: set[str] = set()
    taken: set[str] = {""}  # the archive's own place
    broken = ""
    with storage.open_read(uri) as file:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        try:
            with tarfile.open(fileobj=file, mode="r:", ignore_zeros=False) as archive:
                for info in archive:
                    if info.isreg() and not info.issparse() and info.offset_data + info.size > size:
                        broken = f"the archive breaks off at byte {size}"
                        break
                    if info.isdir():
                        continue
                    name = name_of(info.name)
                    match = _MEMBER.match(name)
                    beside = {} if match is None else groups.get(match.group(1), {})
                    problem = ""
                    if not info.isreg() or info.issparse():
                        problem = "hostile member: a link, a device, or a file with holes"
                    elif _hostile(name):
                        problem = "hostile member: its path leaves the archive"
                    elif name in seen:
                        problem = "duplicate member: the name stands in this archive twice"
                    elif match is not None and match.group(2).lower() in beside:
                        problem = "duplicate member: another differs from it only in the case of its suffix"
                    if problem:
                        position = _apart(name, taken, f"@{info.offset}")
                        failed.append(SourceItem(entry.path, position, source.modality, error=problem))
                        continue
                    info.name = name
                    seen.add(name)
                    taken.add(name)
                    if match is None or PurePosixPath(name).name.startswith("__"):
                        continue
                    groups.setdefault(match.group(1), {})[match.group(2).lower()] = info
                else:
                    # The library takes damage between two members for the end, which is a block of zeros.
                    file.seek(archive.offset)
                    if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                        broken = f"the archive has no end, or is damaged at byte {archive.offset}"
        except (tarfile.TarError, EOFError, OSError, ValueError) as error:
            broken = f"the archive cannot be read: {error}"
        items = [item for key, members in groups.items() for item in _tar_items(source, entry, file, key, members)]
    if broken:
        failed.append(SourceItem(entry.path, "", source.modality, error=f"unreadable archive: {broken}"))
    yield from sorted(items + failed, key=lambda item: item.position)


def _apart(position: str, taken: set[str], mark: str) -> str:
    """`position`, marked until it is none of `taken`, to which it is added: two items in one place would be one key."""
    while position in taken:
        position += mark
    taken.add(position)
    return position


def _tar_items(
    source: Source, entry: storage.Entry, file: Any, key: str, members: Mapping[str, tarfile.TarInfo]
) -> Iterator[SourceItem]:
    suffixes = {suffix.lstrip(".") for suffix in SUFFIXES[source.modality]}
    text_name = next((name for name in ("txt", "caption", "text") if name in members), None)
    text: str | None = None
    extra: dict[str, Any] = {}
    if "json" in members:
        extra = _json_object(_member(file, members["json"]))
        caption = next((extra[k] for k in _CAPTION_KEYS if isinstance(extra.get(k), str)), None)
        text = caption
    if text_name is not None:
        text = _member(file, members[text_name]).decode("utf-8", "replace")
    numbered = sorted(
        (name for name in members if re.fullmatch(r"\d+\.[a-z0-9]+", name)), key=lambda n: int(n.split(".")[0])
    )
    if source.modality == "multi_image" and numbered:
        chosen = [numbered]
    else:
        chosen = [[name] for name in sorted(members) if name.rsplit(".", 1)[-1] in suffixes]
    if source.modality == "text" and text is not None:
        yield SourceItem(entry.path, key, "text", text=text, extra=extra, size=len(text))
        return
    if not chosen:
        if text is not None:
            yield SourceItem(
                entry.path,
                members[min(members)].name,
                source.modality,
                text=text,
                extra=extra,
                error="orphan caption: its sample has no medium",
            )
        return
    for names in chosen:
        media = [{"uri": entry.path, "offset": members[n].offset_data, "length": members[n].size} for n in names]
        yield SourceItem(
            entry.path,
            members[names[0]].name,
            source.modality,
            media=media,
            text=text,
            licence=_column(extra, source.licence_column),
            origin=_column(extra, source.origin_column),
            extra=extra,
            size=sum(members[n].size for n in names),
        )


def _member(file: Any, info: tarfile.TarInfo) -> bytes:
    file.seek(info.offset_data)
    return bytes(file.read(min(info.size, MAX_TEXT_BYTES)))


def _scan_table(source: Source, entry: storage.Entry, uri: str) -> Iterator[SourceItem]:
    taken: set[str] = set()
    for number, row, error in _rows(uri):
        position = f"row={number}"
        if error is not None or not isinstance(row, dict):
            position = _apart(position, taken, "@row")
            yield SourceItem(entry.path, position, "text", error=error or "broken row: not an object")
            continue
        problem = None
        if source.id_column and row.get(source.id_column) is not None:
            position = valid(str(row[source.id_column]))
            if position in taken:
                problem = f"duplicate member: the id {position!r} stands in this table twice"
        position = _apart(position, taken, f"@row={number}")
        turns = row.get("conversations") or row.get("messages")
        text = _text_of(row.get(source.text_column))
        if text is None and isinstance(turns, list):
            text = _turns_text(turns)
        if text is None and problem is None:
            problem = f"broken row: there is no text in the column {source.text_column!r}"
        yield SourceItem(
            entry.path,
            position,
            "text",
            text=text,
            licence=_column(row, source.licence_column),
            origin=_column(row, source.origin_column),
            extra=_rest(row, (source.text_column,)),
            size=len(text or ""),
            error=problem,
        )


def _scan_llava(source: Source, entry: storage.Entry, uri: str) -> Iterator[SourceItem]:
    taken: set[str] = set()
    root = source_root(source)
    for number, row, error in _rows(uri):
        position = f"row={number}"
        if error is not None or not isinstance(row, dict):
            position = _apart(position, taken, "@row")
            yield SourceItem(entry.path, position, source.modality, error=error or "broken row: not an object")
            continue
        identity = row.get(source.id_column or "id")
        problem = None
        if identity is not None:
            position = valid(str(identity))
            if position in taken:
                problem = f"duplicate member: the id {position!r} stands in this table twice"
        position = _apart(position, taken, f"@row={number}")
        paths, modality = _llava_media(row)
        media = []
        size = 0
        stamps = []
        for path in paths:
            if _hostile(path):
                problem = f"hostile path: {path!r} leaves the source"
                continue
            target = storage.join(root, path)
            if not storage.is_file(target):
                problem = problem or f"missing medium: there is no {path}"
                continue
            media.append({"uri": path, "offset": 0, "length": -1})
            for found in storage.list_files(target):
                size += found.size
                stamps.append(found.stamp)
        turns = row.get("conversations")
        text = _turns_text(turns) if isinstance(turns, list) else _text_of(row.get(source.text_column))
        yield SourceItem(
            entry.path,
            position,
            modality,
            media=[] if problem else media,
            text=text,
            licence=_column(row, source.licence_column),
            origin=_column(row, source.origin_column),
            extra=_rest(row, ()),
            size=size or len(text or ""),
            stamp=" ".join(stamps),
            error=problem,
        )


def _llava_media(row: Mapping[str, Any]) -> tuple[list[str], str]:
    for key, one, many in (
        ("video", "video", "video"),
        ("image", "image", "multi_image"),
        ("images", "image", "multi_image"),
    ):
        value = row.get(key)
        if isinstance(value, str):
            return [value], one
        if isinstance(value, list) and value:
            return [str(path) for path in value], one if len(value) == 1 else many
    return [], "text"


def _turns_text(turns: Sequence[Any]) -> str | None:
    """All that is said in a conversation, one turn a line, media placeholders taken out."""
    lines = []
    for turn in turns:
        if isinstance(turn, dict):
            said = turn.get("value", turn.get("content"))
            if isinstance(said, str):
                lines.append(re.sub(r"<(image|video)>\n?", "", said).strip())
    return "\n".join(line for line in lines if line) or None


def _rows(uri: str) -> Iterator[tuple[int, Any, str | None]]:
    """(number, row, error) for each row of a JSON, JSONL, CSV or Parquet file."""
    name = uri.lower()
    with storage.open_read(uri) as file:
        if name.endswith(".parquet"):
            yield from _parquet_rows(file)
        elif name.endswith((".csv", ".tsv")):
            text = io.TextIOWrapper(file, encoding="utf-8-sig", errors="replace", newline="")
            csv.field_size_limit(MAX_TEXT_BYTES)  # the library's own 128 KiB would end the table at a long document
            reader = csv.DictReader(text, delimiter="\t" if name.endswith(".tsv") else ",")
            number = -1
            try:
                for number, row in enumerate(reader):
                    yield number, {k: v for k, v in row.items() if isinstance(k, str)}, None
            except csv.Error as error:
                yield number + 1, None, f"broken row: {error}"
        elif name.endswith(".json"):
            try:
                value = json.loads(file.read())
            except (ValueError, RecursionError) as error:
                yield 0, None, f"unreadable table: {error}"
                return
            rows = value if isinstance(value, list) else [value]
            for number, row in enumerate(rows):
                yield number, row, None
        else:
            yield from _json_lines(file)


def _json_lines(file: Any) -> Iterator[tuple[int, Any, str | None]]:
    for number, line in enumerate(iter(lambda: file.readline(MAX_TEXT_BYTES + 1), b"")):
        if len(line) > MAX_TEXT_BYTES:
            yield number, None, f"too_large: the row has over {MAX_TEXT_BYTES} bytes"
            while line and not line.endswith(b"\n"):
                line = file.readline(MAX_TEXT_BYTES)
        elif line.strip():
            try:
                yield number, json.loads(line.decode("utf-8-sig", "replace")), None
            except (ValueError, RecursionError) as error:
                yield number, None, f"broken row: {error}"


def _parquet_rows(file: Any) -> Iterator[tuple[int, Any, str | None]]:
    number = 0
    try:
        for batch in pq.ParquetFile(file).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                yield number, row, None
                number += 1
    except (pa.ArrowException, OSError, ValueError) as error:  # ValueError: text that is no Unicode
        yield number, None, f"unreadable table: {error}"


def _hostile(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or "\x00" in name or re.match(r"^[A-Za-z]+:", name) is not None


def _text_of(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _column(row: Mapping[str, Any] | None, column: str | None) -> str | None:
    value = row.get(column) if row is not None and column else None
    return None if value is None else str(value)


def _rest(row: Mapping[str, Any], used: Sequence[str]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in used}


def _json_object(data: bytes) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def jsonable(value: Any, depth: int = 0) -> Any:
    """`value` with what JSON has no words for put as text, and cut off below MAX_DEPTH levels."""
    if depth > MAX_DEPTH:
        return "nested too deeply"
    if isinstance(value, Mapping):
        return {valid(str(k)): jsonable(v, depth + 1) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [jsonable(v, depth + 1) for v in value]
    if isinstance(value, float) and value - value != 0:
        return str(value)
    if value is None or isinstance(value, int | float | bool):
        return value
    return valid(str(value))


def read_sidecars(root: str, paths: Sequence[str]) -> tuple[str | None, dict[str, Any], str | None]:
    """(caption, other fields, error) from the caption files of one medium; .txt wins over .json."""
    text: str | None = None
    extra: dict[str, Any] = {}
    for path in sorted(paths, key=lambda p: not p.lower().endswith(".json")):
        try:
            data = storage.read_bytes(storage.join(root, path), 0, MAX_TEXT_BYTES)
        except OSError as error:
            return None, {}, f"unreadable caption: {error.strerror or error}"
        if path.lower().endswith(".json"):
            extra = _json_object(data)
            if not extra:
                return None, {}, "unreadable caption: not a JSON object"
            text = next((extra[k] for k in _CAPTION_KEYS if isinstance(extra.get(k), str)), None)
            if text is None and isinstance(extra.get("conversations"), list):
                text = _turns_text(extra["conversations"])
        else:
            text = data.decode("utf-8-sig", "replace")
    return text, extra, None
