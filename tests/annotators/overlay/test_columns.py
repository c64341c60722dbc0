import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotators.overlay.columns import covered, transcript
from annotators.overlay.scene import Line

rectangles = st.tuples(st.integers(0, 30), st.integers(0, 20), st.integers(1, 12), st.integers(1, 10))


@settings(max_examples=60, deadline=None)
@given(st.lists(rectangles, max_size=6))
def test_covered_area_is_that_of_the_union_of_boxes(boxes: list[tuple[int, int, int, int]]) -> None:
    height, width = 34, 46
    cells = {(x + i, y + j) for x, y, w, h in boxes for i in range(w) for j in range(h)}
    quads = [np.array([[x, y], [x + w, y], [x + w, y + h], [x, y + h]], np.float32) for x, y, w, h in boxes]
    assert covered(quads, height, width) == pytest.approx(len(cells) / (height * width))


def test_reading_order_is_rows_then_columns() -> None:
    def line(text: str, x: int, y: int) -> Line:
        quad = np.array([[x, y], [x + 50, y], [x + 50, y + 10], [x, y + 10]], np.float32)
        return Line(0, quad, 0.9, (x, y, x + 50, y + 10), text, 0.9)

    lines = [line("d", 0, 40), line("b", 100, 8), line("a", 0, 10), line("A!", 100, 41)]
    assert transcript(lines) == "a\nb\nd"
