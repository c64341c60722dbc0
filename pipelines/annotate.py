"""annotate: kept videos -> dialogues. First what is known of each video, then who is asked for which kind, then asking.

Two jobs: one makes the evidence sheets and counts which kinds they support; from the counts follow the odds of each
kind, so that the data set meets the shares; the other writes. Every answer of a server goes to the request cache
before anything else is asked in its place: a job that is killed pays for nothing twice but what was on its way.
"""

from __future__ import annotations

import asyncio
import base64
import functools
import math
import os
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from annotators import checks, dialogue, evidence, rules_writer
from annotators.assignment import assign, probabilities
from annotators.evidence import Item, Sheet
from annotators.kinds import IMAGE_TEXT, kind, kinds, supports
from infra import beam, progress, storage, tables
from infra.asking import Ask, Cache, Desk
from infra.batch import Batch, clear, read_answers
from infra.commit import Manifest, committed, need_manifest, read_json, read_manifest, write_manifest
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json, fingerprint
from infra.inventory import root_of
from infra.media import FramePlan, MediaRef
from infra.servers import Servers
from pipelines.dialogues import RULES, Annotate, Captioner, Written, row, write
from pipelines.export import unit_signals
from pipelines.measure import decoder, limits
from pipelines.resolve import resolve
from pipelines.run import Run

SHEETS = pa.schema(
    [
        ("key", pa.string()),
        ("seconds", pa.float64()),
        ("items", pa.list_(tables.ITEM)),
        ("supports", pa.list_(pa.string())),
    ]
)

#: Seconds between two notes of how far a process has come.
NOTE_S = 1.0

#: Videos at work for each request that may be in flight: while one waits for its next request another takes the slot.
AHEAD = 1.25

#: Kinds in the name of a class of videos, in `RUN/work` only.
_JOIN = "+"

Table = Mapping[frozenset[str], Mapping[str, float]]


def annotate(run: Run) -> Manifest | None:
    """Bring RUN/dialogues up to date; None where the config asks for none."""
    settings = resolve(run).annotate
    if settings is None:
        return None
    if settings.generator != RULES and not settings.endpoints and settings.offline is None and run.batch is None:
        raise ConfigError(
            f"nothing serves {settings.asked}",
            where=run.document.where(("annotate", "model")),
            hint="give annotate.endpoints, or annotate.offline, or `reelmill annotate CONFIG --batch DIR`",
        )
    verdicts = need_manifest(run.out, "verdicts")
    late = read_manifest(run.at("late"))
    stamp = fingerprint([verdicts.fingerprint, late.fingerprint if late else None, written_by(settings),
                         run.config.seed])  # fmt: skip
    names = [unit.name for unit in verdicts.units]
    counts = beam.run_tasks(
        "evidence", functools.partial(sheets_unit, run, stamp), names, run.work("evidence.counters.json"), run.runner
    )
    classes = {frozenset(name.split(_JOIN)) - {""}: n for name, n in counts.items() if not name.startswith("_")}
    total = sum(classes.values())
    classes = {supported: n for supported, n in classes.items() if supported and supported != {IMAGE_TEXT}}
    table = probabilities(classes, settings.kinds) if classes else {}
    odds = {_JOIN.join(sorted(k)): {name: round(p, 9) for name, p in v.items()} for k, v in table.items()}
    inputs = {unit.name: fingerprint([stamp, odds, unit.sha256]) for unit in verdicts.units}
    folder = run.at("dialogues")
    todo = [name for name in names if not tables.is_done(storage.join(folder, f"{name}.parquet"), inputs[name])]
    spans = _spans(todo, run.runner.workers)
    begun = time.monotonic()
    if run.batch is not None:
        _take_batch(run, settings, run.batch)
    for name in storage.names(run.work("annotate")):
        storage.remove(run.work("annotate", name))
    task = functools.partial(span_task, run, inputs, odds, len(spans))
    done = functools.partial(_noted, run, "videos")
    left = sum(_rows(run.work("evidence", f"{name}.parquet")) for name in todo)
    with progress.watch(
        "annotate", left, done, what="videos", quiet=run.quiet, note=lambda: _note(run, time.monotonic() - begun)
    ):
        totals = beam.run_tasks("annotate", task, spans, run.work("annotate.counters.json"), run.runner)
    if run.batch is not None and totals.get("gave_up"):
        raise StageError(
            f"{totals['gave_up']:,} requests wait for their answers",
            where=run.batch,
            hint="have requests-*.jsonl answered (vllm run-batch, or a service that takes OpenAI's batches), put the "
            "answers beside them as answers*.jsonl, and run the same command again; blind questions come in a second "
            "round and judgements in a third",
        )
    units = committed(folder, names, "annotate")
    manifest = write_manifest(folder, "dialogues", fingerprint([stamp, odds]), units)
    if todo:
        seconds = time.monotonic() - begun
        value = {**totals, "seconds": round(seconds, 1), "videos": total, "of": len(todo)}
        storage.write_bytes(run.work("annotate.json"), canonical_json(value))
    return manifest


def _take_batch(run: Run, settings: Annotate, folder: str) -> None:
    with Cache(cache_path(run, settings)) as cache:
        found = read_answers(folder, cache)
    clear(folder)
    if found["read"] and not run.quiet:
        _tell(f"{found['put']:,} answers read from {folder}, {found['again']:,} to be asked again")


def written_by(settings: Annotate) -> dict[str, Any]:
    """Everything in the settings that dialogues depend on, with the prompts: not where servers are, nor patience."""
    elsewhere = {"endpoints", "timeout_s", "patience_s", "tries", "price_per_gpu_hour", "gpus", "cache", "offline"}
    value = settings.model_dump(mode="json", exclude=elsewhere)
    if value["captioner"] is not None:
        value["captioner"].pop("endpoints")
    if settings.generator == RULES:
        value = {name: value[name] for name in ("kinds", "evidence", "checks")}
    versions = [evidence.VERSION, checks.VERSION, rules_writer.VERSION, dialogue.VERSION]
    prompts = {one.name: [one.prompt_hash, one.schema_hash] for one in (*kinds().values(), kind(IMAGE_TEXT))}
    return {**value, "generator": settings.generator, "versions": versions, "prompts": prompts,
            "others": dict(dialogue.prompt_hashes())}  # fmt: skip


def cache_path(run: Run, settings: Annotate) -> str:
    """The request cache: a file of this machine or of a disk that all workers share.

    Raises ConfigError where the store is an object store and `annotate.cache` does not name such a place.
    """
    uri = settings.cache or storage.join(run.store, "requests.sqlite")
    if not storage.is_local(uri):
        raise ConfigError(
            f"the request cache cannot lie at {uri}",
            where=run.document.where(("annotate",)),
            hint="set annotate.cache to a path on a disk that all workers see",
        )
    path = storage.local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def _spans(names: Sequence[str], workers: int) -> list[str]:
    """Units dealt out to one task a worker: a task's requests stay many, with no lull between one unit and the next."""
    spans = [names[i :: max(workers, 1)] for i in range(max(workers, 1))]
    return [" ".join(span) for span in spans if span]


# -- evidence ---------------------------------------------------------------------------------------------------


def sheets_unit(run: Run, stamp: str, name: str) -> Mapping[str, int]:
    """Task: the evidence sheets of a unit's kept videos; counts the sets of kinds that they support."""
    uri = run.work("evidence", f"{name}.parquet")
    mine = fingerprint([stamp, evidence.VERSION, name])
    if not tables.is_done(uri, mine):
        tables.write(uri, asyncio.run(_sheets(run, name)), fingerprint=mine)
    counts: dict[str, int] = {"_units": 1}
    for supported in tables.read(uri, ["supports"])["supports"].to_pylist():
        joined = _JOIN.join(supported)
        counts[joined] = counts.get(joined, 0) + 1
    return counts


async def _sheets(run: Run, name: str) -> pa.Table:
    settings = resolve(run).annotate
    assert settings is not None
    verdicts = tables.read(run.at("verdicts", f"{name}.parquet"), ["modality", "outcome"])
    modalities = ["video", "image", "multi_image"] if settings.ocr_questions else ["video"]
    of_them = pc.is_in(verdicts["modality"], value_set=pa.array(modalities))
    wanted = pc.and_(of_them, pc.equal(verdicts["outcome"], "kept"))
    take = pa.array(np.flatnonzero(np.asarray(wanted, dtype=bool)))
    samples = tables.read(run.at("samples", f"{name}.parquet")).take(take).to_pylist()
    signals = unit_signals(run, name).take(take).to_pylist()
    seen: list[Sequence[Item]] = [()] * len(samples)
    if settings.captioner is not None and samples:
        clips = [i for i, sample in enumerate(samples) if sample["modality"] == "video"]
        captioned = await _captions(run, settings, settings.captioner, [samples[i] for i in clips],
                                [signals[i] for i in clips])  # fmt: skip
        for i, further in zip(clips, captioned, strict=True):
            seen[i] = further
    rows = []
    for sample, facts, further in zip(samples, signals, seen, strict=True):
        sheet = evidence.sheet(sample, facts, settings.evidence, further)
        if sample["modality"] != "video" and not supports(IMAGE_TEXT, sheet):
            continue
        able = settings.kinds if sample["modality"] == "video" else {IMAGE_TEXT: 1.0}
        supported = sorted(name for name, share in able.items() if share > 0 and supports(name, sheet))
        items = [{"id": i.id, "kind": i.kind, "start_s": i.start_s, "end_s": i.end_s, "text": i.text}
                 for i in sheet.items]  # fmt: skip
        rows.append({"key": sample["key"], "seconds": sheet.seconds, "items": items, "supports": supported})
    return pa.Table.from_pylist(rows, schema=SHEETS)


async def _captions(
    run: Run,
    settings: Annotate,
    captioner: Captioner,
    samples: Sequence[Mapping[str, Any]],
    signals: Sequence[Mapping[str, Any]],
) -> list[Sequence[Item]]:
    """Dense captions of videos by a vision-language model, one a stretch of `every_s` seconds."""
    servers = Servers(captioner.endpoints, timeout_s=settings.timeout_s, patience_s=settings.patience_s,
                      tries=settings.tries, tell=_tell)  # fmt: skip
    async with servers:
        desk = Desk(Cache(cache_path(run, settings)), servers)
        gate = asyncio.Semaphore(max(2, sum(e.in_flight for e in captioner.endpoints) // captioner.max_captions))

        async def one(sample: Mapping[str, Any], facts: Mapping[str, Any]) -> Sequence[Item]:
            async with gate:
                stretches = _stretches(run, captioner, sample, float(facts.get("facts.duration") or 0.0))
                answers = await asyncio.gather(*(desk.ask(Ask(body)) for _, _, body in stretches))
            found = []
            for i, ((start, end, _), answer) in enumerate(zip(stretches, answers, strict=True)):
                if answer.error is None and answer.texts and answer.texts[0].strip():
                    found.append(Item(f"d{i + 1}", "dense", start, end, answer.texts[0].strip()))
            return found

        return list(await asyncio.gather(*(one(s, f) for s, f in zip(samples, signals, strict=True))))


def _stretches(
    run: Run, captioner: Captioner, sample: Mapping[str, Any], seconds: float
) -> list[tuple[float, float, dict[str, Any]]]:
    """(start, end, request) of each stretch; none where the video cannot be decoded, which measure has booked."""
    import cv2

    count = min(max(math.ceil(seconds / captioner.every_s), 1), captioner.max_captions)
    plan = FramePlan("uniform", captioner.size, "long", count=count * captioner.frames)
    source = next(s for s in run.config.sources if s.name == sample["source"])
    medium = sample["media"][0]
    ref = MediaRef(storage.join(root_of(source), medium["uri"]), medium["offset"], medium["length"],
                   medium["start_s"], medium["end_s"], "video")  # fmt: skip
    decoded = decoder(limits(resolve(run).measure)).decode(ref, {"captioner": plan}, {})
    if decoded.error is not None:
        return []
    frames = decoded.frames["captioner"]
    pictures = [
        base64.b64encode(cv2.imencode(".jpg", p[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()).decode()
        for p in frames.pixels
    ]
    found = []
    for i, part in enumerate(np.array_split(np.arange(len(pictures)), count)):
        start, end = seconds * i / count, seconds * (i + 1) / count
        if len(part):
            body = evidence.caption_body(captioner.model, [pictures[j] for j in part], captioner.max_tokens)
            found.append((start, end, body))
    return found


# -- dialogues --------------------------------------------------------------------------------------------------


def span_task(
    run: Run, inputs: Mapping[str, str], odds: Mapping[str, Mapping[str, float]], spans: int, span: str
) -> Mapping[str, int]:
    """Task: the dialogues of some units, as many requests in flight as this task's share of every endpoint's bound."""
    table = {frozenset(name.split(_JOIN)) - {""}: dict(p) for name, p in odds.items()}
    return asyncio.run(_Span(run, inputs, table, spans, span.split()).work())


class _Span:
    def __init__(self, run: Run, inputs: Mapping[str, str], table: Table, spans: int, names: Sequence[str]) -> None:
        self.run, self.inputs, self.table, self.spans, self.names = run, inputs, table, spans, names
        settings = resolve(run).annotate
        assert settings is not None
        self.settings = settings
        self.kinds = kinds()
        self.desk: Desk | None = None
        self.counters: dict[str, int] = {"videos": 0, "accepted": 0, "rejected": 0}
        self.open: dict[str, list[dict[str, Any] | None]] = {}
        self.left: dict[str, int] = {}
        self.retry: set[str] = set()

    async def work(self) -> Mapping[str, int]:
        async with self._engine() as desk:
            self.desk = desk
            rows = self._rows()
            at_work = 1
            if self.settings.endpoints and self.run.batch is None:
                at_work = max(2, round(AHEAD * sum(e.in_flight for e in self._shared())))
            elif self.settings.generator != RULES:
                at_work = 4096  # vLLM's own scheduler decides how many run together; a file takes any number
            noting = asyncio.create_task(self._notes())
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(at_work):
                        group.create_task(self._writer(rows))
            except BaseExceptionGroup as errors:
                raise _first(errors) from None
            finally:
                noting.cancel()
            self._note()
        return self._counts()

    def _shared(self) -> list[Any]:
        share = [max(1, endpoint.in_flight // self.spans) for endpoint in self.settings.endpoints]
        return [e.model_copy(update={"in_flight": n}) for e, n in zip(self.settings.endpoints, share, strict=True)]

    @asynccontextmanager
    async def _engine(self) -> AsyncIterator[Desk | None]:
        settings = self.settings
        if settings.generator == RULES:
            yield None
        elif self.run.batch is not None:
            async with Batch(self.run.batch) as batch:
                yield Desk(Cache(cache_path(self.run, settings)), batch)
        elif settings.endpoints:
            servers = Servers(self._shared(), timeout_s=settings.timeout_s, patience_s=settings.patience_s,
                              tries=settings.tries, tell=_tell)  # fmt: skip
            async with servers:
                yield Desk(Cache(cache_path(self.run, settings)), servers)
        else:
            from infra.offline import Offline

            async with Offline(settings.asked, dict(settings.offline or {})) as engine:
                yield Desk(Cache(cache_path(self.run, settings)), engine)

    def _rows(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """(unit, place, sheet's row), unit after unit, as writers come for them; empty units are committed at once."""
        for name in self.names:
            sheets = tables.read(self.run.work("evidence", f"{name}.parquet")).to_pylist()
            self.open[name], self.left[name] = [None] * len(sheets), len(sheets)
            if not sheets:
                self._commit(name)
            for place, found in enumerate(sheets):
                yield name, place, found

    async def _writer(self, rows: Iterator[tuple[str, int, dict[str, Any]]]) -> None:
        for name, place, found in rows:
            sheet = Sheet(tuple(Item(**item) for item in found["items"]), found["seconds"])
            supported = frozenset(found["supports"])
            if supported == {IMAGE_TEXT}:
                chosen = kind(IMAGE_TEXT)
                written = await write(self.desk, self.settings, chosen, sheet, found["key"], self.run.config.seed)
            elif supported:
                chosen = self.kinds[assign(found["key"], supported, self.table, self.run.config.seed)]
                written = await write(self.desk, self.settings, chosen, sheet, found["key"], self.run.config.seed)
            else:
                chosen = self.kinds[next(iter(self.settings.kinds))]
                written = Written(reason="no_evidence: it supports none of the kinds")
            if written.retry:
                self.retry.add(name)
            self.open[name][place] = row(found["key"], chosen, sheet, written, self.settings)
            self.counters["videos"] += 1
            self.counters["accepted" if written.accepted else "rejected"] += 1
            self.left[name] -= 1
            if not self.left[name]:
                self._commit(name)
            if self.desk is None:
                await asyncio.sleep(0)  # the note-taker gets its turn

    def _commit(self, name: str) -> None:
        table = pa.Table.from_pylist(self.open.pop(name), schema=tables.DIALOGUES)
        uri = self.run.at("dialogues", f"{name}.parquet")
        tables.write(uri, table, fingerprint=self.inputs[name], retry=name in self.retry)

    def _counts(self) -> dict[str, int]:
        return self.counters if self.desk is None else {**self.counters, **self.desk.counters()}

    def _note(self) -> None:
        storage.write_bytes(self.run.work("annotate", f"{os.getpid()}.json"), canonical_json(self._counts()))

    async def _notes(self) -> None:
        while True:
            self._note()
            await asyncio.sleep(NOTE_S)


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The error behind a group: what stopped one writer stopped them all."""
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _tell(text: str) -> None:
    import sys

    sys.stderr.write(f"annotate: {text}\n")
    sys.stderr.flush()


def _rows(uri: str) -> int:
    found = tables.footer(uri)
    return 0 if found is None else found[1]


def _noted(run: Run, name: str) -> int:
    """A counter summed over the notes of all processes."""
    return _all_notes(run).get(name, 0)


def _all_notes(run: Run) -> dict[str, int]:
    folder = run.work("annotate")
    return beam.sum_counters([read_json(storage.join(folder, name)) for name in storage.names(folder)])


def _note(run: Run, seconds: float) -> str:
    """What progress says beside the count: requests, tokens a second, cache hits, rejections."""
    notes = _all_notes(run)
    parts = []
    if "sent" in notes:
        rate = notes.get("tokens_out", 0) / max(seconds, 1e-6)
        parts = [f"{notes['sent']:,} requests", f"{rate:,.0f} tokens/s", f"{notes.get('hits', 0):,} from the cache"]
    return ", ".join([*parts, f"{notes.get('rejected', 0):,} rejected"])
