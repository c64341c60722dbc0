"""A mixture for people: its README.md, the tables that `reelmill mix` prints, and what it prints as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mixtures.plan.recipe import UNITS
from mixtures.shards import features
from mixtures.shards.manifest import MANIFEST, Mixture
from pipelines.export.dataset_card import escape_markdown


def build_readme(mixture: Mixture) -> str:
    """MIX/README.md: what the Hugging Face loader needs to know of the tars, and the shares for people."""
    value = mixture.manifest
    suffixes = {suffix for shard in value["shards"] for suffix in shard["suffixes"]}
    name = value["recipe"]["name"]
    lines = [features.build_front_matter(name, suffixes, has_tars=value["materialized"] is not None)]
    lines += [
        f"# {name}",
        "",
        f"A mixture made by Reelmill, counted in {value['unit']}; `{MANIFEST}` says all of it.",
        "",
    ]
    lines += [f"| group | available | {' | '.join(UNITS)} |", f"|---{'|---:' * (len(UNITS) + 1)}|"]
    for group in value["groups"]:
        numbers = " | ".join(f"{group[unit]:,.0f}" for unit in UNITS)
        lines.append(f"| {escape_markdown(group['name'])} | {group['available']:,} | {numbers} |")
    lines += ["", f"| share of | {' | '.join(UNITS)} |", f"|---{'|---:' * len(UNITS)}|"]
    for modality in value["achieved"]["samples"]:
        shares = " | ".join(f"{100 * value['achieved'][unit][modality]:.2f} %" for unit in UNITS)
        lines.append(f"| {modality} | {shares} |")
    if value["warnings"]:
        lines += ["", "## Warnings", "", *(f"- {escape_markdown(warning)}" for warning in value["warnings"])]
    return "\n".join([*lines, ""])


def build_summary(mixture: Mixture) -> dict[str, Any]:
    """What `reelmill mix --json` prints."""
    value = mixture.manifest
    return {
        "mixture": mixture.uri,
        **{key: value[key] for key in ("unit", "seed", "totals", "achieved", "constraints", "groups", "vshards")},
        "members": value["members"],
        "materialized": value["materialized"] is not None,
        "warnings": value["warnings"],
    }


def print_mixture(mixture: Mixture) -> None:
    """What was asked for and what it came to, for people."""
    from rich.table import Table

    from pipelines.core.console import open_console

    value, out = mixture.manifest, open_console()
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
