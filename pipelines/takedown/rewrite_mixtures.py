"""Update mixtures to rewritten runs: new offsets and hashes, gaps refilled from the same group.

Each sample that is taken down leaves a gap, which is refilled with the next sample in the draw order of its group. So
the mixture contains what the same counts would draw today, every virtual shard keeps its shares, and all other samples
stay where they are: only tars with a gap are rewritten.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage
from infra.columns import to_ints, to_mask
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
from pipelines.takedown import staging
from pipelines.takedown.discover import normalise
from pipelines.takedown.staging import Staging

Ints = NDArray[np.int64]

#: Beginning of the warnings of a mixture that could not be refilled.
WARNING_PREFIX = "taken down: "

#: Folders that `mix --emit` writes -> their writers.
_EMITTERS = {".nv-meta": emit.write_energon, "llava": emit.write_llava}


@dataclass(frozen=True)
class MixtureState:
    """changed: a run differs from what the mixture was planned from; missing: runs that do not exist; problem: why the
    mixture cannot be updated, "" if it can."""

    mixture: Mixture
    changed: bool
    missing: tuple[str, ...]
    problem: str = ""


def inspect(uri: str) -> MixtureState:
    """Compare a mixture with the runs that it was planned from."""
    mixture = open_mixture(uri)
    missing, changed, problem = [], False, ""
    for number, parent in enumerate(mixture.manifest["parents"]):
        run = mixture.run(number)
        manifest = storage.join(run, "members", MANIFEST)
        if not storage.is_file(manifest):
            missing.append(run)
        elif storage.sha256(manifest) != parent["members"]:
            changed = True
            if not storage.is_file(storage.join(run, tombstones.FILE)):
                problem = f"{run} was changed by something other than a take-down"
    if missing:
        problem = f"{missing[0]} does not exist"
    return MixtureState(mixture, changed, tuple(missing), problem)


def summarize_changes(mixture: Mixture, erased: Mapping[str, Sequence[str]]) -> dict[str, Any]:
    """Number of samples and virtual shards that a take-down would change; erased: run -> keys."""
    members = mixture.members(["key", "vshard", "shard"])
    affected = np.zeros(members.num_rows, dtype=bool)
    parents = np.array([shard["parent"] for shard in mixture.manifest["shards"]], dtype=np.int64)
    parent = parents[members["shard"].to_numpy()] if len(parents) else np.zeros(0, np.int64)
    for number in range(len(mixture.manifest["parents"])):
        keys = pa.array(list(erased.get(normalise(mixture.run(number)), ())), pa.string())
        affected |= to_mask(pc.is_in(members["key"], value_set=keys)) & (parent == number)
    vshards = np.unique(members["vshard"].to_numpy()[affected])
    return {"mixture": mixture.uri, "samples": int(affected.sum()), "virtual_shards": len(vshards)}


def stage(mixture: Mixture) -> dict[str, Any]:
    """Stage the updated mixture and commit it; returns the journal.

    journal: told: the summary; tars: None, or the entries of `materialized` that stay unchanged.
    """
    old = mixture.manifest
    recipe = Recipe.model_validate({**old["recipe"], "tokenizer": None})
    runs = [mixture.run(i) for i in range(len(old["parents"]))]
    survey = plan_mixture.build_survey(runs, recipe, mixture.uri, quiet=True)
    members = mixture.members()
    row = _find_rows(members, survey)
    gaps = row < 0
    tokens = survey.amounts["tokens"].copy()
    tokens[row[~gaps]] = members["tokens"].to_numpy()[~gaps]  # as counted before, perhaps by a tokenizer
    survey = replace(survey, amounts={**survey.amounts, "tokens": tokens})
    old_group = members["group"].to_numpy()
    group = _renumber_groups(old, survey)[old_group]
    repeat = members["repeat"].to_numpy().copy()
    if old["recipe"]["tokenizer"] is None:
        _refill(survey, recipe, row, group, repeat)
    unfilled = np.bincount(old_group[row < 0], minlength=len(old["groups"])).tolist()
    short = {entry["name"]: count for entry, count in zip(old["groups"], unfilled, strict=True) if count}
    selection = _lay_out(members, row, group, repeat)
    planned = plan_mixture.describe_mixture(survey, recipe, mixture.uri, selection, old["vshards"])
    earlier = [warning for warning in old["warnings"] if warning.startswith(WARNING_PREFIX)]
    warnings = [*planned.manifest["warnings"], *earlier, *_build_warnings(old, short)]
    new = {**planned.manifest, "recipe": old["recipe"], "contract": old["contract"], "warnings": warnings}
    changed_vshards = set(members["vshard"].to_numpy()[gaps].tolist())
    removed = int(gaps.sum())
    summary = {"mixture": mixture.uri, "samples": removed, "virtual_shards": len(changed_vshards),
               "filled": removed - sum(short.values()), "short": short,
               "out_of_band": _list_out_of_range(new)}  # fmt: skip
    tars = old["materialized"]
    unchanged = None if tars is None else [tar for i, tar in enumerate(tars) if i not in changed_vshards]
    work = Staging(mixture.uri)
    sha256 = work.put(MEMBERS, encode_members(planned.members))
    new |= {"mixture": VERSION, "members": {"rows": planned.members.num_rows, "sha256": sha256}}
    work.put(MIXTURE, canonical_json(new))
    return work.commit({"told": summary, "tars": unchanged})


def finish(uri: str, journal: Mapping[str, Any], *, quiet: bool) -> dict[str, Any]:
    """Finish a committed update; safe to repeat. Returns the summary."""
    staging.apply(uri, journal)
    storage.remove(storage.join(uri, "work", "damaged"))  # nobody can tell whether it contains what is taken down
    mixture = open_mixture(uri)
    if journal["tars"] is not None:
        rewrite_manifest(uri, {**mixture.manifest, "materialized": None})
        materialize.adopt_tars(mixture, journal["tars"])
        mixture = materialize.materialize(mixture, quiet=quiet)
    storage.write_bytes(storage.join(uri, mixture_summary.README), mixture_summary.build_readme(mixture).encode())
    write_cards(mixture)
    for folder, write in _EMITTERS.items():
        if storage.exists(storage.join(uri, folder)):
            write(mixture)
    staging.finish(uri)
    return dict(journal["told"])


# -- rows -------------------------------------------------------------------------------------------------------


def _find_rows(members: pa.Table, survey: plan_mixture.Survey) -> Ints:
    """int64 (n,): the row of the index that each member is now, -1 if it was taken down."""
    keys = survey.index.keys(np.arange(len(survey.index)))
    return to_ints(pc.index_in(members["key"], value_set=keys))


def _renumber_groups(old: Mapping[str, Any], survey: plan_mixture.Survey) -> Ints:
    """int64 (former groups,): the new number of each group, -1 if none of it remains."""
    cells = [dict(cell) for cell in survey.groups.cells]
    numbers = [cells.index(group["cell"]) if group["cell"] in cells else -1 for group in old["groups"]]
    return np.array(numbers, dtype=np.int64)


def _refill(survey: plan_mixture.Survey, recipe: Recipe, row: Ints, group: Ints, repeat: NDArray[Any]) -> None:
    """Refill gaps (row < 0) in place, each from its own group, as far as the recipe's repeats allow."""
    orders = draw.sort_groups(survey.by_draw, survey.groups.group, len(survey.groups.cells))
    for number, order in enumerate(orders):
        in_group = group == number
        gaps = np.flatnonzero(in_group & (row < 0))
        if not len(gaps):
            continue
        uses = np.bincount(row[in_group & (row >= 0)], minlength=len(survey.index))[order]
        passes, rest = divmod(int(in_group.sum()), len(order))
        expected_uses = np.minimum(passes + (np.arange(len(order)) < rest), recipe.repeats)
        missing = np.maximum(expected_uses - uses, 0)
        rank = np.repeat(np.arange(len(order)), missing)
        nth = np.arange(len(rank)) - np.repeat(np.cumsum(missing) - missing, missing)
        picks = np.lexsort((rank, nth))[: len(gaps)]  # every sample once before any sample twice: repeats stay apart
        gaps = gaps[: len(picks)]
        row[gaps] = order[rank[picks]]
        repeat[gaps] = (uses[rank] + nth)[picks]


def _lay_out(members: pa.Table, row: Ints, group: Ints, repeat: NDArray[Any]) -> draw.Selection:
    """Keep every sample in its virtual shard; samples after a gap that stays empty move up."""
    filled = np.flatnonzero(row >= 0)
    vshard = members["vshard"].to_numpy()[filled]
    position = np.arange(len(vshard)) - np.searchsorted(vshard, vshard)
    return draw.Selection(
        row[filled],
        repeat[filled].astype(np.int32),
        group[filled].astype(np.int32),
        vshard.astype(np.int32),
        position.astype(np.int32),
    )


def _build_warnings(old: Mapping[str, Any], short: Mapping[str, int]) -> list[str]:
    why = "the recipe's repeats allow no more of what is left"
    if old["recipe"]["tokenizer"] is not None:
        why = "its tokens were counted by a tokenizer that is not here: mix again to fill them"
    return [f"{WARNING_PREFIX}{name} lacks {count:,} samples: {why}" for name, count in short.items()]


def _list_out_of_range(manifest: Mapping[str, Any]) -> list[str]:
    """Shares outside the recipe's range, in the recipe's unit."""
    unit = manifest["unit"]
    return [
        f"{entry['label']}: {100 * entry['achieved'][unit]:.2f} %"
        for entry in manifest["constraints"]
        if not entry["low"] - 1e-9 <= entry["achieved"][unit] <= entry["high"] + 1e-9
    ]
