"""Decide about every row: its filters first, then duplicates among the rows that pass, then resampling."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from filters import resample as resampling
from infra import beam, progress, storage, tables
from infra.commit import Manifest, collect_units, need_manifest, read_json, read_manifest, write_manifest
from infra.errors import StageError
from infra.hashing import canonical_json, fingerprint
from infra.vocabulary import load
from pipelines.core.cascade import apply_cutoffs, cascade_fingerprint, compute_cutoffs
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE, add_ledgers, judge_rows, tally
from pipelines.decide.duplicates import duplicates


def run(run: Run) -> Manifest:
    """Bring RUN/verdicts and RUN/ledger.json up to date and return the manifest."""
    resolved = resolve(run)
    names, stamp = judge_units(run)
    settings = [stamp, resolved.duplicates.model_dump(mode="json"), run.config.seed]
    resample = None if resolved.resample is None else resolved.resample.model_dump(mode="json")
    stamp = fingerprint([*settings, resample])
    if (done := _done(run, names, stamp)) is not None:
        write_ledger(run, names)
        return done
    duplicates.run(run, names, fingerprint(settings))
    if resolved.resample is not None:
        for modality in resolved.resample.modalities:
            _count_ngrams(run, resolved, modality, names, stamp)
    folder = run.at("verdicts")
    _tasks(run, "decide", functools.partial(write_verdicts, run, stamp), names, folder)
    units = collect_units(folder, names, "decide")
    manifest = write_manifest(folder, "verdicts", stamp, units)
    write_ledger(run, names)
    return manifest


def _done(run: Run, names: Sequence[str], stamp: str) -> Manifest | None:
    """The manifest of verdicts that are up to date with everything that they depend on; None if there are none."""
    manifest, groups = read_manifest(run.at("verdicts")), read_manifest(run.at("duplicates"))
    if (
        manifest is None
        or groups is None
        or manifest.fingerprint != stamp
        or [unit.name for unit in manifest.units] != names
    ):
        return None
    dependencies = [run.at("duplicates", f"{unit.name}.parquet") for unit in groups.units]
    resample = resolve(run).resample
    for modality in () if resample is None else resample.modalities:
        dependencies += [run.at("resample", f"{modality}.parquet"), run.at("resample", f"{modality}.json")]
    complete = all(tables.is_done(run.at("verdicts", f"{name}.parquet"), stamp) for name in names)
    return manifest if complete and all(storage.is_file(uri) for uri in dependencies) else None


def judge_units(run: Run) -> tuple[list[str], str]:
    """Every unit's rows against their own filters, into RUN/work/judged; the units' names, and what stands for this."""
    samples = need_manifest(run.out, "samples")
    signals = need_manifest(run.out, "signals")
    resolved = resolve(run)
    names = [unit.name for unit in signals.units]
    cutoffs = _cutoffs(run, resolved, names, signals.fingerprint)
    stamp = fingerprint(
        {
            "samples": samples.fingerprint,
            "signals": signals.fingerprint,
            "cascade": cascade_fingerprint(resolved, resolved.steps),
            "cutoffs": cutoffs,
        }
    )
    _tasks(run, "judge", functools.partial(judge_unit, run, stamp, cutoffs), names, run.work("judged"))
    return names, stamp


def _runner(run: Run) -> beam.Runner:
    return run.runner_for(need_manifest(run.out, "samples").rows)


def _tasks(run: Run, job: str, task: Any, names: Sequence[str], folder: str) -> None:
    done = functools.partial(_count_files, folder)
    with progress.watch(job, len(names), done, what="units", quiet=run.quiet):
        beam.run_tasks(job, task, names, run.work(f"{job}.counters.json"), _runner(run))


def _count_files(folder: str) -> int:
    return sum(name.endswith(".parquet") for name in storage.list_names(folder))


# -- own faults -------------------------------------------------------------------------------------------------


def _cutoffs(run: Run, resolved: Resolved, names: Sequence[str], signals: str) -> dict[str, float]:
    """The same, found once for the same signals: what is taken down later moves no threshold."""
    uri, inputs = run.work("cutoffs.json"), fingerprint([signals, cascade_fingerprint(resolved, resolved.steps)])
    if storage.is_file(uri) and (cached := read_json(uri))["inputs"] == inputs:
        return dict(cached["cutoffs"])
    found = compute_cutoffs(run, resolved, names)
    storage.write_bytes(uri, canonical_json({"inputs": inputs, "cutoffs": found}))
    return found


def judge_unit(run: Run, stamp: str, cutoffs: Mapping[str, float], name: str) -> Mapping[str, int]:
    """Task: one unit's rows against their own filters, into RUN/work/judged."""
    uri = run.work("judged", f"{name}.parquet")
    if tables.is_done(uri, stamp):
        return {}
    samples = tables.read(run.at("samples", f"{name}.parquet"), ["key", "modality", "source", "text", "error"])
    signals = tables.read(run.at("signals", f"{name}.parquet"))
    resolved = apply_cutoffs(resolve(run), cutoffs)
    judged, unknown = judge_rows(resolved, samples, signals, run.captions_optional)
    if unknown.any():
        key = samples["key"][int(np.flatnonzero(unknown)[0])]
        raise StageError(
            f"signals of {key} lack a value that this config's cascade reaches",
            where=uri,
            hint="run `reelmill measure` with this config first",
        )
    tables.write(uri, judged, fingerprint=stamp)
    return {"rows": judged.num_rows}


# -- resampling -------------------------------------------------------------------------------------------------


def mask_survivors(judged: pa.Table, groups: Mapping[str, dict[str, Any]]) -> Any:
    """bool (n,): rows that passed their filters and are no duplicate of another."""
    alive = np.asarray(pc.equal(judged["outcome"], ALIVE), dtype=bool)
    keys = judged["key"].to_pylist()
    return alive & np.array([groups.get(k, {"survivor": k})["survivor"] == k for k in keys], dtype=bool)


def _count_ngrams(run: Run, resolved: Resolved, modality: str, names: Sequence[str], stamp: str) -> None:
    """Pass 1: document frequencies of the survivors, and T."""
    uri = run.at("resample", f"{modality}.parquet")
    if tables.is_done(uri, stamp):
        return
    settings: Any = resolved.annotators["ngrams"]
    size = len(load(settings.settings.vocabulary).entries)

    def build(pipeline: Any) -> object:
        import apache_beam as ab

        return (
            pipeline
            | "units" >> ab.Create(list(names))
            | "spread" >> ab.Reshuffle()
            | "count" >> ab.Map(functools.partial(count_unit, run, modality, size))
            | "sum" >> ab.CombineGlobally(resampling.merge_frequencies)
            | "write" >> ab.Map(functools.partial(_write_frequencies, run, modality, uri, stamp))
        )

    beam.run(f"count n-grams {modality}", build, _runner(run))


def count_unit(run: Run, modality: str, size: int, name: str) -> resampling.NgramCounts:
    """Task: in how many of a unit's surviving texts of this modality each n-gram stands."""
    judged = tables.read(run.work("judged", f"{name}.parquet"))
    mask = mask_survivors(judged, duplicates.read_unit(run, name))
    mask &= np.asarray(pc.equal(judged["modality"], modality), dtype=bool)
    ids = tables.read(run.at("signals", f"{name}.parquet"), ["ngrams.ids"])["ngrams.ids"]
    return resampling.count_frequencies(ids.filter(pa.array(mask)), size)


def _write_frequencies(run: Run, modality: str, uri: str, stamp: str, found: resampling.NgramCounts) -> None:
    settings = resolve(run).resample
    t = settings.t if settings.t is not None else resampling.find_tail_threshold(found.counts, settings.tail_share)
    facts = {
        "modality": modality,
        "t": t,
        "rule": settings.rule,
        "tail_share": resampling.measure_tail_share(found.counts, t),
        "texts": found.texts,
        "unmatched": found.unmatched,
        "ngrams": len(found.ids),
    }
    storage.write_bytes(run.at("resample", f"{modality}.json"), canonical_json(facts))
    tables.write(uri, found.to_table(), fingerprint=stamp)


# -- verdicts ---------------------------------------------------------------------------------------------------


def write_verdicts(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    """Task: one unit's final verdicts."""
    uri = run.at("verdicts", f"{name}.parquet")
    if tables.is_done(uri, stamp):
        return {}
    judged = tables.read(run.work("judged", f"{name}.parquet")).replace_schema_metadata(None)
    groups = duplicates.read_unit(run, name)
    settings = resolve(run).resample
    probability: dict[str, tuple[float, float, bool]] = {}
    if settings is not None:
        probability = _draws(run, settings, judged, mask_survivors(judged, groups), name)
    rows = judged.to_pylist()
    for row in rows:
        row["duplicate_of"] = row["keep_probability"] = None
        if row["outcome"] != ALIVE:
            continue
        key = row["key"]
        same = groups.get(key)
        if same is not None and same["survivor"] != key:
            row.update(outcome="duplicate", filter="duplicates", reason=f"copy_of_{row['modality']}",
                       value=same["similarity"], threshold=_copy_threshold(run, row["modality"]),
                       duplicate_of=same["survivor"])  # fmt: skip
            continue
        row["outcome"] = "kept"
        if key in probability:
            chance, draw, keep = probability[key]
            row["keep_probability"] = chance
            if np.isnan(chance):
                row.update(outcome="failed", filter="measure", reason="ngrams: missing value", keep_probability=None)
            elif not keep:
                row.update(outcome="dropped", filter="resample", reason="frequent_ngrams", value=chance, threshold=draw)
    table = pa.Table.from_pylist(rows, schema=tables.VERDICTS)
    tables.write(uri, table, fingerprint=stamp)
    return {"rows": len(rows)}


def _copy_threshold(run: Run, modality: str) -> float:
    chosen: Any = getattr(resolve(run).duplicates, modality)
    if modality in ("video", "multi_image"):
        return float(getattr(chosen, "min_share", 0.5))
    return float(chosen.threshold or 1.0)


def _draws(run: Run, settings: Any, judged: pa.Table, alive: Any, name: str) -> dict[str, tuple[float, float, bool]]:
    """key -> (P, draw, kept) for the survivors of a unit that are resampled."""
    ids = tables.read(run.at("signals", f"{name}.parquet"), ["ngrams.ids"])["ngrams.ids"]
    found: dict[str, tuple[float, float, bool]] = {}
    for modality in settings.modalities:
        mask = alive & np.asarray(pc.equal(judged["modality"], modality), dtype=bool)
        if not mask.any():
            continue
        frequencies = resampling.NgramCounts.from_table(tables.read(run.at("resample", f"{modality}.parquet")))
        t = float(read_json(run.at("resample", f"{modality}.json"))["t"])
        chosen = ids.filter(pa.array(mask))
        chance = resampling.compute_keep_probability(chosen, frequencies, t, settings.rule, settings.unmatched)
        keys = judged["key"].filter(pa.array(mask)).to_pylist()
        keep, draw = resampling.draw_kept(keys, chance, run.config.seed)
        for key, p, d, k in zip(keys, chance.tolist(), draw.tolist(), keep.tolist(), strict=True):
            found[key] = (p, d, k)
    return found


# -- ledger -----------------------------------------------------------------------------------------------------


def write_ledger(run: Run, names: Sequence[str]) -> dict[str, dict[str, object]]:
    """RUN/ledger.json: every input in exactly one place, per modality and in all."""
    parts = []
    for name in names:
        verdicts = tables.read(run.at("verdicts", f"{name}.parquet"), ["modality", "outcome", "filter"])
        parts.append(tally(verdicts, {}))
    ignored = {m: n for m, n in run.read_ignored().items() if n}
    parts.append(tally(tables.empty(tables.VERDICTS), ignored))
    ledger: Mapping[str, Any] = add_ledgers(parts)  # type: ignore[arg-type]
    storage.write_bytes(run.at("ledger.json"), canonical_json(ledger))
    return dict(ledger)
