"""Which kind of dialogue each video gets, so that the kinds come in given shares over the whole data set although not
every video supports every kind.

Two steps, as in resampling: counts over everything first, from them the odds of each kind for each set of supported
kinds, and then one keyed draw a video, which depends on nothing but its key, what it supports, and the odds.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from infra.hashing import draw_fractions

Kinds = frozenset[str]


def solve_probabilities(
    counts: Mapping[Kinds, int], shares: Mapping[str, float]
) -> Mapping[Kinds, Mapping[str, float]]:
    """For each class of videos, named by the kinds they support: kind -> probability, adding up to 1.

    counts: videos in each class. shares: target of each kind, in any unit, >= 0; what has none is never drawn, and a
    class that supports only such kinds gets {}. In expectation over all videos that get a dialogue the shares are met
    exactly where that can be; where not, the sum of all deviations from them is as small as possible (a transport
    problem). Among all such odds those are taken that stay nearest to the shares within each class, likewise in sum.
    Rounded to 9 decimals. Raises ValueError for negative counts or shares, or when no share is positive.
    """
    if any(not share >= 0 for share in shares.values()) or not any(share > 0 for share in shares.values()):
        raise ValueError("shares must not be negative, and one must be positive")
    if any(count < 0 for count in counts.values()):
        raise ValueError("counts must not be negative")
    wanted = {name: float(share) for name, share in sorted(shares.items()) if share > 0}
    offered = {supported: tuple(name for name in wanted if name in supported) for supported in counts}
    classes: dict[tuple[str, ...], int] = {}
    for supported, names in offered.items():
        if names:
            classes[names] = classes.get(names, 0) + counts[supported]
    solved = _solved(dict(sorted(classes.items())), wanted)
    return {supported: solved.get(names, {}) for supported, names in offered.items()}


def compute_expected_shares(
    counts: Mapping[Kinds, int], table: Mapping[Kinds, Mapping[str, float]]
) -> Mapping[str, float]:
    """The shares (0 to 1) of the kinds that these odds give in expectation, over all videos that get a dialogue."""
    mass: dict[str, float] = {}
    for supported in sorted(counts, key=sorted):
        for name, p in table[supported].items():
            mass[name] = mass.get(name, 0.0) + counts[supported] * p
    total = sum(mass.values())
    return {name: value / total if total else 0.0 for name, value in sorted(mass.items())}


def assign_kind(key: str, supported: Kinds, table: Mapping[Kinds, Mapping[str, float]], seed: int) -> str:
    """The kind of one video: one draw from (seed, key). Raises KeyError for a class that is not in the table, and
    ValueError for one without odds."""
    odds = table[supported]
    possible = [name for name in sorted(odds) if odds[name] > 0]
    if not possible:
        raise ValueError(f"no kind can be drawn for a video that supports {sorted(supported)}")
    draw = float(draw_fractions(seed, [key], "kind")[0])
    for name in possible:
        draw -= odds[name]
        if draw < 0:
            return name
    return possible[-1]  # what rounding left over


def _solved(
    classes: Mapping[tuple[str, ...], int], wanted: Mapping[str, float]
) -> Mapping[tuple[str, ...], Mapping[str, float]]:
    from scipy.optimize import linprog

    total = sum(wanted.values())
    target = np.array(list(wanted.values())) / total
    # A class without videos still gets odds: those of the shares.
    usual = {names: {name: wanted[name] / sum(wanted[n] for n in names) for name in names} for names in classes}
    filled = {names: count for names, count in classes.items() if count}
    pairs = [(row, name) for row, names in enumerate(filled) for name in names]
    if not pairs:
        return usual
    weight = np.array(list(filled.values()), dtype=float)
    weight /= weight.sum()
    place = {name: i for i, name in enumerate(wanted)}
    n, k = len(pairs), len(wanted)

    # Unknowns: p of each pair; over and under of each kind, its mass being target + over - under; and, in the second
    # problem, more and less of each pair, p being its usual odds + more - less.
    of_class = np.zeros((len(filled), n))
    of_kind = np.zeros((k, n))
    prior = np.zeros(n)
    for column, (row, name) in enumerate(pairs):
        of_class[row, column] = 1
        of_kind[place[name], column] = weight[row]
        prior[column] = usual[list(filled)[row]][name]
    equal = np.block([[of_class, np.zeros((len(filled), 2 * k))], [of_kind, -np.eye(k), np.eye(k)]])
    value = np.concatenate([np.ones(len(filled)), target])
    deviation = np.concatenate([np.zeros(n), np.ones(2 * k)])
    first = linprog(deviation, A_eq=equal, b_eq=value, bounds=(0, None), method="highs-ds")
    if first.status:
        raise ArithmeticError(f"the odds of kinds could not be found: {first.message}")

    rows = np.array([weight[row] for row, _ in pairs])
    equal = np.block([[equal, np.zeros((len(value), 2 * n))], [np.eye(n), np.zeros((n, 2 * k)), -np.eye(n), np.eye(n)]])
    value = np.concatenate([value, prior])
    limit = np.concatenate([deviation, np.zeros(2 * n)])[None, :]
    cost = np.concatenate([np.zeros(n + 2 * k), rows, rows])
    second = linprog(cost, A_ub=limit, b_ub=[first.fun], A_eq=equal, b_eq=value, bounds=(0, None), method="highs-ds")
    found = second.x if not second.status else first.x
    result = dict(usual)
    for row, names in enumerate(filled):
        p = np.array([max(found[i], 0.0) for i, pair in enumerate(pairs) if pair[0] == row])
        p = np.round(p / p.sum(), 9)
        result[names] = dict(zip(names, p.tolist(), strict=True))
    return result
