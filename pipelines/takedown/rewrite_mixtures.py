"""Mixtures over runs that were rewritten: offsets and hashes as they are now, gaps filled from the same group.

What was taken down leaves gaps where it stood. Each is filled by the next sample in the order in which its group is
drawn, so that the mixture holds what the same numbers would draw today, every virtual shard keeps its share, and what
is left stays where it was: only tars with a gap are made anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage
from infra.commit import MANIFEST
from infra.hashing import canonical_json
from mixtures.plan import draw
from mixtures.plan.recipe import Recipe
from mixtures.shards import emit
from mixtures.shards.manifest import MANIFEST as MIXTURE
from mixtures.shards.manifest import MEMBERS, VERSION, Mixture, encode_members, open_mixture, rewrite_manifest
from pipelines.core import tombstones
from pipelines.mix import materialize, mixture_summary, plan_mixture
from pipelines.mix.mixture_card import write_cards
from pipelines.takedown.staging import Staging, apply, finish

Rows = NDArray[np.int64]

#: What a warning of a mixture that could not be filled begins with.
SHORT = "taken down: "

#: Folders that `mix --emit` writes, and what writes them.
_FORMS = {".nv-meta": emit.write_energon, "llava": emit.write_llava}


@dataclass(frozen=True)
class MixtureState:
    """changed: some run that the mixture stands on is no longer the one that it was planned on; missing: runs that
    are not there; why: set where the mixture cannot be mended."""

    mixture: Mixture
    changed: bool
    missing: tuple[str, ...]
    why: str = ""


def look(uri: str) -> MixtureState:
    """How a mixture stands to its runs."""
    mixture = open_mixture(uri)
    missing, changed, why = [], False, ""
    for number, parent in enumerate(mixture.manifest["parents"]):
        run = mixture.run(number)
        manifest = storage.join(run, "members", MANIFEST)
        if not storage.is_file(manifest):
            missing.append(run)
        elif storage.sha256(manifest) != parent["members"]:
            changed = True
            if not storage.is_file(storage.join(run, tombstones.FILE)):
                why = f"{run} was made anew, and not by a take-down"
    if missing:
        why = f"{missing[0]} is not there"
    return MixtureState(mixture, changed, tuple(missing), why)


def touched(mixture: Mixture, gone: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """What of a mixture keys of its runs (by place) stand for: before anything is rewritten."""
    members = mixture.members(["key", "vshard", "shard"])
    mine = np.zeros(members.num_rows, dtype=bool)
    parent = np.array([shard["parent"] for shard in mixture.manifest["shards"]], dtype=np.int64)
    of = parent[members["shard"].to_numpy()] if len(parent) else np.zeros(0, np.int64)
    for number in range(len(mixture.manifest["parents"])):
        keys = gone.get(place_of(mixture.run(number)), ())
        hit = np.asarray(pc.is_in(members["key"], value_set=pa.array(list(keys), pa.string())), dtype=bool)
        mine |= hit & (of == number)
    vshards = np.unique(members["vshard"].to_numpy()[mine])
    return {"mixture": mixture.uri, "samples": int(mine.sum()), "virtual_shards": len(vshards)}


def place_of(uri: str) -> str:
    """One name for one folder."""
    return str(storage.local_path(uri).resolve()) if storage.is_local(uri) else uri.rstrip("/")


def stage(mixture: Mixture) -> dict[str, Any]:
    """Stage the mixture as it will be and decide on it; returns the journal.

    journal: told: for the report; tars: None, or entries of `materialized` that stay as they are.
    """
    held = mixture.manifest
    recipe = Recipe.model_validate({**held["recipe"], "tokenizer": None})
    seen = plan_mixture.build_survey(
        [mixture.run(i) for i in range(len(held["parents"]))], recipe, mixture.uri, quiet=True
    )
    members = mixture.members()
    row = _rows_now(members, seen)
    gone = row < 0
    tokens = seen.amounts["tokens"].copy()
    tokens[row[~gone]] = members["tokens"].to_numpy()[~gone]  # as they were counted, perhaps by a tokenizer
    seen = plan_mixture.Survey(
        seen.index, seen.by_draw, seen.groups, {**seen.amounts, "tokens": tokens}, seen.constraints
    )
    group = _groups_now(held, seen)[members["group"].to_numpy()]
    repeat = members["repeat"].to_numpy().copy()
    short: dict[str, int] = {}
    if held["recipe"]["tokenizer"] is None:
        _fill(members, seen, recipe, row, group, repeat)
    for number, name in enumerate(entry["name"] for entry in held["groups"]):
        missing = int(((row < 0) & (members["group"].to_numpy() == number)).sum())
        short |= {name: missing} if missing else {}
    new = plan_mixture.describe_mixture(seen, recipe, mixture.uri, _laid(members, row, group, repeat), held["vshards"])
    warnings = [*new.manifest["warnings"], *(w for w in held["warnings"] if w.startswith(SHORT)), *_said(held, short)]
    value = {**new.manifest, "recipe": held["recipe"], "contract": held["contract"], "warnings": warnings}
    touched_shards = set(members["vshard"].to_numpy()[gone].tolist())
    told = {"mixture": mixture.uri, "samples": int(gone.sum()), "virtual_shards": len(touched_shards),
            "filled": int(gone.sum()) - sum(short.values()), "short": short,
            "out_of_band": _out_of_band(value)}  # fmt: skip
    tars = held["materialized"]
    stay = None if tars is None else [tar for i, tar in enumerate(tars) if i not in touched_shards]
    work = Staging(mixture.uri)
    sha256 = work.put(MEMBERS, encode_members(new.members))
    value |= {"mixture": VERSION, "members": {"rows": new.members.num_rows, "sha256": sha256}}
    work.put(MIXTURE, canonical_json(value))
    return work.decide({"told": told, "tars": stay})


def put_in_place(uri: str, journal: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Finish what was decided on; may be done again. Returns what was done, for the report."""
    apply(uri, journal)
    mixture = open_mixture(uri)
    if journal["tars"] is not None:
        rewrite_manifest(uri, {**mixture.manifest, "materialized": None})
        materialize.adopt_tars(mixture, journal["tars"])
        mixture = materialize.materialize(mixture, quiet=quiet)
    storage.write_bytes(storage.join(uri, "README.md"), mixture_summary.build_readme(mixture).encode())
    write_cards(mixture)
    for folder, write in _FORMS.items():
        if storage.exists(storage.join(uri, folder)):
            write(mixture)
    finish(uri)
    return dict(journal["told"])


# -- rows -------------------------------------------------------------------------------------------------------


def _rows_now(members: pa.Table, seen: plan_mixture.Survey) -> Rows:
    """int64 (n,): the row of the index that each member is now, -1 where it is gone."""
    keys = seen.index.keys(np.arange(len(seen.index)))
    return np.asarray(pc.fill_null(pc.index_in(members["key"], value_set=keys), -1), dtype=np.int64)


def _groups_now(held: Mapping[str, Any], seen: plan_mixture.Survey) -> Rows:
    """int64 (groups before,): the number that each group has now, -1 where none of it is left."""
    now = [dict(cell) for cell in seen.groups.cells]
    return np.array([now.index(g["cell"]) if g["cell"] in now else -1 for g in held["groups"]], dtype=np.int64)


def _fill(
    members: pa.Table, seen: plan_mixture.Survey, recipe: Recipe, row: Rows, group: Rows, repeat: NDArray[Any]
) -> None:
    """Fill gaps (row < 0) in place, each from its own group, as far as the recipe's repeats allow."""
    orders = draw.sort_groups(seen.by_draw, seen.groups.group, len(seen.groups.cells))
    for number, order in enumerate(orders):
        gaps = np.flatnonzero((row < 0) & (group == number))
        if not len(gaps):
            continue
        mine = group == number
        times = np.bincount(row[mine & (row >= 0)], minlength=len(seen.index))[order]
        passes, rest = divmod(int(mine.sum()), len(order))
        wanted = np.minimum(passes + (np.arange(len(order)) < rest), recipe.repeats)
        lacks = np.maximum(wanted - times, 0)
        rank = np.repeat(np.arange(len(order)), lacks)
        again = np.arange(len(rank)) - np.repeat(np.cumsum(lacks) - lacks, lacks)
        turn = np.lexsort((rank, again))[: len(gaps)]  # everyone once before anyone twice: repeats lie apart
        gaps = gaps[: len(turn)]
        row[gaps] = order[rank[turn]]
        repeat[gaps] = (times[rank] + again)[turn]


def _laid(members: pa.Table, row: Rows, group: Rows, repeat: NDArray[Any]) -> draw.Selection:
    """Everything where it was; what stands behind a gap that is not filled moves up."""
    there = np.flatnonzero(row >= 0)
    vshard = members["vshard"].to_numpy()[there]
    starts = np.searchsorted(vshard, vshard)
    position = np.arange(len(vshard)) - starts
    return draw.Selection(
        row[there],
        repeat[there].astype(np.int32),
        group[there].astype(np.int32),
        vshard.astype(np.int32),
        position.astype(np.int32),
    )


def _said(held: Mapping[str, Any], short: Mapping[str, int]) -> list[str]:
    why = "the recipe's repeats allow no more of what is left"
    if held["recipe"]["tokenizer"] is not None:
        why = "its tokens were counted by a tokenizer that is not here: mix again to fill them"
    return [f"{SHORT}{name} lacks {count:,} samples: {why}" for name, count in short.items()]


def _out_of_band(value: Mapping[str, Any]) -> list[str]:
    """Shares that are outside what the recipe asks for, in the unit that binds."""
    unit = value["unit"]
    return [
        f"{one['label']}: {100 * one['achieved'][unit]:.2f} %"
        for one in value["constraints"]
        if not one["low"] - 1e-9 <= one["achieved"][unit] <= one["high"] + 1e-9
    ]
