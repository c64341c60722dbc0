"""schema: print the keys of the config and the columns of each table, from the code itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from annotators import ANNOTATORS
from filters import FILTERS
from filters.resample import ResampleSettings
from infra import tables
from infra.config import Config
from infra.errors import ConfigError
from pipelines.annotate.settings import AnnotateSettings
from pipelines.core.console import print_table
from pipelines.core.settings import Measure
from pipelines.decide.duplicates.settings import Duplicates

NAMES = ("config", "signals", *tables.SCHEMAS)


def run(name: str | None = None) -> dict[str, Any]:
    """The schema of one of NAMES, or of all: {name: …}.

    config: JSON Schema with the settings of annotators and filters. signals: annotator -> {version, of, needs,
    modalities, columns}. Others: {version, columns}; a column is {name, type, meaning}.
    Raises ConfigError for another name.
    """
    if name is not None and name not in NAMES:
        raise ConfigError(f"there is no schema {name!r}", hint=f"the schemas are: {', '.join(NAMES)}")
    return {schema: _schema(schema) for schema in (NAMES if name is None else (name,))}


def _schema(name: str) -> dict[str, Any]:
    if name == "config":
        return config_schema()
    if name == "signals":
        return {annotator: _annotator(annotator) for annotator in ANNOTATORS}
    columns = [
        {"name": field.name, "type": str(field.type), "meaning": tables.MEANINGS[name][field.name]}
        for field in tables.SCHEMAS[name]
    ]
    return {"version": tables.VERSION, "columns": columns}


def _annotator(name: str) -> dict[str, Any]:
    kind = ANNOTATORS[name]
    columns = [
        {
            "name": f"{name}.{column}",
            "type": str(declared.type),
            "where": "store" if column in kind.store_only else "signals",
            "meaning": declared.meaning,
        }
        for column, declared in kind.columns.items()
    ]
    error = "reason why it could not be measured; null: none"
    columns.append({"name": f"{name}.error", "type": "string", "where": "signals", "meaning": error})
    return {
        "version": kind.VERSION,
        "of": kind.keyed_by,
        "needs": kind.input,
        "modalities": sorted(kind.modalities),
        "reads": list(kind.depends_on),
        "meaning": inspect.cleandoc(kind.__doc__ or ""),
        "columns": columns,
    }


# -- the config -------------------------------------------------------------------------------------------------


#: Keys of the top level whose content other modules declare, besides `filters`.
_SECTIONS: Mapping[str, type[BaseModel]] = {
    "measure": Measure, "duplicates": Duplicates, "resample": ResampleSettings, "annotate": AnnotateSettings,
}  # fmt: skip


def settings_classes() -> dict[str, type[BaseModel]]:
    """Every settings class by its path in the config ("" is the top, then "sources[]", "filters.motion", …), in the
    order of the config, each before the classes of its fields."""
    classes: dict[str, type[BaseModel]] = {"": Config}
    for field, info in Config.model_fields.items():
        if field == "filters":
            for name, filter_class in FILTERS.items():
                classes |= nested_settings(f"filters.{name}", filter_class.settings_class())
        elif field in _SECTIONS:
            classes |= nested_settings(field, _SECTIONS[field])
        else:
            for kind in models_in(info.annotation)[:1]:
                classes |= nested_settings(f"{field}[]" if field == "sources" else field, kind)
        if field == "measure":
            for name, annotator_class in ANNOTATORS.items():
                classes |= nested_settings(f"measure.{name}", annotator_class.settings_class())
    return classes


def nested_settings(path: str, kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    """A settings class and those of its fields, by path, each before the classes of its fields."""
    classes = {path: kind}
    for field, info in kind.model_fields.items():
        for nested in models_in(info.annotation)[:1]:
            classes |= nested_settings(f"{path}.{field}", nested)
    return classes


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Settings classes within a type: those of `tuple[Source, ...]`, `Clips | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for argument in getattr(annotation, "__args__", ()) for kind in models_in(argument)]


def config_schema() -> dict[str, Any]:
    """JSON Schema of the whole file, with the settings that annotators, filters and stages declare themselves."""
    schema = Config.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})

    def define(path: str, kind: type[BaseModel]) -> dict[str, Any]:
        own = kind.model_json_schema(ref_template=f"#/$defs/{path}.{{model}}")
        for name, nested in own.pop("$defs", {}).items():
            definitions[f"{path}.{name}"] = nested
        definitions[path] = own
        return {"anyOf": [{"$ref": f"#/$defs/{path}"}, {"type": "null"}]}

    sections = {name: define(name, kind) for name, kind in _SECTIONS.items()}
    definitions["measure"]["properties"] |= {
        name: define(f"measure.{name}", kind.settings_class()) for name, kind in ANNOTATORS.items()
    }
    filters = {name: define(f"filters.{name}", kind.settings_class()) for name, kind in FILTERS.items()}
    open_section = {"type": "object", "properties": filters, "additionalProperties": False}
    schema["properties"] |= {**sections, "filters": {"anyOf": [open_section, {"type": "null"}]}}
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def default_of(info: Any) -> str:
    """A field's default as YAML; "required" where there is none."""
    default = info.get_default(call_default_factory=True)
    if default is PydanticUndefined:
        return "required"
    if isinstance(default, BaseModel):
        return "{}"
    if isinstance(default, str):
        return repr(default)
    if isinstance(default, bool):
        return str(default).lower()
    if isinstance(default, tuple):
        return f"[{', '.join(map(str, default))}]"
    return "null" if default is None else f"{default}"


# -- for people -------------------------------------------------------------------------------------------------


def show(schemas: Mapping[str, Any]) -> None:
    """Print a table per schema."""
    for name, schema in schemas.items():
        rows: list[tuple[str, ...]]
        if name == "config":
            columns, title = ["key", "default"], "config: every key with its default"
            rows = [
                (f"{path}.{field}".lstrip("."), default_of(info))
                for path, kind in settings_classes().items()
                for field, info in kind.model_fields.items()
                if not (models_in(info.annotation) or (path == "" and field in _SECTIONS))
            ]
        elif name == "signals":
            columns, title = ["column", "type", "where"], "signals: columns by annotator"
            rows = []
            for annotator, entry in schema.items():
                modalities = ", ".join(entry["modalities"])
                rows.append((f"{annotator}, version {entry['version']}", f"needs {entry['needs']}", modalities))
                rows += [(f"  {row['name']}", row["type"], row["where"]) for row in entry["columns"]]
        else:
            columns, title = ["column", "type", "meaning"], f"{name}, version {schema['version']}"
            rows = [(row["name"], _shorten(row["type"]), row["meaning"]) for row in schema["columns"]]
        print_table(title, columns, rows, left_aligned=columns)


def _shorten(type_: str) -> str:
    return type_.replace("list<element: ", "list<").replace("list<item: ", "list<")
