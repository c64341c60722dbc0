import itertools
from collections import defaultdict
from collections.abc import Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotators.dialogues.assignment import KindTable, assign_kind, solve_probabilities
from annotators.dialogues.kinds import SHARES

Classes = Mapping[frozenset[str], int]


def f(*names: str) -> frozenset[str]:
    return frozenset(names)


def expected_shares(counts: Classes, table: KindTable) -> dict[str, float]:
    """The expected share of each kind over all videos that get a dialogue."""
    expected: defaultdict[str, float] = defaultdict(float)
    for supported, count in counts.items():
        for name, probability in table[supported].items():
            expected[name] += count * probability
    return {name: amount / (sum(expected.values()) or 1) for name, amount in expected.items()}


def deviation(counts: Classes, shares: Mapping[str, float]) -> float:
    """Sum over the kinds of |expected - target| under the odds found."""
    table = solve_probabilities(counts, shares)
    got = expected_shares(counts, table)
    total = sum(shares.values())
    return sum(abs(got.get(name, 0.0) - share / total) for name, share in shares.items())


def least_deviation(counts: Classes, shares: Mapping[str, float]) -> float:
    """By brute force over all sets of kinds: what a set's kinds want at most, and what videos outside can take instead
    (max-flow is min-cut, so twice what does not flow is the least deviation)."""
    names = [name for name, share in shares.items() if share > 0]
    target = {name: shares[name] / sum(shares.values()) for name in names}
    usable = {c & set(names): 0 for c in counts if c & set(names)}
    for c, n in counts.items():
        if c & set(names):
            usable[c & set(names)] += n
    total = sum(usable.values())
    flows = []
    for size in range(len(names) + 1):
        for cut in itertools.combinations(names, size):
            outside = sum(n for c, n in usable.items() if not c <= set(cut)) / total
            flows.append(sum(target[name] for name in cut) + outside)
    return 2 * (1 - min(flows))


def test_videos_that_support_every_kind_get_the_target_shares() -> None:
    counts = {frozenset(SHARES): 1000}
    table = solve_probabilities(counts, SHARES)
    total = sum(SHARES.values())
    assert table[frozenset(SHARES)] == pytest.approx({name: share / total for name, share in SHARES.items()}, abs=1e-8)


def test_rare_kinds_are_assigned_more_often_where_they_are_possible() -> None:
    counts = {f("a", "b"): 900, f("a", "b", "c"): 100}
    table = solve_probabilities(counts, {"a": 50, "b": 45, "c": 5})
    assert table[f("a", "b", "c")]["c"] == pytest.approx(0.5)
    assert expected_shares(counts, table) == pytest.approx({"a": 0.5, "b": 0.45, "c": 0.05})
    # What is left over is shared as near to the shares as can be.
    assert table[f("a", "b")]["a"] == pytest.approx(0.5, abs=0.03)


def test_impossible_shares_are_approached_as_closely_as_possible() -> None:
    counts = {f("a"): 90, f("a", "b"): 10}
    table = solve_probabilities(counts, {"a": 50, "b": 50})
    assert table == {f("a"): {"a": 1.0}, f("a", "b"): {"a": 0.0, "b": 1.0}}


def test_videos_that_support_nothing_get_nothing_and_do_not_count() -> None:
    counts = {f(): 50, f("a", "b"): 10, f("z"): 3}
    table = solve_probabilities(counts, {"a": 1, "b": 1, "z": 0})
    assert table[f()] == table[f("z")] == {}
    assert table[f("a", "b")] == pytest.approx({"a": 0.5, "b": 0.5})
    assert expected_shares(counts, table) == pytest.approx({"a": 0.5, "b": 0.5})


def test_a_class_without_videos_has_probabilities_too() -> None:
    table = solve_probabilities({f("a", "b"): 0}, {"a": 3, "b": 1})
    assert table[f("a", "b")] == pytest.approx({"a": 0.75, "b": 0.25})
    assert solve_probabilities({}, {"a": 1}) == {}


def test_wrong_numbers_are_refused() -> None:
    for shares in ({"a": -1.0, "b": 2.0}, {"a": 0.0}, {}, {"a": float("nan")}):
        with pytest.raises(ValueError, match="shares"):
            solve_probabilities({f("a"): 1}, shares)
    with pytest.raises(ValueError, match="counts"):
        solve_probabilities({f("a"): -1}, {"a": 1})


NAMES = "abcde"
classes = st.dictionaries(st.frozensets(st.sampled_from(NAMES)), st.integers(0, 1000), min_size=1, max_size=8)
targets = st.dictionaries(st.sampled_from(NAMES), st.floats(0, 50), min_size=1).filter(lambda s: sum(s.values()) > 0.01)


@given(classes, targets)
def test_probabilities_sum_to_one_and_deviate_least_from_the_shares(
    counts: Classes, shares: Mapping[str, float]
) -> None:
    table = solve_probabilities(counts, shares)
    assert table.keys() == counts.keys()
    for supported, odds in table.items():
        allowed = {name for name in supported if shares.get(name, 0) > 0}
        assert odds.keys() == allowed
        assert all(0 <= p <= 1 for p in odds.values())
        assert sum(odds.values()) == pytest.approx(1 if allowed else 0, abs=1e-8)
    if sum(n for c, n in counts.items() if table[c]):
        assert deviation(counts, shares) == pytest.approx(least_deviation(counts, shares), abs=1e-6)


@given(classes, targets, st.randoms(use_true_random=False))
def test_the_order_of_the_counts_does_not_matter(counts: Classes, shares: Mapping[str, float], chance: object) -> None:
    shuffled = list(counts.items())
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert solve_probabilities(dict(shuffled), shares) == solve_probabilities(counts, shares)


# Drawing


def test_draws_follow_the_probabilities() -> None:
    table = {f("a", "b", "c"): {"a": 0.6, "b": 0.3, "c": 0.1}}
    keys = [f"key{i}" for i in range(20_000)]
    drawn = [assign_kind(key, f("a", "b", "c"), table, 7) for key in keys]
    shares = {name: drawn.count(name) / len(drawn) for name in "abc"}
    assert shares == pytest.approx(table[f("a", "b", "c")], abs=0.015)
    assert drawn == [assign_kind(key, f("a", "b", "c"), table, 7) for key in keys]
    assert drawn != [assign_kind(key, f("a", "b", "c"), table, 8) for key in keys]


def test_a_data_set_meets_its_shares() -> None:
    rng = np.random.default_rng(3)
    videos = {}
    for i in range(10_000):
        videos[f"v{i}"] = frozenset(
            n for n, p in zip(SHARES, (1, 0.9, 1, 0.5, 0.04, 0.05), strict=True) if rng.random() < p
        )
    counts: dict[frozenset[str], int] = {}
    for supported in videos.values():
        counts[supported] = counts.get(supported, 0) + 1
    table = solve_probabilities(counts, SHARES)
    drawn = [assign_kind(key, supported, table, 0) for key, supported in videos.items()]
    for name, share in SHARES.items():
        target = share / sum(SHARES.values())
        assert drawn.count(name) / len(drawn) == pytest.approx(target, abs=4 * (target * (1 - target) / 10_000) ** 0.5)


def test_a_rounding_remainder_goes_to_the_last_kind() -> None:
    table = {f("a", "b"): {"a": 0.0, "b": 0.999999999}}
    assert {assign_kind(f"k{i}", f("a", "b"), table, 0) for i in range(100)} == {"b"}


def test_a_video_that_supports_no_kind_cannot_be_assigned() -> None:
    with pytest.raises(ValueError, match="no kind"):
        assign_kind("k", f(), {f(): {}}, 0)
    with pytest.raises(KeyError):
        assign_kind("k", f("a"), {}, 0)
