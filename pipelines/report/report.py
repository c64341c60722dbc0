"""report: write a folder with static files, data as scripts and pictures. It appears complete or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from infra import progress, storage
from infra.columns import to_floats
from infra.commit import read_json
from infra.errors import ConfigError, MissingExtra
from mixtures.shards.manifest import is_mixture, open_mixture
from pipelines.core.finished_run import JudgedRun, open_judged_run
from pipelines.report import details, mixture_page, overview, sliders
from pipelines.report.data_scripts import build_script, pack_codes, pack_numbers
from pipelines.report.report_rows import ReportRows, read_rows
from pipelines.report.thumbnails import Thumbnails, draw_thumbnails

#: Samples in one file of texts, and in one file of details.
TEXTS = 8192
DETAILS = 256
#: Characters of a text, and of a position, that lists show and the search covers (ours).
PREVIEW = 160
MAX_POSITION = 400

#: A file that every report has, by which it is recognised.
MARK = "data/meta.js"


def run(folder: str, out: str, *, quiet: bool = False, thumbs: int = 2000, clips: int = 200) -> dict[str, Any]:
    """Write the report of the run or mixture in `folder` into the folder `out`, and return a summary.

    thumbs, clips: maximum number of pictures and of clips for each filter and outcome. An earlier report in `out` is
    replaced. Raises what `check_output` does, and StageError if there is no finished run or mixture.
    """
    check_output(out)
    target = storage.local_path(out)
    work = storage.temporary_for(out)
    try:
        if is_mixture(folder):
            summary = _write_mixture(folder, work)
        else:
            summary = _write_run(folder, work, thumbs=thumbs, clips=clips, quiet=quiet)
        _write_static(work)
        old = storage.temporary_for(out)
        if target.exists():
            target.rename(old)
        work.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    files = [path for path in target.rglob("*") if path.is_file()]
    return {"report": out, **summary, "files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def check_output(out: str) -> None:
    """Check that a report can be written to `out`, before any work.

    Raises ConfigError if `out` is no local path or contains something other than a report, MissingExtra if uPlot is not
    installed.
    """
    _find_chart_files()
    if not storage.is_local(out):
        raise ConfigError("a report is a folder on this machine", where=out, hint="give a local folder, then copy it")
    target = storage.local_path(out)
    if target.exists() and not (target / MARK).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError("this folder contains something other than a report", where=out, hint="give a new folder")


def _write_mixture(folder: str, work: Path) -> dict[str, Any]:
    meta = mixture_page.build_meta(open_mixture(folder))
    _put(work, "meta", meta)
    return {"samples": meta["members"]["rows"]}


def _write_run(folder: str, work: Path, *, thumbs: int, clips: int, quiet: bool) -> dict[str, Any]:
    judged = open_judged_run(folder)
    rows = read_rows(judged)
    thumbnails = draw_thumbnails(judged, rows, work, thumbs=thumbs, clips=clips, quiet=quiet)
    _write_data(judged, rows, thumbnails, work, quiet=quiet)
    return {
        "samples": len(rows),
        "thumbs": thumbnails.count,
        "clips": thumbnails.clips,
        "without_picture": thumbnails.missing,
    }


def _write_static(work: Path) -> None:
    (work / "static").mkdir(parents=True, exist_ok=True)
    for entry in (resources.files("pipelines.report") / "static").iterdir():
        path = work / ("" if entry.name == "index.html" else "static") / entry.name
        path.write_bytes(entry.read_bytes())
    for name, source in _find_chart_files().items():
        shutil.copyfile(source, work / "static" / name)


def _find_chart_files() -> dict[str, Path]:
    """The files of uPlot, which draws the charts, in its Python package, which is not imported.

    Raises MissingExtra if it is not installed.
    """
    try:
        package = metadata.distribution("uplot-python")
    except metadata.PackageNotFoundError:
        raise MissingExtra("uplot-python", "report", "the report") from None
    return {name: Path(str(package.locate_file(f"uplot/static/{name}"))) for name in ("uPlot.iife.js", "uPlot.min.css")}


def _put(work: Path, name: str, content: Any) -> None:
    path = work / "data" / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(build_script(name, content))


def _write_data(judged: JudgedRun, rows: ReportRows, thumbnails: Thumbnails, work: Path, *, quiet: bool) -> None:
    words = _encode_words(rows)
    _put(work, "rows", _build_index(rows, words, thumbnails))
    for index, start in enumerate(range(0, len(rows), TEXTS)):
        _put(work, f"texts-{index:05d}", _build_texts(rows, start, min(start + TEXTS, len(rows))))
    done = 0
    with progress.watch("samples", len(rows), lambda: done, what="pages", quiet=quiet):
        for index, samples in enumerate(details.iterate_details(judged, rows, thumbnails, DETAILS)):
            _put(work, f"detail-{index:05d}", samples)
            done += len(samples)
    columns = [name for name in rows.numeric() if np.isfinite(rows.read_number(name)).any()]
    for name in columns:
        _put(work, f"column-{name}", pack_numbers(rows.read_number(name)))
    what_if = sliders.write(judged, rows, lambda name, content: _put(work, name, content))
    _put(work, "duplicates", details.build_groups(rows))
    for name in storage.list_names(judged.run.at("shards")):
        if name.endswith(".card.json"):
            _put(work, f"shard-{name.removesuffix('.card.json')}", read_json(judged.run.at("shards", name)))
    meta = overview.build_meta(judged, rows)
    meta |= {
        "rows": {"count": len(rows), "chunk": TEXTS, "preview": PREVIEW},
        "details": {"chunk": DETAILS, "columns": rows.shown(), "longest": details.LONGEST},
        "columns": columns,
        "words": {name: list(vocabulary) for name, (vocabulary, _) in words.items()},
        "media": thumbnails.to_json(),
        "what_if": what_if,
    }
    _put(work, "meta", meta)


def _encode_words(rows: ReportRows) -> dict[str, tuple[Sequence[str], Any]]:
    """Columns with few distinct values as (vocabulary, code of each row); code 0 is always "", for no value."""
    shard = dict(zip(rows.members["key"].to_pylist(), rows.members["shard"].to_pylist(), strict=True))
    columns: Mapping[str, Sequence[Any]] = {
        "modality": rows.modality.tolist(),
        "source": rows.samples["source"].to_pylist(),
        "outcome": rows.outcome.tolist(),
        "filter": rows.stopped_by.tolist(),
        "reason": [(reason or "").partition(":")[0] for reason in rows.verdicts["reason"].to_pylist()],
        "licence": rows.samples["licence"].to_pylist(),
        "language": rows.read_words("language.label"),
        "shard": [shard.get(key, "") for key in rows.keys],
    }
    encoded: dict[str, tuple[Sequence[str], Any]] = {}
    for name, words in columns.items():
        vocabulary = sorted({"", *(word or "" for word in words)})
        code = {word: index for index, word in enumerate(vocabulary)}
        encoded[name] = (vocabulary, np.array([code[word or ""] for word in words], dtype=np.int64))
    return encoded


def _build_index(rows: ReportRows, words: Mapping[str, Any], thumbnails: Thumbnails) -> dict[str, Any]:
    """Columns of all rows except texts: what must be loaded before the first filter is chosen."""
    return {
        "keys": "".join(rows.keys),
        "value": pack_numbers(to_floats(rows.verdicts["value"])),
        "threshold": pack_numbers(to_floats(rows.verdicts["threshold"])),
        "pictures": pack_codes(thumbnails.pictures),
        **{name: pack_codes(code) for name, (_, code) in words.items()},
    }


def _build_texts(rows: ReportRows, start: int, stop: int) -> dict[str, Any]:
    """The beginnings of texts and positions, one line per row."""
    columns = (rows.samples[name].slice(start, stop - start).to_pylist() for name in ("container", "position"))
    positions = [f"{container} {position}" for container, position in zip(*columns, strict=True)]
    return {
        "texts": "\n".join(shorten(text) for text in rows.texts[start:stop]),
        "places": "\n".join(shorten(position, MAX_POSITION) for position in positions),
    }


def shorten(text: str, longest: int = PREVIEW) -> str:
    """The beginning of a text on one line."""
    return " ".join(text[: 4 * longest].split())[:longest]
