"""takedown: remove samples everywhere: rows, shards, cards, dialogues, store and mixtures below some folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from infra import progress
from infra.commit import lock, need_manifest, read_json
from pipelines.core.console import open_console
from pipelines.core.finished_run import open_finished_run
from pipelines.takedown import rewrite_mixtures
from pipelines.takedown.discover import DiscoveredRuns, find
from pipelines.takedown.request import TakedownRequest
from pipelines.takedown.rewrite_runs import finish, stage, stores_of
from pipelines.takedown.rewrite_stores import look
from pipelines.takedown.scan import NAMED, TakedownScan, scan
from pipelines.takedown.staging import pending


def run(
    folders: Sequence[str],
    selection: TakedownRequest,
    *,
    with_duplicates: bool = False,
    dry_run: bool = False,
    quiet: bool = False,
) -> dict[str, Any]:
    """Take down what `selection` asks for from every run, store and mixture at or below `folders`.

    dry_run: nothing is written. Returns what `reelmill takedown --json` prints.
    Raises StageError where a folder is not there or holds none of them.
    """
    places = find(folders)
    again = [uri if dry_run else _recover(uri, places) for uri in places.runs if pending(uri) is not None]
    runs = []
    unknown = set(selection.keys)
    gone: dict[str, list[str]] = {}
    seen: list[None] = []
    units = sum(len(need_manifest(uri, "samples").units) for uri in places.runs)
    with progress.watch("takedown", units, lambda: len(seen), what="units", quiet=quiet):
        for uri in places.runs:
            with nullcontext() if dry_run else lock(uri):
                found = scan(
                    uri,
                    selection,
                    with_duplicates=with_duplicates,
                    beside=[other for other in places.runs if other != uri],
                    tick=lambda: seen.append(None),
                )
                told = _told(found)
                if found.erased and not dry_run:
                    told |= _take(found, places)
                elif found.erased:
                    ids = sorted(value.hex() for value in found.ids)
                    told["stores"] = [look(store, ids) for store in stores_of(found.run, places.stores)]
            unknown -= {*found.before.erased, *found.erased}
            gone[rewrite_mixtures.place_of(uri)] = sorted(found.erased)
            runs.append(told)
    mended = [_mend(uri, gone, dry_run=dry_run, quiet=quiet) for uri in places.mixtures]
    return {
        "dry_run": dry_run,
        "asked": {
            "keys": sorted(selection.keys),
            "sources": sorted(selection.sources),
            "licences": sorted(selection.licences),
            "urls": len(selection.urls),
            "with_duplicates": with_duplicates,
        },
        "finished_before": again,
        "runs": runs,
        "mixtures": [told for told in mended if told is not None],
        "unmatched": sorted(unknown),
    }


def _mend(uri: str, gone: Mapping[str, list[str]], *, dry_run: bool, quiet: bool) -> dict[str, Any] | None:
    """Bring a mixture up to its runs; None where it stands as it should."""
    if dry_run:
        state = rewrite_mixtures.look(uri)
        runs = [state.mixture.run(i) for i in range(len(state.mixture.manifest["parents"]))]
        stands = any(gone.get(rewrite_mixtures.place_of(run)) for run in runs)
        told = rewrite_mixtures.touched(state.mixture, gone)
        return {**told, "why_not": state.why} if stands or state.changed or state.missing else None
    with lock(uri):
        journal = pending(uri)
        done = None if journal is None else rewrite_mixtures.put_in_place(uri, journal, quiet=quiet)
        state = rewrite_mixtures.look(uri)
        if state.why:
            return {"mixture": uri, "why_not": state.why}
        if not state.changed:
            return done
        return rewrite_mixtures.put_in_place(uri, rewrite_mixtures.stage(state.mixture), quiet=quiet)


def _recover(uri: str, places: DiscoveredRuns) -> str:
    """Finish what an interrupted take-down had decided on."""
    with lock(uri):
        journal = pending(uri)
        if journal is not None:
            finish(open_finished_run(uri), journal, places.stores)
    return uri


def _take(found: TakedownScan, places: DiscoveredRuns) -> dict[str, Any]:
    """Rewrite one run; what was done beyond what was told before."""
    journal = stage(found)
    stores = finish(found.run, journal, places.stores)
    return {"files": len(journal["files"]), "stores": stores}


def _told(found: TakedownScan) -> dict[str, Any]:
    """A run in the report."""
    shards = []
    for name, keys in sorted(found.shards.items()):
        card = read_json(found.run.at("shards", f"{name}.card.json"))
        shards.append({"name": name, "samples": len(keys), "of": card["samples"], "bytes": card["tar"]["bytes"]})
    return {
        "run": found.run.out,
        "samples": len(found.erased),
        "reasons": dict(sorted(found.reasons.items())),
        "outcomes": dict(sorted(found.outcomes.items())),
        "held": len(found.held),
        "perceptually_the_same_kept": _some(found.copies),
        "same_bytes_elsewhere": _some(found.same),
        "taken_before": len(found.before.erased),
        "units": len(found.units),
        "shards": shards,
        "dialogues": found.dialogues,
        "still_in_sources": found.there,
    }


def _some(keys: Sequence[str]) -> dict[str, Any]:
    return {"count": len(keys), "first": list(keys[:NAMED])}


# -- for people -------------------------------------------------------------------------------------------------


def show(value: Mapping[str, Any]) -> None:
    """What is, or would be, taken down."""
    out = open_console()
    if not any(run["samples"] for run in value["runs"]):
        before = sum(run["taken_before"] for run in value["runs"])
        also = f" ({before:,} were taken down before)" if before else ""
        out.print(f"Nothing that is asked for is there{also}.", highlight=False)
    will = "would be taken down" if value["dry_run"] else "taken down"
    for run in value["runs"]:
        if not run["samples"]:
            continue
        out.print(f"{run['run']}: {run['samples']:,} samples {will}", highlight=False)
        for name in ("reasons", "outcomes"):
            told = ", ".join(f"{count:,} {escape(key)}" for key, count in run[name].items())
            out.print(f"  {name}: {told}", highlight=False)
        title = "Shards to be written anew" if value["dry_run"] else "Shards written anew"
        table = Table(title=title, title_justify="left")
        for name in ("shard", "samples out", "of", "bytes"):
            table.add_column(name, justify="left" if name == "shard" else "right")
        for shard in run["shards"]:
            table.add_row(shard["name"], f"{shard['samples']:,}", f"{shard['of']:,}", f"{shard['bytes']:,}")
        if table.row_count:
            out.print(table)
        for name in ("perceptually_the_same_kept", "same_bytes_elsewhere"):
            if run[name]["count"]:
                first = ", ".join(run[name]["first"][:3])
                out.print(f"  {name.replace('_', ' ')}: {run[name]['count']:,}, such as {first}", highlight=False)
        for store in run.get("stores", ()):
            what = f"{store['cells']:,} cells" if store["reached"] else "not reached: there is no store here"
            out.print(f"  store {escape(store['store'])}: {what}", highlight=False)
        if run["held"]:
            out.print(f"  held, so that no copy takes their place: {run['held']:,}", highlight=False)
        if run["still_in_sources"]:
            out.print(f"  still in the sources, such as {escape(run['still_in_sources'][0])}", highlight=False)
    for mixture in value["mixtures"]:
        _show_mixture(out, mixture, value["dry_run"])
    for uri in value["finished_before"]:
        done = (
            "what was interrupted here would be finished first" if value["dry_run"] else "finished what was interrupted"
        )
        out.print(f"{uri}: {done}", highlight=False)
    for key in value["unmatched"]:
        out.print(f"not found: {escape(key)}", highlight=False)


def _show_mixture(out: Console, told: Mapping[str, Any], dry_run: bool) -> None:
    line = f"{told['mixture']}: "
    if told.get("samples"):
        line += f"{told['samples']:,} places in {told['virtual_shards']:,} virtual shards"
        line += " would be filled anew" if dry_run else f" taken down, {told['filled']:,} filled from the same groups"
    elif not told.get("why_not"):
        line += "its offsets follow the rewritten shards"
    if told.get("why_not"):
        line += f"not mended: {told['why_not']}"
    out.print(escape(line), highlight=False)
    for name, count in told.get("short", {}).items():
        out.print(f"  {escape(name)} lacks {count:,}: nothing is left to fill them with", highlight=False)
    for label in told.get("out_of_band", ()):
        out.print(f"  outside the recipe now: {escape(label)}", highlight=False)
