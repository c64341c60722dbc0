from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from infra.errors import StageError
from mixtures.plan import planner
from mixtures.plan.groups import Constraint, Groups, build_constraints
from mixtures.plan.linear_program import Program
from mixtures.plan.planner import Stock
from mixtures.plan.recipe import Recipe


def stock(cells: dict[str, int], amount: float | None = None, largest: float = 1.0) -> Stock:
    """Cells named "modality" or "modality/source", with so many samples, each of the same amount."""
    count = np.array(list(cells.values()), dtype=np.int64)
    each = 1.0 if amount is None else amount
    return Stock(count * each, np.full(len(count), largest), count, [n.split("/")[0] for n in cells], list(cells))


def constraints(cells: dict[str, int], **recipe: Any) -> list[Constraint]:
    parsed = Recipe(**recipe)
    values = [{"modality": name.split("/")[0], "source": [*name.split("/"), "-"][1]} for name in cells]
    cell_columns = tuple({column: cell[column] for column in parsed.columns} for cell in values)
    sources = sorted({cell["source"] for cell in values})
    return build_constraints(Groups(np.zeros(0, dtype=np.int32), cell_columns), parsed, sources)


def plan(cells: dict[str, int], *, size: int | str | None = None, repeats: int = 1, **recipe: Any) -> dict[str, int]:
    asked = constraints(cells, **recipe)
    amounts = planner.plan_amounts(stock(cells), asked, unit="samples", size=size, repeats=repeats)
    assert (amounts == np.round(amounts)).all() and (amounts >= 0).all()
    return dict(zip(cells, amounts.astype(int).tolist(), strict=True))


def measure_violation(n: NDArray[np.float64], asked: list[Constraint]) -> Any:
    """By how many samples the worst constraint is missed: of a mixture (cells,), or of each of (n, cells)."""
    worst = np.zeros(n.shape[:-1])
    total = n.sum(axis=-1)
    for constraint in asked:
        achieved = n @ constraint.weights
        if math.isfinite(constraint.low):
            worst = np.maximum(worst, constraint.low * total - achieved)
        if math.isfinite(constraint.high):
            worst = np.maximum(worst, achieved - constraint.high * total)
    return worst


def is_near(n: NDArray[np.float64], others: NDArray[np.float64]) -> bool:
    """Whether one of the others differs from n by no more than a sample a cell."""
    return bool((np.abs(others - n).max(axis=1, initial=0) <= 1).any())


MODALITIES = ("video", "image", "text")


@st.composite
def planning_problems(draw: st.DrawFn) -> tuple[dict[str, int], dict[str, Any]]:
    cells = {name: draw(st.integers(0, 9)) for name in MODALITIES}
    assume(sum(cells.values()))
    bands = {}
    for name in draw(st.sets(st.sampled_from(MODALITIES), max_size=3)):
        low = draw(st.integers(0, 8)) / 10
        bands[name] = (low, min(1.0, low + draw(st.integers(0, 6)) / 10))
    assume(sum(low for low, _ in bands.values()) <= 1)
    ratios = []
    if draw(st.booleans()):
        low = draw(st.integers(1, 20)) / 10
        ratios = [{"of": "video", "to": "image", "between": (low, low + draw(st.integers(0, 10)) / 10)}]
    return cells, {"shares": {"modality": bands}, "ratios": ratios}


def enumerate_mixtures(most: list[int], asked: list[Constraint]) -> NDArray[np.float64]:
    """All mixtures that keep every constraint exactly."""
    amounts = np.array(list(itertools.product(*(range(n + 1) for n in most))), dtype=float)
    return amounts[(measure_violation(amounts, asked) < 1e-9) & (amounts.sum(axis=1) > 0)]


@settings(max_examples=40)
@given(planning_problems(), st.integers(1, 2))
def test_the_largest_mixture_is_no_smaller_than_the_best_of_all_and_keeps_its_bands(
    world: tuple[dict[str, int], dict[str, Any]], repeats: int
) -> None:
    cells, recipe = world
    asked = constraints(cells, **recipe)
    exact = enumerate_mixtures([n * repeats for n in cells.values()], asked)
    best = exact.sum(axis=1).max(initial=0)
    try:
        mixture = plan(cells, size="max", repeats=repeats, **recipe)
    except StageError:
        assert not len(exact)
        return
    n = np.array(list(mixture.values()), dtype=float)
    assert n.sum() >= best and (n <= [c * repeats for c in cells.values()]).all()
    assert measure_violation(n, asked) < len(cells) + 1e-9
    if is_near(n, exact[exact.sum(axis=1) == n.sum()]):  # where whole numbers nearby can keep every band, they do
        assert measure_violation(n, asked) < 1e-6


@settings(max_examples=40)
@given(planning_problems(), st.integers(1, 30), st.integers(1, 2))
def test_a_mixture_of_a_size_has_that_size_the_fewest_repeats_and_its_bands(
    world: tuple[dict[str, int], dict[str, Any]], size: int, repeats: int
) -> None:
    cells, recipe = world
    asked = constraints(cells, **recipe)
    exact = enumerate_mixtures([n * repeats for n in cells.values()], asked)
    exact = exact[exact.sum(axis=1) == size]
    try:
        mixture = plan(cells, size=size, repeats=repeats, **recipe)
    except StageError:
        assert not len(exact)
        return
    n, once = np.array(list(mixture.values()), dtype=float), np.array(list(cells.values()))
    assert n.sum() == size and (n <= once * repeats).all() and measure_violation(n, asked) < len(cells) + 1e-9
    if is_near(n, exact):
        assert measure_violation(n, asked) < 1e-6
        fewest = np.maximum(exact - once, 0).sum(axis=1).min()
        assert np.maximum(n - once, 0).sum() <= fewest + len(cells)  # within rounding


def plain_ratios() -> st.SearchStrategy[list[int]]:
    """Percentages of four modalities that sum to 100."""
    cuts = st.sets(st.integers(1, 99), min_size=3, max_size=3).map(sorted)
    return cuts.map(lambda cut: [cut[0], cut[1] - cut[0], cut[2] - cut[1], 100 - cut[2]])


@settings(max_examples=60)
@given(
    plain_ratios(),
    st.lists(st.sampled_from([5, 12, 50, 300, 1000, 3000, 20000, 10**7]), min_size=4, max_size=4),
    st.one_of(st.none(), st.floats(0, 1.2)),
)
def test_a_plain_ratio_is_refused_exactly_where_whole_arithmetic_says_that_data_are_missing(
    percent: list[int], counts: list[int], fraction: float | None
) -> None:
    """size · percent ≤ 100 · stock for every modality, in integers, or the refusal is right."""
    cells = dict(zip(("video", "image", "multi_image", "text"), counts, strict=True))
    shares = {name: share / 100 for name, share in zip(cells, percent, strict=True)}
    largest = min(100 * count // share for count, share in zip(counts, percent, strict=True))
    size = None if fraction is None else max(1, round(largest * fraction))
    expected = largest if size is None else size
    try:
        mixture = plan(cells, size=size, shares={"modality": shares})
    except StageError as error:
        assert expected > largest or expected == 0
        assert "missing at least" in str(error) and f"has {largest:,} samples" in str(error)
        return
    assert expected <= largest
    assert sum(mixture.values()) == expected
    for (name, amount), share in zip(mixture.items(), percent, strict=True):
        assert amount <= cells[name] and abs(100 * amount - share * expected) < 100  # within one sample
        assert share * expected % 100 or 100 * amount == share * expected


def test_every_size_up_to_the_largest_is_planned() -> None:
    cells = {"video": 335, "image": 433, "multi_image": 12, "text": 2670}
    shares = {"modality": {"video": 0.5, "image": 0.3, "multi_image": 0.08, "text": 0.12}}
    for size in (1, 50, *range(130, 151)):
        assert sum(plan(cells, size=size, shares=shares).values()) == size
    assert plan(cells, shares=shares) == {"video": 75, "image": 45, "multi_image": 12, "text": 18}


def test_exact_arithmetic_corrects_errors_of_the_solver(monkeypatch: pytest.MonkeyPatch) -> None:
    """HiGHS is replaced by one that finds every program infeasible, as a faulty version of it would."""
    monkeypatch.setattr(Program, "minimise", lambda self, cost: None)
    cells = {"video": 50, "image": 30, "multi_image": 8, "text": 12}
    asked = constraints(cells, shares={"modality": {"video": 0.5, "image": 0.3, "multi_image": 0.08, "text": 0.12}})
    rows = planner._to_rows(asked)
    shares = planner._find_shares(rows, stock(cells).amount, 100.0)
    assert shares is not None and (shares * 100).round(9).tolist() == [50, 30, 8, 12]
    assert planner._find_shares(rows, stock(cells).amount, 101.0) is None


def test_shares_that_sum_to_one_except_for_rounding_are_met() -> None:
    cells = {"video": 40, "image": 50, "text": 60}
    third = {"video": 0.333333, "image": 0.333333, "text": 0.333333}
    assert plan(cells, size=30, shares={"modality": third}) == {"video": 10, "image": 10, "text": 10}


def test_exact_shares_come_out_within_a_sample() -> None:
    cells = {"video": 1000, "image": 1000, "multi_image": 1000, "text": 1000}
    shares = {"text": 0.12, "image": 0.30, "multi_image": 0.18, "video": 0.40}
    for size in (1, 7, 99, 100, 1001, 1999):
        mixture = plan(cells, size=size, shares={"modality": shares})
        assert sum(mixture.values()) == size
        for name, share in shares.items():
            assert abs(mixture[name] - share * size) < 1
    assert plan(cells, size=100, shares={"modality": shares}) == {
        "video": 40,
        "image": 30,
        "multi_image": 18,
        "text": 12,
    }
    assert plan(cells, shares={"modality": shares})["video"] == 1000  # what runs out first says how large it can be


def test_the_default_recipe_plans_with_and_without_multi_image() -> None:
    from mixtures.plan.recipe import read_recipe

    apollo = read_recipe("apollo").model_dump(include={"shares", "ratios"})
    for more in ({}, {"multi_image": 50}):
        mixture = plan({"video": 335, "image": 433, "text": 2670, **more}, **apollo)
        total = sum(mixture.values())
        assert 0.10 <= mixture["text"] / total <= 0.14 and 1.05 <= mixture["video"] / mixture["image"] <= 1.6
        assert mixture["video"] == 335


def test_ranges_are_met_in_their_middle_where_possible() -> None:
    from mixtures.plan.recipe import read_recipe

    apollo = read_recipe("apollo").model_dump(include={"shares", "ratios"})
    mixture = plan({"video": 9000, "image": 9000, "multi_image": 900, "text": 9000}, size=1000, **apollo)
    assert mixture["text"] == 120 and abs(mixture["video"] - 1.325 * mixture["image"]) <= 2
    assert mixture["multi_image"] > 0  # a band from 0 has no middle to go to; it gets what the data have


def test_what_no_constraint_decides_is_drawn_at_one_rate() -> None:
    cells = {"video/x": 100, "video/y": 300, "image/x": 1000, "text/z": 600}
    assert plan(cells, size=1000) == {"video/x": 50, "video/y": 150, "image/x": 500, "text/z": 300}
    mixture = plan(cells, size=400, shares={"modality": {"video": 0.5}})
    assert (mixture["video/x"], mixture["video/y"]) == (50, 150)
    assert mixture["image/x"] == 125 and mixture["text/z"] == 75
    capped = plan(cells, size=400, shares={"modality": {"video": 0.5}, "source": {"y": (0.0, 0.25)}})
    assert capped == {"video/x": 100, "video/y": 100, "image/x": 125, "text/z": 75}


def test_no_source_has_more_than_its_cap() -> None:
    cells = {"video/x": 100, "video/y": 100, "video/z": 100, "text/t": 1000}
    mixture = plan(cells, size=200, max_source=0.3)
    assert max(mixture.values()) <= 60 and sum(mixture.values()) == 200
    with pytest.raises(StageError, match=r"max_source"):
        plan(cells, size=200, max_source=0.2)


def test_a_contradiction_names_the_constraints_that_make_it_and_no_others() -> None:
    cells = {"video/x": 100, "image/y": 100, "text/z": 100}
    recipe = {"shares": {"modality": {"text": (0.1, 0.2), "image": (0.3, 0.9)}, "source": {"x": 0.2}},
              "ratios": [{"of": "video", "to": "image", "between": (1.0, 2.0)}]}  # fmt: skip
    with pytest.raises(StageError) as caught:
        plan(cells, **recipe)
    message = caught.value.what
    assert "source x 20 %" in message and "video to image 1 to 2" in message and "image 30 % to 90 %" in message
    assert "text" not in message


def test_a_share_of_an_absent_value_is_an_error() -> None:
    with pytest.raises(StageError, match="requests absent data: modality multi_image 20 %") as caught:
        plan({"video": 10, "text": 10}, shares={"modality": {"multi_image": 0.2}})
    assert "video, text" in caught.value.hint
    assert plan({"video": 10, "text": 10}, shares={"modality": {"multi_image": (0.0, 0.2)}}) == {
        "video": 10,
        "text": 10,
    }


def test_the_error_on_missing_data_names_exactly_what_is_missing() -> None:
    cells = {"video": 30, "image": 100, "text": 5}
    recipe = {"shares": {"modality": {"video": 0.5, "image": 0.4, "text": 0.1}}}
    with pytest.raises(StageError) as caught:
        plan(cells, size=100, **recipe)
    assert "video: 20 samples more than the 30 available" in caught.value.hint
    assert "text: 5 samples more than the 5 available" in caught.value.hint
    assert "has 50 samples" in caught.value.hint and "image" not in caught.value.hint
    assert plan({"video": 50, "image": 100, "text": 10}, size=100, **recipe)["video"] == 50
    assert sum(plan(cells, size=50, **recipe).values()) == 50
    with pytest.raises(StageError, match="not enough data: 51 samples"):
        plan(cells, size=51, **recipe)
    assert sum(plan(cells, size=100, repeats=2, **recipe).values()) == 100


def test_in_other_units_bands_are_kept_off_their_ends_by_what_rounding_can_do() -> None:
    cells = {"video": 100, "image": 100, "text": 1000}
    asked = constraints(cells, shares={"modality": {"text": (0.1, 0.2)}})
    there = stock(cells, amount=50.0, largest=80.0)
    amounts = planner.plan_amounts(there, asked, unit="tokens", size=None, repeats=1)
    total = amounts.sum()
    assert amounts[2] + 40 <= 0.2 * (total - 40) + 0.01  # even where text is rounded up and all else down
    narrow = planner.plan_amounts(stock(cells, amount=50.0, largest=4000.0), asked, unit="tokens", size=2000, repeats=1)
    assert narrow[2] == pytest.approx(0.15 * 2000, rel=1e-3)  # narrower than a sample: its middle


def test_an_index_without_any_amount_in_the_unit_is_an_error() -> None:
    empty = Stock(np.zeros(1), np.zeros(1), np.array([5]), ["text"], ["text"])
    with pytest.raises(StageError, match="contain no seconds"):
        planner.plan_amounts(empty, [], unit="seconds", size=None, repeats=1)


def test_plans_over_many_cells_are_fast_and_exact() -> None:
    cells = {f"{modality}/{i}": 10 + i % 7 for modality in ("video", "image", "text") for i in range(100)}
    asked: dict[str, Any] = {"shares": {"modality": {"text": 0.12, "image": (0.3, 0.4)}}, "max_source": 0.02}
    mixture = plan(cells, size=500, **asked)
    assert sum(mixture.values()) == 500
    assert abs(sum(n for name, n in mixture.items() if name.startswith("text")) - 60) < 1
