"""Which rows survive the search for duplicates under changed settings, at least and at most."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa

from infra.columns import Mask, equals, to_strings
from infra.commit import need_manifest
from infra.errors import StageError
from infra.hashing import fingerprint, rows_fingerprint
from infra.media.interface import MODALITIES, VISUAL
from infra.store import Cells, align, content_ids
from pipelines.core.run import Run
from pipelines.core.verdicts import ALIVE
from pipelines.decide.decide import mask_survivors
from pipelines.decide.duplicates import duplicates
from pipelines.forecast.rejudge import UNDECIDED, WhatIf

#: A unit's name -> bool (n,): some of its rows.
UnitMask = Callable[[str], Mask]


def find_survivors(what_if: WhatIf, *, unchanged: bool, same_settings: bool) -> tuple[UnitMask, UnitMask]:
    """(at least, at most) the rows that pass their filters and are no duplicate of another.

    unchanged: the same rows pass their filters as in the run. same_settings: duplicates.* are as in the run. Duplicates
    are searched again where the store has all fingerprints; else the run's own groups give the bounds.
    Raises StageError where neither is possible.
    """
    run = what_if.run
    if not searched_modalities(what_if):

        def alive(name: str) -> Mask:
            return equals(what_if.judged(name)["outcome"], ALIVE)

        return alive, alive
    if unchanged and same_settings:
        base = replace(run, config=run.config.model_copy(update={"out": run.base}))
        return (_read_survivors(what_if, base),) * 2
    if all(_has_fingerprints(what_if, name) for name in what_if.names):
        duplicates.run(run, what_if.names, fingerprint("what-if"))
        if not unchanged:
            what_if.notes.append(
                "duplicates were searched again among rows that certainly pass; an undecided row that is a copy of "
                "members of two groups would merge them, which is not counted"
            )
        return (_read_survivors(what_if, run),) * 2
    if not same_settings:
        raise StageError(
            f"the store at {run.store} does not have the fingerprints that these duplicates.* settings need",
            hint="`reelmill run` with these settings and --out NEW measures them",
        )
    what_if.notes.append(
        f"the store at {run.store} does not have all fingerprints, so the run's groups of duplicates are used: of a "
        "group that lost members, between one and all of the rest may stay"
    )
    return _bound_by_groups(what_if)


def searched_modalities(what_if: WhatIf) -> list[str]:
    """Modalities in which the settings search for duplicates."""
    return [kind for kind in MODALITIES if what_if.resolved.duplicates.for_modality(kind) is not None]


def resampled_modalities(what_if: WhatIf) -> list[str]:
    """Modalities that the settings resample."""
    return [] if what_if.resolved.resample is None else sorted(what_if.resolved.resample.modalities)


def _read_survivors(what_if: WhatIf, run: Run) -> UnitMask:
    """The survivors according to RUN/duplicates of `run`."""

    def survivors(name: str) -> Mask:
        mask: Mask = mask_survivors(what_if.judged(name), duplicates.read_unit(run, name))
        return mask

    return survivors


def _has_fingerprints(what_if: WhatIf, name: str) -> bool:
    """Whether the store has the fingerprint of every row of a unit that takes part in the search."""
    judged, resolved = what_if.judged(name), what_if.resolved
    alive, modality = equals(judged["outcome"], ALIVE), to_strings(judged["modality"])
    ids = content_ids(what_if.run.read("samples", name, ["modality", "text", "media"]))
    for annotator, kinds in (("minhash", ("text",)), ("fingerprint", VISUAL)):
        searched = [kind for kind in kinds if resolved.duplicates.for_modality(kind) is not None]
        rows = np.flatnonzero(alive & np.isin(modality, searched))
        if len(rows):
            own_ids = ids[resolved.annotators[annotator].keyed_by]
            cells = Cells(what_if.run.store, annotator, resolved.makers[annotator]).read(rows_fingerprint(own_ids))
            if (align(own_ids.take(pa.array(rows)), cells) < 0).any():
                return False
    return True


# -- without fingerprints: the run's groups ---------------------------------------------------------------------


def _bound_by_groups(what_if: WhatIf) -> tuple[UnitMask, UnitMask]:
    groups = _read_groups(what_if)
    remaining = _remaining_members(what_if, groups)
    at_least, at_most = _bound_survivors(groups, remaining)
    resampled = resampled_modalities(what_if)
    open_groups = {groups[key][0] for key in at_most - at_least}

    def mask(name: str, survivors: set[str], hidden: set[int]) -> Mask:
        judged = what_if.judged(name)
        passes = [
            key not in groups or (key in survivors and not (kind in resampled and groups[key][0] in hidden))
            for key, kind in zip(judged["key"].to_pylist(), judged["modality"].to_pylist(), strict=True)
        ]
        alive: Mask = equals(judged["outcome"], ALIVE) & np.array(passes, dtype=bool)
        return alive

    # Which member of an open group stays decides what resampling does with it: at least none is kept.
    return (lambda name: mask(name, at_least, open_groups)), (lambda name: mask(name, at_most, set()))


def _read_groups(what_if: WhatIf) -> dict[str, tuple[int, str]]:
    """The run's groups of duplicates: key -> (component, key of the survivor)."""
    base = replace(what_if.run, config=what_if.run.config.model_copy(update={"out": what_if.run.base}))
    groups = {}
    for unit in need_manifest(what_if.run.base, "duplicates").units:
        for row in base.read("duplicates", unit.name, ["key", "component", "survivor"]).to_pylist():
            groups[row["key"]] = row["component"], row["survivor"]
    return groups


def _remaining_members(what_if: WhatIf, groups: dict[str, tuple[int, str]]) -> dict[int, list[str]]:
    """Members by component that still pass their filters. Rows that newly pass become undecided: they were never
    compared with any other."""
    remaining: dict[int, list[str]] = {}
    for name in what_if.names:
        judged = what_if.judged(name)
        outcome, deciding = to_strings(judged["outcome"]), to_strings(judged["filter"])
        new = (outcome == ALIVE) & ~what_if.was_alive(name)
        new &= np.isin(to_strings(judged["modality"]), searched_modalities(what_if))
        outcome[new], deciding[new] = UNDECIDED, "duplicates"
        what_if.write_judged(name, judged, outcome, deciding)
        for key in to_strings(judged["key"])[outcome == ALIVE].tolist():
            if key in groups:
                remaining.setdefault(groups[key][0], []).append(key)
    return remaining


def _bound_survivors(groups: dict[str, tuple[int, str]], remaining: dict[int, list[str]]) -> tuple[set[str], set[str]]:
    """Keys of the members that survive (at least, at most). A whole group keeps its survivor; a single remaining member
    survives; of any other group between one and all of the rest may."""
    sizes: dict[int, int] = {}
    for component, _ in groups.values():
        sizes[component] = sizes.get(component, 0) + 1
    at_least: set[str] = set()
    at_most: set[str] = set()
    for component, keys in remaining.items():
        survivor = groups[keys[0]][1]
        if len(keys) == sizes[component]:
            keys = [survivor]
        at_least.add(survivor if survivor in keys else min(keys))
        at_most.update(keys)
    return at_least, at_most
