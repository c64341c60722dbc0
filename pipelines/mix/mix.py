"""mix: a recipe and finished runs -> a mixture, as a manifest. No medium is opened."""

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
    """Plan a mixture of finished runs and write it to `out`; `formats`: what else to write beside it (emit.FORMATS).

    The folder's mixture of the same recipe over the same runs is written again, to the same bytes; a folder that holds
    anything else is left alone.
    Raises ConfigError where `out` holds another mixture (unless `replace`) or something that is none.
    """
    _check_folder(out, replace)
    planned = plan_mixture.plan_mixture(runs, recipe, out, runner=runner, quiet=quiet)
    held = _held(out)
    if held is not None and not replace and _identity(held) != _identity(planned.manifest):
        raise ConfigError(
            f"{out} holds another mixture: {_difference(held, planned.manifest)}",
            where="--out",
            hint="give a new folder (a mixture copies no media), or --replace",
        )
    with lock(out):
        mixture = _write(out, planned, held)
        if materialize:
            from pipelines.mix import materialize as tars

            mixture = tars.materialize(mixture, runner=runner, quiet=quiet)
        storage.write_bytes(storage.join(out, "README.md"), mixture_summary.build_readme(mixture).encode())
        write_cards(mixture)
        for form in formats:
            {"energon": emit.write_energon, "llava": emit.write_llava}[form](mixture)
    return mixture


def _check_folder(out: str, replace: bool) -> None:
    if not storage.exists(out) or is_mixture(out):
        return
    if storage.is_file(out):
        raise ConfigError("this is a file, not a folder", where=out)
    found = [
        name
        for name in (*storage.list_names(out), *storage.list_folders(out))
        if name not in ("work", "members.parquet")
    ]
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


def _write(out: str, planned: plan_mixture.PlannedMixture, held: Mapping[str, Any] | None) -> Mixture:
    if held is not None and _identity(held) != _identity(planned.manifest):
        # Asked for by --replace: what was there ends first, so that no tar of it is taken for one of the new mixture.
        storage.remove(storage.join(out, MANIFEST))
        for name in ("shards", "cards", "work", "llava", ".nv-meta"):
            storage.remove(storage.join(out, name))
    return write_mixture(out, planned.manifest, planned.members)
