"""takedown: remove samples from all runs, stores and mixtures below some folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from infra import progress
from infra.commit import lock, need_manifest, read_json
from pipelines.core.console import print_table, print_text
from pipelines.core.finished_run import open_finished_run
from pipelines.takedown import rewrite_mixtures, rewrite_stores
from pipelines.takedown.discover import DiscoveredRuns, discover, normalise
from pipelines.takedown.request import TakedownRequest
from pipelines.takedown.rewrite_runs import finish, list_stores, stage
from pipelines.takedown.scan import MAX_LISTED, TakedownScan, scan
from pipelines.takedown.staging import read_journal


def run(
    folders: Sequence[str],
    request: TakedownRequest,
    *,
    with_duplicates: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Remove the requested samples from every run, store and mixture at or below `folders`.

    dry_run: write nothing. Returns the summary that `reelmill takedown --json` prints.
    Raises StageError if a folder does not exist or contains none of them.
    """
    discovered = discover(folders)
    interrupted = [uri for uri in discovered.runs if read_journal(uri) is not None]
    for uri in () if dry_run else interrupted:
        _resume(uri, discovered)
    runs = []
    unmatched = set(request.keys)
    erased: dict[str, list[str]] = {}
    scanned: list[None] = []
    units = sum(len(need_manifest(uri, "samples").units) for uri in discovered.runs)
    with progress.watch("takedown", units, lambda: len(scanned), what="units", quiet=quiet):
        for uri in discovered.runs:
            with nullcontext() if dry_run else lock(uri):
                state = scan(
                    uri,
                    request,
                    with_duplicates=with_duplicates,
                    beside=[sibling for sibling in discovered.runs if sibling != uri],
                    tick=lambda: scanned.append(None),
                )
                summary = _summarize(state)
                if state.erased:
                    summary |= _preview(state, discovered) if dry_run else _rewrite(state, discovered)
            unmatched -= {*state.before.erased, *state.erased}
            erased[normalise(uri)] = sorted(state.erased)
            runs.append(summary)
    mixtures = [_update_mixture(uri, erased, dry_run=dry_run, quiet=quiet) for uri in discovered.mixtures]
    return {
        "dry_run": dry_run,
        "asked": {
            "keys": sorted(request.keys),
            "sources": sorted(request.sources),
            "licences": sorted(request.licences),
            "urls": len(request.urls),
            "with_duplicates": with_duplicates,
        },
        "finished_before": interrupted,
        "runs": runs,
        "mixtures": [summary for summary in mixtures if summary is not None],
        "unmatched": sorted(unmatched),
    }


def _resume(uri: str, discovered: DiscoveredRuns) -> None:
    """Finish an interrupted take-down of a run that had been committed."""
    with lock(uri):
        journal = read_journal(uri)
        if journal is not None:
            finish(open_finished_run(uri), journal, discovered.stores)


def _preview(state: TakedownScan, discovered: DiscoveredRuns) -> dict[str, Any]:
    ids = sorted(id_.hex() for id_ in state.ids)
    stores = list_stores(state.run, discovered.stores)
    return {"stores": [rewrite_stores.erase(store, ids, {}, dry_run=True) for store in stores]}


def _rewrite(state: TakedownScan, discovered: DiscoveredRuns) -> dict[str, Any]:
    journal = stage(state)
    return {"files": len(journal["files"]), "stores": finish(state.run, journal, discovered.stores)}


def _update_mixture(uri: str, erased: Mapping[str, list[str]], *, dry_run: bool, quiet: bool) -> dict[str, Any] | None:
    """Update a mixture to its rewritten runs; None if it needs no change. erased: run -> keys."""
    if dry_run:
        state = rewrite_mixtures.inspect(uri)
        summary = rewrite_mixtures.summarize_changes(state.mixture, erased)
        runs = [state.mixture.run(i) for i in range(len(state.mixture.manifest["parents"]))]
        affected = state.changed or state.missing or any(erased.get(normalise(run)) for run in runs)
        return {**summary, "why_not": state.problem} if affected else None
    with lock(uri):
        journal = read_journal(uri)
        resumed = None if journal is None else rewrite_mixtures.finish(uri, journal, quiet=quiet)
        state = rewrite_mixtures.inspect(uri)
        if state.problem:
            return {"mixture": uri, "why_not": state.problem}
        if not state.changed:
            return resumed
        return rewrite_mixtures.finish(uri, rewrite_mixtures.stage(state.mixture), quiet=quiet)


def _summarize(state: TakedownScan) -> dict[str, Any]:
    """The entry of a run in the summary."""
    shards = []
    for name, keys in sorted(state.shards.items()):
        card = read_json(state.run.at("shards", f"{name}.card.json"))
        shards.append({"name": name, "samples": len(keys), "of": card["samples"], "bytes": card["tar"]["bytes"]})
    return {
        "run": state.run.out,
        "samples": len(state.erased),
        "reasons": dict(sorted(state.reasons.items())),
        "outcomes": dict(sorted(state.outcomes.items())),
        "held": len(state.withheld),
        "perceptually_the_same_kept": _list_some(state.kept_copies),
        "same_bytes_elsewhere": _list_some(state.same_content),
        "taken_before": len(state.before.erased),
        "units": len(state.units),
        "shards": shards,
        "dialogues": state.dialogues,
        "still_in_sources": state.in_sources,
    }


def _list_some(keys: Sequence[str]) -> dict[str, Any]:
    return {"count": len(keys), "first": list(keys[:MAX_LISTED])}


# -- for people -------------------------------------------------------------------------------------------------

#: Lists of a run's summary -> how they are introduced.
_NOTICES = {
    "perceptually_the_same_kept": "near duplicates that stay",
    "same_bytes_elsewhere": "other samples with the same bytes or text that stay",
}


def show(summary: Mapping[str, Any]) -> None:
    """Print what was, or would be, taken down."""
    dry_run = summary["dry_run"]
    if not any(run["samples"] for run in summary["runs"]):
        before = sum(run["taken_before"] for run in summary["runs"])
        print_text("No sample matches" + (f"; {before:,} were taken down before." if before else "."))
    for run in summary["runs"]:
        if run["samples"]:
            _show_run(run, dry_run)
    for mixture in summary["mixtures"]:
        _show_mixture(mixture, dry_run)
    for uri in summary["finished_before"]:
        action = "would be finished first" if dry_run else "is finished"
        print_text(f"{uri}: an interrupted take-down {action}")
    for key in summary["unmatched"]:
        print_text(f"no sample has the key {key}")


def _show_run(run: Mapping[str, Any], dry_run: bool) -> None:
    verb = "would be" if dry_run else "were"
    print_text(f"{run['run']}: {run['samples']:,} samples {verb} taken down")
    for name in ("reasons", "outcomes"):
        print_text(f"  {name}: " + ", ".join(f"{count:,} {key}" for key, count in run[name].items()))
    if run["shards"]:
        rows = [(shard["name"], shard["samples"], shard["of"], shard["bytes"]) for shard in run["shards"]]
        print_table(f"Shards that {verb} rewritten", ("shard", "samples removed", "of", "bytes"), rows)
    for name, notice in _NOTICES.items():
        if run[name]["count"]:
            print_text(f"  {notice}: {run[name]['count']:,}, such as {', '.join(run[name]['first'][:3])}")
    for store in run.get("stores", ()):
        cells = f"{store['cells']:,} cells {verb} removed" if store["reached"] else "there is no store"
        print_text(f"  store {store['store']}: {cells}")
    if run["held"]:
        print_text(f"  duplicates withheld, so that none of them becomes the survivor: {run['held']:,}")
    if run["still_in_sources"]:
        print_text(f"  still in the sources, such as {run['still_in_sources'][0]}")


def _show_mixture(summary: Mapping[str, Any], dry_run: bool) -> None:
    notes = []
    if summary.get("samples"):
        verb = "would be taken down and refilled" if dry_run else f"taken down, {summary['filled']:,} refilled"
        notes.append(f"{summary['samples']:,} samples in {summary['virtual_shards']:,} virtual shards {verb}")
    elif not summary.get("why_not"):
        notes.append("offsets updated to the rewritten shards")
    if summary.get("why_not"):
        notes.append(f"not updated: {summary['why_not']}")
    print_text(f"{summary['mixture']}: {'; '.join(notes)}")
    for name, count in summary.get("short", {}).items():
        print_text(f"  {name} lacks {count:,} samples: its group has none left to refill them")
    for label in summary.get("out_of_band", ()):
        print_text(f"  now outside the recipe's range: {label}")
