"""Generated tables of the documents: `python -m pipelines.tools.document_tables` (`make docs`) writes them.

A document marks a region by its name; everything between the two lines is replaced:

    <!-- generated:thresholds -->
    <!-- /generated -->

Names: `table NAME` (a table of a run, or a struct in one: "table samples", "table samples.media"), `columns annotators`
(the columns of every annotator), `columns annotators.NAME` (those of one), `filters` (each filter's question and the
annotators that it reads), `thresholds` (every filter's settings).
Only what ships with Reelmill is listed, not what installed packages add.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import BaseModel

from annotators import ANNOTATORS
from annotators.interface import Annotator
from filters import FILTERS
from filters.interface import Filter, Threshold
from infra import tables
from infra.errors import ConfigError
from infra.media.interface import MODALITIES
from pipelines.core.console import print_text
from pipelines.tools.schema import default_of, models_in, nested_settings

COMMAND = "python -m pipelines.tools.document_tables"

_DIRECTIONS = {"min": "at least", "max": "at most", "below": "below"}
_REGION = re.compile(r"^(<!-- generated:([^\n]*?) -->\n)(.*?)^(<!-- /generated -->)$", re.M | re.S)
_MARKER = re.compile(r"^<!-- (?:generated:.*|/generated) -->$", re.M)


def run(root: Path, check: bool = False) -> list[str]:
    """Rewrite the generated regions of docs/*.md below `root`; return the names of the documents that change.

    check: only report them. Raises ConfigError, naming the document, for a marker without its partner and for a region
    whose name stands for no table.
    """
    stale = []
    for path in sorted((root / "docs").glob("*.md")):
        text = path.read_text("utf-8")
        try:
            updated = update(text)
        except ConfigError as error:
            error.where = f"docs/{path.name}"
            raise
        if updated != text:
            stale.append(f"docs/{path.name}")
            if not check:
                path.write_text(updated, "utf-8")
    return stale


def update(text: str) -> str:
    """A document with its generated regions replaced. Raises ConfigError as `run` does."""
    if len(_MARKER.findall(text)) != 2 * len(_REGION.findall(text)):
        raise ConfigError("a marker of a generated table lacks its partner", hint="end regions by <!-- /generated -->")
    return _REGION.sub(lambda region: f"{region[1]}{generate(region[2])}{region[4]}", text)


def generate(name: str) -> str:
    """The table of one region, each line with its end. Raises ConfigError for an unknown name."""
    kind, _, subject = name.partition(" ")
    if name in FILTER_TABLES:
        return FILTER_TABLES[name]({filter_name: FILTERS[filter_name] for filter_name in FILTERS.built_in})
    if name == "columns annotators":
        return column_table(ANNOTATORS[annotator] for annotator in ANNOTATORS.built_in)
    annotator = subject.removeprefix("annotators.")
    if kind == "columns" and annotator in ANNOTATORS.built_in and annotator != subject:
        return column_table([ANNOTATORS[annotator]])
    if kind == "table" and subject in tables.MEANINGS:
        return table_table(_fields_of(subject), tables.MEANINGS[subject])
    raise ConfigError(f"there is no generated table {name!r}", hint=f"the names are listed in {__name__}")


# -- tables of a run and columns of annotators ------------------------------------------------------------------


def table_table(fields: Iterable[pa.Field], meanings: Mapping[str, str]) -> str:
    """Column, type and meaning of each field."""
    rows = [(f"`{field.name}`", format_type(field.type), meanings[field.name]) for field in fields]
    return format_markdown(("column", "type", "meaning"), rows)


def column_table(annotators: Iterable[type[Annotator]]) -> str:
    """Column, type and meaning of each column, the store's marked as such."""
    rows = [
        (
            f"`{annotator.name}.{name}`",
            format_type(column.type),
            column.meaning + ("; in the store only" if name in annotator.store_only else ""),
        )
        for annotator in annotators
        for name, column in annotator.columns.items()
    ]
    return format_markdown(("column", "type", "meaning"), rows)


def format_type(type_: pa.DataType) -> str:
    """An Arrow type in a few words: the fields of a struct have a table of their own."""
    if pa.types.is_struct(type_):
        return "struct"
    return f"list<{format_type(type_.value_type)}>" if pa.types.is_list(type_) else str(type_)


def _fields_of(name: str) -> list[pa.Field]:
    """The fields of a table, or of the struct in its column: "samples", "samples.media"."""
    table, _, column = name.partition(".")
    schema = tables.SCHEMAS[table]
    return list(schema.field(column).type.value_type if column else schema)


# -- filters ----------------------------------------------------------------------------------------------------


def filter_table(filters: Mapping[str, type[Filter]]) -> str:
    """The question of each filter, with which its module's docstring begins, the annotators that it reads, and the
    modalities that it judges."""
    rows = []
    for name, filter_class in filters.items():
        question, mark, _ = (inspect.getdoc(inspect.getmodule(filter_class)) or "").partition("?")
        annotators = dict.fromkeys(column.partition(".")[0] for column in filter_class.columns())
        modalities = [modality for modality in MODALITIES if modality in filter_class.modalities]
        judged = "all" if len(modalities) == len(MODALITIES) else ", ".join(modalities)
        rows.append((f"`{name}`", question + mark, ", ".join(f"`{annotator}`" for annotator in annotators), judged))
    return format_markdown(("filter", "question", "reads", "modalities"), rows)


def threshold_table(filters: Mapping[str, type[Filter]]) -> str:
    """Every setting of each filter: its default and, of a threshold, what it limits, how, and the reason of a drop."""
    rows = [row for name, filter_class in filters.items() for row in _threshold_rows(name, filter_class)]
    return format_markdown(("setting", "default", "number", "must be", "reason of a drop"), rows)


def _threshold_rows(name: str, filter_class: type[Filter]) -> Iterator[tuple[str, ...]]:
    thresholds = {threshold.key: threshold for threshold in filter_class.thresholds}
    for path, settings in nested_settings(f"filters.{name}", filter_class.settings_class()).items():
        for field, default in _defaults(settings):
            key = f"{path}.{field}"
            threshold = thresholds.get(key.removeprefix(f"filters.{name}."))
            limit = ("", "", "") if threshold is None else _describe_limit(threshold)
            yield f"`{key}`", f"`{default}`", *limit


def _defaults(settings: type[BaseModel]) -> Iterator[tuple[str, str]]:
    for field, info in settings.model_fields.items():
        if not models_in(info.annotation):  # nested settings have rows of their own
            yield field, default_of(info)


def _describe_limit(threshold: Threshold) -> tuple[str, str, str]:
    """The number that is limited, of which modalities if not of all; the direction; the reason, if it has one."""
    number = f"`{threshold.column}`"
    if threshold.compute is not None:
        number = f"{threshold.compute.__name__.replace('_', ' ')}, from {number}"
    if threshold.modalities is not None:
        number += f" ({', '.join(sorted(threshold.modalities))})"
    return number, _DIRECTIONS[threshold.direction], f"`{threshold.reason}`" if threshold.reason else ""


#: Name of a generated region -> its table of the filters.
FILTER_TABLES = {"filters": filter_table, "thresholds": threshold_table}


# -- Markdown ---------------------------------------------------------------------------------------------------


def format_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, with `|` in cells escaped; each line with its end."""
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", r"\|") for cell in row) + " |" for row in rows]
    return "".join(f"{line}\n" for line in lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the tables of this checkout's documents; with --check, exit 1 where some are out of date."""
    parser = argparse.ArgumentParser(description="Write the generated tables of docs/*.md.")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 where a document is out of date")
    options = parser.parse_args(arguments)
    stale = run(Path(__file__).parents[2], check=options.check)
    print_text(*(f"{'out of date' if options.check else 'written'}: {name}" for name in stale))
    return 1 if options.check and stale else 0


if __name__ == "__main__":
    sys.exit(main())
