"""Plan a mixture of finished runs: which samples it takes and where each stands."""

from __future__ import annotations

import difflib
import os
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
from mixtures.plan import draw, planner
from mixtures.plan import groups as cells
from mixtures.plan.members_index import MembersIndex, drop_repeats, read_index, to_dtype
from mixtures.plan.recipe import UNITS, Recipe, to_manifest, warn_about_shares
from pipelines.core.run import LOCAL
from pipelines.mix.count_tokens import count_tokens


@dataclass(frozen=True)
class PlannedMixture:
    """A mixture before it is written: `value` as mixture.json holds it, without members."""

    manifest: dict[str, Any]
    members: pa.Table


@dataclass(frozen=True)
class Survey:
    """Samples of some runs as a recipe sees them: by_draw: rows of the index by draw; amount: (n,) in every unit."""

    index: MembersIndex
    by_draw: NDArray[np.int64]
    groups: cells.Groups
    amounts: Mapping[str, NDArray[Any]]
    constraints: Sequence[cells.Constraint]


def plan_mixture(
    runs: Sequence[str], recipe: Recipe, out: str, *, runner: Runner = LOCAL, quiet: bool = False
) -> PlannedMixture:
    """Which samples a mixture takes and where each stands; `out` is where it will lie, for the paths of its parents."""
    seen = build_survey(runs, recipe, out, runner=runner, quiet=quiet)
    index, found, amount, constraints = seen.index, seen.groups, seen.amounts, seen.constraints
    stock = _stock(found, amount[recipe.unit])
    wanted = planner.plan_amounts(stock, constraints, unit=recipe.unit, size=recipe.size, repeats=recipe.repeats)
    orders = draw.sort_groups(seen.by_draw, found.group, len(found.cells))
    of_unit = amount[recipe.unit].astype(np.float64)
    counts = [
        round(float(want))
        if stock.is_whole
        else min(draw.count_nearest(of_unit[order], float(want)), recipe.repeats * len(order))
        for want, order in zip(wanted, orders, strict=True)
    ]
    vshards = _vshards(index, orders, counts, recipe)
    names = [shard.sha256 for shard in index.shards]
    lie = draw.order_shards(recipe.seed, names, np.bincount(index.shard, minlength=len(names)).tolist())
    taken = draw.lay_out(orders, counts, lie, vshards, None if recipe.unit == "samples" else of_unit)
    return describe_mixture(seen, recipe, out, taken, vshards)


def build_survey(
    runs: Sequence[str], recipe: Recipe, out: str, *, runner: Runner = LOCAL, quiet: bool = False
) -> Survey:
    """Read the runs' members as the recipe wants them; see `plan`."""
    index = read_index(runs, recipe.columns)
    _check_values(index, recipe)
    if recipe.tokenizer is not None:
        index.text_tokens = count_tokens(
            runs, index.shards, recipe.tokenizer, recipe.contract, storage.join(out, "work"), runner=runner, quiet=quiet
        )
    hashes = draw.draw_keys(recipe.seed, "mix", index.key)
    index, by_draw = drop_repeats(index, hashes)
    tokens = count_sample_tokens(index, recipe)
    found = cells.build_groups(index, recipe)
    amount = cells.build_amounts(index, tokens)
    sources = index.columns["source"][1] if "source" in index.columns else []
    return Survey(index, by_draw, found, amount, cells.build_constraints(found, recipe, sources))


def _check_values(index: MembersIndex, recipe: Recipe) -> None:
    """A value that a share asks for and no sample has is most often misspelt: say what there is."""
    for column, bands in recipe.shares.items():
        known = index.columns.get(column, ((), None))[1]
        for value, (low, _) in bands.items():
            if known is not None and column != "modality" and low > 0 and value not in known:
                near = difflib.get_close_matches(value, known, n=1)
                raise StageError(
                    f"no sample has the {column} {value!r}, of which the recipe asks a share",
                    hint=f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(known[:20])}",
                )


def count_sample_tokens(index: MembersIndex, recipe: Recipe) -> NDArray[np.int64]:
    """int64 (n,): tokens of text and media, by the recipe's contract."""
    codes, values = index.columns["modality"]
    contract = recipe.contract.contract()
    tokens = index.text_tokens.copy()
    for code, modality in enumerate(values):
        rows = np.flatnonzero(codes == code)
        one = np.array([modality], dtype=object)
        tokens[rows] += contract.media_tokens(one, index.seconds[rows], index.images[rows].astype(np.int64))
    return tokens


def _stock(found: cells.Groups, amount: NDArray[Any]) -> planner.Stock:
    count = len(found.cells)
    largest = np.zeros(count)
    np.maximum.at(largest, found.group, amount.astype(np.float64))
    total = np.bincount(found.group, weights=amount.astype(np.float64), minlength=count).astype(np.float64)
    samples = np.bincount(found.group, minlength=count)
    return planner.Stock(total, largest, samples, [str(cell["modality"]) for cell in found.cells], found.names())


def _vshards(index: MembersIndex, orders: Sequence[NDArray[np.int64]], counts: Sequence[int], recipe: Recipe) -> int:
    total = sum(counts)
    size = 0
    for order, count in zip(orders, counts, strict=True):
        passes, rest = divmod(count, max(len(order), 1))
        size += passes * int(index.size[order].sum()) if passes else 0
        size += int(index.size[order[:rest]].sum())
    return max(1, -(-total // recipe.virtual.samples), -(-size // recipe.virtual.bytes))


def describe_mixture(seen: Survey, recipe: Recipe, out: str, taken: draw.Selection, vshards: int) -> PlannedMixture:
    """A mixture of what was taken, with all that mixture.json says of it."""
    index, found, amount, constraints = seen.index, seen.groups, seen.amounts, seen.constraints
    used = np.flatnonzero(np.bincount(index.shard[taken.row], minlength=len(index.shards)))
    place = np.full(len(index.shards), -1, dtype=np.int32)
    place[used] = np.arange(len(used), dtype=np.int32)
    count = len(found.cells)
    sums = {
        str(unit): np.bincount(taken.group, amount[unit][taken.row].astype(np.float64), count).astype(np.float64)
        for unit in UNITS
    }
    available = np.bincount(found.group, minlength=count)
    groups = [
        {"name": name, "modality": cell["modality"], "cell": dict(cell), "available": int(available[g]),
         **{unit: _number(unit, sums[unit][g]) for unit in UNITS}}
        for g, (name, cell) in enumerate(zip(found.names(), found.cells, strict=True))
    ]  # fmt: skip
    totals = {unit: _number(unit, sums[unit].sum()) for unit in UNITS}
    achieved = {unit: _shares(groups, unit) for unit in UNITS}
    told = warn_about_shares(achieved[recipe.unit])
    if index.dropped:
        told.append(f"{index.dropped:,} samples stand in more than one of the runs: taken from the first that has them")
    value = {
        "seed": recipe.seed,
        "unit": recipe.unit,
        "recipe": to_manifest(recipe, None if recipe.tokenizer is None else file_sha256(recipe.tokenizer)),
        "contract": recipe.contract.model_dump(),
        "parents": [{**parent, "run": _relative(parent["run"], out)} for parent in index.parents],
        "shards": [index.shards[i].to_manifest() for i in used],
        "groups": groups,
        "totals": totals,
        "achieved": achieved,
        "constraints": _held_against(constraints, sums, found),
        "vshards": vshards,
        "warnings": told,
        "materialized": None,
    }
    columns: dict[str, NDArray[Any]] = {
        "vshard": taken.vshard,
        "position": taken.position,
        "group": taken.group,
        "shard": place[index.shard[taken.row]],
        "repeat": taken.repeat,
        "offset": index.offset[taken.row],
        "size": index.size[taken.row],
        "tokens": amount["tokens"][taken.row],
        "seconds": index.seconds[taken.row],
        "bytes": index.bytes[taken.row],
    }
    arrays = [index.keys(taken.row)]
    for name, values in columns.items():  # as they lie in memory: Arrow's own way would load pandas first
        kind = tables.MIXTURE.field(name).type
        data = np.ascontiguousarray(values, dtype=to_dtype(kind))
        arrays.append(pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)]))
    return PlannedMixture(value, pa.Table.from_arrays(arrays, names=["key", *columns]).select(tables.MIXTURE.names))


def _held_against(
    constraints: Sequence[cells.Constraint], sums: Mapping[str, NDArray[np.float64]], found: cells.Groups
) -> list[dict[str, Any]]:
    """Each share that was asked for, and what it came to in every unit."""
    return [
        {"label": one.label, "column": one.column, "value": one.category, "low": one.low, "high": one.high,
         "achieved": {unit: _share(float(sums[unit] @ one.weights), float(sums[unit].sum())) for unit in UNITS}}
        for one in constraints if one.category is not None
    ]  # fmt: skip


def _shares(groups: Sequence[Mapping[str, Any]], unit: str) -> dict[str, float]:
    total = float(sum(group[unit] for group in groups))
    found: dict[str, float] = {}
    for group in groups:
        found[group["modality"]] = found.get(group["modality"], 0.0) + group[unit]
    return {modality: _share(amount, total) for modality, amount in found.items()}


def _share(amount: float, total: float) -> float:
    return round(amount / total, 6) if total else 0.0


def _number(unit: str, value: float) -> int | float:
    return round(float(value), 3) if unit == "seconds" else round(float(value))


def _relative(run: str, out: str) -> str:
    """A run's place as seen from the mixture, so that both can be moved together."""
    if not storage.is_local(run) or not storage.is_local(out):
        return run if not storage.is_local(run) else os.path.realpath(storage.local_path(run))
    return os.path.relpath(os.path.realpath(storage.local_path(run)), os.path.realpath(storage.local_path(out)))
