"""Summaries of a mixture: its README.md, and the tables and JSON that `reelmill mix` prints."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from infra.media.interface import MODALITIES
from mixtures.plan.recipe import UNITS
from mixtures.shards import features
from mixtures.shards.manifest import MANIFEST, Mixture
from pipelines.core.console import print_table, print_text
from pipelines.export.dataset_card import escape_markdown

README = "README.md"


def build_readme(mixture: Mixture) -> str:
    """Build MIX/README.md: columns of the tars for the Hugging Face loader, and the shares for people."""
    manifest = mixture.manifest
    suffixes = {suffix for shard in manifest["shards"] for suffix in shard["suffixes"]}
    name = manifest["recipe"]["name"]
    lines = [features.build_front_matter(name, suffixes, has_tars=manifest["materialized"] is not None)]
    lines += [
        f"# {name}",
        "",
        f"A mixture made by Reelmill, counted in {manifest['unit']}; `{MANIFEST}` describes it fully.",
        "",
    ]
    lines += [f"| group | available | {' | '.join(UNITS)} |", f"|---{'|---:' * (len(UNITS) + 1)}|"]
    for group in manifest["groups"]:
        numbers = " | ".join(f"{group[unit]:,.0f}" for unit in UNITS)
        lines.append(f"| {escape_markdown(group['name'])} | {group['available']:,} | {numbers} |")
    lines += ["", f"| share of | {' | '.join(UNITS)} |", f"|---{'|---:' * len(UNITS)}|"]
    for modality in filter(manifest["achieved"]["samples"].__contains__, MODALITIES):
        shares = " | ".join(f"{100 * manifest['achieved'][unit][modality]:.2f} %" for unit in UNITS)
        lines.append(f"| {modality} | {shares} |")
    if manifest["warnings"]:
        lines += ["", "## Warnings", "", *(f"- {escape_markdown(warning)}" for warning in manifest["warnings"])]
    return "\n".join([*lines, ""])


def build_summary(mixture: Mixture) -> dict[str, Any]:
    """Build the JSON that `reelmill mix --json` prints."""
    manifest = mixture.manifest
    return {
        "mixture": mixture.uri,
        **{key: manifest[key] for key in ("unit", "seed", "totals", "achieved", "constraints", "groups", "vshards")},
        "members": manifest["members"],
        "materialized": manifest["materialized"] is not None,
        "warnings": manifest["warnings"],
    }


def print_mixture(mixture: Mixture) -> None:
    """Print the amounts taken per group, the target and achieved shares, and the warnings."""
    manifest = mixture.manifest
    totals = manifest["totals"]
    fields = ("available", *UNITS)
    available = sum(group["available"] for group in manifest["groups"])
    rows = [(group["name"], *(f"{group[field]:,.0f}" for field in fields)) for group in manifest["groups"]]
    rows.append(("all", f"{available:,}", *(f"{totals[unit]:,.0f}" for unit in UNITS)))
    print_table(f"Mixture {manifest['recipe']['name']}: amounts by group", ("group", *fields), rows)
    print_table(
        f"Shares, constrained by {manifest['unit']}",
        ("share of", "target", *(f"% of {unit}" for unit in UNITS)),
        [
            (name, target, *(f"{100 * achieved[unit]:.2f}" for unit in UNITS))
            for name, target, achieved in _build_share_rows(manifest)
        ],
        left_aligned=("share of", "target"),
    )
    tars = f", and as tars in {mixture.uri}/shards" if manifest["materialized"] is not None else ""
    print_text(
        *(f"warning: {warning}" for warning in manifest["warnings"]),
        f"virtual shards: {manifest['vshards']:,}{tars}; full description: {mixture.uri}/{MANIFEST}",
    )


def _build_share_rows(manifest: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, float]]]:
    """Build (name, target, share in every unit): each modality, then everything else that the recipe constrains."""
    constraints = {(constraint["column"], constraint["value"]): constraint for constraint in manifest["constraints"]}
    rows: list[tuple[str, str, Mapping[str, float]]] = []
    for modality in manifest["achieved"]["samples"]:
        constraint = constraints.pop(("modality", modality), None)
        achieved = {str(unit): float(manifest["achieved"][unit][modality]) for unit in UNITS}
        rows.append((modality, "" if constraint is None else _format_target(constraint), achieved))
    rows += [(f"{column} {category}", _format_target(constraint), constraint["achieved"])
             for (column, category), constraint in constraints.items()]  # fmt: skip
    return rows


def _format_target(constraint: Mapping[str, Any]) -> str:
    low, high = 100 * constraint["low"], 100 * constraint["high"]
    return f"{low:g} %" if low == high else f"{low:g} to {high:g} %"
