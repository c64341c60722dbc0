"""Captions files: one table with the captions of a folder's media, matched by the names that its rows use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any, NoReturn

from infra import storage
from infra.config import Source
from infra.errors import ConfigError
from mixtures.reading.conversations import find_turns
from pipelines.ingest.sources.captions import draw_caption, read_texts
from pipelines.ingest.sources.interface import (
    IgnoredMember,
    Listing,
    SourceItem,
    build_file_item,
    build_item,
    make_unique,
    normalise_name,
    stem_of,
)
from pipelines.ingest.sources.rows import Row, drop_keys, ends_table, name_columns, read_rows

#: Reason for which a row is ignored.
EXCLUDED = "caption of a medium that is not in include"


@dataclass(frozen=True)
class CaptionRow:
    """A row of a captions file. name: of the medium, as `_normalise` makes it; texts: its captions."""

    number: int
    name: str
    fields: Row
    texts: Sequence[str]
    error: str | None


@dataclass
class CaptionsTable:
    """A captions file. broken: position and error of rows that cannot be used; damage: why it cannot be read on."""

    rows: list[CaptionRow] = field(default_factory=list)
    broken: list[tuple[str, str]] = field(default_factory=list)
    columns: dict[str, None] = field(default_factory=dict)
    damage: str | None = None


def match_captions(
    source: Source, captions_file: str, media: Sequence[storage.Entry], excluded: Sequence[storage.Entry]
) -> Listing:
    """Match media with their rows of the captions file; rows without a medium are orphan captions.

    captions_file: relative to the source. Members read are the media and the rows of the file. Raises ConfigError where
    the file has not the columns that the config names, or none of its rows names a medium.
    """
    table = read_captions(source, captions_file)
    names = MediaNames(captions_file, media, excluded)
    rows_of: dict[int, list[CaptionRow]] = {}
    unused: list[tuple[CaptionRow, str]] = []
    for row in table.rows:
        numbers, reason = names.find(row.name)
        for number in numbers:
            rows_of.setdefault(number, []).append(row)
        if not numbers:
            unused.append((row, reason))
    if table.rows and not rows_of and not any(reason == EXCLUDED for _, reason in unused):
        _report_no_match(source, captions_file, table, media)
    matcher = CaptionMatcher(source, captions_file, table.damage)
    for number, entry in enumerate(media):
        matcher.add(entry, rows_of.get(number, []))
    for row, reason in unused:
        matcher.add_unused(row, reason)
    for position, error in table.broken:
        matcher.add_broken(position, error)
    read = len(media) + len(table.rows) + len(table.broken)
    return Listing(matcher.items, [], matcher.ignored, read)


class MediaNames:
    """The names that a captions file may use for media: path from the source or from the file's own folder, or base
    name, with or without suffix, in this order."""

    def __init__(self, captions_file: str, media: Sequence[storage.Entry], excluded: Sequence[storage.Entry]) -> None:
        self._folder = PurePosixPath(_normalise(captions_file)).parent
        self._folders = [PurePosixPath(entry.path).parent for entry in media]
        self._levels: list[dict[str, list[int]]] = [{}, {}, {}, {}]
        for number, entry in enumerate([*media, *excluded]):
            path = _normalise(entry.path)
            stem = stem_of(path)
            for level, name in enumerate((path, stem, PurePosixPath(path).name, PurePosixPath(stem).name)):
                self._levels[level].setdefault(name, []).append(number if number < len(media) else -1)

    def find(self, name: str) -> tuple[list[int], str]:
        """(numbers of the media with a name, why there are none). A captions file may serve several sources: a medium
        that `include` leaves out is not missing. A base name in several folders names none of them."""
        paths, stems, names, base_stems = self._levels
        beside = str(self._folder / name)
        candidates = ((paths, name), (paths, beside), (names, name), (stems, name), (stems, beside), (base_stems, name))
        numbers = next((level[key] for level, key in candidates if key in level), None)
        if numbers is None:
            return [], "orphan caption: the medium that it names is not there"
        used = [number for number in numbers if number >= 0]
        if len(folders := {self._folders[number] for number in used}) > 1:
            return [], f"orphan caption: media in {len(folders):,} folders have this name, the path is needed"
        return used, "" if used else EXCLUDED


@dataclass
class CaptionMatcher:
    """Builds the items of media and of rows. damage: why the table has no more rows; used: numbers of matched rows."""

    source: Source
    captions_file: str
    damage: str | None
    items: list[SourceItem] = field(default_factory=list)
    ignored: list[IgnoredMember] = field(default_factory=list)
    used: set[int] = field(default_factory=set)
    positions: set[str] = field(default_factory=set)

    def add(self, entry: storage.Entry, rows: Sequence[CaptionRow]) -> None:
        """Add a medium with its rows: by `captions.many` one item, or one for each caption."""
        new = {row.number for row in rows} - self.used
        self.used.update(new)
        if not rows:
            error = self.damage and f"unreadable caption: the captions file may have had its row: {self.damage}"
            self.items.append(build_file_item(self.source, entry, fields={}, stamp=entry.stamp, error=error))
            return
        captions = [(row, text) for row in rows for text in row.texts]
        captions = [(row, text) for row, text in captions if text.strip()] or captions[:1]
        selected = self._select(captions or [(rows[0], None)], entry.path)
        unused = max(0, len(captions) - len(selected)) if self.source.captions.many != "join" else 0
        used = rows if self.source.captions.many == "join" else [row for row, _ in selected]
        error = next((row.error for row in rows if row.error), None) if not captions else None
        counted = {row.number for row in used}.intersection(new)
        for number, (row, text) in enumerate(selected):
            item = build_file_item(
                self.source,
                entry,
                fields=row.fields,
                text=text,
                extra=drop_keys(row.fields, (self.source.captions.text_column,)),
                stamp=entry.stamp,
                error=error,
                members=1 + len(counted) if number == 0 else 0,
            )
            item.position = f"caption={number}" if len(selected) > 1 else ""
            item.unused_captions = unused if item.error is None else 0
            self.items.append(item)
        for row in rows:
            if row.number in new and row.number not in counted:
                self._ignore(row, "further caption of a medium")

    def _select(self, captions: Sequence[tuple[CaptionRow, str | None]], name: str) -> Sequence[tuple[CaptionRow, Any]]:
        """The captions to use, each with its row."""
        many = self.source.captions.many
        if len(captions) < 2 or many == "all":
            return captions
        if many == "join":
            return [(captions[0][0], "\n".join(text for _, text in captions if text is not None))]
        return [captions[draw_caption(self.source, len(captions), name) if many == "random" else 0]]

    def add_unused(self, row: CaptionRow, reason: str) -> None:
        """Add a row that names no medium of the source. reason: EXCLUDED, or an error."""
        if reason == EXCLUDED:
            self._ignore(row, reason)
            return
        extra = drop_keys(row.fields, (self.source.captions.text_column,))
        text = row.texts[0] if row.texts else None
        position = make_unique(row.name, self.positions, f"@row={row.number}")
        item = build_item(
            self.source, self.captions_file, position, fields=row.fields, text=text, extra=extra, error=reason
        )
        self.items.append(item)

    def add_broken(self, position: str, error: str) -> None:
        """Add a row that cannot be used."""
        position = make_unique(position, self.positions, "@row")
        self.items.append(build_item(self.source, self.captions_file, position, fields={}, error=error))

    def _ignore(self, row: CaptionRow, reason: str) -> None:
        self.ignored.append(IgnoredMember(self.captions_file, f"row={row.number}", reason))


def read_captions(source: Source, captions_file: str) -> CaptionsTable:
    """Read a captions file. Raises ConfigError where it does not exist or has not the columns that the config names."""
    uri = storage.join(source.path, captions_file)
    if not storage.is_file(uri):
        raise ConfigError(f"source {source.name!r}: there is no captions file at {uri}")
    settings = source.captions
    table = CaptionsTable()
    has_text = False
    for number, fields, error in read_rows(uri, text_column=settings.text_column, encoding=source.encoding):
        if error is None and isinstance(fields, dict):
            table.columns.update(dict.fromkeys(fields))
            has_text = has_text or settings.text_column in fields or find_turns(fields) is not None
            if (name := fields.get(settings.media_column)) is not None:
                texts, fault = read_texts(fields, (settings.text_column,), source.modality)
                table.rows.append(CaptionRow(number, _normalise(str(name)), fields, texts, fault))
                continue
            error = f"broken row: it names no medium in the column {settings.media_column!r}"
        elif error and ends_table(error):
            table.damage = error
        table.broken.append((f"row={number}", error or "broken row: not an object"))
    missing = {
        "captions.media_column": settings.media_column if not table.rows else None,
        "captions.text_column": settings.text_column if not has_text else None,
    }
    _check_columns(source, captions_file, table, {key: name for key, name in missing.items() if name is not None})
    return table


def _check_columns(source: Source, captions_file: str, table: CaptionsTable, missing: Mapping[str, str]) -> None:
    """Raise ConfigError where columns are missing in every row, or where no row can be read."""
    where = f"source {source.name!r}: the captions file {captions_file}"
    if missing and table.columns:
        absent = " and ".join(f"{name!r} ({key})" for key, name in missing.items())
        raise ConfigError(
            f"{where} has no column {absent}; its columns are {name_columns(table.columns)}",
            hint=f"name its columns: set {' and '.join(missing)} of the source",
        )
    if not table.rows:
        fault = table.broken[0][1] if table.broken else "it has no rows"
        raise ConfigError(f"{where} cannot be used: {fault}", hint="mend the file, or take it out of the config")


def _report_no_match(
    source: Source, captions_file: str, table: CaptionsTable, media: Sequence[storage.Entry]
) -> NoReturn:
    """Raise ConfigError: no row names a medium."""
    names = f"the rows name media such as {table.rows[0].name!r}"
    files = f"the source has media such as {media[0].path!r}" if media else "the source has no media"
    raise ConfigError(
        f"source {source.name!r}: no row of the captions file {captions_file} names a medium: {names}, {files}",
        hint="set captions.media_column to the column with the media's paths, base names or stems",
    )


def _normalise(name: str) -> str:
    """A medium's name in the form in which names are compared."""
    return normalise_name(name).replace("\\", "/").removeprefix("./")
