"""The folder of a report: static files, data as scripts, pictures. It appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata, resources
from pathlib import Path
from typing import Any

import numpy as np

from infra import progress, storage
from infra.commit import read_json
from infra.errors import ConfigError, MissingExtra
from mixtures.shards.manifest import is_mixture, open_mixture
from pipelines.core.finished_run import JudgedRun, open_judged_run
from pipelines.report import details, mixture_page, overview, sliders
from pipelines.report.data_scripts import codes, numbers, script
from pipelines.report.report_rows import ReportRows, gather
from pipelines.report.thumbnails import Thumbnails, draw

#: Samples in one file of texts, and in one file of details.
TEXTS = 8192
DETAILS = 256
#: Characters of a text, and of a place, that the list shows and the search sees (ours).
PREVIEW = 160
PLACE = 400

#: Told from other folders by this file, which every report has.
MARK = "data/meta.js"


def run(folder: str, out: str, *, quiet: bool = False, thumbs: int = 2000, clips: int = 200) -> dict[str, Any]:
    """Write the report of the run or mixture in `folder` into the folder `out`, and return what was written.

    thumbs, clips: most pictures and most moving ones drawn for each filter and outcome. An earlier report in `out` is
    replaced whole. Raises what `check_output` does, and StageError where there is no finished run or mixture.
    """
    check_output(out)
    target = Path(out)
    work = storage.temporary_for(out)
    try:
        if is_mixture(folder):
            told = _write_mixture(folder, work)
        else:
            told = _write_run(folder, work, thumbs=thumbs, clips=clips, quiet=quiet)
        _write_static(work)
        old = storage.temporary_for(out)
        if target.exists():
            target.rename(old)
        work.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    files = [path for path in target.rglob("*") if path.is_file()]
    return {"report": out, **told, "files": len(files), "bytes": sum(path.stat().st_size for path in files)}


def check_output(out: str) -> None:
    """Whether a report can be written to `out`, before any work.

    Raises ConfigError where `out` holds something else, MissingExtra where what draws charts is not installed.
    """
    _charts()
    target = Path(out)
    if target.exists() and not (target / MARK).is_file() and (not target.is_dir() or any(target.iterdir())):
        raise ConfigError("this folder holds something other than a report", where=out, hint="name a new folder")


def _write_mixture(folder: str, work: Path) -> dict[str, Any]:
    value = mixture_page.overview(open_mixture(folder))
    _put(work, "meta", value)
    return {"samples": value["members"]["rows"]}


def _write_run(folder: str, work: Path, *, thumbs: int, clips: int, quiet: bool) -> dict[str, Any]:
    finished = open_judged_run(folder)
    rows = gather(finished)
    media = draw(finished, rows, work, thumbs=thumbs, clips=clips, quiet=quiet)
    _write_data(finished, rows, media, work, quiet=quiet)
    return {
        "samples": len(rows),
        "thumbs": media.count,
        "clips": media.clips,
        "without_picture": media.missing,
    }


def _write_static(work: Path) -> None:
    (work / "static").mkdir(parents=True, exist_ok=True)
    for entry in (resources.files("pipelines.report") / "static").iterdir():
        place = work / ("" if entry.name == "index.html" else "static") / entry.name
        place.write_bytes(entry.read_bytes())
    for name, path in _charts().items():
        shutil.copyfile(path, work / "static" / name)


def _charts() -> dict[str, Path]:
    """The files of uPlot, which draws the charts, in the package that brings it; the package itself is not imported.

    Raises MissingExtra where it is not installed.
    """
    try:
        package = metadata.distribution("uplot-python")
    except metadata.PackageNotFoundError:
        raise MissingExtra("uplot-python", "report", "the report") from None
    return {name: Path(str(package.locate_file(f"uplot/static/{name}"))) for name in ("uPlot.iife.js", "uPlot.min.css")}


def _put(work: Path, name: str, value: Any) -> None:
    path = work / "data" / f"{name}.js"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(script(name, value))


def _write_data(finished: JudgedRun, rows: ReportRows, media: Thumbnails, work: Path, *, quiet: bool) -> None:
    words = _words(rows)
    _put(work, "rows", _index(rows, words, media))
    for index, start in enumerate(range(0, len(rows), TEXTS)):
        _put(work, f"texts-{index:05d}", _texts(rows, start, min(start + TEXTS, len(rows))))
    done = 0
    with progress.watch("samples", len(rows), lambda: done, what="pages", quiet=quiet):
        for index, part in enumerate(details.details(finished, rows, media, DETAILS)):
            _put(work, f"detail-{index:05d}", part)
            done += len(part)
    columns = []
    for name in rows.numeric():
        values = rows.number(name)
        if np.isfinite(values).any():
            _put(work, f"column-{name}", numbers(values))
            columns.append(name)
    asked = sliders.write(finished, rows, lambda name, value: _put(work, name, value))
    _put(work, "duplicates", details.groups(rows))
    for name in _shards(finished):
        _put(work, f"shard-{name}", read_json(finished.run.at("shards", f"{name}.card.json")))
    meta = overview.overview(finished, rows)
    meta |= {
        "rows": {"count": len(rows), "chunk": TEXTS, "preview": PREVIEW},
        "details": {"chunk": DETAILS, "columns": rows.shown(), "longest": details.LONGEST},
        "columns": columns,
        "words": {name: list(known) for name, (known, _) in words.items()},
        "media": media.told(),
        "what_if": asked,
    }
    _put(work, "meta", meta)


def _shards(finished: JudgedRun) -> list[str]:
    names = storage.list_names(finished.run.at("shards"))
    return [name.removesuffix(".card.json") for name in names if name.endswith(".card.json")]


def _words(rows: ReportRows) -> dict[str, tuple[Sequence[str], Any]]:
    """Columns of few values as (values, code of each row); code 0 is always "", which stands for none."""
    shard = dict(zip(rows.members["key"].to_pylist(), rows.members["shard"].to_pylist(), strict=True))
    label = rows.signals["language.label"].to_pylist() if "language.label" in rows.signals.schema.names else None
    columns: Mapping[str, Sequence[Any]] = {
        "modality": rows.modality.tolist(),
        "source": rows.samples["source"].to_pylist(),
        "outcome": rows.outcome.tolist(),
        "filter": rows.by.tolist(),
        "reason": [(reason or "").partition(":")[0] for reason in rows.verdicts["reason"].to_pylist()],
        "licence": rows.samples["licence"].to_pylist(),
        "language": label or [""] * len(rows),
        "shard": [shard.get(key, "") for key in rows.keys],
    }
    found: dict[str, tuple[Sequence[str], Any]] = {}
    for name, values in columns.items():
        known = sorted({"", *(value or "" for value in values)})
        place = {value: code for code, value in enumerate(known)}
        found[name] = (known, np.array([place[value or ""] for value in values], dtype=np.int64))
    return found


def _index(rows: ReportRows, words: Mapping[str, Any], media: Thumbnails) -> dict[str, Any]:
    """All rows, without what they say: so much must be there before the first filter is chosen."""
    return {
        "keys": "".join(rows.keys),
        "value": numbers(np.asarray(rows.verdicts["value"].to_numpy(), dtype=np.float64)),
        "threshold": numbers(np.asarray(rows.verdicts["threshold"].to_numpy(), dtype=np.float64)),
        "pictures": codes(media.pictures),
        **{name: codes(code) for name, (_, code) in words.items()},
    }


def _texts(rows: ReportRows, start: int, stop: int) -> dict[str, Any]:
    """What rows say, and where they are from: the beginnings, a line each."""
    columns = (rows.samples[name].slice(start, stop - start).to_pylist() for name in ("container", "position"))
    places = [f"{container} {position}" for container, position in zip(*columns, strict=True)]
    return {
        "texts": "\n".join(preview(text) for text in rows.texts[start:stop]),
        "places": "\n".join(preview(place, PLACE) for place in places),
    }


def preview(text: str, longest: int = PREVIEW) -> str:
    """The beginning of a text on one line."""
    return " ".join(text[: 4 * longest].split())[:longest]
