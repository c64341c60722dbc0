"""The stages in order, and the rule that a finished run is not silently replaced by another."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from infra import storage
from infra.beam import Runner
from infra.commit import MANIFEST, Manifest, lock, read_json, read_manifest, refuse_locked
from infra.engines.share import ShareDone
from infra.errors import ConfigError, StageError
from infra.weights import models
from pipelines.annotate import annotate
from pipelines.core.environment import find_failures
from pipelines.core.finished_run import RUN_JSON, find_run_json
from pipelines.core.integrity import set_aside_damage
from pipelines.core.resolve import resolve
from pipelines.core.run import LOCAL, Run, open_run
from pipelines.decide import decide
from pipelines.export import export
from pipelines.export.provenance import describe_filters, fingerprint_config, write_run_json
from pipelines.ingest import ingest
from pipelines.ingest.sources.registry import check_readers
from pipelines.measure import measure
from pipelines.takedown.staging import read_journal


def _decide(run: Run) -> Manifest:
    try:
        manifest = decide.run(run)
    except StageError:
        lost = decide.read_lost_cells(run)
        if not lost:
            raise
        measure.run(run, again=lost)
        manifest = decide.run(run)
    measure.run_late(run)
    return manifest


#: In the order in which they run; a stage that the config does not name returns None.
STAGES: dict[str, Callable[[Run], Manifest | None]] = {
    "ingest": ingest.run,
    "measure": measure.run,
    "decide": _decide,
    "annotate": annotate.run,
    "export": export.run,
}


def open_for_work(
    path: str,
    *,
    text: str | None = None,
    out: str | None = None,
    replace: bool = False,
    runner: Runner = LOCAL,
    quiet: bool = False,
    batch: str | None = None,
) -> Run:
    """Read a config file, or its `text`, and check it completely, before any work. `batch`: see `Run.batch`.

    Raises ConfigError for any mistake in it, and when its folder contains the finished run of another config.
    """
    run = open_run(path, text=text, overrides={"out": out}, runner=runner, quiet=quiet)
    run = dataclasses.replace(run, batch=batch, runner=dataclasses.replace(runner, owner=run.out))
    _check_devices(run)
    check_readers(run.config.sources, run.document)
    for uri in (run.config.store, run.out):
        with storage.report_unreachable(uri):
            storage.exists(uri)
    is_finished = storage.is_file(run.at(RUN_JSON)) and storage.is_file(run.at("members", MANIFEST))
    run_json = find_run_json(run.out)
    if is_finished and not replace and run_json is None:
        raise ConfigError(
            "the description of this run is damaged, so that its config is not known",
            where=run.at(RUN_JSON),
            hint="if this is the run of this config, give --replace: the file is written again, and finished work is "
            "kept; otherwise give --out NEW (nothing is measured again, the store has the measurements)",
        )
    if is_finished and not replace and run_json and run_json["config_fingerprint"] != fingerprint_config(run):
        raise ConfigError(
            f"{run.out} contains a finished run of another config",
            where=run.document.where(("out",)),
            hint="give --out NEW (nothing is measured again, the store has the measurements), or --replace "
            "(mixtures made from this run will no longer verify)",
        )
    return run


def _check_devices(run: Run) -> None:
    """Raise ConfigError for a device that this machine lacks, if this machine does the work."""
    for name, annotator in resolve(run).annotators.items():
        on_cuda = getattr(annotator.settings, "device", "cpu") == "cuda"
        if on_cuda and run.runner.name == LOCAL.name:
            try:
                models.check_device("cuda")
            except ConfigError as error:
                keys = ("measure", name, "device")
                raise ConfigError(
                    f"{'.'.join(keys)}: {error.what}", where=run.document.where(keys), hint=error.hint
                ) from None


def run_stage(run: Run, name: str) -> Manifest:
    """Run one stage under the run's lock."""
    with lock(run.out):
        _require_store(run)
        begun = time.time()
        if damaged := _verify(run):
            raise StageError(
                f"{len(damaged):,} files of this run were damaged: {', '.join(damaged[:3])}",
                where=run.out,
                hint="`reelmill run` with this config makes them again",
            )
        manifest = STAGES[name](run)
        if manifest is None:
            raise ConfigError(
                f"there is nothing to {name}: the config has no key {name!r}",
                where=run.document.path,
                hint="docs/dialogues.md describes its settings; `annotate: {}` writes dialogues by rule",
            )
        write_run_json(run, {**_read_states(run), name: {"seconds": round(time.time() - begun, 1)}})
        return manifest


#: Stages that can be done in shares; `decide` compares all samples and is one command.
SHARED = ("ingest", "measure", "annotate", "export")


def run_share(run: Run, name: str) -> int:
    """Do the share of a stage that the runner is for; returns the number of its tasks. Any number of shares may be
    at work, also twice the same; `run_stage` with a runner that is to `finish` writes the manifest."""
    refuse_locked(run.out)
    try:
        STAGES[name](run)
    except ShareDone as done:
        return done.tasks
    raise ConfigError(f"there is nothing to {name}: the config has no key {name!r}", where=run.document.path)


def run_all(run: Run) -> None:
    """Run every stage; finished work is not repeated."""
    with lock(run.out):
        _require_store(run)
        _verify(run)
        states = _read_states(run)
        for name, stage in STAGES.items():
            begun = time.time()
            if stage(run) is None:
                continue
            states[name] = {"seconds": round(time.time() - begun, 1)}
        write_run_json(run, states)


def _require_store(run: Run) -> None:
    """Raise StageError where the store cannot be on its remote storage, which otherwise shows after the first unit was
    measured: there is no such bucket, for example. One that may only be read will do while it has every cell."""
    uri = storage.join(run.store, ".writable")
    if not storage.is_local(uri):
        with storage.report_unreachable(uri), suppress(PermissionError):
            storage.write_bytes(uri, b"")


def _verify(run: Run) -> list[str]:
    """Set aside what is damaged in a run; returns its paths. Raises StageError if a take-down was interrupted."""
    if read_journal(run.out) is not None:
        hint = "run the same `reelmill takedown` again: it goes on from where it stopped"
        raise StageError("a take-down was interrupted here", where=run.out, hint=hint)
    return set_aside_damage(run)


def summarize_stage(name: str, manifest: Manifest) -> dict[str, Any]:
    """The JSON value that `reelmill STAGE --json` prints."""
    rows, units = manifest.rows, len(manifest.units)
    return {"stage": name, "units": units, "rows": rows, "fingerprint": manifest.fingerprint}


def _read_states(run: Run) -> dict[str, Any]:
    run_json = find_run_json(run.out)
    return {} if run_json is None else dict(run_json["states"])


def explain_config(run: Run) -> dict[str, Any]:
    """Every filter and setting of a config, filters in cascade order; `reelmill run --explain` prints it."""
    resolved = resolve(run)
    return {
        "filters": describe_filters(run),
        "duplicates": resolved.duplicates.model_dump(mode="json", exclude_none=True),
        "resample": None if resolved.resample is None else resolved.resample.model_dump(mode="json"),
        "measure": {name: dict(a.fingerprint_inputs()) for name, a in resolved.annotators.items()},
        "annotate": None if resolved.annotate is None else resolved.annotate.model_dump(mode="json"),
    }


def summarize_run(run: Run) -> dict[str, Any]:
    """The JSON value that `reelmill run --json` prints."""
    return {
        "run": run.out,
        "ledger": read_json(run.at("ledger.json")),
        "members": run.read_members(),
        "shards": [unit.name for unit in (read_manifest(run.at("members")) or Manifest("", "", ())).units],
        "states": _read_states(run),
        "environment": find_failures(run).kinds,
    }
