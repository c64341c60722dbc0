"""Find and remove cached answers of language models about samples that are taken down."""

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
from pipelines.annotate.llm_client import cache_path, cache_uri
from pipelines.annotate.settings import RULES, AnnotateSettings
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.takedown.scan import TakedownScan

#: Least number of characters of a text whose presence shows that an answer is about its sample (ours): shorter texts
#: also occur in answers about others, which would have to be paid for again.
MIN_CHARACTERS = 30


def find(scan: TakedownScan) -> list[bytes]:
    """Keys of cached answers about the erased samples: answers to the requests for their dialogues, and answers with a
    question, answer or dense caption that no other sample has. [] if dialogues were written by rules."""
    settings = resolve(scan.run).annotate
    if settings is None or settings.generator == RULES or not _has_cache(scan.run, settings):
        return []
    rows = _read_dialogues(scan)
    if not rows:
        return []
    keys = {key for row, seconds in rows for key in _build_request_keys(row, seconds, settings)}
    texts = extract_texts([row for row, _ in rows])
    with RequestCache(cache_path(scan.run, settings)) as cache:
        return match_answers(cache, keys, build_needles(texts - _find_shared(scan, texts)))


def forget(run: Run, keys: Sequence[bytes]) -> int:
    """Remove these answers from the run's cache and return how many there were; safe to repeat."""
    settings = resolve(run).annotate
    if not keys or settings is None or not _has_cache(run, settings):
        return 0
    with RequestCache(cache_path(run, settings)) as cache:
        return cache.forget(keys)


def match_answers(cache: RequestCache, keys: set[bytes], needles: Sequence[str]) -> list[bytes]:
    """Keys in the cache that are among `keys`, or whose answer contains a needle of `build_needles`."""
    from ahocorasick_rs import AhoCorasick

    finder = AhoCorasick(list(needles)) if needles else None

    def contains_needle(answer: bytes) -> bool:
        text = _remove_escapes(answer.decode("utf-8", "replace"))
        return finder is not None and bool(finder.find_matches_as_indexes(text))

    return sorted(key for key, answer in cache.items() if key in keys or contains_needle(answer))


def extract_texts(rows: Sequence[Mapping[str, Any]]) -> set[str]:
    """Questions, answers and dense captions of rows of dialogues."""
    texts = {turn[name] for row in rows for turn in row["turns"] or () for name in ("question", "answer")}
    texts |= {item["text"] for row in rows for item in row["evidence"] or () if item["kind"] == "dense"}
    return texts - {None, ""}


def build_needles(texts: Iterable[str]) -> list[str]:
    """The texts that are long enough to identify a sample, without escapes."""
    plain = {_remove_escapes(json.dumps(text, ensure_ascii=False)[1:-1]) for text in texts}
    return sorted(text for text in plain if len(text) >= MIN_CHARACTERS)


def _find_shared(scan: TakedownScan, texts: set[str]) -> set[str]:
    """Those of these texts that the dialogues of remaining samples contain."""
    manifest = read_manifest(scan.run.at("dialogues"))
    erased, candidates = scan.erased_keys, pa.array(sorted(texts), pa.string())
    shared: set[str] = set()
    for unit in () if manifest is None else manifest.units:
        table = scan.run.read("dialogues", unit.name, ["key", "turns", "evidence"])
        remaining = table.filter(pc.invert(pc.is_in(table["key"], value_set=erased)))
        for column, name in (("turns", "question"), ("turns", "answer"), ("evidence", "text")):
            strings = pc.struct_field(pc.list_flatten(remaining[column].combine_chunks()), name)
            shared |= set(strings.filter(pc.is_in(strings, value_set=candidates)).to_pylist())
    return shared


def _remove_escapes(text: str) -> str:
    """Answers are JSON within JSON, so texts are escaped once or twice; without backslashes all forms are equal."""
    return text.replace("\\", "")


def _has_cache(run: Run, settings: AnnotateSettings) -> bool:
    uri = cache_uri(run, settings)
    return storage.is_local(uri) and storage.is_file(uri)


def _read_dialogues(scan: TakedownScan) -> list[tuple[dict[str, Any], float | None]]:
    """(row of dialogues, seconds in its evidence sheet) of each erased sample that has a dialogue."""
    rows: list[tuple[dict[str, Any], float | None]] = []
    if read_manifest(scan.run.at("dialogues")) is None:
        return rows
    for unit in scan.erased_rows:
        table = scan.run.read("dialogues", unit)
        erased = table.filter(pc.is_in(table["key"], value_set=scan.erased_keys)).to_pylist()
        uri = scan.run.work("evidence", f"{unit}.parquet")
        sheets = tables.read(uri, ["key", "seconds"]).to_pylist() if erased and storage.is_file(uri) else []
        seconds = {sheet["key"]: sheet["seconds"] for sheet in sheets}
        rows += [(row, seconds.get(row["key"])) for row in erased]
    return rows


def _build_request_keys(row: Mapping[str, Any], seconds: float | None, settings: AnnotateSettings) -> list[bytes]:
    """The key of the request that produced a row of dialogues; [] without evidence."""
    if not row["evidence"]:
        return []
    kind = load_kind(IMAGE_TEXT) if row["kind"] == IMAGE_TEXT else load_kinds()[row["kind"]]
    sheet = EvidenceSheet(tuple(EvidenceItem(**item) for item in row["evidence"]), seconds)
    sampling = settings.sampling.model_dump(mode="json")
    body = dialogue.build_generation_body(kind, sheet, settings.served_model, sampling, settings.candidates)
    return [Request(body).key]
