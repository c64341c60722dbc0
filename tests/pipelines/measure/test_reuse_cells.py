from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from infra.store import Cells
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.ingest import ingest
from pipelines.measure.reuse_cells import copy_stored_cells
from pipelines.stages import STAGES
from tests import corpus
from tests.tiny import read_json_of


def test_cells_are_reused_from_any_unit_that_measured_them(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    for name, numbers in (("one", range(6)), ("two", range(3, 9))):
        (tmp_path / name).mkdir()
        for number in numbers:
            (tmp_path / name / f"{number}.txt").write_text(corpus.document(number))

    def text(name: str) -> Run:
        sources = [{"name": name, "path": str(tmp_path / name), "modality": "text"}]
        return make_run(sources, f"run-{name}", filters={"quality": {"document": {"min_words": 10}}})

    first, second = text("one"), text("two")
    ingest.run(first)
    steps = resolve(first).steps
    assert copy_stored_cells(first, steps, []) == 0
    assert copy_stored_cells(first, steps, ["u000000"]) == 0  # the store is empty
    STAGES["measure"](first)
    assert copy_stored_cells(first, steps, ["u000000"]) == 0  # the unit has a folder of its own
    ingest.run(second)
    assert copy_stored_cells(second, steps, ["u000000"]) == 2
    for name in ("clean", "quality"):
        cells = Cells(second.store, name, resolve(second).makers[name])
        assert len(cells.parts()) == 2 and {len(cells.read(u) or ()) for u, _ in cells.parts()} == {6, 3}
    STAGES["measure"](second)
    counters = read_json_of(second, "work/signals.counters.json")
    assert counters["clean_cells"] == counters["quality_cells"] == 3
