"""Plan a mixture of finished runs: select its samples and their order."""

from __future__ import annotations

import difflib
import importlib.metadata
import os
import posixpath
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import storage, tables
from infra.beam import Runner
from infra.errors import StageError
from infra.hashing import file_sha256
from mixtures.cards.rollup import compute_modality_shares, compute_share, round_amount
from mixtures.plan import draw, planner
from mixtures.plan import groups as cells
from mixtures.plan.members_index import MembersIndex, drop_repeats, read_index, to_dtype
from mixtures.plan.recipe import UNITS, Recipe, to_manifest, warn_about_shares
from pipelines.core.run import LOCAL
from pipelines.mix.count_tokens import count_tokens


@dataclass(frozen=True)
class PlannedMixture:
    """A mixture before it is written. manifest: contents of mixture.json, without members."""

    manifest: dict[str, Any]
    members: pa.Table


@dataclass(frozen=True)
class Survey:
    """Samples of runs as a recipe groups them. by_draw: rows of the index, sorted by draw; amounts: unit -> (n,)."""

    index: MembersIndex
    by_draw: NDArray[np.int64]
    groups: cells.Groups
    amounts: Mapping[str, NDArray[Any]]
    constraints: Sequence[cells.Constraint]


def plan_mixture(
    runs: Sequence[str], recipe: Recipe, out: str, *, runner: Runner = LOCAL, quiet: bool = False
) -> PlannedMixture:
    """Plan the samples of a mixture and their order; `out`: its folder, which its parents' paths are relative to."""
    survey = build_survey(runs, recipe, out, runner=runner, quiet=quiet)
    index, groups = survey.index, survey.groups
    amounts = survey.amounts[recipe.unit].astype(np.float64)
    stock = _build_stock(groups, amounts)
    targets = planner.plan_amounts(
        stock, survey.constraints, unit=recipe.unit, size=recipe.size, repeats=recipe.repeats
    )
    orders = draw.sort_groups(survey.by_draw, groups.group, len(groups.cells))
    counts = [
        round(float(target))
        if stock.is_whole
        else min(draw.count_nearest(amounts[order], float(target)), recipe.repeats * len(order))
        for target, order in zip(targets, orders, strict=True)
    ]
    vshards = _count_vshards(index, orders, counts, recipe)
    names = [shard.sha256 for shard in index.shards]
    layout = draw.order_shards(recipe.seed, names, np.bincount(index.shard, minlength=len(names)).tolist())
    selection = draw.lay_out(orders, counts, layout, vshards, None if recipe.unit == "samples" else amounts)
    used = int(selection.vshard.max()) + 1 if len(selection.vshard) else vshards
    return describe_mixture(survey, recipe, out, selection, used)


def build_survey(
    runs: Sequence[str], recipe: Recipe, out: str, *, runner: Runner = LOCAL, quiet: bool = False
) -> Survey:
    """Read the runs' members, their amounts and groups for a recipe; see `plan_mixture`."""
    index = read_index(runs, recipe.columns)
    _check_categories(index, recipe)
    if recipe.tokenizer is not None:
        index.text_tokens = count_tokens(
            runs, index.shards, recipe.tokenizer, recipe.contract, storage.join(out, "work"), runner=runner, quiet=quiet
        )
    hashes = draw.draw_keys(recipe.seed, "mix", index.key)
    index, by_draw = drop_repeats(index, hashes)
    tokens = count_sample_tokens(index, recipe)
    groups = cells.build_groups(index, recipe)
    amounts = cells.build_amounts(index, tokens)
    sources = index.columns["source"][1] if "source" in index.columns else []
    return Survey(index, by_draw, groups, amounts, cells.build_constraints(groups, recipe, sources))


def _check_categories(index: MembersIndex, recipe: Recipe) -> None:
    """Raise StageError for a category that has a share but no sample: it is most often misspelt."""
    for column, ranges in recipe.shares.items():
        existing = index.columns.get(column, ((), None))[1]
        for category, (low, _) in ranges.items():
            if existing is not None and column != "modality" and low > 0 and category not in existing:
                near = difflib.get_close_matches(category, existing, n=1)
                raise StageError(
                    f"no sample has the {column} {category!r}, for which the recipe contains a share",
                    hint=f"did you mean {near[0]!r}?" if near else f"the runs contain: {', '.join(existing[:20])}",
                )


def count_sample_tokens(index: MembersIndex, recipe: Recipe) -> NDArray[np.int64]:
    """Count int64 (n,): tokens of text and media, by the recipe's contract."""
    codes, modalities = index.columns["modality"]
    contract = recipe.contract.contract()
    tokens = index.text_tokens.copy()
    for code, modality in enumerate(modalities):
        rows = np.flatnonzero(codes == code)
        tokens[rows] += contract.media_tokens(
            np.array([modality], dtype=object), index.seconds[rows], index.images[rows].astype(np.int64)
        )
    return tokens


def _build_stock(groups: cells.Groups, amounts: NDArray[np.float64]) -> planner.Stock:
    count = len(groups.cells)
    largest = np.zeros(count)
    np.maximum.at(largest, groups.group, amounts)
    total = np.bincount(groups.group, weights=amounts, minlength=count).astype(np.float64)
    samples = np.bincount(groups.group, minlength=count)
    return planner.Stock(total, largest, samples, [str(cell["modality"]) for cell in groups.cells], groups.names())


def _count_vshards(
    index: MembersIndex, orders: Sequence[NDArray[np.int64]], counts: Sequence[int], recipe: Recipe
) -> int:
    total = sum(counts)
    size = 0
    for order, count in zip(orders, counts, strict=True):
        passes, rest = divmod(count, max(len(order), 1))
        size += passes * int(index.size[order].sum()) if passes else 0
        size += int(index.size[order[:rest]].sum())
    return max(1, -(-total // recipe.virtual.samples), -(-size // recipe.virtual.bytes))


def describe_mixture(
    survey: Survey, recipe: Recipe, out: str, selection: draw.Selection, vshards: int
) -> PlannedMixture:
    """Build the manifest and the members table of the selected samples."""
    index, rows = survey.index, selection.row
    used = np.flatnonzero(np.bincount(index.shard[rows], minlength=len(index.shards)))
    count = len(survey.groups.cells)
    sums = {
        str(unit): np.bincount(selection.group, survey.amounts[unit][rows].astype(np.float64), count).astype(np.float64)
        for unit in UNITS
    }
    available = np.bincount(survey.groups.group, minlength=count)
    groups = [
        {"name": name, "modality": cell["modality"], "cell": dict(cell), "available": int(available[g]),
         **{unit: round_amount(unit, float(sums[unit][g])) for unit in UNITS}}
        for g, (name, cell) in enumerate(zip(survey.groups.names(), survey.groups.cells, strict=True))
    ]  # fmt: skip
    totals = {unit: round_amount(unit, float(sums[unit].sum())) for unit in UNITS}
    achieved = {unit: compute_modality_shares(groups, unit) for unit in UNITS}
    warnings = warn_about_shares(achieved[recipe.unit])
    if index.dropped:
        warnings.append(
            f"{index.dropped:,} samples stand in more than one of the runs: taken from the first that has them"
        )
    manifest = {
        "reelmill": importlib.metadata.version("reelmill"),
        "seed": recipe.seed,
        "unit": recipe.unit,
        "recipe": to_manifest(recipe, None if recipe.tokenizer is None else file_sha256(recipe.tokenizer)),
        "contract": recipe.contract.model_dump(),
        "parents": [{**parent, "run": _compute_relative_path(parent["run"], out)} for parent in index.parents],
        "shards": [index.shards[i].to_manifest() for i in used],
        "groups": groups,
        "totals": totals,
        "achieved": achieved,
        "constraints": _compare_with_targets(survey.constraints, groups),
        "vshards": vshards,
        "warnings": warnings,
        "materialized": None,
    }
    return PlannedMixture(manifest, _build_members(survey, selection, used))


def _build_members(survey: Survey, selection: draw.Selection, used: NDArray[np.int64]) -> pa.Table:
    """Build the members table; used: shards of the index that samples come from, numbered anew in this order."""
    index, rows = survey.index, selection.row
    columns: dict[str, NDArray[Any]] = {
        "vshard": selection.vshard,
        "position": selection.position,
        "group": selection.group,
        "shard": np.searchsorted(used, index.shard[rows]),
        "repeat": selection.repeat,
        "offset": index.offset[rows],
        "size": index.size[rows],
        "tokens": survey.amounts["tokens"][rows],
        "seconds": index.seconds[rows],
        "bytes": index.bytes[rows],
    }
    arrays = [index.keys(rows)]
    for name, values in columns.items():  # from numpy's buffers: pa.array would import pandas
        kind = tables.MIXTURE.field(name).type
        buffer = np.ascontiguousarray(values, dtype=to_dtype(kind))
        arrays.append(pa.Array.from_buffers(kind, len(buffer), [None, pa.py_buffer(buffer)]))
    return pa.Table.from_arrays(arrays, names=["key", *columns]).select(tables.MIXTURE.names)


def _compare_with_targets(
    constraints: Sequence[cells.Constraint], groups: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return each target share with the achieved share in every unit."""
    return [
        {"label": constraint.label, "column": constraint.column, "value": constraint.category,
         "low": constraint.low, "high": constraint.high,
         "achieved": {unit: compute_share(groups, unit, constraint.column, constraint.category) for unit in UNITS}}
        for constraint in constraints if constraint.category is not None
    ]  # fmt: skip


def _compute_relative_path(run: str, out: str) -> str:
    """Compute the path from the mixture to a run, so that both can be moved together: in one bucket or on this disk."""
    (run_scheme, _, run_path), (out_scheme, _, out_path) = run.partition("://"), out.partition("://")
    is_one_bucket = run_scheme == out_scheme and run_path.split("/")[0] == out_path.split("/")[0]
    if not storage.is_local(run) and is_one_bucket and "::" not in run + out:
        return posixpath.relpath(run_path, out_path)
    if not storage.is_local(run) or not storage.is_local(out):
        return run if not storage.is_local(run) else os.path.realpath(storage.local_path(run))
    return os.path.relpath(os.path.realpath(storage.local_path(run)), os.path.realpath(storage.local_path(out)))
