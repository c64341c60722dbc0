"""schema prints all that the code declares, and the documents agree with it."""

from __future__ import annotations

import inspect
import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from annotators import ANNOTATORS
from filters import FILTERS
from infra import tables
from infra.errors import ConfigError
from pipelines.tools import schema as schemas

DOCS = Path(__file__).parents[3] / "docs"
CLASSES = schemas.settings_classes()
ROW = re.compile(r"^\| `([^`|]+)` \|", re.M)


def dereference(schema: dict, node: dict) -> dict:
    """A node of a JSON schema, behind its references and its null."""
    while True:
        if "$ref" in node:
            node = schema["$defs"][node["$ref"].removeprefix("#/$defs/")]
        elif "anyOf" in node:
            node = next(choice for choice in node["anyOf"] if choice.get("type") != "null")
        else:
            return node


def get_node(schema: dict, *path: str) -> dict:
    node = schema
    for key in path:
        node = dereference(schema, dereference(schema, node)["properties"][key])
    return node


def test_every_annotator_and_filter_has_its_settings_in_the_config_schema() -> None:
    schema = schemas.run("config")["config"]
    assert set(ANNOTATORS) < set(get_node(schema, "measure")["properties"])
    assert set(get_node(schema, "filters")["properties"]) == set(FILTERS)
    assert get_node(schema, "filters", "motion")["properties"]["min_score"]["default"] == 0.0007
    assert get_node(schema, "filters", "quality", "document", "repetition")["properties"]["max_top_2gram"]
    assert get_node(schema, "measure", "video_alignment", "video_text")["required"] == ["weights", "sha256"]
    assert get_node(schema, "duplicates", "video")["properties"]["min_share"]["default"] == 0.5
    assert get_node(schema, "resample")["properties"]["rule"]["enum"] == ["sqrt", "linear"]


def test_every_reference_leads_somewhere_and_no_key_is_left_open() -> None:
    schema = schemas.run("config")["config"]

    def walk(node: object) -> None:
        if isinstance(node, dict):
            if "$ref" in node:
                assert node["$ref"].removeprefix("#/$defs/") in schema["$defs"]
            if "properties" in node and "title" in node:
                assert node["additionalProperties"] is False
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(schema)


@pytest.mark.parametrize("name", tables.SCHEMAS)
def test_every_column_has_its_type_and_a_meaning(name: str) -> None:
    entry = schemas.run(name)[name]
    assert entry["version"] == tables.VERSION
    assert [c["name"] for c in entry["columns"]] == tables.SCHEMAS[name].names
    assert [c["type"] for c in entry["columns"]] == [str(f.type) for f in tables.SCHEMAS[name]]
    assert all(c["meaning"] for c in entry["columns"])
    assert set(tables.MEANINGS[name]) == set(tables.SCHEMAS[name].names)


def test_signals_name_every_annotator_with_version_and_columns() -> None:
    signals = schemas.run("signals")["signals"]
    assert list(signals) == list(ANNOTATORS)
    for name, entry in signals.items():
        assert entry["version"] == ANNOTATORS[name].VERSION
        assert all(c["meaning"] for c in entry["columns"])
        assert [c["name"] for c in entry["columns"]][-1] == f"{name}.error"
    where = {c["name"]: c["where"] for c in signals["fingerprint"]["columns"]}
    assert where["fingerprint.vectors"] == "store" and where["fingerprint.quality"] == "signals"


def test_an_unknown_name_lists_the_schemas() -> None:
    with pytest.raises(ConfigError) as caught:
        schemas.run("sample")
    assert "samples" in caught.value.hint


def test_people_see_every_key_and_column(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")
    schemas.show(schemas.run())
    shown = capsys.readouterr().out
    for word in ("filters.quality.document.repetition.max_top_2gram", "sources[].captions.file", "others",
                 "fingerprint.vectors", "matched span in this sample", "duplicates.image.threshold"):  # fmt: skip
        assert word in shown


# -- the documents --


def sections(name: str) -> dict[str, str]:
    """Text of a document by heading (`## measure.motion` -> "measure.motion")."""
    texts = re.split(r"^##+ `?([^`\n]+)`?.*$", (DOCS / name).read_text(encoding="utf-8"), flags=re.M)
    return dict(zip(texts[1::2], texts[2::2], strict=True))


@pytest.mark.parametrize(
    "path", [path for path, kind in CLASSES.items() if kind.model_fields and not path.startswith("filters.")]
)  # filters are in filters.md
def test_configuration_names_every_key_with_its_default(path: str) -> None:
    rows = {row.split("`")[1]: row for row in sections("configuration.md")[path or "Top level"].splitlines()
             if ROW.match(row)}  # fmt: skip
    fields = CLASSES[path].model_fields
    assert set(rows) == set(fields)
    for field, info in fields.items():
        cells = [cell.strip() for cell in rows[field].split(" | ")]
        if schemas.models_in(info.annotation) or field in ("measure", "filters", "duplicates", "resample", "annotate"):
            continue
        assert cells[1].strip("`") == schemas.default_of(info), rows[field]


def test_configuration_names_nothing_that_is_not_there() -> None:
    places = {path or "Top level" for path in CLASSES}
    for heading, text in sections("configuration.md").items():
        assert heading in places or not ROW.search(text), heading


def test_filters_are_documented_with_all_they_read_and_every_reason() -> None:
    page = (DOCS / "filters.md").read_text(encoding="utf-8")
    documented, rows = sections("filters.md"), [line for line in page.splitlines() if line.startswith("| `filters.")]
    for name, filter_class in FILTERS.items():
        # Without a section of its own a filter is described by the generated table, and by its introduction.
        generated = "\n".join(row for row in rows if row.startswith(f"| `filters.{name}."))
        text = documented.get(name, f"{generated}\n{documented['All settings'].split('<!--')[0]}")
        for annotator in {column.split(".")[0] for column in filter_class.columns()}:
            assert f"`{annotator}" in text, (name, annotator)
        for path, kind in CLASSES.items():
            if path == f"filters.{name}" or path.startswith(f"filters.{name}."):
                check_thresholds(path, kind, generated)
                if name in documented:
                    check_descriptions(path.removeprefix(f"filters.{name}").lstrip("."), kind, text)
        source = Path(inspect.getfile(filter_class)).read_text()
        reasons = {threshold.reason for threshold in filter_class.thresholds if threshold.reason}
        reasons |= set(re.findall(r'Rule\("([a-z_]+)"', source))
        reasons |= set(re.findall(r'"([a-z_]+)"', filter_class.__doc__ or ""))
        assert reasons
        for reason in reasons:
            assert f"`{reason}`" in text, (name, reason)


def check_thresholds(path: str, kind: type[BaseModel], rows: str) -> None:
    for field, info in kind.model_fields.items():
        if schemas.models_in(info.annotation):
            continue
        assert f"| `{path}.{field}` | `{schemas.default_of(info)}` |" in rows, field


def check_descriptions(prefix: str, kind: type[BaseModel], text: str) -> None:
    for field, info in kind.model_fields.items():
        key = f"{prefix}.{field}".lstrip(".")
        assert schemas.models_in(info.annotation) or f"| `{key}` | " in text, key
