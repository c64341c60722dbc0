"""Columns of tars that mix modalities, as a data-set card declares them for the Hugging Face loader.

That loader infers columns from the first samples of the first tar, which must all be the same; those of a mixture
differ, so its README.md declares them. A sample without a column has null there.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable
from typing import Any

import yaml

from mixtures.shards.media_types import get_media_type
from mixtures.shards.record import Record, RecordTurn

_SCALARS: dict[Any, str] = {str: "string", int: "int64", float: "float64"}


def build_features(suffixes: Iterable[str]) -> list[dict[str, Any]]:
    """Build `dataset_info.features` of a data-set card: a column per suffix, then the loader's own two."""
    columns = [_column(suffix) for suffix in sorted(set(suffixes))]
    return [*columns, {"name": "__key__", "dtype": "string"}, {"name": "__url__", "dtype": "string"}]


def build_front_matter(name: str, suffixes: Iterable[str], *, has_tars: bool) -> str:
    """Build the YAML front matter of a mixture's README.md; features only where there are tars to read."""
    metadata: dict[str, Any] = {"pretty_name": name, "license": "other"}
    if has_tars:
        metadata["configs"] = [
            {"config_name": "default", "data_files": [{"split": "train", "path": "shards/mix-*.tar"}]}
        ]
        metadata["dataset_info"] = {"features": build_features(suffixes)}
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n"


def _column(suffix: str) -> dict[str, Any]:
    if suffix == "json":
        return {"name": suffix, "struct": _fields(Record)}
    kind = get_media_type(suffix).split("/")[0]
    if kind == "video":  # not decoded: trainers decode, and the loader needs one more package to
        return {"name": suffix, "dtype": {"video": {"decode": False}}}
    return {"name": suffix, "dtype": {"image": "image", "text": "string"}.get(kind, "binary")}


def _fields(struct: type) -> list[dict[str, Any]]:
    hints = typing.get_type_hints(struct)
    names = zip(struct.__struct_fields__, struct.__struct_encode_fields__, strict=True)  # type: ignore[attr-defined]
    return [{"name": encoded, **_type(hints[name])} for name, encoded in names]


def _type(hint: Any) -> dict[str, Any]:
    if typing.get_origin(hint) is types.UnionType:  # may be null, as every column may
        (hint,) = (member for member in typing.get_args(hint) if member is not type(None))
    if typing.get_origin(hint) is list:
        (inner,) = typing.get_args(hint)
        return {"list": _fields(RecordTurn) if inner is RecordTurn else _SCALARS[inner]}
    return {"dtype": _SCALARS[hint]}
