"""The cascade as stages share it: its steps and fingerprint, and the cut-offs of filters that keep a share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from filters.rules import quantile_threshold
from infra.hashing import fingerprint
from pipelines.core.resolve import Resolved, Step, resolve
from pipelines.core.run import Run


def stage_steps(run: Run, stage: str) -> tuple[Step, ...]:
    """The steps of the stage "signals" (the cascade) or "late" (the late annotators)."""
    resolved = resolve(run)
    return resolved.late if stage == "late" else resolved.steps


def cascade_fingerprint(resolved: Resolved, steps: tuple[Step, ...]) -> str:
    """Fingerprint of what these steps measure and which rows they stop."""
    described = []
    for step in steps:
        question = None
        if step.filter is not None:
            question = [step.filter.name, step.filter.settings.model_dump(mode="json")]
        described.append([[[name, resolved.makers[name]] for name in step.annotators], question])
    return fingerprint(described)


def compute_cutoffs(run: Run, resolved: Resolved, units: Sequence[str]) -> dict[str, float]:
    """The score at which each filter that keeps a share of the rows cuts, over all measured rows."""
    cutoffs = {}
    for filter_ in resolved.filters:
        share = getattr(filter_.settings, "keep_top", None)
        if share is None:
            continue
        column = filter_.score_column
        scores = [np.asarray(run.read("signals", unit, [column])[column].drop_null()) for unit in units]
        cutoffs[filter_.name] = float(quantile_threshold(np.concatenate(scores), share))
    return cutoffs


def apply_cutoffs(resolved: Resolved, cutoffs: Mapping[str, float]) -> Resolved:
    """`resolved` with shares replaced by their cut-off scores."""
    if not cutoffs:
        return resolved
    steps = []
    for step in resolved.steps:
        if step.filter is not None and step.filter.name in cutoffs:
            step = Step(step.annotators, step.filter.with_settings(min_score=cutoffs[step.filter.name], keep_top=None))
        steps.append(step)
    return replace(resolved, steps=tuple(steps))
