"""The columns of tars that mix members, as a data-set card names them for the Hugging Face loader.

That loader tells columns from the first samples of the first tar, which must all have the same; a mixture's have not,
so its README.md says what they are. A sample without a column has null there.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Any

import yaml

from mixtures.shards.record import Record, RecordTurn

#: Suffixes of media as export writes them, by what the loader makes of them.
IMAGES = frozenset({"jpg", "png", "gif", "webp", "bmp", "tif", "ppm", "avif"})
VIDEOS = frozenset({"mp4", "mkv", "webm", "avi", "mov", "mpeg", "ts", "m2ts", "flv", "wmv", "ogv", "3gp"})

_SCALARS: dict[Any, str] = {str: "string", int: "int64", float: "float64"}


def build_features(suffixes: Iterable[str]) -> list[dict[str, Any]]:
    """`dataset_info.features` of a data-set card: a column for every suffix, then the loader's own two."""
    columns = [_column(suffix) for suffix in sorted(set(suffixes))]
    return [*columns, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def build_front_matter(name: str, suffixes: Iterable[str], *, has_tars: bool) -> str:
    """The YAML block that a mixture's README.md begins with; features only where there are tars to read."""
    value: dict[str, Any] = {"pretty_name": name, "license": "other"}
    if has_tars:
        value["configs"] = [{"config_name": "default", "data_files": [{"split": "train", "path": "shards/mix-*.tar"}]}]
        value["dataset_info"] = {"features": build_features(suffixes)}
    return f"---\n{yaml.safe_dump(value, sort_keys=False, allow_unicode=True)}---\n"


def _column(suffix: str) -> dict[str, Any]:
    kind = suffix.rsplit(".", 1)[-1]
    if kind == "json":
        return {"name": suffix, "struct": _fields(Record)}
    if kind in VIDEOS:  # as they are: decoding is the trainer's, and the loader's own needs one more package
        return {"name": suffix, "dtype": {"video": {"decode": False}}}
    if kind in IMAGES:
        return {"name": suffix, "dtype": "image"}
    return {"name": suffix, "dtype": "string" if kind == "txt" else "binary"}


def _fields(struct: type) -> list[dict[str, Any]]:
    hints = typing.get_type_hints(struct)
    names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)  # type: ignore[attr-defined]
    return [{"name": encoded, **_type(hints[name])} for name, encoded in names]


def _type(hint: Any) -> dict[str, Any]:
    if typing.get_origin(hint) is types.UnionType:  # may be null, as every column may
        (hint,) = (one for one in typing.get_args(hint) if one is not type(None))
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        return {"list": _fields(RecordTurn) if inner is RecordTurn else _SCALARS[inner]}
    return {"dtype": _SCALARS[hint]}
