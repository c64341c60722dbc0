"""mix: plan a mixture of finished runs by a recipe and write it as a manifest. No media are opened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from infra import storage
from infra.beam import Runner
from infra.commit import lock
from infra.errors import ConfigError
from infra.hashing import canonical_json
from mixtures.plan.recipe import Recipe
from mixtures.shards import emit
from mixtures.shards.manifest import MANIFEST, Mixture, encode_members, is_mixture, rewrite_manifest, write_members
from pipelines.core.run import LOCAL
from pipelines.mix import materialize as tars
from pipelines.mix import mixture_summary, plan_mixture
from pipelines.mix.mixture_card import write_cards
from pipelines.mix.mixture_damage import has_members, is_on_card, keep_damaged_copies, read_existing


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
    Files that are damaged are set aside and written anew. Raises ConfigError where `out` contains another mixture
    (unless `replace`) or anything that is not a mixture, StageError where only `materialize` makes a tar again.
    """
    _check_folder(out, replace)
    planned = plan_mixture.plan_mixture(runs, recipe, out, runner=runner, quiet=quiet)
    existing = read_existing(out)
    members = encode_members(planned.members)
    is_same = existing is None or _is_same(out, existing, planned.manifest, members)
    if not is_same and not replace:
        raise ConfigError(
            f"{out} holds another mixture: {_describe_difference(existing or {}, planned.manifest)}",
            where="--out",
            hint="give a new folder (a mixture copies no media), or --replace",
        )
    with lock(out):
        if not is_same:
            _remove_mixture(out)
        keep_damaged_copies(out, existing if is_same else None, members)
        mixture = write_members(out, planned.manifest, members, planned.members.num_rows)
        listed = tars.verify_tars(mixture, existing if is_same and existing else {}, must_exist=not materialize)
        mixture = rewrite_manifest(out, {**mixture.manifest, "materialized": listed})
        if materialize:
            mixture = tars.materialize(mixture, runner=runner, quiet=quiet)
        storage.write_bytes(storage.join(out, mixture_summary.README), mixture_summary.build_readme(mixture).encode())
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


def _is_same(out: str, existing: Mapping[str, Any], planned: Mapping[str, Any], members: bytes) -> bool:
    """Whether a folder contains the planned mixture: the same recipe and runs, or, where mixture.json is damaged, the
    same samples in the same order."""
    if existing and _identify(existing) == _identify(planned):
        return True
    return not is_on_card(out) and has_members(out, members)


def _identify(manifest: Mapping[str, Any]) -> bytes:
    """Identity of a mixture: its recipe and its runs."""
    return canonical_json([manifest["recipe"], [parent["members"] for parent in manifest["parents"]]])


def _describe_difference(existing: Mapping[str, Any], planned: Mapping[str, Any]) -> str:
    if not existing:
        return f"{MANIFEST} is damaged, and the samples are others than those of this recipe and these runs"
    if existing.get("recipe") == planned["recipe"]:
        return "of the same recipe, over other runs or runs that have changed"
    keys = [key for key in planned["recipe"] if (existing.get("recipe") or {}).get(key) != planned["recipe"][key]]
    return f"its recipe differs in {', '.join(keys)}"


def _remove_mixture(out: str) -> None:
    """Remove a mixture that --replace replaces, so that none of its tars is mistaken for a new one."""
    for name in (MANIFEST, "shards", "cards", "work", "llava", ".nv-meta"):
        storage.remove(storage.join(out, name))
