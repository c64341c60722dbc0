"""The documents against the code: commands and options, config examples, columns, error words, links and paths."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import typer

from annotators import ANNOTATORS
from filters import FILTERS
from infra import tables
from infra.config import Config, read_document, validate
from infra.errors import ENVIRONMENT_KINDS, ConfigError
from infra.media.decoder import Decoder
from mixtures.cards import cards
from mixtures.shards.series import Series
from pipelines.cli import app
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.core.settings import Measure
from pipelines.decide.duplicates.settings import Duplicates
from pipelines.export.samples import ExportRow, build_record

ROOT = Path(__file__).parents[1]
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
NAMES = [str(path.relative_to(ROOT)) for path in DOCS]
COMMANDS: dict[str, Any] = dict(typer.main.get_command(app).commands)

#: A required key is no fault of an example that shows a part of a config.
STUB = {"name": "stub", "store": "store", "out": "out", "sources": [{"name": "a", "path": "a", "modality": "image"}]}

_FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)
_CALL = re.compile(r"(?<![\w-])reelmill ([a-z][a-z-]*)([^`|\n#]*)")
_LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
_ROW = re.compile(r"^\| `([^`]+)` \|(.*)\|$", re.M)


def read(name: str) -> str:
    return (ROOT / name).read_text("utf-8")


def section(text: str, heading: str) -> str:
    """What stands under a heading, up to the next of the same or a higher level."""
    level = len(heading) - len(heading.lstrip("#"))
    assert f"\n{heading}\n" in text, f"there is no heading {heading!r}"
    rest = text.split(f"\n{heading}\n", 1)[1]
    return re.split(rf"^#{{1,{level}}} ", rest, maxsplit=1, flags=re.M)[0]


def first_table(text: str) -> list[tuple[str, str]]:
    """(first cell without backticks, the other cells) of the rows of a section's first table."""
    table = re.search(r"(?:^\|.*\n)+", text, re.M)
    assert table is not None
    return [(m[1], m[2].replace("\\|", "/").strip()) for m in _ROW.finditer(table[0])]


# -- commands ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_commands_and_their_options_exist(name: str) -> None:
    for verb, rest in _CALL.findall(read(name)):
        assert verb in COMMANDS, f"{name}: there is no `reelmill {verb}`"
        options = {option for parameter in COMMANDS[verb].params for option in parameter.opts} | {"--help"}
        for option in re.findall(r"(?<=\s)--[a-z][a-z-]*", rest):
            assert option in options, f"{name}: `reelmill {verb}` has no {option}"


def test_every_command_is_in_the_readme() -> None:
    listed = {row[0].split()[1] for row in first_table(section(read("README.md"), "## Commands"))}
    assert listed == set(COMMANDS)


def test_readme_begins_with_the_two_commands_that_the_makefile_has() -> None:
    lines = [line for line in read("README.md").splitlines() if line]
    assert lines[:3] == ["# Reelmill", "    make demo", "    make test"]
    assert all(re.search(rf"^{target}:", read("Makefile"), re.M) for target in ("demo", "test"))


@pytest.mark.parametrize("mark", ["demo", "benchmarks"])
def test_places_for_measured_figures_are_there_once(mark: str) -> None:
    text = read("README.md")
    begin, end = f"<!-- {mark}:begin -->", f"<!-- {mark}:end -->"
    assert text.count(begin) == text.count(end) == 1
    assert text.index(begin) < text.index(end)


# -- configs ----------------------------------------------------------------------------------------------------


def examples() -> Iterator[tuple[str, str]]:
    for name in NAMES:
        for kind, body in _FENCE.findall(read(name)):
            if kind == "yaml" and name != "docs/extending.md":  # that one is run, with its package, in test_extending
                yield name, body


def check(document_keys: dict[str, Any], name: str) -> None:
    """Every key against the class that declares it; no weights are opened."""
    document = read_document(name, "{}")
    config = validate(document, Config, {**STUB, **document_keys})
    general = {}
    for key, section in config.measure.items():
        if key in ANNOTATORS:
            validate(document, ANNOTATORS[key].settings_class(), section, ("measure", key))
        else:
            general[key] = section
    validate(document, Measure, general, ("measure",))
    for key, section in config.filters.items():
        assert key in FILTERS, f"{name}: there is no filter {key!r}"
        validate(document, FILTERS[key].settings_class(), section, ("filters", key))
    validate(document, Duplicates, config.duplicates, ("duplicates",))
    if config.resample is not None:
        validate(document, importlib.import_module("filters.resample").ResampleSettings, config.resample, ("resample",))


def test_config_examples_are_valid(monkeypatch: pytest.MonkeyPatch) -> None:
    blocks = list(examples())
    assert any(name == "README.md" for name, _ in blocks)
    for name, body in blocks:
        for variable in re.findall(r"\$\{(\w+)\}", body):
            monkeypatch.setenv(variable, "0" * 64)  # serves as a path and as a sha256
        document = read_document(name, body)
        check(document.content, name)
        if "sources" in document.content:
            resolve(Run(validate(document, Config, document.content), document, makers={}))


def test_a_wrong_example_would_be_found() -> None:
    for wrong in ({"filters": {"motion": {"min_scroe": 1}}}, {"measure": {"fingerprint": {"fp": 1}}}, {"sedd": 1}):
        with pytest.raises(ConfigError, match="no such key"):
            check(wrong, "README.md")


# -- tables -----------------------------------------------------------------------------------------------------


def short(kind: pa.DataType) -> str:
    """A type as the documents write it: the fields of a struct have a table of their own."""
    if pa.types.is_list(kind):
        return f"list<{'struct' if pa.types.is_struct(kind.value_type) else kind.value_type}>"
    return str(kind)


def fields(schema: pa.Schema | pa.StructType) -> list[tuple[str, str]]:
    return [(field.name, short(field.type)) for field in schema]


LAID = {
    **{f"### {name}": schema for name, schema in tables.SCHEMAS.items()},
    "### samples.media": tables.MEDIUM,
    "### verdicts.others": tables.OTHER_REASON,
    "### members.members": tables.MEMBERS.field("members").type.value_type,
}


@pytest.mark.parametrize("heading", LAID)
def test_columns_are_those_of_the_tables(heading: str) -> None:
    rows = first_table(section(read("docs/run-layout.md"), heading))
    assert [(column, rest.split("|")[0].strip()) for column, rest in rows] == fields(LAID[heading])


def test_fields_of_a_card() -> None:
    card = cards.build_card(
        name="image-000000",
        tar={},
        series=Series.parse("image:jpg,json"),
        members=tables.empty(tables.MEMBERS),
        signals=pa.table({}),
        score_columns=(),
        ledger={},
        reasons={},
        unused_captions=0,
        made_by={},
    )
    assert [row[0] for row in first_table(section(read("docs/run-layout.md"), "## The card"))] == list(card)


def test_fields_of_a_samples_json() -> None:
    sample = dict.fromkeys(("key", "source", "modality", "licence", "origin", "container", "position", "media"), "")
    record = build_record(ExportRow(sample, {}, ""), [], "caption", 0)
    assert [row[0] for row in first_table(section(read("docs/run-layout.md"), "### KEY.json"))] == list(record)


# -- error words ------------------------------------------------------------------------------------------------


def test_kinds_of_failure_are_those_of_the_decoder() -> None:
    described = {row[0] for row in first_table(section(read("docs/bad-input.md"), "## At measure"))}
    rows = re.findall(r"^\| (`.*`) \|.*\|$", section(read("docs/bad-input.md"), "## The environment"), re.M)
    environment = [kind for row in rows for kind in re.findall(r"`([a-z_ ]+)`", row)]
    assert sorted(environment) == sorted(ENVIRONMENT_KINDS)
    described |= {kind for kind in environment if not kind.startswith("unavailable")}
    raised = set()
    for path in {*(ROOT / "infra" / "media").glob("*.py")}:
        raised |= set(re.findall(r'(?:BadSample|CodecGuard)\("([a-z_]+)"', path.read_text("utf-8")))
    assert raised <= described
    assert described - raised == {"crash", "killed", "watchdog"}
    assert all(re.search(rf"\b{kind}  ?", Decoder.__doc__ or "") for kind in described)


def test_reasons_at_ingest_are_the_inventorys() -> None:
    rows = re.findall(r"^\|.*\| `([a-z_ ]+)` \|$", section(read("docs/bad-input.md"), "## At ingest"), re.M)
    modules = sorted((ROOT / "pipelines" / "ingest").rglob("*.py"))
    source = "".join(path.read_text("utf-8") for path in modules)
    assert len(rows) > 8
    for reason in rows:
        assert f"{reason}:" in source, f"no input fails with {reason!r}"
    # The other way round: words before a colon that errors in the inventory begin with.
    used = set(re.findall(r'(?:error=|problem = |problem or |None, )f?"([a-z_ ]+):', source))
    assert used <= set(rows)


# -- links and paths --------------------------------------------------------------------------------------------


def anchors(path: Path) -> set[str]:
    """Anchors of a Markdown file's headings, as GitHub makes them."""
    text = _FENCE.sub("", path.read_text("utf-8"))
    headings = re.findall(r"^#+ (.+)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_somewhere(name: str) -> None:
    here = ROOT / name
    for target in _LINK.findall(_FENCE.sub("", here.read_text("utf-8"))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        path = (here.parent / file).resolve() if file else here
        assert path.exists(), f"{name}: there is no {file}"
        if anchor:
            assert anchor in anchors(path), f"{name}: {file or name} has no heading #{anchor}"


def test_every_document_is_in_the_index() -> None:
    linked = set(_LINK.findall(read("docs/README.md")))
    assert {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"} <= linked


@pytest.mark.parametrize("name", ["CONTRIBUTING.md", "docs/architecture.md"])
def test_paths_of_the_code_exist(name: str) -> None:
    paths = re.findall(r"`([\w.]+/[\w./]*|[a-z]+\.(?:txt|toml))`", read(name))
    assert len(paths) > 10
    for path in paths:
        assert (ROOT / path).exists(), f"{name}: there is no {path}"


@pytest.mark.parametrize("name", [*NAMES, "DECISIONS.md"])
def test_documents_name_nothing_that_a_reader_cannot_see(name: str) -> None:
    text = read(name)
    for mentioned in re.findall(r"\b([A-Z]{3,}\.md)\b", text):
        assert any((folder / mentioned).exists() for folder in (ROOT, ROOT / "docs")), (
            f"{name}: there is no {mentioned}"
        )
    home = re.findall(r"(?<![\w.:/~}>])/(?!path|data|models|some|mnt|tmp|dev)[a-z]\w*/\w+", text)
    assert not home, f"{name}: a path of somebody's machine: {home[0]}"
