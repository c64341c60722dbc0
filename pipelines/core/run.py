"""A run: its configuration, the locations of its files, and how its jobs are executed. Every stage starts from it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from infra import storage, tables
from infra.beam import Runner
from infra.commit import need_manifest, read_json
from infra.config import Config, ConfigDocument, read_document, validate

LOCAL = Runner()

#: Number of table rows (not media) from which a job justifies the start of worker processes or a job on an engine
#: (ours).
MIN_ROWS_FOR_WORKERS = 200_000


@dataclass(frozen=True)
class Run:
    """A configuration and the folder of its results. Workers receive it by pickle, so it contains nothing large."""

    config: Config
    document: ConfigDocument
    runner: Runner = LOCAL
    quiet: bool = False
    #: Maker fingerprint per annotator, taken from a finished run: no weights or vocabularies are opened then.
    makers: Mapping[str, str] | None = None
    #: Folder of OpenAI batch files that replace the LLM servers of dialogues.
    batch: str | None = None

    @property
    def out(self) -> str:
        return self.config.out

    @property
    def store(self) -> str:
        return self.config.store

    @property
    def captions_optional(self) -> frozenset[str]:
        """Sources whose media may lack a caption."""
        return frozenset(source.name for source in self.config.sources if source.captions.optional)

    def runner_for(self, rows: int) -> Runner:
        """The runner of a job over a number of table rows: a small job runs in this process, since a pool of processes
        takes seconds to start, and a job on an engine ten or twenty. The results are the same bytes."""
        return LOCAL if rows < MIN_ROWS_FOR_WORKERS else self.runner

    def at(self, *parts: str) -> str:
        """A path below the run's folder."""
        return storage.join(self.out, *parts)

    def read(self, stage: str, unit: str, columns: Sequence[str] | None = None) -> pa.Table:
        """One unit's table of a stage ("samples", "signals", "verdicts", …), whole or some of its columns."""
        return tables.read(self.at(stage, f"{unit}.parquet"), columns)

    def read_work(self, stage: str, unit: str, columns: Sequence[str] | None = None) -> pa.Table:
        """The same for an intermediate table below RUN/work ("judged", "evidence", "export", …)."""
        return tables.read(self.work(stage, f"{unit}.parquet"), columns)

    def unit_names(self, stage: str) -> list[str]:
        """Names of the units of a finished stage, in order. Raises StageError where it is not finished."""
        return [unit.name for unit in need_manifest(self.out, stage).units]

    def read_ignored(self) -> dict[str, int]:
        """Number of members of sources that are no input, per modality."""
        return dict(read_json(self.at("samples", "_ignored.json")))

    def count_unused_captions(self) -> dict[str, int]:
        """Number of captions that `captions.many` leaves out, by modality, where there are any."""
        counts: Counter[str] = Counter()
        for account in self.read_members().values():
            counts[account["modality"]] += account.get("unused_captions", 0)
        return dict(+counts)

    def read_members(self) -> dict[str, Any]:
        """The accounts of the members read, by source; {} for a run of an older version, which has none."""
        uri = self.at("samples", "_members.json")
        return dict(read_json(uri)) if storage.is_file(uri) else {}

    def progress(self, job: str) -> str:
        """The file that says how far a job, or this command's share of it, is."""
        share = self.runner.share
        return self.work("progress", f"{job}.json" if share is None else f"{job}.{share.number}-of-{share.of}.json")

    def work(self, *parts: str) -> str:
        """A path for intermediate files, which no checksum covers and which may be deleted."""
        return storage.join(self.out, "work", *parts)


def open_run(
    path: str,
    *,
    text: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    runner: Runner = LOCAL,
    quiet: bool = False,
) -> Run:
    """Read a config file, or its `text`, into a Run; `overrides` replace top-level keys (`out`, `seed`, …).

    Raises ConfigError with file and line for any mistake.
    """
    document = read_document(path, text)
    content = {**document.content, **{k: v for k, v in (overrides or {}).items() if v is not None}}
    document = ConfigDocument(document.path, content, document.lines)
    return Run(validate(document, Config, document.content), document, runner, quiet)
