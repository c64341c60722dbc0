"""Generate sources that are odd but legal, with the rows that a correct reader makes of them.

Everything here is what exporters, spreadsheets, archivers and file systems write: quoting and encodings of tables,
order and dialects of tar members, names in any script, compressed files, turns of conversations in unusual order.
Nothing is broken, so each row must become an input. Media are pictures of 8 x 8 pixels, each with colours of its own.
"""

from __future__ import annotations

import bz2
import csv
import functools
import gzip
import hashlib
import io
import itertools
import json
import lzma
import tarfile
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image

ROWS = 5


@dataclass(frozen=True)
class ExpectedRow:
    """One input: the texts that its sample contains, exactly and in this order, and the SHA-256 of its media."""

    texts: tuple[str, ...]
    sha256s: tuple[str, ...] = ()


@dataclass(frozen=True)
class OddCase:
    """One source. settings: of the config, without name and path; write(folder, rng) fills the folder."""

    name: str
    settings: Mapping[str, Any]
    write: Callable[[Path, np.random.Generator], list[ExpectedRow]]


ODD_TEXTS: tuple[Callable[[str], str], ...] = (
    lambda mark: f"A plain sentence about {mark}",
    lambda mark: f"One, two, and three: {mark}, in a row",
    lambda mark: f'She said "{mark}" and "again, {mark}"',
    lambda mark: f"First line {mark}\nsecond line\n\nfourth line",
    lambda mark: f"Ends its lines as others do {mark}\r\nsecond line",
    lambda mark: f"a\ttab and a backslash \\ and \\n by {mark}",
    lambda mark: f"naïve café, {unicodedata.normalize('NFD', 'crème brûlée')} {mark}",
    lambda mark: f"日本語の文、{mark}。العربية 🐕‍🦺 emoji",
    lambda mark: f"{mark}; semicolons; and | pipes",
    lambda mark: f"=SUM(1;2) is no formula {mark}",
    lambda mark: f"#{mark} begins like a comment",
    lambda mark: f"'{mark}' in single quotes, don't",
    lambda mark: f"separators\u2028of\u0085lines {mark}",
    lambda mark: f'{{"looks": "like JSON", "mark": "{mark}"}}',
    lambda mark: f"NULL {mark}",
    lambda mark: f"{mark} " + 'a long document, with commas and "quotes". ' * 4000,
)


def make_texts(rng: np.random.Generator, count: int = ROWS) -> list[str]:
    """Different odd texts; each contains a mark that no other text has."""
    kinds = rng.permutation(len(ODD_TEXTS))[:count]
    return [ODD_TEXTS[kind](f"m{rng.integers(10**12):012d}") for kind in kinds]


def make_picture(rng: np.random.Generator, form: str = "PNG") -> bytes:
    """A file with a picture of 8 x 8 random pixels."""
    pixels: NDArray[np.uint8] = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form)
    return file.getvalue()


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def compress(content: bytes, suffix: str, rng: np.random.Generator) -> bytes:
    """`content` as its suffix says; half of the gzip files have two members, as `cat a.gz b.gz` makes them."""
    if suffix == ".gz":
        middle = len(content) // 2 if rng.random() < 0.5 else 0
        return b"".join(gzip.compress(part, mtime=0) for part in (content[:middle], content[middle:]) if part)
    if suffix == ".zst":
        compressed: bytes = pa.compress(content, codec="zstd", asbytes=True)
        return compressed
    return {"": lambda raw: raw, ".bz2": bz2.compress, ".xz": lzma.compress}[suffix](content)


Write = Callable[[Path, np.random.Generator], list[ExpectedRow]]


def _case(name: str, settings: Mapping[str, Any], write: Callable[..., list[ExpectedRow]], **form: Any) -> OddCase:
    described = ", ".join(f"{key} {value!r}" for key, value in form.items())
    return OddCase(f"{name}: {described}", settings, functools.partial(write, **form))


def _product(**choices: Sequence[Any]) -> Iterator[dict[str, Any]]:
    for combination in itertools.product(*choices.values()):
        yield dict(zip(choices, combination, strict=True))


def make_cases() -> list[OddCase]:
    """All cases, in a fixed order."""
    return [*_table_cases(), *_folder_cases(), *_captions_cases(), *_tar_cases(), *_conversation_cases()]


# Tables of texts


def _table_cases() -> Iterator[OddCase]:
    settings = {"modality": "text", "format": "table"}
    line_ends = ("\n", "\r\n")
    for form in _product(
        delimiter=(",", ";"),
        quoting=(csv.QUOTE_MINIMAL, csv.QUOTE_ALL),
        line_end=line_ends,
        encoding=("utf-8", "utf-8-sig", "utf-16"),
        packing=("", ".gz", ".zst"),
    ):
        yield _case("csv", settings, _write_csv, suffix=".csv", **form)
    for form in _product(quoting=(csv.QUOTE_MINIMAL, csv.QUOTE_ALL), line_end=line_ends, encoding=("utf-8", "utf-16")):
        yield _case("tsv", settings, _write_csv, suffix=".tsv", delimiter="\t", packing="", **form)
    for form in _product(
        suffix=(".jsonl", ".ndjson"),
        packing=("", ".gz", ".zst", ".bz2", ".xz"),
        ascii_only=(True, False),
        line_end=line_ends,
        odd_ends=(True, False),
    ):
        yield _case("json lines", settings, _write_json_lines, **form)
    for form in _product(
        type_name=("string", "large_string", "binary", "large_binary", "dictionary"),
        codec=("none", "snappy", "zstd", "gzip", "brotli"),
        group=(1, ROWS),
    ):
        yield _case("parquet", settings, _write_parquet, **form)


def _draw_rows(rng: np.random.Generator) -> tuple[list[dict[str, Any]], list[ExpectedRow]]:
    """Rows of a table of texts with further columns, in an order of columns that is drawn."""
    texts = make_texts(rng)
    columns = ("id", "text", "licence", "note, with comma")
    order = [columns[index] for index in rng.permutation(len(columns))]
    rows = []
    for number, text in enumerate(texts):
        cells = {"id": f"{number:03d}", "text": text, "licence": "CC-BY-4.0", "note, with comma": 'a "note", short'}
        rows.append({column: cells[column] for column in order})
    return rows, [ExpectedRow((text,)) for text in texts]


def _csv_bytes(
    rows: Sequence[Mapping[str, Any]], delimiter: str, quoting: int, line_end: str = "\n", encoding: str = "utf-8"
) -> bytes:
    """A CSV file as Python's writer, spreadsheets and databases write it."""
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter, quoting=quoting, lineterminator=line_end)  # type: ignore[arg-type]
    writer.writerows([list(rows[0]), *(list(row.values()) for row in rows)])
    return text.getvalue().encode(encoding)


def _write_csv(folder: Path, rng: np.random.Generator, *, suffix: str, packing: str, **form: Any) -> list[ExpectedRow]:
    rows, expected = _draw_rows(rng)
    (folder / f"table{suffix}{packing}").write_bytes(compress(_csv_bytes(rows, **form), packing, rng))
    return expected


def _write_json_lines(
    folder: Path,
    rng: np.random.Generator,
    *,
    suffix: str,
    packing: str,
    ascii_only: bool,
    line_end: str,
    odd_ends: bool,
) -> list[ExpectedRow]:
    rows, expected = _draw_rows(rng)
    deep = {"meta": {"deep": [1, {"er": None}]}, "score": 0.5}
    lines = [json.dumps({**row, **deep}, ensure_ascii=ascii_only) for row in rows]
    # Odd ends: a byte order mark, blank lines, and a last line without its end.
    text = "\ufeff" + (line_end * 2).join(lines) if odd_ends else line_end.join([*lines, ""])
    (folder / f"table{suffix}{packing}").write_bytes(compress(text.encode(), packing, rng))
    return expected


def _write_parquet(
    folder: Path, rng: np.random.Generator, *, type_name: str, codec: str, group: int
) -> list[ExpectedRow]:
    rows, expected = _draw_rows(rng)
    columns: dict[str, Any] = {name: pa.array([row[name] for row in rows]) for name in rows[0]}
    if type_name == "dictionary":
        columns["text"] = columns["text"].dictionary_encode()
    else:
        columns["text"] = columns["text"].cast(getattr(pa, type_name)())
    columns["when"] = pa.array([0] * ROWS, pa.timestamp("ns", "Europe/Berlin"))
    columns["price"] = pa.array([None] * ROWS, pa.decimal128(20, 4))
    columns["tags"] = [["a", "b"]] * ROWS
    pq.write_table(pa.table(columns), folder / "table.parquet", compression=codec, row_group_size=group)
    return expected


# Folders of pictures with captions beside them

ODD_NAMES: tuple[Callable[[str], str], ...] = (
    lambda mark: f"plain-{mark}",
    lambda mark: f"with a blank {mark}",
    lambda mark: f"100%-{mark}#2",
    lambda mark: f"a+b&c={mark}",
    lambda mark: f"what?-{mark}*",
    lambda mark: f"[{mark}](1)",
    lambda mark: f"dots.in.{mark}.name",
    lambda mark: f"犬-{mark}-🐕",
    lambda mark: unicodedata.normalize("NFD", f"crème-{mark}-brûlée"),
    lambda mark: f"a::b-{mark}",
    lambda mark: f"s3:{mark}",
    lambda mark: f"quote'\"-{mark}",
    lambda mark: f"line\nbreak-{mark}",
    lambda mark: f"{mark}-" + "long" * 45,
    lambda mark: f"deep/er/and/deeper/{mark}",
    lambda mark: f"-{mark}",
)

#: Suffixes of pictures and the form that Pillow writes for them.
ODD_SUFFIXES = {".png": "PNG", ".PNG": "PNG", ".jpg": "JPEG", ".JPG": "JPEG", ".jpeg": "JPEG", ".jfif": "JPEG",
                ".jpe": "JPEG", ".webp": "WEBP", ".gif": "GIF", ".bmp": "BMP", ".tif": "TIFF", ".TIFF": "TIFF",
                ".ppm": "PPM", "": "PNG"}  # fmt: skip


def _draw_names(rng: np.random.Generator) -> list[str]:
    return [ODD_NAMES[kind](f"{rng.integers(10**6):06d}") for kind in rng.permutation(len(ODD_NAMES))[:ROWS]]


def _write_file(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def _folder_cases() -> Iterator[OddCase]:
    settings = {"modality": "image", "format": "folder"}
    for form in _product(suffix=tuple(ODD_SUFFIXES), sidecar=(".txt", ".json"), bom=(False, True), number=range(3)):
        if not (form["bom"] and form["sidecar"] == ".json"):
            yield _case("folder", settings, _write_folder, **form)
    yield from (
        _case("texts", {"modality": "text", "format": "folder"}, _write_texts, suffix=suffix, encoding=encoding)
        for suffix in (".txt", ".md", ".TXT")
        for encoding in ("utf-8", "utf-8-sig", "utf-16")
    )


def _write_folder(
    folder: Path, rng: np.random.Generator, *, suffix: str, sidecar: str, bom: bool, number: int
) -> list[ExpectedRow]:
    expected = []
    for name, text in zip(_draw_names(rng), make_texts(rng), strict=True):
        # A suffixless name must not seem to have one.
        stem = name if suffix else name.replace(".", "_")
        picture = make_picture(rng, ODD_SUFFIXES[suffix])
        _write_file(folder / f"{stem}{suffix}", picture)
        caption = text if sidecar == ".txt" else json.dumps({"width": 8, "caption": text, "height": 8})
        _write_file(folder / f"{stem}{sidecar}", caption.encode("utf-8-sig" if bom else "utf-8"))
        expected.append(ExpectedRow((text,), (sha256(picture),)))
    return expected


def _write_texts(folder: Path, rng: np.random.Generator, *, suffix: str, encoding: str) -> list[ExpectedRow]:
    texts = make_texts(rng)
    for name, text in zip(_draw_names(rng), texts, strict=True):
        _write_file(folder / f"{name}{suffix}", text.encode(encoding))
    return [ExpectedRow((text,)) for text in texts]


# Folders of pictures with one captions file


def _captions_cases() -> Iterator[OddCase]:
    for form in _product(
        file=("captions.csv", "captions.tsv", "captions.jsonl", "captions.parquet", "captions.csv.gz"),
        naming=("path", "name", "stem"),
        unicode_form=("NFC", "NFD"),
        number=range(2),
    ):
        settings = {"modality": "image", "format": "folder", "captions": form["file"]}
        yield _case("captions file", settings, _write_captions_file, **form)


def _write_captions_file(
    folder: Path, rng: np.random.Generator, *, file: str, naming: str, unicode_form: str, number: int
) -> list[ExpectedRow]:
    rows, expected = [], []
    for name, text in zip(_draw_names(rng), make_texts(rng), strict=True):
        picture = make_picture(rng)
        path = f"{name}.png"
        _write_file(folder / path, picture)
        named = {"path": path, "name": Path(path).name, "stem": name}[naming]
        rows.append({"licence": "CC0", "text": text, "file": unicodedata.normalize(unicode_form, named)})  # type: ignore[arg-type]
        expected.append(ExpectedRow((text,), (sha256(picture),)))
    order = rng.permutation(len(rows))
    rows = [rows[index] for index in order]
    if file.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / file)
    elif file.endswith(".jsonl"):
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        delimiter = "\t" if file.endswith(".tsv") else ","
        packing = ".gz" if file.endswith(".gz") else ""
        (folder / file).write_bytes(compress(_csv_bytes(rows, delimiter, csv.QUOTE_MINIMAL), packing, rng))
    return expected


# Tars


def _tar_cases() -> Iterator[OddCase]:
    for form in _product(
        dialect=(tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT),
        caption=("txt", "json", "caption", "text"),
        prefix=("", "./", "part one/"),
        packing=("", ".gz"),
        joined=(False, True),
    ):
        if not (form["packing"] and form["joined"]):
            yield _case("tar of pictures", {"modality": "image", "format": "webdataset"}, _write_tar, **form)
    for form in _product(several=(2, 12), dialect=(tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        yield _case(
            "tar of several", {"modality": "multi_image", "format": "webdataset"}, _write_tar_of_several, **form
        )
    for form in _product(field=("text", "content", ""), dialect=(tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)):
        yield _case("tar of texts", {"modality": "text", "format": "webdataset"}, _write_tar_of_texts, **form)


def _tar_bytes(members: Sequence[tuple[str, bytes]], dialect: int, rng: np.random.Generator) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=dialect) as archive:
        for name, content in members:
            folder = tarfile.TarInfo(name.rpartition("/")[0] or ".")
            folder.type = tarfile.DIRTYPE
            if rng.random() < 0.3:
                archive.addfile(folder)
            info = tarfile.TarInfo(name)
            info.size, info.mtime = len(content), int(rng.integers(2**31))
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def _draw_tar_names(rng: np.random.Generator, dialect: int) -> list[str]:
    """Names whose base names have no dot, since WebDataset's key ends there; ustar holds no long ones."""
    names = [name.replace(".", "_") for name in _draw_names(rng)]
    return [name[:80] for name in names] if dialect == tarfile.USTAR_FORMAT else names


def _write_tar(
    folder: Path, rng: np.random.Generator, *, dialect: int, caption: str, prefix: str, packing: str, joined: bool
) -> list[ExpectedRow]:
    samples, expected = [], []
    for name, text in zip(_draw_tar_names(rng, dialect), make_texts(rng), strict=True):
        picture = make_picture(rng)
        content = json.dumps({"key": name, "caption": text}) if caption == "json" else text
        members = [(f"{prefix}{name}.png", picture), (f"{prefix}{name}.{caption}", content.encode())]
        samples.append(members[:: int(rng.choice([-1, 1]))])
        expected.append(ExpectedRow((text,), (sha256(picture),)))
    parts = [samples[:2], samples[2:]] if joined else [samples]
    raw = b"".join(_tar_bytes([member for sample in part for member in sample], dialect, rng) for part in parts)
    (folder / f"shard.tar{packing}").write_bytes(compress(raw, packing, rng))
    return expected


def _write_tar_of_several(folder: Path, rng: np.random.Generator, *, several: int, dialect: int) -> list[ExpectedRow]:
    members, expected = [], []
    for name, text in zip(_draw_tar_names(rng, dialect), make_texts(rng), strict=True):
        pictures = [make_picture(rng, "JPEG") for _ in range(several)]
        numbered = [(f"{name}.{number}.jpg", picture) for number, picture in enumerate(pictures)]
        sample = [*numbered, (f"{name}.txt", text.encode())]
        members += [sample[index] for index in rng.permutation(len(sample))]
        expected.append(ExpectedRow((text,), tuple(map(sha256, pictures))))
    (folder / "shard.tar").write_bytes(_tar_bytes(members, dialect, rng))
    return expected


def _write_tar_of_texts(folder: Path, rng: np.random.Generator, *, field: str, dialect: int) -> list[ExpectedRow]:
    members, expected = [], []
    for name, text in zip(_draw_tar_names(rng, dialect), make_texts(rng), strict=True):
        if field:
            members.append((f"{name}.json", json.dumps({field: text, "url": "https://example.org/1"}).encode()))
        else:
            members.append((f"{name}.txt", text.encode()))
        expected.append(ExpectedRow((text,)))
    (folder / "shard.tar").write_bytes(_tar_bytes(members, dialect, rng))
    return expected


# Conversations


def _conversation_cases() -> Iterator[OddCase]:
    for form in _product(
        file=("data.json", "data.jsonl", "lines.json", "data.json.gz"),
        first=("human", "gpt", "system"),
        last=("gpt", "human"),
        marker=("<image>\n", "\n<image>", ""),
        repeated_id=(False, True),
    ):
        settings = {"modality": "image", "format": "llava"}
        yield _case("llava", settings, _write_llava, **form)
    for form in _product(dialect=("conversations", "messages", "message parts"), first=("user", "system")):
        yield _case("chat", {"modality": "text", "format": "table"}, _write_chat, **form)


def _write_llava(
    folder: Path, rng: np.random.Generator, *, file: str, first: str, last: str, marker: str, repeated_id: bool
) -> list[ExpectedRow]:
    """Rows with one picture each and two sound pairs of turns; an odd first or last turn belongs to no pair."""
    rows, expected = [], []
    for number in range(ROWS):
        picture = make_picture(rng)
        path = f"images/{rng.integers(10**9):09d}.png"
        _write_file(folder / path, picture)
        questions, answers = make_texts(rng, 2), make_texts(rng, 2)
        turns = [] if first == "human" else [{"from": first, "value": "A turn before the first question."}]
        for question, answer in zip(questions, answers, strict=True):
            with_marker = f"{question}{marker}" if marker.startswith("\n") else f"{marker}{question}"
            is_first = question == questions[0]
            turns += [{"from": "human", "value": with_marker if is_first else question}]
            turns += [{"from": "gpt", "value": answer}]
        if last == "human":
            turns.append({"from": "human", "value": "A question without an answer."})
        rows.append({"id": "same" if repeated_id else f"{number}", "image": path, "conversations": turns})
        expected.append(ExpectedRow((questions[0], answers[0], questions[1], answers[1]), (sha256(picture),)))
    lines = "\n".join(map(json.dumps, rows))
    text = lines if file.startswith("lines") or ".jsonl" in file else json.dumps(rows, indent=1)
    packing = ".gz" if file.endswith(".gz") else ""
    (folder / file).write_bytes(compress(text.encode(), packing, rng))
    return expected


def _write_chat(folder: Path, rng: np.random.Generator, *, dialect: str, first: str) -> list[ExpectedRow]:
    rows, expected = [], []
    for _ in range(ROWS):
        question, answer = make_texts(rng, 2)
        turns = [("system", "You are an assistant.")] if first == "system" else []
        turns += [("user", question), ("assistant", answer)]
        if dialect == "conversations":
            speakers = {"system": "system", "user": "human", "assistant": "gpt"}
            rows.append({"conversations": [{"from": speakers[role], "value": text} for role, text in turns]})
        elif dialect == "messages":
            rows.append({"messages": [{"role": role, "content": text} for role, text in turns]})
        else:
            parts = [{"role": role, "content": [{"type": "text", "text": text}]} for role, text in turns]
            rows.append({"messages": parts})
        expected.append(ExpectedRow((question, answer)))
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return expected
