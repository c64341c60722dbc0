"""The generated tables of the documents: equal to what the code declares, and complete by themselves."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import pyarrow as pa
import pytest
from pydantic import Field

from annotators import ANNOTATORS
from annotators.interface import Annotator, Column
from filters import FILTERS
from filters.interface import Filter, Threshold
from infra import tables
from infra.config import Strict
from infra.errors import ConfigError
from pipelines.tools import document_tables

ROOT = Path(__file__).parents[3]


def test_documents_contain_what_the_generator_writes() -> None:
    stale = document_tables.run(ROOT, check=True)
    assert not stale, f"{', '.join(stale)} out of date: run `make docs` or `{document_tables.COMMAND}`"


TABLES = {
    "filters": "filters.md",
    "thresholds": "filters.md",
    "columns annotators": "run-layout.md",
    **{f"table {name}": "run-layout.md" for name in tables.MEANINGS},
}


@pytest.mark.parametrize("name, document", TABLES.items())
def test_every_table_is_in_a_document(name: str, document: str) -> None:
    assert f"<!-- generated:{name} -->\n" in (ROOT / "docs" / document).read_text("utf-8")


class InventedThresholds(Strict):
    """min_fps: ours; nested: limits of something else."""

    class Nested(Strict):
        max_width: int | None = None

    min_fps: float = Field(default=10.0, ge=0)
    unit: str = "fps"
    nested: Nested = Nested()


class InventedFilter(Filter):
    """Reasons: "too_slow", or "missing"."""

    name = "invented"
    modalities = frozenset({"video"})
    thresholds = (
        Threshold("min_fps", "facts.fps", "min", "too_slow"),
        Threshold("nested.max_width", "facts.width", "max", "too_wide", frozenset({"video"})),
    )
    settings: InventedThresholds


def test_filters_are_listed_with_their_question(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = document_tables.generate("filters").splitlines()[2:]
    assert [row.split("`")[1] for row in rows] == list(FILTERS.built_in)
    assert "| `motion` | Does the video move, and not too much? | `motion` | video |" in rows
    assert all(row.split(" | ")[1].endswith("?") for row in rows)
    monkeypatch.setattr(InventedFilter, "reads", ("motion.score",))
    listed = document_tables.filter_table({"invented": InventedFilter})
    assert listed.splitlines()[-1].endswith(" | `facts`, `motion` | video |")


def test_a_new_filter_is_in_the_table_by_its_declaration(monkeypatch: pytest.MonkeyPatch) -> None:
    before = document_tables.generate("thresholds")
    table = document_tables.threshold_table({"invented": InventedFilter})
    assert table.splitlines() == [
        "| setting | default | number | must be | reason of a drop |",
        "|---|---|---|---|---|",
        "| `filters.invented.min_fps` | `10.0` | `facts.fps` | at least | `too_slow` |",
        "| `filters.invented.unit` | `'fps'` |  |  |  |",
        "| `filters.invented.nested.max_width` | `null` | `facts.width` (video) | at most | `too_wide` |",
    ]
    monkeypatch.setitem(FILTERS.built_in, "invented", f"{__name__}:InventedFilter")  # type: ignore[arg-type]
    assert document_tables.generate("thresholds") == before + "".join(table.splitlines(keepends=True)[2:])


def test_a_new_column_is_in_the_table_by_its_declaration() -> None:
    class Sharpness(Annotator):
        name = "sharpness"
        store_only = frozenset({"spectrum"})
        columns: ClassVar = {
            "score": Column(pa.float64(), "a | b"),
            "spectrum": Column(pa.list_(pa.float32()), "per frame"),
        }

    assert document_tables.column_table([Sharpness]).splitlines()[2:] == [
        r"| `sharpness.score` | double | a \| b |",
        "| `sharpness.spectrum` | list<float> | per frame; in the store only |",
    ]


def test_columns_of_one_annotator_are_those_of_the_table_of_all() -> None:
    every_row = document_tables.generate("columns annotators").splitlines()
    rows = document_tables.generate("columns annotators.motion").splitlines()
    assert len(rows) == 2 + len(ANNOTATORS["motion"].columns)
    assert set(rows) <= set(every_row)


def write_document(root: Path, text: str) -> Path:
    path = root / "docs" / "page.md"
    path.parent.mkdir()
    path.write_text(text, "utf-8")
    return path


def test_only_the_regions_change_and_checking_writes_nothing(tmp_path: Path) -> None:
    text = (
        "before\n<!-- generated:table samples.media -->\nold\n<!-- /generated -->\nbetween\n"
        "<!-- generated:thresholds -->\n<!-- /generated -->\nafter\n"
    )
    path = write_document(tmp_path, text)
    assert document_tables.run(tmp_path, check=True) == ["docs/page.md"]
    assert path.read_text("utf-8") == text
    assert document_tables.run(tmp_path) == ["docs/page.md"]
    media, thresholds = document_tables.generate("table samples.media"), document_tables.generate("thresholds")
    assert path.read_text("utf-8") == (
        f"before\n<!-- generated:table samples.media -->\n{media}<!-- /generated -->\nbetween\n"
        f"<!-- generated:thresholds -->\n{thresholds}<!-- /generated -->\nafter\n"
    )
    assert document_tables.run(tmp_path) == []


@pytest.mark.parametrize(
    "text, message",
    [
        ("<!-- generated:thresholds -->\n", "lacks its partner"),
        ("<!-- generated:thresholds -->\n<!-- generated:thresholds -->\n<!-- /generated -->\n", "lacks its partner"),
        ("<!-- /generated -->\n", "lacks its partner"),
        ("<!-- generated:table nothing -->\n<!-- /generated -->\n", "no generated table 'table nothing'"),
        ("<!-- generated:columns motion -->\n<!-- /generated -->\n", "no generated table 'columns motion'"),
    ],
)
def test_a_broken_region_is_an_error_that_names_the_document(tmp_path: Path, text: str, message: str) -> None:
    path = write_document(tmp_path, text)
    with pytest.raises(ConfigError, match=message) as caught:
        document_tables.run(tmp_path)
    assert caught.value.where == "docs/page.md"
    assert path.read_text("utf-8") == text
