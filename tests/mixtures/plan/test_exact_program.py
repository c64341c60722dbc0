from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mixtures.plan import exact_program
from mixtures.plan.exact_program import Row


def whole_rows(count: int) -> st.SearchStrategy[list[tuple[list[int], int]]]:
    coefficients = st.lists(st.integers(-3, 3), min_size=count, max_size=count)
    return st.lists(st.tuples(coefficients, st.integers(-6, 6)), min_size=1, max_size=6)


@given(whole_rows(3))
def test_a_point_meets_every_inequality_and_no_grid_point_refutes_its_absence(
    rows: list[tuple[list[int], int]],
) -> None:
    inequalities = [([Fraction(c) for c in coefficients], Fraction(bound)) for coefficients, bound in rows]
    point = exact_program.find_point(inequalities)
    if point is not None:
        assert min(point) >= 0
        for coefficients, bound in inequalities:
            assert sum(c * x for c, x in zip(coefficients, point, strict=True)) <= bound
        return
    for grid in itertools.product(range(13), repeat=3):
        scaled = [Fraction(number, 2) for number in grid]
        assert any(
            sum(c * x for c, x in zip(coefficients, scaled, strict=True)) > bound
            for coefficients, bound in inequalities
        )


def test_decimals_are_read_as_people_write_them() -> None:
    """0.1 + 0.2 + 0.7 is 1, and 12 of 150 are 8 %; of 151 they are less."""
    identity = np.eye(3)
    rows = [Row(identity[i].tolist(), share, share) for i, share in enumerate((0.1, 0.2, 0.7))]
    shares = exact_program.find_shares(rows, [15.0, 30.0, 105.0], 150.0)
    assert shares is not None and shares.tolist() == [0.1, 0.2, 0.7]
    assert exact_program.find_shares(rows, [15.0, 30.0, 105.0], 150.001) is None
    assert exact_program.find_shares([Row([1.0, 0.0], 0.08, 0.08)], [12.0, 900.0], 150.0) is not None
    assert exact_program.find_shares([Row([1.0, 0.0], 0.08, 0.08)], [12.0, 900.0], 151.0) is None
