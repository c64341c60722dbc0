"""schema: what stands in the config and in each table, from the code itself."""

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
from pipelines.core.settings import Measure
from pipelines.decide.duplicates.settings import Duplicates

#: What the columns mean; a test holds this to the tables.
MEANING: Mapping[str, Mapping[str, str]] = {
    "samples": {
        "key": "26 characters [a-z2-7], a hash of source, place and content; the same in every table",
        "modality": "video, image, multi_image or text",
        "source": "name of the source in the config",
        "container": "file that it came from, relative to the source",
        "position": "where in that file: member name, row=N or id; empty for a file of its own",
        "media": "the sample's media: place, bytes, span in seconds (end < 0: to the end), sha256 of the bytes",
        "text": "raw caption or document; null: there is none",
        "licence": "from the row, else from the source",
        "origin": "where the source has it from",
        "extra": "the rest of the row, as JSON",
        "error": "why it failed at ingest; null: it did not",
    },
    "verdicts": {
        "key": "as in samples",
        "modality": "as in samples",
        "source": "as in samples",
        "outcome": "kept, dropped, duplicate or failed",
        "filter": "what decided: a filter, duplicates, resample, or the stage that failed",
        "reason": "the filter's word for the rule that was broken",
        "value": "the number that decided",
        "threshold": "what it was held against",
        "duplicate_of": "key of the survivor, of duplicates",
        "keep_probability": "P(keep) of resampling, where it was asked",
        "others": "every other filter that failed among those measured",
    },
    "duplicates": {
        "key": "as in samples; only members of a group are here",
        "row": "unit << 32 | row in the unit",
        "survivor": "key of the member that is kept; its own where that is this one",
        "component": "smallest row of the group",
        "similarity": "of the strongest link: cosine, matched share of frames, or estimated Jaccard similarity",
        "match": "key at the other end of that link",
        "start_s": "matched span in this sample, seconds; videos only",
        "end_s": "its end",
        "match_start_s": "matched span in the other, seconds",
        "match_end_s": "its end",
    },
    "dialogues": {
        "key": "as in samples; kept videos only, and images with text where asked for",
        "kind": "what kind of dialogue it is",
        "outcome": "accepted or rejected",
        "reason": "why it was rejected as a whole",
        "turns": "question, answer, cited evidence, span in seconds, outcome, reason, share of right blind answers",
        "evidence": "the sheet that the writer was given: id, kind, span, text",
        "generator": "llm or rules",
        "model": "the model that was asked; empty for rules",
        "revision": "of the model, as the config states it",
        "prompt": "hash of the prompt",
        "schema": "hash of the answer's JSON schema",
        "candidates": "dialogues drawn, of which this is the best",
        "tokens_in": "of all requests for this row, those from the cache too",
        "tokens_out": "of their answers",
    },
    "members": {
        "key": "as in samples",
        "shard": "name of the tar, without suffix",
        "offset": "byte at which the sample's first member begins in the tar, header included",
        "size": "bytes to the end of its last member, padding included",
        "members": "name, offset and size of each member's content",
        "modality": "as in samples",
        "source": "as in samples",
        "licence": "as in samples",
        "kind": "what the text is: caption, document, or a kind of conversation",
        "language": "label of the annotator language; empty where it was not asked",
        "tokens": "text tokens, estimated, and those that the media take in training",
        "text_tokens": "of the text alone",
        "images": "how many, 0 for videos and texts",
        "seconds": "duration of a video, else 0",
        "bytes": "of all members",
    },
    "mixture": {
        "key": "as in samples",
        "vshard": "virtual shard, from 0; the table is sorted by it and by position",
        "position": "place within the virtual shard, from 0",
        "group": "index into mixture.json's groups: the cell of the recipe that it was drawn for",
        "shard": "index into mixture.json's shards: the tar that holds it",
        "repeat": "0 where the sample stands in the mixture for the first time, 1 for the second, and so on",
        "offset": "byte at which the sample begins in that tar, as in members",
        "size": "bytes that it takes there: one range holds the whole sample",
        "tokens": "of text and media, by the recipe's contract with the loader",
        "seconds": "duration of a video, else 0",
        "bytes": "of all members",
    },
}

NAMES = ("config", "signals", *tables.SCHEMAS)


def run(name: str | None = None) -> dict[str, Any]:
    """The schema of one of NAMES, or of all: {name: …}.

    config: JSON Schema, settings of annotators and filters in their places. signals: annotator -> {version, of, needs,
    modalities, columns}. Others: {version, columns}; a column is {name, type, meaning}.
    Raises ConfigError for another name.
    """
    if name is not None and name not in NAMES:
        raise ConfigError(f"there is no schema of {name!r}", hint=f"known: {', '.join(NAMES)}")
    return {known: _schema(known) for known in (NAMES if name is None else (name,))}


def _schema(name: str) -> dict[str, Any]:
    if name == "config":
        return config_schema()
    if name == "signals":
        return {annotator: _annotator(annotator) for annotator in ANNOTATORS}
    columns = [
        {"name": field.name, "type": str(field.type), "meaning": MEANING[name].get(field.name, "")}
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
    error = "why it could not be measured; null: it was"
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


def settings_classes() -> dict[str, type[BaseModel]]:
    """Every settings class by its place in the config ("" is the top, then "sources[]", "filters.motion", …), in the
    order of the config; what a class holds comes after it."""
    found: dict[str, type[BaseModel]] = {"": Config}
    for field, info in Config.model_fields.items():
        if field == "filters":
            for name, filter_class in FILTERS.items():
                found |= _with_nested(f"filters.{name}", filter_class.settings_class())
        elif field in _PLACES:
            found |= _with_nested(field, _of_place(field))
        else:
            for kind in models_in(info.annotation)[:1]:
                found |= _with_nested(f"{field}[]" if field == "sources" else field, kind)
        if field == "measure":
            for name, annotator_class in ANNOTATORS.items():
                found |= _with_nested(f"measure.{name}", annotator_class.settings_class())
    return found


#: Keys of the top level whose content other modules declare.
_PLACES = ("measure", "filters", "duplicates", "resample", "annotate")


def _of_place(field: str) -> type[BaseModel]:
    resample: type[BaseModel] = ResampleSettings
    known: dict[str, type[BaseModel]] = {
        "measure": Measure, "duplicates": Duplicates, "resample": resample, "annotate": AnnotateSettings,
    }  # fmt: skip
    return known[field]


def _with_nested(place: str, kind: type[BaseModel]) -> dict[str, type[BaseModel]]:
    found = {place: kind}
    for field, info in kind.model_fields.items():
        for inner in models_in(info.annotation)[:1]:
            found |= _with_nested(f"{place}.{field}", inner)
    return found


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """Settings classes within a type: those of `tuple[Source, ...]`, `Clips | None`."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [kind for argument in getattr(annotation, "__args__", ()) for kind in models_in(argument)]


def config_schema() -> dict[str, Any]:
    """JSON Schema of the whole file: `measure`, `filters`, `duplicates`, `resample` and `annotate` hold the settings
    that the modules behind them declare themselves."""
    schema = Config.model_json_schema()
    definitions: dict[str, Any] = schema.setdefault("$defs", {})

    def put(place: str, kind: type[BaseModel]) -> dict[str, Any]:
        own = kind.model_json_schema(ref_template=f"#/$defs/{place}.{{model}}")
        for name, inner in own.pop("$defs", {}).items():
            definitions[f"{place}.{name}"] = inner
        definitions[place] = own
        return {"anyOf": [{"$ref": f"#/$defs/{place}"}, {"type": "null"}]}

    measure = put("measure", Measure)
    definitions["measure"]["properties"] |= {
        name: put(f"measure.{name}", kind.settings_class()) for name, kind in ANNOTATORS.items()
    }
    filters = {name: put(f"filters.{name}", kind.settings_class()) for name, kind in FILTERS.items()}
    schema["properties"] |= {
        "measure": measure,
        "filters": {"anyOf": [{"type": "object", "properties": filters, "additionalProperties": False},
                              {"type": "null"}]},
        "duplicates": put("duplicates", _of_place("duplicates")),
        "resample": put("resample", _of_place("resample")),
        "annotate": put("annotate", _of_place("annotate")),
    }  # fmt: skip
    schema["$schema"] = "https://json-schema.org/draft/2020-12/schema"
    return schema


def default_of(info: Any) -> str:
    """A field's default, as YAML would have it; "required" where there is none."""
    value = info.get_default(call_default_factory=True)
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, BaseModel):
        return "{}"
    if isinstance(value, str):
        return repr(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple):
        return f"[{', '.join(str(part) for part in value)}]"
    return "null" if value is None else f"{value}"


# -- for people -------------------------------------------------------------------------------------------------


def show(value: Mapping[str, Any]) -> None:
    """A table for each schema."""
    from rich.table import Table

    from pipelines.core.console import open_console

    out = open_console()
    for name, schema in value.items():
        if name == "config":
            table = Table(title="config: every key with its default", title_justify="left")
            for column in ("key", "default"):
                table.add_column(column, overflow="fold")
            for place, kind in settings_classes().items():
                for field, info in kind.model_fields.items():
                    if not (models_in(info.annotation) or (place == "" and field in _PLACES)):
                        table.add_row(f"{place}.{field}".lstrip("."), default_of(info))
            out.print(table, markup=False)
        elif name == "signals":
            table = Table(title="signals: columns by annotator", title_justify="left")
            for column in ("column", "type", "where"):
                table.add_column(column, overflow="fold")
            for annotator, entry in schema.items():
                asks = ", ".join(entry["modalities"])
                table.add_row(f"{annotator}, version {entry['version']}", f"needs {entry['needs']}", asks, style="bold")
                for row in entry["columns"]:
                    table.add_row(f"  {row['name']}", row["type"], row["where"])
            out.print(table, markup=False)
        else:
            table = Table(title=f"{name}, version {schema['version']}", title_justify="left")
            for column in ("column", "type", "meaning"):
                table.add_column(column, overflow="fold")
            for row in schema["columns"]:
                table.add_row(row["name"], _short(row["type"]), row["meaning"])
            out.print(table, markup=False)


def _short(type_: str) -> str:
    return type_.replace("list<element: ", "list<").replace("list<item: ", "list<")
