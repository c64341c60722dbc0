"""The configuration file: strict YAML with places, so that every mistake names its line."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from infra.errors import ConfigError
from infra.media.interface import Modality

KeyPath = tuple[str | int, ...]


class Strict(BaseModel):
    """Base of every settings class: unknown keys are errors, frozen. Values are not coerced across kinds, except that a
    number may stand in quotes: what ${VARIABLES} hold is text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _no_switch(cls, value: Any, info: ValidationInfo) -> Any:
        # YAML's yes, no, on and off are bools, and Python's bools are numbers: `seed: on` would be 1.
        if isinstance(value, bool) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"{str(value).lower()} is no value for this key")
        return value


def _takes_bool(annotation: Any) -> bool:
    return annotation in (Any, bool) or any(map(_takes_bool, get_args(annotation)))


class Captions(Strict):
    """Where a source's captions are.

    file: a JSONL, CSV or Parquet table (relative to the source's path); None means a .txt or .json beside each medium.
    optional: a medium without caption is no fault.
    """

    file: str | None = None
    media_column: str = "file"
    text_column: str = "text"
    optional: bool = False


class Source(Strict):
    """One place that samples come from.

    path: a folder, a file, or any fsspec URI; ${VARIABLES} are filled in.
    format: folder (media files), webdataset (tars), table (JSONL, CSV or Parquet of text), llava (LLaVA JSON);
        by default taken from the names found.
    reader: name of a reader from an installed package, in place of format.
    include: glob patterns relative to path; what matches none is counted as ignored.
    mean_bytes: expected size of an item, from which units are cut; None takes the modality's default.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    path: str
    modality: Modality
    format: Literal["folder", "webdataset", "table", "llava"] | None = None
    reader: str | None = None
    include: tuple[str, ...] | None = None
    captions: Captions = Captions()
    id_column: str | None = None
    text_column: str = "text"
    licence: str = "unknown"
    licence_column: str | None = None
    origin: str = ""
    origin_column: str | None = None
    mean_bytes: int | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _one_reader(self) -> Source:
        if self.reader is not None and self.format is not None:
            raise ValueError("`reader` replaces `format`: give one of them")
        return self

    @model_serializer(mode="wrap")
    def _without_default_reader(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out `reader` where it is not given: fingerprints of older runs do not contain it."""
        fields: dict[str, Any] = dump(self)
        if self.reader is None:
            fields.pop("reader", None)
        return fields

    @field_validator("captions", mode="before")
    @classmethod
    def _captions(cls, value: Any) -> Any:
        if isinstance(value, str):
            words = {"sidecar": {}, "optional": {"optional": True}}
            return words.get(value, {"file": value})
        return value

    @field_validator("include", mode="before")
    @classmethod
    def _include(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class UnitSettings(Strict):
    """How the inventory is cut into units, the pieces that are committed (ours: 1 GiB of media or 50,000 rows)."""

    target_bytes: int = Field(default=2**30, gt=0)
    target_rows: int = Field(default=50_000, gt=0)


class OcrText(Strict):
    """How overlay text is joined to captions at export; Llama 3 concatenates them, the form is ours."""

    join: bool = False
    min_words: int = Field(default=1, ge=1)
    template: str = "{caption}\nText in the picture: {text}"

    @field_validator("template")
    @classmethod
    def _template(cls, value: str) -> str:
        try:
            value.format(caption="", text="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"only {{caption}} and {{text}} may stand in braces ({error})") from error
        return value


class Export(Strict):
    """Shards: at most `shard_bytes` of media and `shard_samples` samples each (conventions of the field)."""

    shard_bytes: int = Field(default=10**9, gt=0)
    shard_samples: int = Field(default=10_000, gt=0)
    captions_txt: bool = True
    ocr: OcrText = OcrText()
    date_published: str = "1970-01-01"
    creator: str = "unknown"
    url: str = "https://example.org/"
    description: str = ""


class Config(Strict):
    """The whole file. `measure`, `filters`, `duplicates`, `resample` and `annotate` are checked against the settings
    of the modules that they name by `pipelines.core.resolve`."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    seed: int = Field(default=0, ge=0)
    store: str
    out: str
    sources: tuple[Source, ...] = Field(min_length=1)
    units: UnitSettings = UnitSettings()
    measure: Mapping[str, Any] = Field(default_factory=dict)
    filters: Mapping[str, Any] = Field(default_factory=dict)
    duplicates: Mapping[str, Any] = Field(default_factory=dict)
    resample: Mapping[str, Any] | None = None
    annotate: Mapping[str, Any] | None = None
    export: Export = Export()

    @field_validator("measure", "filters", "duplicates", mode="before")
    @classmethod
    def _empty(cls, value: Any) -> Any:
        return {} if value is None else value

    @field_validator("sources")
    @classmethod
    def _names(cls, value: tuple[Source, ...]) -> tuple[Source, ...]:
        names = [source.name for source in value]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two sources are called {twice[0]!r}; names must differ")
        return value


@dataclass(frozen=True)
class ConfigDocument:
    """A YAML file as data, with the line of every key."""

    path: str
    content: dict[str, Any]
    lines: Mapping[KeyPath, int]

    def where(self, place: KeyPath) -> str:
        """`file:line` of a place, or of the nearest place above it that has one."""
        for end in range(len(place), -1, -1):
            if place[:end] in self.lines:
                return f"{self.path}:{self.lines[place[:end]]}"
        return self.path


Settings = TypeVar("Settings", bound=BaseModel)

#: Aliases of aliases multiply: a file of ten lines can stand for more values than fit in memory.
MAX_PLACES = 100_000

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def read_document(path: str | Path, text: str | None = None) -> ConfigDocument:
    """Read a YAML file into a ConfigDocument.

    Raises ConfigError with file and line for broken YAML, repeated keys and unset ${VARIABLES}.
    """
    name = str(path)
    if text is None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            raise ConfigError(
                "no such config file", where=name, hint="`reelmill init > config.yaml` writes one to start from"
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the config: {error}", where=name) from None
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"not valid YAML: {error.problem}", where=f"{name}:{line}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {error}", where=name) from None
    except RecursionError:
        raise ConfigError("nested too deeply", where=name) from None
    lines: dict[KeyPath, int] = {(): 1}
    try:
        data = _plain(node, (), lines, name) if node is not None else {}
    except RecursionError:
        raise ConfigError("an alias (*name) stands within what it names", where=name) from None
    if not isinstance(data, dict):
        raise ConfigError("the config must be a mapping of keys", where=f"{name}:1")
    return ConfigDocument(name, data, lines)


def _plain(node: yaml.Node, place: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    line = node.start_mark.line + 1
    lines.setdefault(place, line)
    if len(lines) > MAX_PLACES:
        raise ConfigError(f"the config has more than {MAX_PLACES:,} values, aliases included", where=f"{name}:{line}")
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = _scalar(key_node, name)
            key_line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(f"keys must be words, got {key!r}", where=f"{name}:{key_line}")
            if key in found:
                raise ConfigError(f"the key {key!r} stands here twice", where=f"{name}:{key_line}")
            lines[(*place, key)] = key_line
            found[key] = _plain(value_node, (*place, key), lines, name)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_plain(child, (*place, i), lines, name) for i, child in enumerate(node.value)]
    value = _scalar(node, name)
    return _fill(value, f"{name}:{line}") if isinstance(value, str) else value


def _scalar(node: yaml.Node, name: str) -> Any:
    loader = yaml.SafeLoader("")
    try:
        return loader.construct_object(node, deep=True)
    except (yaml.MarkedYAMLError, ValueError) as error:
        where = f"{name}:{node.start_mark.line + 1}"
        if node.tag.endswith(":merge"):
            raise ConfigError("merging with << is not supported", where=where, hint="write the keys out") from None
        what = error.problem if isinstance(error, yaml.MarkedYAMLError) else error
        raise ConfigError(f"not a plain value: {what}", where=where) from None
    finally:
        loader.dispose()


def _fill(value: str, where: str) -> str:
    def variable(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            raise ConfigError(
                f"the variable ${{{name}}} is not set", where=where, hint=f"export {name}=… before running"
            )
        return os.environ[name]

    return _VARIABLE.sub(variable, value)


def validate(document: ConfigDocument, kind: type[Settings], data: Any, place: KeyPath = ()) -> Settings:
    """`data` (found at `place` of the document) as `kind`.

    Raises ConfigError naming file, line, key, what is wrong and the nearest known key.
    """
    try:
        return kind.model_validate({} if data is None else data)
    except ValidationError as error:
        first = error.errors()[0]
        loc = _place_in(data, tuple(first["loc"]), first["type"] == "missing")
        dotted = ".".join(str(part) for part in (*place, *loc)) or "config"
        hint = ""
        what = f"{dotted}: {first['msg'].removeprefix('Value error, ')}"
        if first["type"] == "extra_forbidden":
            known = _fields(kind, loc[:-1])
            near = difflib.get_close_matches(str(loc[-1]), known, n=1)
            what = f"{dotted}: there is no such key"
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(known)}"
        elif first["type"] in ("model_type", "dict_type", "mapping_type"):
            what = f"{dotted}: keys with values are wanted here"
        elif first["type"] == "missing":
            what = f"{dotted}: this key is required"
        if len(error.errors()) > 1:
            hint = f"{hint}\n  ".lstrip("\n ") + f"({len(error.errors()) - 1} more after this one)"
        raise ConfigError(what, where=document.where((*place, *loc)), hint=hint) from None


def _place_in(data: Any, loc: KeyPath, is_missing: bool) -> KeyPath:
    """`loc` without the names of types that pydantic puts in for unions."""
    found: list[str | int] = []
    for i, part in enumerate(loc):
        known = (isinstance(data, Mapping) and part in data) or (
            isinstance(data, (list, tuple)) and isinstance(part, int) and part < len(data)
        )
        if known:
            data = data[part]
        if known or (is_missing and i == len(loc) - 1):
            found.append(part)
    return tuple(found)


def _fields(kind: type[BaseModel], loc: KeyPath) -> list[str]:
    current: Any = kind
    for part in loc:
        if isinstance(part, int) or not isinstance(current, type) or not issubclass(current, BaseModel):
            continue
        field = current.model_fields.get(part)
        current = _model_in(field.annotation) if field else None
        if current is None:
            return []
    return sorted(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _model_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    for argument in getattr(annotation, "__args__", ()):
        found = _model_in(argument)
        if found is not None:
            return found
    return None
