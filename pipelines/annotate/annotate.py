"""annotate: kept videos -> dialogues. First what is known of each video, then who is asked for which kind, then asking.

Two jobs: one makes the evidence sheets and counts which kinds they support; from the counts follow the odds of each
kind, so that the data set meets the shares; the other writes. Every answer of a server goes to the request cache
before anything else is asked in its place: a job that is killed pays for nothing twice but what was on its way.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from annotators.dialogues import checks, dialogue, evidence, rules_writer
from annotators.dialogues.assignment import assign_kind, solve_probabilities
from annotators.dialogues.evidence import EvidenceItem, EvidenceSheet
from annotators.dialogues.kinds import IMAGE_TEXT, load_kind, load_kinds
from infra import beam, progress, storage, tables
from infra.commit import Manifest, collect_units, need_manifest, read_json, read_manifest, write_manifest
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json, fingerprint
from infra.llm.batch_files import import_answers, remove_requests
from infra.llm.requests import CachedClient, RequestCache
from pipelines.annotate.evidence_sheets import JOIN, sheets_unit
from pipelines.annotate.llm_client import cache_path, open_client, share_endpoints, tell
from pipelines.annotate.settings import RULES, AnnotateSettings
from pipelines.annotate.writing import DialogueDraft, row, write
from pipelines.core import tombstones
from pipelines.core.resolve import resolve
from pipelines.core.run import Run

#: Seconds between two notes of how far a process has come.
NOTE_S = 1.0

#: Videos at work for each request that may be in flight: while one waits for its next request another takes the slot.
AHEAD = 1.25

Table = Mapping[frozenset[str], Mapping[str, float]]


def annotate(run: Run) -> Manifest | None:
    """Bring RUN/dialogues up to date; None where the config asks for none."""
    settings = resolve(run).annotate
    if settings is None:
        return None
    if settings.generator != RULES and not settings.endpoints and settings.offline is None and run.batch is None:
        raise ConfigError(
            f"nothing serves {settings.served_model}",
            where=run.document.where(("annotate", "model")),
            hint="give annotate.endpoints, or annotate.offline, or `reelmill annotate CONFIG --batch DIR`",
        )
    if run.batch is not None and settings.generator == RULES:
        raise ConfigError(
            "--batch has nothing to ask: the rules write these dialogues",
            where=run.document.where(("annotate",)),
            hint="name a model under annotate.model, or leave --batch out",
        )
    verdicts = need_manifest(run.out, "verdicts")
    late = read_manifest(run.at("late"))
    stamp = fingerprint([verdicts.fingerprint, late.fingerprint if late else None, written_by(settings),
                         run.config.seed])  # fmt: skip
    names = [unit.name for unit in verdicts.units]
    counts = beam.run_tasks(
        "evidence", functools.partial(sheets_unit, run, stamp), names, run.work("evidence.counters.json"), run.runner
    )
    classes = {frozenset(name.split(JOIN)) - {""}: n for name, n in counts.items() if not name.startswith("_")}
    total = sum(classes.values())
    classes = {supported: n for supported, n in classes.items() if supported and supported != {IMAGE_TEXT}}
    table = solve_probabilities(classes, settings.kinds) if classes else {}
    odds = {JOIN.join(sorted(k)): {name: round(p, 9) for name, p in v.items()} for k, v in table.items()}
    gone = tombstones.load(run.out)
    inputs = {unit.name: fingerprint([stamp, odds, gone.original_sha256("verdicts", unit)]) for unit in verdicts.units}
    folder = run.at("dialogues")
    todo = [name for name in names if not tables.is_done(storage.join(folder, f"{name}.parquet"), inputs[name])]
    spans = _spans(todo, run.runner.workers)
    begun = time.monotonic()
    if run.batch is not None:
        _take_batch(run, settings, run.batch)
    for name in storage.list_names(run.work("annotate")):
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
    units = collect_units(folder, names, "annotate")
    manifest = write_manifest(folder, "dialogues", fingerprint([stamp, odds]), units)
    if todo:
        seconds = time.monotonic() - begun
        value = {**totals, "seconds": round(seconds, 1), "videos": total, "of": len(todo)}
        storage.write_bytes(run.work("annotate.json"), canonical_json(value))
    return manifest


def _take_batch(run: Run, settings: AnnotateSettings, folder: str) -> None:
    with RequestCache(cache_path(run, settings)) as cache:
        found = import_answers(folder, cache)
    remove_requests(folder)
    if found["read"] and not run.quiet:
        tell(f"{found['put']:,} answers read from {folder}, {found['again']:,} to be asked again")


def written_by(settings: AnnotateSettings) -> dict[str, Any]:
    """Everything in the settings that dialogues depend on, with the prompts: not where servers are, nor patience."""
    elsewhere = {"endpoints", "timeout_s", "patience_s", "tries", "price_per_gpu_hour", "gpus", "cache", "offline"}
    value = settings.model_dump(mode="json", exclude=elsewhere)
    if value["captioner"] is not None:
        value["captioner"].pop("endpoints")
    if settings.generator == RULES:
        of_a_model = {"model", "revision", "sampling", "candidates", "blind", "rationales"}
        value = {name: of for name, of in value.items() if name not in of_a_model}
    versions = [evidence.VERSION, checks.VERSION, rules_writer.VERSION, dialogue.VERSION]
    prompts = {one.name: [one.prompt_hash, one.schema_hash] for one in (*load_kinds().values(), load_kind(IMAGE_TEXT))}
    return {**value, "generator": settings.generator, "versions": versions, "prompts": prompts,
            "others": dict(dialogue.hash_prompts())}  # fmt: skip


def _spans(names: Sequence[str], workers: int) -> list[str]:
    """Units dealt out to one task a worker: a task's requests stay many, with no lull between one unit and the next."""
    spans = [names[i :: max(workers, 1)] for i in range(max(workers, 1))]
    return [" ".join(span) for span in spans if span]


def span_task(
    run: Run, inputs: Mapping[str, str], odds: Mapping[str, Mapping[str, float]], spans: int, span: str
) -> Mapping[str, int]:
    """Task: the dialogues of some units, as many requests in flight as this task's share of every endpoint's bound."""
    table = {frozenset(name.split(JOIN)) - {""}: dict(p) for name, p in odds.items()}
    return asyncio.run(_Span(run, inputs, table, spans, span.split()).work())


class _Span:
    def __init__(self, run: Run, inputs: Mapping[str, str], table: Table, spans: int, names: Sequence[str]) -> None:
        self.run, self.inputs, self.table, self.spans, self.names = run, inputs, table, spans, names
        settings = resolve(run).annotate
        assert settings is not None
        self.settings = settings
        self.kinds = load_kinds()
        self.client: CachedClient | None = None
        self.counters: dict[str, int] = {"videos": 0, "accepted": 0, "rejected": 0}
        self.open: dict[str, list[dict[str, Any] | None]] = {}
        self.left: dict[str, int] = {}
        self.retry: set[str] = set()

    async def work(self) -> Mapping[str, int]:
        async with open_client(self.run, self.settings, self.spans) as client:
            self.client = client
            rows = self._rows()
            at_work = 1
            if self.settings.endpoints and self.run.batch is None:
                at_work = max(
                    2, round(AHEAD * sum(e.in_flight for e in share_endpoints(self.settings.endpoints, self.spans)))
                )
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
            sheet = EvidenceSheet(tuple(EvidenceItem(**item) for item in found["items"]), found["seconds"])
            supported = frozenset(found["supports"])
            if supported == {IMAGE_TEXT}:
                chosen = load_kind(IMAGE_TEXT)
                written = await write(self.client, self.settings, chosen, sheet, found["key"], self.run.config.seed)
            elif supported:
                chosen = self.kinds[assign_kind(found["key"], supported, self.table, self.run.config.seed)]
                written = await write(self.client, self.settings, chosen, sheet, found["key"], self.run.config.seed)
            else:
                chosen = self.kinds[next(iter(self.settings.kinds))]
                written = DialogueDraft(reason="no_evidence: it supports none of the kinds")
            if written.retry:
                self.retry.add(name)
            self.open[name][place] = row(found["key"], chosen, sheet, written, self.settings)
            self.counters["videos"] += 1
            self.counters["accepted" if written.accepted else "rejected"] += 1
            self.left[name] -= 1
            if not self.left[name]:
                self._commit(name)
            if self.client is None:
                await asyncio.sleep(0)  # the note-taker gets its turn

    def _commit(self, name: str) -> None:
        table = pa.Table.from_pylist(self.open.pop(name), schema=tables.DIALOGUES)
        uri = self.run.at("dialogues", f"{name}.parquet")
        tables.write(uri, table, fingerprint=self.inputs[name], retry=name in self.retry)

    def _counts(self) -> dict[str, int]:
        return self.counters if self.client is None else {**self.counters, **self.client.counters()}

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


def _rows(uri: str) -> int:
    found = tables.read_footer(uri)
    return 0 if found is None else found[1]


def _noted(run: Run, name: str) -> int:
    """A counter summed over the notes of all processes."""
    return _all_notes(run).get(name, 0)


def _all_notes(run: Run) -> dict[str, int]:
    folder = run.work("annotate")
    return beam.sum_counters([read_json(storage.join(folder, name)) for name in storage.list_names(folder)])


def _note(run: Run, seconds: float) -> str:
    """What progress says beside the count: requests, tokens a second, cache hits, rejections."""
    notes = _all_notes(run)
    parts = []
    if "sent" in notes:
        rate = notes.get("tokens_out", 0) / max(seconds, 1e-6)
        parts = [f"{notes['sent']:,} requests", f"{rate:,.0f} tokens/s", f"{notes.get('hits', 0):,} from the cache"]
    return ", ".join([*parts, f"{notes.get('rejected', 0):,} rejected"])
