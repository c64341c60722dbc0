"""The configuration file: strict YAML with line numbers, so that every message about a mistake names its line."""

from __future__ import annotations

import codecs
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

#: Limit on whole numbers in settings: larger ones fit neither into tables nor into what libraries take.
MAX_INTEGER = 2**64


class Strict(BaseModel):
    """Base of every settings class: frozen, and unknown keys are errors. Values are not coerced to another type, except
    that a number may be quoted, since ${VARIABLES} are text."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, setting: Any, info: ValidationInfo) -> Any:
        # YAML's yes, no, on and off are bools, and Python's bools are numbers: `seed: on` would be 1.
        if isinstance(setting, bool) and not _takes_bool(cls.model_fields[str(info.field_name)].annotation):
            raise ValueError(f"{str(setting).lower()} is no value for this key")
        return setting

    @field_validator("*")
    @classmethod
    def _refuse_unstorable(cls, setting: Any) -> Any:
        for scalar in setting if isinstance(setting, tuple) else (setting,):
            if isinstance(scalar, int) and abs(scalar) >= MAX_INTEGER:
                raise ValueError(f"whole numbers must be below {MAX_INTEGER:,}")
            if isinstance(scalar, str) and "\0" in scalar:
                raise ValueError("text must not contain the character NUL")
        return setting


def _takes_bool(annotation: Any) -> bool:
    return annotation in (Any, bool) or any(map(_takes_bool, get_args(annotation)))


def _drop_defaults(fields: dict[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    return {name: field for name, field in fields.items() if name not in defaults or field != defaults[name]}


class Captions(Strict):
    """Location of a source's captions.

    file: a JSONL, CSV or Parquet table (relative to the source's path); None means a .txt or .json beside each medium.
    optional: a medium may lack a caption.
    many: which of several captions of a medium to use: the first, all (an input for each), all joined by line breaks,
        or one drawn by a hash of seed, source and medium.
    """

    file: str | None = None
    media_column: str = "file"
    text_column: str = "text"
    optional: bool = False
    many: Literal["first", "all", "join", "random"] = "first"
    seed: int = Field(default=0, ge=0)

    @model_serializer(mode="wrap")
    def _without_default_many(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Leave out defaults that fingerprints of older runs do not contain."""
        return _drop_defaults(dump(self), {"many": "first", "seed": 0})


class Source(Strict):
    """A source of samples.

    path: a folder, a file, or any fsspec URI; ${VARIABLES} are filled in.
    format: folder (media files), webdataset (tars), table (JSONL, CSV or Parquet of text), llava (LLaVA JSON);
        by default inferred from the file names.
    reader: name of a reader from an installed package, in place of format.
    encoding: of tables and captions that are text and not UTF-8, such as cp1252; UTF-16 with a byte order mark needs
        none.
    include: glob patterns relative to path; files that match none are counted as ignored.
    follow_links: "inside" follows links to files of the source only, "all" any link to a file; links to folders never.
    mean_bytes: expected size of an item, from which units are cut; None takes the modality's default.
    """

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")
    path: str
    modality: Modality
    format: Literal["folder", "webdataset", "table", "llava"] | None = None
    reader: str | None = None
    include: tuple[str, ...] | None = None
    follow_links: Literal["inside", "all"] = "inside"
    captions: Captions = Captions()
    id_column: str | None = None
    text_column: str = "text"
    encoding: str | None = None
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
        """Leave out what is not given and fingerprints of older runs do not contain."""
        return _drop_defaults(dump(self), {"reader": None, "encoding": None})

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str | None) -> str | None:
        if encoding is not None:
            try:
                codecs.lookup(encoding)
            except LookupError:
                raise ValueError(f"{encoding!r} is no encoding that Python knows") from None
        return encoding

    @field_validator("captions", mode="before")
    @classmethod
    def _expand_captions(cls, captions: Any) -> Any:
        if isinstance(captions, str):
            words = {"sidecar": {}, "optional": {"optional": True}}
            return words.get(captions, {"file": captions})
        return captions

    @field_validator("include", mode="before")
    @classmethod
    def _expand_include(cls, patterns: Any) -> Any:
        return (patterns,) if isinstance(patterns, str) else patterns


class UnitSettings(Strict):
    """Size of units, into which the inventory is cut and which are committed one by one (ours: 1 GiB of media or 50,000
    rows)."""

    target_bytes: int = Field(default=2**30, gt=0)
    target_rows: int = Field(default=50_000, gt=0)


class OcrText(Strict):
    """Joining of overlay text to captions at export. Llama 3 concatenates them; the template is ours."""

    join: bool = False
    min_words: int = Field(default=1, ge=1)
    template: str = "{caption}\nText in the picture: {text}"

    @field_validator("template")
    @classmethod
    def _check_template(cls, template: str) -> str:
        try:
            template.format(caption="", text="")
        except (KeyError, IndexError, ValueError) as error:
            raise ValueError(f"only {{caption}} and {{text}} may appear in braces ({error})") from error
        return template


class Export(Strict):
    """Shards: at most `shard_bytes` of media and `shard_samples` samples each (conventions of the field).

    date_published (ISO 8601), creator, url, description: facts that only the publisher of the data set knows; a fact
    that is not stated is absent from croissant.json.
    """

    shard_bytes: int = Field(default=10**9, gt=0, le=2**40)
    shard_samples: int = Field(default=10_000, gt=0, le=2**20)
    captions_txt: bool = True
    ocr: OcrText = OcrText()
    date_published: str | None = Field(default=None, pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}")
    creator: str | None = Field(default=None, min_length=1)
    url: str | None = Field(default=None, pattern=r"^[a-z][a-z0-9+.-]*:")
    description: str = ""


class Config(Strict):
    """The whole file. `pipelines.core.resolve` validates `measure`, `filters`, `duplicates`, `resample` and `annotate`
    against the settings of the modules that they name."""

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
    def _expand_empty(cls, section: Any) -> Any:
        return {} if section is None else section

    @field_validator("sources")
    @classmethod
    def _check_names(cls, sources: tuple[Source, ...]) -> tuple[Source, ...]:
        names = [source.name for source in sources]
        repeated = sorted({name for name in names if names.count(name) > 1})
        if repeated:
            raise ValueError(f"two sources are called {repeated[0]!r}; names must differ")
        return sources


@dataclass(frozen=True)
class ConfigDocument:
    """A YAML file: its top-level mapping, and the line of every key."""

    path: str
    content: dict[str, Any]
    lines: Mapping[KeyPath, int]

    def where(self, key_path: KeyPath) -> str:
        """`file:line` of a key, or of the nearest key above it that has a line."""
        for end in range(len(key_path), -1, -1):
            if key_path[:end] in self.lines:
                return f"{self.path}:{self.lines[key_path[:end]]}"
        return self.path


Settings = TypeVar("Settings", bound=BaseModel)

#: Limit on values, aliases included: a file of ten lines with aliases of aliases can expand beyond the memory.
MAX_VALUES = 100_000

_VARIABLE = re.compile(r"\$\{([A-Za-z_][A-Za-z0-9_]*)\}")


def read_document(path: str | Path, text: str | None = None) -> ConfigDocument:
    """Read a YAML file, or `text` in its stead, into a ConfigDocument; ${VARIABLES} are filled in.

    Raises ConfigError with file and line for broken YAML, repeated keys and unset variables.
    """
    name = str(path)
    if text is None:
        try:
            text = Path(path).read_text(encoding="utf-8")
        except FileNotFoundError:
            hint = "`reelmill init > config.yaml` writes one to start from"
            raise ConfigError("no such config file", where=name, hint=hint) from None
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
        content = _construct(node, (), lines, name) if node is not None else {}
    except RecursionError:
        raise ConfigError("an alias (*name) refers to a value that contains it", where=name) from None
    if not isinstance(content, dict):
        raise ConfigError("the config must be a mapping of keys", where=f"{name}:1", hint="write lines of `key: value`")
    return ConfigDocument(name, content, lines)


def _construct(node: yaml.Node, key_path: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    """The node as dicts, lists and scalars; records the lines of its keys in `lines`."""
    where = f"{name}:{node.start_mark.line + 1}"
    lines.setdefault(key_path, node.start_mark.line + 1)
    if len(lines) > MAX_VALUES:
        raise ConfigError(f"the config has more than {MAX_VALUES:,} values, aliases included", where=where)
    if isinstance(node, yaml.MappingNode):
        mapping: dict[str, Any] = {}
        for key_node, child in node.value:
            key = _construct_scalar(key_node, name)
            key_line = key_node.start_mark.line + 1
            if not isinstance(key, str):
                raise ConfigError(
                    f"keys must be words, got {key!r}", where=f"{name}:{key_line}", hint="put it in quotes"
                )
            if key in mapping:
                hint = "keep one of the two"
                raise ConfigError(f"the key {key!r} appears twice", where=f"{name}:{key_line}", hint=hint)
            lines[(*key_path, key)] = key_line
            mapping[key] = _construct(child, (*key_path, key), lines, name)
        return mapping
    if isinstance(node, yaml.SequenceNode):
        return [_construct(child, (*key_path, i), lines, name) for i, child in enumerate(node.value)]
    scalar = _construct_scalar(node, name)
    return _fill_variables(scalar, where) if isinstance(scalar, str) else scalar


def _construct_scalar(node: yaml.Node, name: str) -> Any:
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


def _fill_variables(text: str, where: str) -> str:
    def replacement(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in os.environ:
            hint = f"export {name}=… before running"
            raise ConfigError(f"the variable ${{{name}}} is not set", where=where, hint=hint)
        return os.environ[name]

    return _VARIABLE.sub(replacement, text)


def validate(document: ConfigDocument, kind: type[Settings], content: Any, key_path: KeyPath = ()) -> Settings:
    """`content`, at `key_path` of the document, as `kind`.

    Raises ConfigError with file, line, key, the fault and the nearest valid key.
    """
    try:
        return kind.model_validate({} if content is None else content)
    except ValidationError as error:
        first = error.errors()[0]
        path = _strip_union_names(content, tuple(first["loc"]), first["type"] == "missing")
        dotted = ".".join(str(key) for key in (*key_path, *path)) or "config"
        hint = ""
        what = first["msg"].removeprefix("Value error, ")
        if first["type"] == "extra_forbidden":
            keys = _list_keys(kind, path[:-1])
            near = difflib.get_close_matches(str(path[-1]), keys, n=1)
            what = "there is no such key"
            hint = f"did you mean {near[0]!r}?" if near else f"known here: {', '.join(keys)}"
        elif first["type"] in ("model_type", "dict_type", "mapping_type"):
            what = "must be a mapping of keys to values"
        elif first["type"] == "missing":
            what = "this key is required"
        if len(error.errors()) > 1:
            hint = f"{hint}\n  ".lstrip("\n ") + f"({len(error.errors()) - 1} more after this one)"
        where = document.where((*key_path, *path))
        raise ConfigError(f"{dotted}: {what}", where=where, hint=hint) from None


def _strip_union_names(content: Any, path: KeyPath, is_missing: bool) -> KeyPath:
    """`path` without the names of types that pydantic inserts for unions."""
    keys: list[str | int] = []
    for i, key in enumerate(path):
        exists = (isinstance(content, Mapping) and key in content) or (
            isinstance(content, (list, tuple)) and isinstance(key, int) and key < len(content)
        )
        if exists:
            content = content[key]
        if exists or (is_missing and i == len(path) - 1):
            keys.append(key)
    return tuple(keys)


def _list_keys(kind: type[BaseModel], path: KeyPath) -> list[str]:
    """The keys that `kind` accepts at `path`; [] where there is no model."""
    model = kind
    for key in path:
        if isinstance(key, int):
            continue
        field = model.model_fields.get(key)
        nested = _find_model(field.annotation) if field else None
        if nested is None:
            return []
        model = nested
    return sorted(model.model_fields)


def _find_model(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((model for argument in get_args(annotation) if (model := _find_model(argument)) is not None), None)
