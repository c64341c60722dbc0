"""The Python interface: measure files, judge the measurements, run a config, open runs and mixtures.

docs/python.md has an example of each function. Mistakes raise ConfigError, work that cannot be finished raises
StageError (infra.errors); a file that cannot be measured is a row with an error.
"""

from __future__ import annotations

import dataclasses
import glob
import tempfile
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from posixpath import splitext
from typing import Any

import numpy as np
import pyarrow as pa
import yaml

from infra import storage
from infra.beam import Runner
from infra.columns import equals, to_strings
from infra.commit import need_manifest
from infra.errors import ConfigError
from infra.media.interface import MODALITIES, VISUAL
from mixtures.shards.manifest import Mixture, open_mixture
from pipelines import stages
from pipelines.core.finished_run import open_finished_run
from pipelines.core.resolve import resolve
from pipelines.core.run import LOCAL, Run
from pipelines.core.verdicts import ALIVE, judge_rows
from pipelines.ingest.sources.folder import SIDECAR_SUFFIXES
from pipelines.ingest.sources.interface import MEDIA_SUFFIXES
from pipelines.ingest.sources.table import TableReader

__all__ = ["Mixture", "Run", "judge", "measure", "open_mixture", "open_run", "run"]

#: Settings by name, or names alone for the defaults.
SettingsByName = Mapping[str, Mapping[str, Any] | None] | Iterable[str]

#: Columns of the table of `measure` that are not measurements.
SAMPLE_COLUMNS = ("key", "modality", "source", "container", "position", "text", "error")


def measure(paths: str | Iterable[str], annotators: SettingsByName) -> pa.Table:
    """Measure media files, with captions beside them, and tables of text.

    paths: files or folders, local or any fsspec URI; folders are searched to any depth. Captions are `.txt` or `.json`
    files of the medium's name, and may be missing.
    annotators: names, or names with settings, as under `measure:` in a config.

    Returns a row per sample: SAMPLE_COLUMNS and then "annotator.column" of each annotator, and of those that they
    depend on. `error` is null unless the sample could not be read, "annotator.error" unless it could not be measured.
    Columns that only the store keeps (vectors) are not returned.
    """
    own = dict(annotators) if isinstance(annotators, Mapping) else dict.fromkeys(annotators)
    with tempfile.TemporaryDirectory() as folder:
        config = {
            "name": "measure",
            "store": f"{folder}/store",
            "out": f"{folder}/run",
            "sources": _list_sources([paths] if isinstance(paths, str) else paths),
            "measure": {**{name: dict(settings or {}) for name, settings in own.items()}, "late": list(own)},
        }
        work = _open(config)
        for stage in ("ingest", "measure", "decide"):  # decide keeps everything, and so everything is measured late
            stages.run_stage(work, stage)
        return pa.concat_tables([_read_unit(work, unit.name) for unit in need_manifest(work.out, "samples").units])


def judge(table: pa.Table, filters: SettingsByName) -> pa.Table:
    """Judge measurements.

    table: as `measure` returns it; it must contain the columns that the filters read.
    filters: names, or names with settings, as under `filters:` in a config, in the order in which they are applied.

    Returns as many rows: key, modality, outcome ("kept", "dropped", "failed"), filter, reason, value, threshold (null
    where kept), and `others`: further filters that the sample fails. Filters of text skip media without a caption.
    Raises ConfigError where the table lacks a column that a filter reads.
    """
    own = dict(filters) if isinstance(filters, Mapping) else dict.fromkeys(filters)
    names = {column.split(".")[0] for column in table.column_names if "." in column}
    modalities = sorted(set(table["modality"].to_pylist())) or ["text"]
    sources = [{"name": name, "path": ".", "modality": name, "captions": "optional"} for name in modalities]
    config = {"name": "judge", "store": "none", "out": "none", "sources": sources, "filters": own}
    # An empty fingerprint for each annotator: nothing is measured, so no weights are needed.
    resolved = resolve(dataclasses.replace(_open(config), makers=dict.fromkeys(names, "")))
    for filter_ in resolved.filters:
        for column in filter_.columns():
            if column not in table.column_names:
                raise ConfigError(
                    f"the table has no column {column}, which the filter {filter_.name} reads",
                    hint=f"measure with the annotator {column.split('.')[0]!r}",
                )
    signals = table
    for field in resolved.schema(resolved.steps):
        if field.name not in table.column_names:
            signals = signals.append_column(field.name, pa.nulls(table.num_rows, field.type))
    samples = table.select(["key", "modality", "text", "error"]).append_column("source", table["modality"])
    verdicts, undecided = judge_rows(resolved, samples, signals, frozenset(modalities))
    kept = equals(verdicts["outcome"], ALIVE)
    replacements = {"outcome": np.select([undecided, kept], ["failed", "kept"], to_strings(verdicts["outcome"]))}
    # Nothing is measured of a sample after its first failure: a missing value never passes.
    for name, cause in (("filter", "measure"), ("reason", "not measured")):
        replacements[name] = np.where(undecided, cause, verdicts[name].to_pylist())
    for name, strings in replacements.items():
        verdicts = verdicts.set_column(verdicts.schema.get_field_index(name), name, pa.array(strings, pa.string()))
    return verdicts.drop_columns(["source"]).replace_schema_metadata(None)


def run(config: Mapping[str, Any], *, workers: int = 1, replace: bool = False, quiet: bool = True) -> Run:
    """Run every stage of a config, as `reelmill run` does; finished work is not repeated.

    config: as in a YAML file. replace: overwrite a run of another config in the same folder.
    """
    work = _open(config, runner=Runner(LOCAL.name, workers), replace=replace, quiet=quiet)
    stages.run_all(work)
    return work


def open_run(folder: str) -> Run:
    """Open a finished run: `read(stage, unit)` and `at(path)` find its tables and files.

    Raises StageError if there is none.
    """
    return open_finished_run(folder)


def _open(config: Mapping[str, Any], **options: Any) -> Run:
    text = yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)
    return stages.open_for_work("config", text=text, **{"quiet": True, **options})


def _list_sources(paths: Iterable[str]) -> list[dict[str, Any]]:
    """A source per folder, modality and format, which includes the files and their captions."""
    included: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
    for path in map(str, paths):
        try:
            files = [entry.path for entry in storage.list_files(path)]
        except FileNotFoundError:
            raise ConfigError("there is no such file or folder", where=path) from None
        root = (path.rpartition("/")[0] or ".") if storage.is_file(path) else path
        for file in files:
            if file.lower().endswith(TableReader.suffixes):
                included[root, "text", "table"].append(file)
            elif modality := _modality_of(file, files):
                included[root, modality, "folder"].append(file)
    if not included:
        raise ConfigError("none of the paths is a medium, a text or a table of texts", where=", ".join(map(str, paths)))
    sources = []
    for number, ((root, modality, form), files) in enumerate(sorted(included.items())):
        captions = [f"{splitext(file)[0]}{end}" for file in files for end in SIDECAR_SUFFIXES]
        include = [glob.escape(file) for file in (*files, *(captions if modality in VISUAL else ()))]
        source = {
            "name": f"source-{number}",
            "path": root,
            "format": form,
            "modality": modality,
            "captions": "optional",
        }
        sources.append({**source, "include": include})
    return sources


def _modality_of(file: str, files: Collection[str]) -> str | None:
    """The modality of a file by its suffix; None for other files and for captions of media among `files`."""
    stem, suffix = splitext(file.lower())
    modality = next((name for name in MODALITIES if suffix in MEDIA_SUFFIXES[name]), None)
    if modality == "text" and any(sibling.lower().startswith(f"{stem}.") and sibling != file for sibling in files):
        return None
    return modality


def _read_unit(run: Run, unit: str) -> pa.Table:
    """One unit's samples with the columns of all annotators."""
    table = run.read("samples", unit).select(SAMPLE_COLUMNS)
    for stage in ("signals", "late"):
        signals = run.read(stage, unit)
        for name in signals.column_names:
            if name not in table.column_names:
                table = table.append_column(name, signals[name])
    return table.replace_schema_metadata(None)
