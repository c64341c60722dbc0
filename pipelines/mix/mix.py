"""mix: plan a mixture of finished runs by a recipe and write it as a manifest. No media are opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra import storage
from infra.beam import Runner
from infra.commit import lock, read_json
from infra.errors import ConfigError
from infra.hashing import canonical_json
from mixtures.plan.recipe import Recipe
from mixtures.shards import emit
from mixtures.shards.manifest import MANIFEST, Mixture, is_mixture, write_mixture
from pipelines.core.run import LOCAL
from pipelines.mix import mixture_summary, plan_mixture
from pipelines.mix.mixture_card import write_cards


def run(
    runs: Sequence[str],
    recipe: Recipe,
    out: str,
    *,
    replace: bool = False,
    materialize: bool = False,
    formats: Sequence[str] = (),
    runner: Runner = LOCAL,
    quiet: bool = False,
) -> Mixture:
    """Plan a mixture of finished runs and write it to `out`; formats: to write beside it (emit.FORMATS).

    A mixture of the same recipe and runs is written again, to the same bytes; other contents are never overwritten.
    Raises ConfigError where `out` contains another mixture (unless `replace`) or anything that is not a mixture.
    """
    _check_folder(out, replace)
    planned = plan_mixture.plan_mixture(runs, recipe, out, runner=runner, quiet=quiet)
    existing = _read_existing(out)
    if existing is not None and not replace and _identify(existing) != _identify(planned.manifest):
        raise ConfigError(
            f"{out} holds another mixture: {_describe_difference(existing, planned.manifest)}",
            where="--out",
            hint="give a new folder (a mixture copies no media), or --replace",
        )
    with lock(out):
        mixture = _write(out, planned, existing)
        if materialize:
            from pipelines.mix import materialize as tars

            mixture = tars.materialize(mixture, runner=runner, quiet=quiet)
        storage.write_bytes(storage.join(out, "README.md"), mixture_summary.build_readme(mixture).encode())
        write_cards(mixture)
        for name in formats:
            {"energon": emit.write_energon, "llava": emit.write_llava}[name](mixture)
    return mixture


def _check_folder(out: str, replace: bool) -> None:
    if not storage.exists(out) or is_mixture(out):
        return
    if storage.is_file(out):
        raise ConfigError("this is a file, not a folder", where=out)
    foreign = [
        name
        for name in (*storage.list_names(out), *storage.list_folders(out))
        if name not in ("work", "members.parquet")
    ]
    if foreign:
        raise ConfigError(
            f"this folder holds something that is no mixture ({foreign[0]}, …)", where=out, hint="give a new --out"
        )


def _read_existing(out: str) -> dict[str, Any] | None:
    return dict(read_json(storage.join(out, MANIFEST))) if is_mixture(out) else None


def _identify(manifest: Mapping[str, Any]) -> bytes:
    """Identity of a mixture: its recipe and its runs."""
    return canonical_json([manifest["recipe"], [parent["members"] for parent in manifest["parents"]]])


def _describe_difference(existing: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    if existing.get("recipe") == planned["recipe"]:
        return "of the same recipe, over other runs or runs that have changed"
    keys = [key for key in planned["recipe"] if (existing.get("recipe") or {}).get(key) != planned["recipe"][key]]
    return f"its recipe differs in {', '.join(keys)}"


def _write(out: str, planned: plan_mixture.PlannedMixture, existing: Mapping[str, Any] | None) -> Mixture:
    if existing is not None and _identify(existing) != _identify(planned.manifest):
        # Requested by --replace: the old mixture is removed first, so that none of its tars is mistaken for a new one.
        storage.remove(storage.join(out, MANIFEST))
        for name in ("shards", "cards", "work", "llava", ".nv-meta"):
            storage.remove(storage.join(out, name))
    return write_mixture(out, planned.manifest, planned.members)
