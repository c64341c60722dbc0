"""Answers of language models about what was taken down, in the request cache."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from annotators.dialogues import dialogue
from annotators.dialogues.evidence import EvidenceItem, EvidenceSheet
from annotators.dialogues.kinds import IMAGE_TEXT, load_kind, load_kinds
from infra import storage, tables
from infra.commit import read_manifest
from infra.llm.requests import Request, RequestCache
from pipelines.annotate.llm_client import cache_path
from pipelines.annotate.settings import RULES, AnnotateSettings
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.takedown.scan import TakedownScan

#: Characters from which on a text found in an answer shows that the answer is about its sample (ours): shorter ones
#: stand in answers about others too, and those have been paid for.
TELLING = 30


def find(found: TakedownScan) -> list[bytes]:
    """Keys of cached answers about the erased samples: to the requests for their dialogues, and all that hold a
    question, an answer or a dense caption which is told of no other sample. [] where the rules wrote."""
    settings = resolve(found.run).annotate
    if settings is None or settings.generator == RULES or not _there(found.run, settings):
        return []
    rows = _rows(found)
    if not rows:
        return []
    keys = {key for row, seconds in rows for key in _asked(row, seconds, settings)}
    mine = texts([row for row, _ in rows])
    with RequestCache(cache_path(found.run, settings)) as cache:
        return matching(cache, keys, needles(mine - _said_of_others(found, mine)))


def forget(run: Run, keys: Sequence[bytes]) -> int:
    """Remove these answers from the run's cache; doing it twice is doing it once."""
    settings = resolve(run).annotate
    if not keys or settings is None or not _there(run, settings):
        return 0
    with RequestCache(cache_path(run, settings)) as cache:
        return cache.forget(keys)


def matching(cache: RequestCache, keys: set[bytes], wanted: Sequence[str]) -> list[bytes]:
    """Keys in the cache that are among `keys`, or whose answer holds one of `wanted` (as `needles` gives them)."""
    from ahocorasick_rs import AhoCorasick

    finder = AhoCorasick(list(wanted)) if wanted else None
    found = []
    for key, answer in cache.items():
        if key in keys or (
            finder is not None and finder.find_matches_as_indexes(_bare(answer.decode("utf-8", "replace")))
        ):
            found.append(key)
    return sorted(found)


def texts(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Questions, answers and dense captions of rows of dialogues."""
    found = {turn[name] for row in rows for turn in row["turns"] or () for name in ("question", "answer")}
    found |= {item["text"] for row in rows for item in row["evidence"] or () if item["kind"] == "dense"}
    return found - {None, ""}


def needles(found: Iterable[str]) -> list[str]:
    """Of such texts those that are long enough to tell, without escapes."""
    bare = {_bare(json.dumps(text, ensure_ascii=False)[1:-1]) for text in found}
    return sorted(text for text in bare if len(text) >= TELLING)


def _said_of_others(found: TakedownScan, mine: set[str]) -> set[str]:
    """Those of these texts that stand in dialogues of samples which stay."""
    manifest = read_manifest(found.run.at("dialogues"))
    gone, wanted = pa.array(sorted(found.erased), pa.string()), pa.array(sorted(mine), pa.string())
    said: set[str] = set()
    for unit in () if manifest is None else manifest.units:
        table = tables.read(found.run.at("dialogues", f"{unit.name}.parquet"), ["key", "turns", "evidence"])
        stay = table.filter(pc.invert(pc.is_in(table["key"], value_set=gone)))
        for column, name in (("turns", "question"), ("turns", "answer"), ("evidence", "text")):
            values = pc.struct_field(pc.list_flatten(stay[column].combine_chunks()), name)
            said |= set(values.filter(pc.is_in(values, value_set=wanted)).to_pylist())
    return said


def _bare(text: str) -> str:
    """JSON inside of JSON escapes what JSON escapes; without backslashes all of it is the same."""
    return text.replace("\\", "")


def _there(run: Run, settings: AnnotateSettings) -> bool:
    uri = settings.cache or storage.join(run.store, "requests.sqlite")
    return storage.is_local(uri) and storage.is_file(uri)


def _rows(found: TakedownScan) -> list[tuple[dict[str, Any], float | None]]:
    """(row of dialogues, seconds as its sheet had them) of each erased sample that has one."""
    rows: list[tuple[dict[str, Any], float | None]] = []
    if read_manifest(found.run.at("dialogues")) is None:
        return rows
    wanted = pa.array(sorted(found.erased), pa.string())
    for unit in found.rows:
        table = tables.read(found.run.at("dialogues", f"{unit}.parquet"))
        mine = table.filter(pc.is_in(table["key"], value_set=wanted)).to_pylist()
        uri = found.run.work("evidence", f"{unit}.parquet")
        known = tables.read(uri, ["key", "seconds"]).to_pylist() if mine and storage.is_file(uri) else []
        seconds = {row["key"]: row["seconds"] for row in known}
        rows += [(row, seconds.get(row["key"])) for row in mine]
    return rows


def _asked(row: Mapping[str, Any], seconds: float | None, settings: AnnotateSettings) -> list[bytes]:
    """The key of the request that a row of dialogues came of."""
    if not row["evidence"]:
        return []
    chosen = load_kind(IMAGE_TEXT) if row["kind"] == IMAGE_TEXT else load_kinds()[row["kind"]]
    sheet = EvidenceSheet(tuple(EvidenceItem(**item) for item in row["evidence"]), seconds)
    sampling = settings.sampling.model_dump(mode="json")
    return [
        Request(dialogue.build_generation_body(chosen, sheet, settings.served_model, sampling, settings.candidates)).key
    ]
