"""mix: a recipe and finished runs -> a mixture, as a manifest. No medium is opened."""

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
from infra.commit import lock, read_json
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json, file_sha256
from mixtures.plan import draw, planner
from mixtures.plan import groups as cells
from mixtures.plan.members_index import Index, dtype_of, read_index, without_repeats
from mixtures.plan.recipe import DEFAULT, UNITS, Recipe, from_ratio, read_recipe, record, warnings
from mixtures.shards import emit, features
from mixtures.shards.manifest import MANIFEST, Mixture, is_mixture, write_mixture
from pipelines.core.run import LOCAL
from pipelines.export.dataset_card import escape as markdown
from pipelines.mix.count_tokens import count_tokens
from pipelines.mix.mixture_card import write_cards


@dataclass(frozen=True)
class Planned:
    """A mixture before it is written: `value` as mixture.json holds it, without members."""

    value: dict[str, Any]
    members: pa.Table


def recipe_of(recipe: str | None, ratio: str | None, **settings: Any) -> Recipe:
    """The recipe that a command line asks for; `settings` replace its keys where they are given.

    Raises ConfigError for any mistake in it.
    """
    if recipe is not None and ratio is not None:
        raise ConfigError("give --recipe or --ratio, not both", hint="shares of modalities can stand in the recipe")
    return from_ratio(ratio, **settings) if ratio is not None else read_recipe(recipe or DEFAULT, **settings)


def mix(
    runs: Sequence[str],
    recipe: Recipe,
    out: str,
    *,
    replace: bool = False,
    materialize: bool = False,
    forms: Sequence[str] = (),
    runner: Runner = LOCAL,
    quiet: bool = False,
) -> Mixture:
    """Plan a mixture of finished runs and write it to `out`; `forms`: what else to write beside it (emit.FORMS).

    The folder's mixture of the same recipe over the same runs is written again, to the same bytes; a folder that holds
    anything else is left alone.
    Raises ConfigError where `out` holds another mixture (unless `replace`) or something that is none.
    """
    _check_folder(out, replace)
    planned = plan(runs, recipe, out, runner=runner, quiet=quiet)
    held = _held(out)
    if held is not None and not replace and _identity(held) != _identity(planned.value):
        raise ConfigError(
            f"{out} holds another mixture: {_difference(held, planned.value)}",
            where="--out",
            hint="give a new folder (a mixture copies no media), or --replace",
        )
    with lock(out):
        mixture = _write(out, planned, held)
        if materialize:
            from pipelines.mix import materialize as tars

            mixture = tars.materialize(mixture, runner=runner, quiet=quiet)
        storage.write_bytes(storage.join(out, "README.md"), readme(mixture).encode())
        write_cards(mixture)
        for form in forms:
            {"energon": emit.energon, "llava": emit.llava}[form](mixture)
    return mixture


def forms_of(text: str | None) -> tuple[str, ...]:
    """Names of emit.FORMS from "energon,llava".

    Raises ConfigError for any other.
    """
    found = tuple(filter(None, (part.strip() for part in (text or "").split(","))))
    if unknown := [name for name in found if name not in emit.FORMS]:
        raise ConfigError(f"{unknown[0]!r} cannot be written", where="--emit", hint=f"known: {', '.join(emit.FORMS)}")
    return found


def readme(mixture: Mixture) -> str:
    """MIX/README.md: what the Hugging Face loader needs to know of the tars, and the shares for people."""
    value = mixture.value
    suffixes = {suffix for shard in value["shards"] for suffix in shard["suffixes"]}
    name = value["recipe"]["name"]
    lines = [features.head(name, suffixes, has_tars=value["materialized"] is not None)]
    lines += [
        f"# {name}",
        "",
        f"A mixture made by Reelmill, counted in {value['unit']}; `{MANIFEST}` says all of it.",
        "",
    ]
    lines += [f"| group | available | {' | '.join(UNITS)} |", f"|---{'|---:' * (len(UNITS) + 1)}|"]
    for group in value["groups"]:
        numbers = " | ".join(f"{group[unit]:,.0f}" for unit in UNITS)
        lines.append(f"| {markdown(group['name'])} | {group['available']:,} | {numbers} |")
    lines += ["", f"| share of | {' | '.join(UNITS)} |", f"|---{'|---:' * len(UNITS)}|"]
    for modality in value["achieved"]["samples"]:
        shares = " | ".join(f"{100 * value['achieved'][unit][modality]:.2f} %" for unit in UNITS)
        lines.append(f"| {modality} | {shares} |")
    if value["warnings"]:
        lines += ["", "## Warnings", "", *(f"- {markdown(warning)}" for warning in value["warnings"])]
    return "\n".join([*lines, ""])


def _check_folder(out: str, replace: bool) -> None:
    if not storage.exists(out) or is_mixture(out):
        return
    if storage.is_file(out):
        raise ConfigError("this is a file, not a folder", where=out)
    found = [name for name in (*storage.names(out), *storage.folders(out)) if name not in ("work", "members.parquet")]
    if found:
        raise ConfigError(
            f"this folder holds something that is no mixture ({found[0]}, …)", where=out, hint="give a new --out"
        )


def _held(out: str) -> dict[str, Any] | None:
    return dict(read_json(storage.join(out, MANIFEST))) if is_mixture(out) else None


def _identity(value: Mapping[str, Any]) -> bytes:
    """What makes a mixture the one that it is: its recipe and the runs that it is of."""
    return canonical_json([value["recipe"], [parent["members"] for parent in value["parents"]]])


def _difference(held: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    if held.get("recipe") == planned["recipe"]:
        return "of the same recipe, over other runs or runs that have changed"
    keys = [key for key in planned["recipe"] if (held.get("recipe") or {}).get(key) != planned["recipe"][key]]
    return f"its recipe differs in {', '.join(keys)}"


@dataclass(frozen=True)
class Survey:
    """Samples of some runs as a recipe sees them: by_draw: rows of the index by draw; amount: (n,) in every unit."""

    index: Index
    by_draw: NDArray[np.int64]
    found: cells.Cells
    amount: Mapping[str, NDArray[Any]]
    constraints: Sequence[cells.Constraint]


def plan(runs: Sequence[str], recipe: Recipe, out: str, *, runner: Runner = LOCAL, quiet: bool = False) -> Planned:
    """Which samples a mixture takes and where each stands; `out` is where it will lie, for the paths of its parents."""
    seen = survey(runs, recipe, out, runner=runner, quiet=quiet)
    index, found, amount, constraints = seen.index, seen.found, seen.amount, seen.constraints
    stock = _stock(found, amount[recipe.unit])
    wanted = planner.plan(stock, constraints, unit=recipe.unit, size=recipe.size, repeats=recipe.repeats)
    orders = draw.order_of(seen.by_draw, found.group, len(found.cells))
    of_unit = amount[recipe.unit].astype(np.float64)
    counts = [
        round(float(want))
        if stock.whole
        else min(draw.nearest(of_unit[order], float(want)), recipe.repeats * len(order))
        for want, order in zip(wanted, orders, strict=True)
    ]
    vshards = _vshards(index, orders, counts, recipe)
    names = [shard.sha256 for shard in index.shards]
    lie = draw.shard_order(recipe.seed, names, np.bincount(index.shard, minlength=len(names)).tolist())
    taken = draw.lay(orders, counts, lie, vshards, None if recipe.unit == "samples" else of_unit)
    return planned(seen, recipe, out, taken, vshards)


def survey(runs: Sequence[str], recipe: Recipe, out: str, *, runner: Runner = LOCAL, quiet: bool = False) -> Survey:
    """Read the runs' members as the recipe wants them; see `plan`."""
    index = read_index(runs, recipe.columns)
    _check_values(index, recipe)
    if recipe.tokenizer is not None:
        index.text_tokens = count_tokens(
            runs, index.shards, recipe.tokenizer, recipe.contract, storage.join(out, "work"), runner=runner, quiet=quiet
        )
    hashes = draw.draws(recipe.seed, "mix", index.key)
    index, by_draw = without_repeats(index, hashes)
    tokens = token_counts(index, recipe)
    found = cells.cells_of(index, recipe)
    amount = cells.amounts(index, tokens)
    sources = index.columns["source"][1] if "source" in index.columns else []
    return Survey(index, by_draw, found, amount, cells.constraints_of(found, recipe, sources))


def _check_values(index: Index, recipe: Recipe) -> None:
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


def token_counts(index: Index, recipe: Recipe) -> NDArray[np.int64]:
    """int64 (n,): tokens of text and media, by the recipe's contract."""
    codes, values = index.columns["modality"]
    contract = recipe.contract.contract()
    tokens = index.text_tokens.copy()
    for code, modality in enumerate(values):
        rows = np.flatnonzero(codes == code)
        one = np.array([modality], dtype=object)
        tokens[rows] += contract.media_tokens(one, index.seconds[rows], index.images[rows].astype(np.int64))
    return tokens


def _stock(found: cells.Cells, amount: NDArray[Any]) -> planner.Stock:
    count = len(found.cells)
    largest = np.zeros(count)
    np.maximum.at(largest, found.group, amount.astype(np.float64))
    total = np.bincount(found.group, weights=amount.astype(np.float64), minlength=count).astype(np.float64)
    samples = np.bincount(found.group, minlength=count)
    return planner.Stock(total, largest, samples, [str(cell["modality"]) for cell in found.cells], found.names())


def _vshards(index: Index, orders: Sequence[NDArray[np.int64]], counts: Sequence[int], recipe: Recipe) -> int:
    total = sum(counts)
    size = 0
    for order, count in zip(orders, counts, strict=True):
        passes, rest = divmod(count, max(len(order), 1))
        size += passes * int(index.size[order].sum()) if passes else 0
        size += int(index.size[order[:rest]].sum())
    return max(1, -(-total // recipe.virtual.samples), -(-size // recipe.virtual.bytes))


def planned(seen: Survey, recipe: Recipe, out: str, taken: draw.Taken, vshards: int) -> Planned:
    """A mixture of what was taken, with all that mixture.json says of it."""
    index, found, amount, constraints = seen.index, seen.found, seen.amount, seen.constraints
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
    told = warnings(achieved[recipe.unit])
    if index.dropped:
        told.append(f"{index.dropped:,} samples stand in more than one of the runs: taken from the first that has them")
    value = {
        "seed": recipe.seed,
        "unit": recipe.unit,
        "recipe": record(recipe, None if recipe.tokenizer is None else file_sha256(recipe.tokenizer)),
        "contract": recipe.contract.model_dump(),
        "parents": [{**parent, "run": _relative(parent["run"], out)} for parent in index.parents],
        "shards": [index.shards[i].record() for i in used],
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
        data = np.ascontiguousarray(values, dtype=dtype_of(kind))
        arrays.append(pa.Array.from_buffers(kind, len(data), [None, pa.py_buffer(data)]))
    return Planned(value, pa.Table.from_arrays(arrays, names=["key", *columns]).select(tables.MIXTURE.names))


def _held_against(
    constraints: Sequence[cells.Constraint], sums: Mapping[str, NDArray[np.float64]], found: cells.Cells
) -> list[dict[str, Any]]:
    """Each share that was asked for, and what it came to in every unit."""
    return [
        {"label": one.label, "column": one.column, "value": one.value, "low": one.low, "high": one.high,
         "achieved": {unit: _share(float(sums[unit] @ one.weights), float(sums[unit].sum())) for unit in UNITS}}
        for one in constraints if one.value is not None
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


def _write(out: str, planned: Planned, held: Mapping[str, Any] | None) -> Mixture:
    if held is not None and _identity(held) != _identity(planned.value):
        # Asked for by --replace: what was there ends first, so that no tar of it is taken for one of the new mixture.
        storage.remove(storage.join(out, MANIFEST))
        for name in ("shards", "cards", "work", "llava", ".nv-meta"):
            storage.remove(storage.join(out, name))
    return write_mixture(out, planned.value, planned.members)


def result(mixture: Mixture) -> dict[str, Any]:
    """What `reelmill mix --json` prints."""
    value = mixture.value
    return {
        "mixture": mixture.uri,
        **{key: value[key] for key in ("unit", "seed", "totals", "achieved", "constraints", "groups", "vshards")},
        "members": value["members"],
        "materialized": value["materialized"] is not None,
        "warnings": value["warnings"],
    }


def show(mixture: Mixture) -> None:
    """What was asked for and what it came to, for people."""
    from rich.table import Table

    from pipelines.core.console import open_console

    value, out = mixture.value, open_console()
    totals = value["totals"]
    taken = Table(title=f"Mixture {value['recipe']['name']}: what it takes", title_justify="left")
    taken.add_column("group", no_wrap=True)
    for name in ("available", *UNITS):
        taken.add_column(name, justify="right", no_wrap=True)
    for group in value["groups"]:
        taken.add_row(group["name"], *(f"{group[name]:,.0f}" for name in ("available", *UNITS)))
    taken.add_section()
    available = sum(group["available"] for group in value["groups"])
    taken.add_row("all", f"{available:,}", *(f"{totals[unit]:,.0f}" for unit in UNITS))
    out.print(taken)
    shares = Table(title=f"Shares; {value['unit']} bind", title_justify="left")
    for name in ("of", "asked"):
        shares.add_column(name, no_wrap=True)
    for unit in UNITS:
        bold = "bold" if unit == value["unit"] else None
        shares.add_column(f"% of {unit}", justify="right", style=bold)
    for name, asked, got in _share_rows(value):
        shares.add_row(name, asked, *(f"{100 * got[unit]:.2f}" for unit in UNITS))
    out.print(shares)
    for warning in value["warnings"]:
        out.print(f"warning: {warning}")
    tars = f", and as tars in {mixture.uri}/shards" if value["materialized"] is not None else ""
    out.print(f"virtual shards: {value['vshards']:,}{tars}; {mixture.uri}/{MANIFEST} says all of it", highlight=False)


def _share_rows(value: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    """(of what, what was asked, share in every unit): each modality, then what else the recipe names."""
    asked = {(one["column"], one["value"]): one for one in value["constraints"]}
    rows: list[tuple[str, str, Mapping[str, float]]] = []
    for modality in value["achieved"]["samples"]:
        found = asked.pop(("modality", modality), None)
        got = {str(unit): float(value["achieved"][unit][modality]) for unit in UNITS}
        rows.append((modality, "" if found is None else _asked(found), got))
    rows += [(f"{one['column']} {one['value']}", _asked(one), one["achieved"]) for one in asked.values()]
    return rows


def _asked(one: Mapping[str, Any]) -> str:
    low, high = 100 * one["low"], 100 * one["high"]
    return f"{low:g} %" if low == high else f"{low:g} to {high:g} %"
