"""Assign a kind of dialogue to each video, so that the kinds meet target shares over the whole data set although not
every video supports every kind.

Two steps, as in resampling: counts over all videos give the probability of each kind for each set of supported kinds;
then each video gets a deterministic pseudo-random draw per key, which depends on its key, the kinds that it supports
and the probabilities only.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from infra.hashing import draw_fractions

Kinds = frozenset[str]
#: Set of supported kinds -> kind -> probability.
KindTable = Mapping[Kinds, Mapping[str, float]]


def solve_probabilities(counts: Mapping[Kinds, int], shares: Mapping[str, float]) -> KindTable:
    """Return the probabilities of the kinds (adding up to 1) for each class of videos, named by the kinds they support.

    counts: videos in each class. shares: target of each kind, in any unit, >= 0; a kind with share 0 is never drawn,
    and a class that supports only such kinds gets {}. In expectation, over all videos that get a dialogue, the shares
    are met exactly if possible; if not, the sum of all deviations from them is minimal (a transport problem). Among
    all such solutions it is the one that stays nearest to the shares within each class, likewise in sum. Rounded to 9
    decimals. Raises ValueError for negative counts or shares, or if no share is positive.
    """
    if any(not share >= 0 for share in shares.values()) or not any(share > 0 for share in shares.values()):
        raise ValueError("shares must not be negative, and one must be positive")
    if any(count < 0 for count in counts.values()):
        raise ValueError("counts must not be negative")
    targets = {name: float(share) for name, share in sorted(shares.items()) if share > 0}
    eligible = {supported: tuple(name for name in targets if name in supported) for supported in counts}
    classes: dict[tuple[str, ...], int] = {}
    for supported, names in eligible.items():
        if names:
            classes[names] = classes.get(names, 0) + counts[supported]
    solution = _solve(dict(sorted(classes.items())), targets)
    return {supported: solution.get(names, {}) for supported, names in eligible.items()}


def assign_kind(key: str, supported: Kinds, table: KindTable, seed: int) -> str:
    """Return the kind of one video, drawn by (seed, key). Raises KeyError for a class that is not in the table, and
    ValueError for one without probabilities."""
    probabilities = table[supported]
    candidates = [name for name in sorted(probabilities) if probabilities[name] > 0]
    if not candidates:
        raise ValueError(f"no kind can be drawn for a video that supports {sorted(supported)}")
    draw = float(draw_fractions(seed, [key], "kind")[0])
    for name in candidates:
        draw -= probabilities[name]
        if draw < 0:
            return name
    return candidates[-1]  # the remainder of rounding


def _solve(
    classes: Mapping[tuple[str, ...], int], targets: Mapping[str, float]
) -> Mapping[tuple[str, ...], Mapping[str, float]]:
    from scipy.optimize import linprog

    total = sum(targets.values())
    target = np.array(list(targets.values())) / total
    # A class without videos still gets probabilities: those of the shares.
    priors = {names: {name: targets[name] / sum(targets[n] for n in names) for name in names} for names in classes}
    filled = {names: count for names, count in classes.items() if count}
    pairs = [(row, name) for row, names in enumerate(filled) for name in names]
    if not pairs:
        return priors
    weight = np.array(list(filled.values()), dtype=float)
    weight /= weight.sum()
    index = {name: i for i, name in enumerate(targets)}
    n, k = len(pairs), len(targets)

    # Unknowns: p of each pair; over and under of each kind, its mass being target + over - under; and, in the second
    # problem, more and less of each pair, p being its prior + more - less.
    of_class = np.zeros((len(filled), n))
    of_kind = np.zeros((k, n))
    prior = np.zeros(n)
    for column, (row, name) in enumerate(pairs):
        of_class[row, column] = 1
        of_kind[index[name], column] = weight[row]
        prior[column] = priors[list(filled)[row]][name]
    equal = np.block([[of_class, np.zeros((len(filled), 2 * k))], [of_kind, -np.eye(k), np.eye(k)]])
    right = np.concatenate([np.ones(len(filled)), target])
    deviation = np.concatenate([np.zeros(n), np.ones(2 * k)])
    first = linprog(deviation, A_eq=equal, b_eq=right, bounds=(0, None), method="highs-ds")
    if first.status:
        raise ArithmeticError(f"no probabilities of the kinds of dialogues: {first.message}")

    rows = np.array([weight[row] for row, _ in pairs])
    equal = np.block([[equal, np.zeros((len(right), 2 * n))], [np.eye(n), np.zeros((n, 2 * k)), -np.eye(n), np.eye(n)]])
    right = np.concatenate([right, prior])
    limit = np.concatenate([deviation, np.zeros(2 * n)])[None, :]
    cost = np.concatenate([np.zeros(n + 2 * k), rows, rows])
    second = linprog(cost, A_ub=limit, b_ub=[first.fun], A_eq=equal, b_eq=right, bounds=(0, None), method="highs-ds")
    solution = second.x if not second.status else first.x
    table = dict(priors)
    for row, names in enumerate(filled):
        p = np.array([max(solution[i], 0.0) for i, pair in enumerate(pairs) if pair[0] == row])
        p = np.round(p / p.sum(), 9)
        table[names] = dict(zip(names, p.tolist(), strict=True))
    return table
