"""annotate: kept videos -> dialogues.

Two jobs. The first makes the evidence sheets and counts which kinds of dialogue they support; the counts give the
probability of each kind, so that the whole data set meets the target shares. The second writes the dialogues. Every
completion is committed to the request cache before its slot is used again: a job that is killed pays twice for nothing
but the requests in flight.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from annotators.dialogues import checks, dialogue, evidence, rules_writer
from annotators.dialogues.assignment import KindTable, assign_kind, solve_probabilities
from annotators.dialogues.evidence import EvidenceItem, EvidenceSheet
from annotators.dialogues.kinds import IMAGE_TEXT, DialogueKind, load_kind, load_kinds
from infra import beam, progress, storage, tables
from infra.commit import (
    Manifest,
    collect_units,
    need_manifest,
    read_json,
    read_manifest,
    stage_fingerprint,
    write_manifest,
    write_scratch,
)
from infra.engines.jobs import end_share, select_own, take_turns
from infra.errors import ConfigError, StageError
from infra.hashing import canonical_json, fingerprint
from infra.llm.batch_files import import_answers, remove_requests
from infra.llm.requests import CachedClient, RequestCache
from pipelines.annotate.evidence_sheets import JOIN, MISSING, make_sheets, split_kinds
from pipelines.annotate.llm_client import cache_path, notify, open_client, share_endpoints
from pipelines.annotate.settings import RULES, AnnotateSettings
from pipelines.annotate.writing import DialogueDraft, build_row, write_dialogue
from pipelines.core import tombstones
from pipelines.core.integrity import withdraw_checksums
from pipelines.core.resolve import resolve
from pipelines.core.run import Run

#: Seconds between two progress notes of a process.
NOTE_EVERY_S = 1.0

#: Videos in progress per request that may be in flight: while one waits for its next request, another uses the slot.
VIDEOS_PER_SLOT = 1.25

#: Videos in progress of a process where requests have no bound: vLLM's scheduler has its own, a file takes any number.
UNBOUNDED_VIDEOS = 4096


def run(run: Run) -> Manifest | None:
    """Bring RUN/dialogues up to date and return its manifest; None if the config has no key `annotate`."""
    settings = resolve(run).annotate
    if settings is None:
        return None
    _check_generator(run, settings)
    verdicts, late = need_manifest(run.out, "verdicts"), read_manifest(run.at("late"))
    stamp = fingerprint([verdicts.fingerprint, late.fingerprint if late else None, fingerprint_inputs(settings),
                         run.config.seed])  # fmt: skip
    names = [unit.name for unit in verdicts.units]
    videos, odds = _prepare_sheets(run, settings, stamp, names)
    removed = tombstones.load(run.out)
    inputs = {
        unit.name: fingerprint([stamp, odds, removed.original_sha256("verdicts", unit)]) for unit in verdicts.units
    }
    folder = run.at("dialogues")

    def table_of(name: str) -> tuple[str, str]:
        return storage.join(folder, f"{name}.parquet"), inputs[name]

    own = select_own("annotate", names, run.runner, table_of)
    todo = [name for name in own if not tables.is_done(*table_of(name))]
    if todo:
        withdraw_checksums(run)
    started = time.monotonic()
    totals = _write_dialogues(run, settings, inputs, odds, todo)
    end_share(run.runner, own)
    units = collect_units(folder, names, "annotate")
    manifest = write_manifest(folder, "dialogues", stage_fingerprint([stamp, odds], units), units)
    if todo:
        seconds = round(time.monotonic() - started, 1)
        summary = {**totals, "seconds": seconds, "videos": videos, "of": len(todo)}
        write_scratch(run.work("annotate.json"), manifest.fingerprint, summary)
    return manifest


def _check_generator(run: Run, settings: AnnotateSettings) -> None:
    """Raise ConfigError if nothing serves the model, or if a batch has no model to ask."""
    if settings.generator == RULES:
        if run.batch is not None:
            raise ConfigError(
                "--batch has no requests to write: the rule-based writer makes these dialogues",
                where=run.document.where(("annotate",)),
                hint="set annotate.model, or omit --batch",
            )
    elif not settings.endpoints and settings.offline is None and run.batch is None:
        raise ConfigError(
            f"nothing serves {settings.served_model}",
            where=run.document.where(("annotate", "model")),
            hint="set annotate.endpoints or annotate.offline, or use `reelmill annotate CONFIG --batch DIR`",
        )


def fingerprint_inputs(settings: AnnotateSettings) -> dict[str, Any]:
    """Return all settings and prompts that dialogues depend on: no addresses of servers, no timeouts, no prices."""
    excluded = {"endpoints", "timeout_s", "patience_s", "tries", "price_per_gpu_hour", "gpus", "cache", "offline"}
    if settings.generator == RULES:
        excluded |= {"model", "revision", "sampling", "candidates", "blind", "rationales"}
    fields = settings.model_dump(mode="json", exclude=excluded)
    if fields["captioner"] is not None:
        fields["captioner"].pop("endpoints")
    versions = [evidence.VERSION, checks.VERSION, rules_writer.VERSION, dialogue.VERSION]
    kinds = (*load_kinds().values(), load_kind(IMAGE_TEXT))
    prompts = {kind.name: [kind.prompt_hash, kind.schema_hash] for kind in kinds}
    return {**fields, "generator": settings.generator, "versions": versions, "prompts": prompts,
            "others": dict(dialogue.hash_prompts())}  # fmt: skip


def _prepare_sheets(
    run: Run, settings: AnnotateSettings, stamp: str, names: Sequence[str]
) -> tuple[int, dict[str, dict[str, float]]]:
    """Make the evidence sheets. Return how many there are, and for each set of supported kinds, joined by JOIN, the
    probabilities of its kinds."""
    in_turn = take_turns(names, run.runner)
    counts = beam.run_tasks(
        "evidence", functools.partial(make_sheets, run, stamp), in_turn, run.work("evidence.counters.json"), run.runner
    )
    missing = {name.removeprefix(MISSING): count for name, count in counts.items() if name.startswith(MISSING)}
    if missing:
        kinds = ", ".join(f"{kind} {count:,}" for kind, count in sorted(missing.items()))
        notify(f"evidence lacks {sum(missing.values()):,} captions that the captioner was to write: {kinds}")
    classes = {split_kinds(name): count for name, count in counts.items() if not name.startswith("_")}
    drawn = {supported: count for supported, count in classes.items() if supported and supported != {IMAGE_TEXT}}
    table = solve_probabilities(drawn, settings.kinds) if drawn else {}
    odds = {JOIN.join(sorted(supported)): {kind: round(p, 9) for kind, p in row.items()}
            for supported, row in table.items()}  # fmt: skip
    return sum(classes.values()), odds


def _write_dialogues(
    run: Run,
    settings: AnnotateSettings,
    inputs: Mapping[str, str],
    odds: Mapping[str, Mapping[str, float]],
    todo: Sequence[str],
) -> Mapping[str, int]:
    """Write the dialogues of the units in `todo` and return the sums of all counters. StageError if requests of a batch
    are not answered yet."""
    if run.batch is not None:
        _import_batch(run, settings, run.batch)
    for name in storage.list_names(run.work("annotate")) if run.runner.share is None else ():
        storage.remove(run.work("annotate", name))
    spans = _split_units(todo, run.runner.workers)
    task = functools.partial(write_span, run, inputs, odds, len(spans))
    videos = sum(_count_rows(run.work("evidence", f"{name}.parquet")) for name in todo)
    started = time.monotonic()
    with progress.watch(
        "annotate",
        videos,
        lambda: _sum_notes(run).get("videos", 0),
        what="videos",
        quiet=run.quiet,
        note=lambda: _format_note(_sum_notes(run), time.monotonic() - started),
        uri=run.progress("annotate"),
    ):
        totals = beam.run_tasks("annotate", task, spans, run.work("annotate.counters.json"), run.runner)
    if run.batch is not None and totals.get("gave_up"):
        raise StageError(
            f"{totals['gave_up']:,} requests wait for their answers",
            where=run.batch,
            hint="have requests-*.jsonl answered (vllm run-batch, or a service that takes OpenAI's batches), put the "
            "answers beside them as answers*.jsonl, and run the same command again; blind questions follow in a second "
            "round and judgements in a third",
        )
    return totals


def _import_batch(run: Run, settings: AnnotateSettings, folder: str) -> None:
    with RequestCache(cache_path(run, settings)) as cache:
        counts = import_answers(folder, cache)
    remove_requests(folder)
    if counts.lines and not run.quiet:
        notify(f"{counts.put:,} answers imported from {folder}, {counts.again:,} to be requested again")
    if counts.broken:  # said even where progress is not: the files are incomplete
        notify(
            f"{counts.broken:,} lines in {folder} are not answers in OpenAI's batch format, and their requests are "
            f"written again; the first is {counts.first_broken}"
        )


def _split_units(names: Sequence[str], workers: int) -> list[str]:
    """Divide units into one task per worker: its requests stay many, without a lull between two units."""
    spans = [names[i :: max(workers, 1)] for i in range(max(workers, 1))]
    return [" ".join(span) for span in spans if span]


def write_span(
    run: Run, inputs: Mapping[str, str], odds: Mapping[str, Mapping[str, float]], spans: int, span: str
) -> Mapping[str, int]:
    """Task: write the dialogues of some units, with this task's share of the requests that endpoints may have in
    flight."""
    table = {split_kinds(name): dict(row) for name, row in odds.items()}
    return asyncio.run(_SpanWriter(run, inputs, table, spans, span.split()).write())


class _SpanWriter:
    """Writes the dialogues of some units; each unit is committed with its last dialogue."""

    def __init__(self, run: Run, inputs: Mapping[str, str], table: KindTable, spans: int, names: Sequence[str]) -> None:
        self.run, self.inputs, self.table, self.spans, self.names = run, inputs, table, spans, names
        settings = resolve(run).annotate
        assert settings is not None
        self.settings = settings
        self.kinds = load_kinds()
        self.client: CachedClient | None = None
        self.counters: dict[str, int] = {"videos": 0, "accepted": 0, "rejected": 0}
        self.rows: dict[str, list[dict[str, Any] | None]] = {}
        self.remaining: dict[str, int] = {}
        self.retry_units: set[str] = set()

    async def write(self) -> Mapping[str, int]:
        async with open_client(self.run, self.settings, self.spans) as client:
            self.client = client
            sheets = self._iterate_sheets()
            notes = asyncio.create_task(self._write_notes())
            try:
                async with asyncio.TaskGroup() as group:
                    for _ in range(self._count_writers()):
                        group.create_task(self._write_sheets(sheets))
            except BaseExceptionGroup as errors:
                raise _first_error(errors) from None
            finally:
                notes.cancel()
            self._write_note()
        return self._counters()

    def _count_writers(self) -> int:
        if self.settings.generator == RULES:
            return 1
        if not self.settings.endpoints or self.run.batch is not None:
            return UNBOUNDED_VIDEOS
        slots = sum(endpoint.in_flight for endpoint in share_endpoints(self.settings.endpoints, self.spans))
        return max(2, round(VIDEOS_PER_SLOT * slots))

    def _iterate_sheets(self) -> Iterator[tuple[str, int, dict[str, Any]]]:
        """Yield (unit, row number, sheet's row) as writers ask for them; empty units are committed at once."""
        for name in self.names:
            sheets = self.run.read_work("evidence", name).to_pylist()
            footer = tables.read_footer(self.run.work("evidence", f"{name}.parquet"))
            if footer is not None and footer[2]:  # sheets that lack captions are made again, and so are their dialogues
                self.retry_units.add(name)
            self.rows[name], self.remaining[name] = [None] * len(sheets), len(sheets)
            if not sheets:
                self._commit(name)
            for number, sheet in enumerate(sheets):
                yield name, number, sheet

    async def _write_sheets(self, sheets: Iterator[tuple[str, int, dict[str, Any]]]) -> None:
        for name, number, record in sheets:
            key, supported = record["key"], frozenset(record["supports"])
            sheet = EvidenceSheet(tuple(EvidenceItem(**item) for item in record["items"]), record["seconds"])
            kind = self._choose_kind(key, supported)
            if supported:
                draft = await write_dialogue(self.client, self.settings, kind, sheet, key, self.run.config.seed)
            else:
                draft = DialogueDraft(reason="no_evidence: it supports none of the kinds")
            if draft.retry:
                self.retry_units.add(name)
            self.rows[name][number] = build_row(key, kind, sheet, draft, self.settings)
            self.counters["videos"] += 1
            self.counters["accepted" if draft.accepted else "rejected"] += 1
            self.remaining[name] -= 1
            if not self.remaining[name]:
                self._commit(name)
            if self.client is None:
                await asyncio.sleep(0)  # let the task that writes notes run

    def _choose_kind(self, key: str, supported: frozenset[str]) -> DialogueKind:
        if supported == {IMAGE_TEXT}:
            return load_kind(IMAGE_TEXT)
        if supported:
            return self.kinds[assign_kind(key, supported, self.table, self.run.config.seed)]
        return self.kinds[next(iter(self.settings.kinds))]

    def _commit(self, name: str) -> None:
        table = pa.Table.from_pylist(self.rows.pop(name), schema=tables.DIALOGUES)
        uri = self.run.at("dialogues", f"{name}.parquet")
        tables.write(uri, table, fingerprint=self.inputs[name], retry=name in self.retry_units)

    def _counters(self) -> dict[str, int]:
        return self.counters if self.client is None else {**self.counters, **self.client.counters()}

    def _write_note(self) -> None:
        storage.write_bytes(self.run.work("annotate", f"{self.names[0]}.json"), canonical_json(self._counters()))

    async def _write_notes(self) -> None:
        while True:
            self._write_note()
            await asyncio.sleep(NOTE_EVERY_S)


def _first_error(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group: the error of one writer stops all of them."""
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _count_rows(uri: str) -> int:
    footer = tables.read_footer(uri)
    return 0 if footer is None else footer[1]


def _sum_notes(run: Run) -> dict[str, int]:
    """The counters in the notes of all spans, summed."""
    folder = run.work("annotate")
    return beam.sum_counters([read_json(storage.join(folder, name)) for name in storage.list_names(folder)])


def _format_note(counters: Mapping[str, int], seconds: float) -> str:
    """The text beside the progress count: requests, tokens per second, cache hits, rejections."""
    rejected = f"{counters.get('rejected', 0):,} rejected"
    if "sent" not in counters:
        return rejected
    rate = counters.get("tokens_out", 0) / max(seconds, 1e-6)
    hits = counters.get("hits", 0)
    return f"{counters['sent']:,} requests, {rate:,.0f} tokens/s, {hits:,} from the cache, {rejected}"
