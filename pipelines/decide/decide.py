"""Decide which rows are kept: apply filters, then remove duplicates among the rows that pass, then resample."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from filters import resample as resampling
from infra import beam, storage, tables
from infra.columns import Mask, equals
from infra.commit import (
    Manifest,
    collect_units,
    find_json,
    need_manifest,
    read_json,
    read_manifest,
    read_scratch,
    write_manifest,
    write_scratch,
)
from infra.engines.jobs import Phase, run_phases
from infra.errors import StageError
from infra.hashing import canonical_json, fingerprint
from infra.vocabulary import load
from pipelines.core.cascade import apply_cutoffs, cascade_fingerprint, compute_cutoffs
from pipelines.core.integrity import withdraw_checksums
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE, add_ledgers, judge_rows, tally
from pipelines.decide.duplicates import duplicates, picture_text

#: The file in which a job notes the units of which the store has lost cells.
_LOST = "lost-cells.json"


@dataclass(frozen=True)
class _Inputs:
    """Inputs of verdicts. names: of the units. judged, search, verdicts: fingerprints of what the judged tables,
    the search for duplicates and verdicts follow from."""

    names: list[str]
    cutoffs: Mapping[str, float]
    judged: str
    search: str
    verdicts: str

    @classmethod
    def of(cls, run: Run) -> _Inputs:
        resolved = resolve(run)
        samples, signals = need_manifest(run.out, "samples"), need_manifest(run.out, "signals")
        names = [unit.name for unit in signals.units]
        cutoffs = _read_or_compute_cutoffs(run, resolved, names, signals.fingerprint)
        judged = fingerprint(
            {
                "samples": samples.fingerprint,
                "signals": signals.fingerprint,
                "cascade": cascade_fingerprint(resolved, resolved.steps),
                "cutoffs": cutoffs,
            }
        )
        settings = [judged, resolved.duplicates.model_dump(mode="json"), run.config.seed]
        if picture_text.is_measured_late(resolved):
            settings.append(resolved.makers[picture_text.OVERLAY])
        resample = None if resolved.resample is None else resolved.resample.model_dump(mode="json")
        return cls(names, cutoffs, judged, fingerprint(settings), fingerprint([*settings, resample]))


def run(run: Run) -> Manifest:
    """Bring RUN/verdicts and RUN/ledger.json up to date and return the manifest.

    Raises StageError where the store has lost cells that the search for duplicates reads; `read_lost_cells` says of
    which units.
    """
    inputs = _Inputs.of(run)
    names, stamp = inputs.names, inputs.verdicts
    if (current := _read_current_manifest(run, names, stamp)) is not None:
        if not _has_ledger(run, names):
            withdraw_checksums(run)
            write_ledger(run, names)
        return current
    withdraw_checksums(run)
    storage.write_bytes(run.work(_LOST), canonical_json([]))
    look_up = functools.partial(duplicates.count_lost_cells, run)
    phases = [
        _judge_phase(run, inputs),
        Phase("look up cells", functools.partial(list, names), look_up, finish=functools.partial(_refuse_lost, run)),
        *duplicates.list_phases(run, names, inputs.search),
        *_list_ngram_phases(run, inputs),
        Phase("verdicts", functools.partial(list, names), functools.partial(write_verdicts, run, stamp)),
    ]
    runner = run.runner if picture_text.is_measured_late(resolve(run)) else _runner(run)
    folder = run.work("phases", "decide")
    run_phases("decide", phases, runner, folder, quiet=run.quiet, uri=run.progress("decide"))
    units = collect_units(run.at("verdicts"), names, "decide")
    manifest = write_manifest(run.at("verdicts"), "verdicts", duplicates.cover_unread(run, stamp), units)
    write_ledger(run, names)
    return manifest


def _refuse_lost(run: Run, counters: Mapping[str, int] | None) -> None:
    """Stop where the store has lost vectors that the search is about to read, by damage or because someone removed
    them."""
    lost = sorted(counters or {})
    if lost:
        storage.write_bytes(run.work(_LOST), canonical_json(lost))
        what = f"the store has lost cells of {len(lost):,} units, {lost[0]} among them"
        raise StageError(what, where=run.store, hint="run the same command again")


def read_lost_cells(run: Run) -> list[str]:
    """Units of which the last call of `run` found that the store has lost cells: they must be measured again."""
    return list(find_json(run.work(_LOST)) or [])


def _read_current_manifest(run: Run, names: Sequence[str], stamp: str) -> Manifest | None:
    """The manifest of verdicts if they and all that they depend on are complete and up to date, else None."""
    manifest, groups = read_manifest(run.at("verdicts")), read_manifest(run.at("duplicates"))
    if manifest is None or groups is None or manifest.fingerprint != stamp:
        return None
    if [unit.name for unit in manifest.units] != names:
        return None
    dependencies = [run.at("duplicates", f"{unit.name}.parquet") for unit in groups.units]
    resample = resolve(run).resample
    for modality in () if resample is None else resample.modalities:
        dependencies += [run.at("resample", f"{modality}.parquet"), run.at("resample", f"{modality}.json")]
    complete = all(tables.is_done(run.at("verdicts", f"{name}.parquet"), stamp) for name in names)
    return manifest if complete and all(storage.is_file(uri) for uri in dependencies) else None


def judge_units(run: Run) -> tuple[list[str], str]:
    """Apply the filters to every unit, into RUN/work/judged, in a job of its own.

    Returns the units' names, and the fingerprint of the judged tables.
    """
    inputs = _Inputs.of(run)
    run_phases("judge", [_judge_phase(run, inputs)], _runner(run), run.work("phases", "judge"), quiet=run.quiet)
    return inputs.names, inputs.judged


def _judge_phase(run: Run, inputs: _Inputs) -> Phase:
    task = functools.partial(judge_unit, run, inputs.judged, inputs.cutoffs)
    return Phase("judge", functools.partial(list, inputs.names), task)


def _runner(run: Run) -> beam.Runner:
    return run.runner_for(need_manifest(run.out, "samples").rows)


# -- filters ----------------------------------------------------------------------------------------------------


def _read_or_compute_cutoffs(run: Run, resolved: Resolved, names: Sequence[str], signals: str) -> dict[str, float]:
    """Thresholds that follow from all samples, computed once for the same signals: a later take-down moves none.

    signals: their manifest's fingerprint.
    """
    uri, inputs = run.work("cutoffs.json"), fingerprint([signals, cascade_fingerprint(resolved, resolved.steps)])
    if (cached := read_scratch(uri, inputs)) is not None:
        return dict(cached)
    cutoffs = compute_cutoffs(run, resolved, names)
    write_scratch(uri, inputs, cutoffs)
    return cutoffs


def judge_unit(run: Run, stamp: str, cutoffs: Mapping[str, float], name: str) -> Mapping[str, int]:
    """Task: apply the filters to one unit, into RUN/work/judged."""
    uri = run.work("judged", f"{name}.parquet")
    if tables.is_intact(uri, stamp):
        return {}
    samples = run.read("samples", name, ["key", "modality", "source", "text", "error"])
    resolved = apply_cutoffs(resolve(run), cutoffs)
    judged, unmeasured = judge_rows(resolved, samples, run.read("signals", name), run.captions_optional)
    if unmeasured.any():
        key = samples["key"][int(np.flatnonzero(unmeasured)[0])]
        raise StageError(
            f"{key} was not measured for a filter that this config applies to it",
            where=uri,
            hint="run `reelmill measure` with this config first",
        )
    tables.write(uri, judged, fingerprint=stamp)
    return {"rows": judged.num_rows}


def _read_judged(run: Run, name: str) -> pa.Table:
    """A unit's judged rows after the search for duplicates."""
    return duplicates.fail_unread(run, name, run.read_work("judged", name).replace_schema_metadata(None))


# -- resampling -------------------------------------------------------------------------------------------------


def mask_survivors(judged: pa.Table, groups: Mapping[str, dict[str, Any]]) -> Mask:
    """bool (n,): rows that passed their filters and are not duplicates of another row. groups: as read_unit returns."""
    is_survivor = [key not in groups or groups[key]["survivor"] == key for key in judged["key"].to_pylist()]
    survivors: Mask = equals(judged["outcome"], ALIVE) & np.array(is_survivor, dtype=bool)
    return survivors


def _list_ngram_phases(run: Run, inputs: _Inputs) -> list[Phase]:
    """Phases that count the document frequencies of the survivors of each modality that is resampled, and write them
    with the threshold T."""
    resolved = resolve(run)
    if resolved.resample is None:
        return []
    ngrams: Any = resolved.annotators["ngrams"]
    size = len(load(ngrams.settings.vocabulary).entries)
    return [
        Phase(
            f"count n-grams {modality}",
            functools.partial(_list_uncounted, run, modality, inputs),
            functools.partial(count_unit, run, modality, size),
            resampling.merge_frequencies,
            functools.partial(_write_frequencies, run, modality, inputs.verdicts),
        )
        for modality in resolved.resample.modalities
    ]


def _is_counted(run: Run, modality: str, stamp: str) -> bool:
    is_done = tables.is_done(run.at("resample", f"{modality}.parquet"), stamp)
    return is_done and storage.is_file(run.at("resample", f"{modality}.json"))


def _list_uncounted(run: Run, modality: str, inputs: _Inputs) -> list[str]:
    return [] if _is_counted(run, modality, duplicates.cover_unread(run, inputs.verdicts)) else inputs.names


def count_unit(run: Run, modality: str, size: int, name: str) -> resampling.NgramCounts:
    """Task: count in how many of a unit's surviving texts of this modality each n-gram occurs."""
    judged = _read_judged(run, name)
    survivors = mask_survivors(judged, duplicates.read_unit(run, name)) & equals(judged["modality"], modality)
    ids = run.read("signals", name, ["ngrams.ids"])["ngrams.ids"]
    return resampling.count_frequencies(ids.filter(pa.array(survivors)), size)


def _write_frequencies(run: Run, modality: str, stamp: str, frequencies: resampling.NgramCounts | None) -> None:
    stamp = duplicates.cover_unread(run, stamp)
    if frequencies is None:
        if _is_counted(run, modality, stamp):
            return
        frequencies = resampling.merge_frequencies([])
    settings = resolve(run).resample
    t = settings.compute_threshold(frequencies.counts)
    facts = {
        "modality": modality,
        "t": t,
        "rule": settings.rule,
        "tail_share": resampling.measure_tail_share(frequencies.counts, t),
        "texts": frequencies.texts,
        "unmatched": frequencies.unmatched,
        "ngrams": len(frequencies.ids),
    }
    storage.write_bytes(run.at("resample", f"{modality}.json"), canonical_json(facts))
    tables.write(run.at("resample", f"{modality}.parquet"), frequencies.to_table(), fingerprint=stamp)


# -- verdicts ---------------------------------------------------------------------------------------------------


def write_verdicts(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    """Task: write the final verdicts of one unit."""
    stamp = duplicates.cover_unread(run, stamp)
    uri = run.at("verdicts", f"{name}.parquet")
    if tables.is_done(uri, stamp):
        return {}
    judged = _read_judged(run, name)
    groups = duplicates.read_unit(run, name)
    resolved = resolve(run)
    draws: dict[str, tuple[float, float, bool]] = {}
    if resolved.resample is not None:
        draws = _draw_survivors(run, resolved.resample, judged, mask_survivors(judged, groups), name)
    rows = judged.to_pylist()
    for row in rows:
        row["duplicate_of"] = row["keep_probability"] = None
        if row["outcome"] != ALIVE:
            continue
        key = row["key"]
        match = groups.get(key)
        if match is not None and match["survivor"] != key:
            row.update(outcome="duplicate", filter="duplicates", reason=f"copy_of_{row['modality']}",
                       value=match["similarity"],
                       threshold=resolved.duplicates.edge_threshold(row["modality"]),
                       duplicate_of=match["survivor"])  # fmt: skip
            continue
        row["outcome"] = "kept"
        if key in draws:
            chance, draw, keep = draws[key]
            row["keep_probability"] = chance
            if np.isnan(chance):
                row.update(outcome="failed", filter="measure", reason="ngrams: missing value", keep_probability=None)
            elif not keep:
                row.update(outcome="dropped", filter="resample", reason="frequent_ngrams", value=chance, threshold=draw)
    table = pa.Table.from_pylist(rows, schema=tables.VERDICTS)
    tables.write(uri, table, fingerprint=stamp)
    return {"rows": len(rows)}


def _draw_survivors(
    run: Run, settings: resampling.ResampleSettings, judged: pa.Table, survivors: Mask, name: str
) -> dict[str, tuple[float, float, bool]]:
    """key -> (P(keep), draw, kept) for the survivors of a unit that are resampled. survivors: bool (n,)."""
    ids = run.read("signals", name, ["ngrams.ids"])["ngrams.ids"]
    draws: dict[str, tuple[float, float, bool]] = {}
    for modality in settings.modalities:
        mask = survivors & equals(judged["modality"], modality)
        if not mask.any():
            continue
        frequencies = resampling.NgramCounts.from_table(run.read("resample", modality))
        t = float(read_json(run.at("resample", f"{modality}.json"))["t"])
        rows = pa.array(mask)
        chance = resampling.compute_keep_probability(
            ids.filter(rows), frequencies, t, settings.rule, settings.unmatched
        )
        keys = judged["key"].filter(rows).to_pylist()
        keep, draw = resampling.draw_kept(keys, chance, run.config.seed)
        draws.update(zip(keys, zip(chance.tolist(), draw.tolist(), keep.tolist(), strict=True), strict=True))
    return draws


# -- ledger -----------------------------------------------------------------------------------------------------


def write_ledger(run: Run, names: Sequence[str]) -> dict[str, dict[str, object]]:
    """Write RUN/ledger.json and return it."""
    ledger = _build_ledger(run, names)
    storage.write_bytes(run.at("ledger.json"), canonical_json(ledger))
    return ledger


def _has_ledger(run: Run, names: Sequence[str]) -> bool:
    """Whether RUN/ledger.json is the ledger of these units, beside what export adds to it."""
    ledger = find_json(run.at("ledger.json"))
    totals = ledger.get("all") if isinstance(ledger, dict) else None
    if not isinstance(totals, dict):
        return False
    totals.pop("unsharded", None)
    return canonical_json(ledger) == canonical_json(_build_ledger(run, names))


def _build_ledger(run: Run, names: Sequence[str]) -> dict[str, dict[str, object]]:
    """Account for every input under exactly one outcome, per modality and in all; and for the number of captions that
    are not used, where there are any."""
    ledgers = [tally(run.read("verdicts", name, ["modality", "outcome", "filter"]), {}) for name in names]
    unused = run.count_unused_captions()
    ignored = {name: count for name, count in run.read_ignored().items() if count or name in unused}
    ledgers.append(tally(tables.empty(tables.VERDICTS), ignored))
    ledger: Mapping[str, Any] = add_ledgers(ledgers)  # type: ignore[arg-type]
    for modality, count in {**unused, "all": sum(unused.values())}.items():
        if count:
            ledger[modality]["unused_captions"] = count
    return dict(ledger)
