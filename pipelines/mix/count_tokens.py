"""Count the text tokens of every sample of runs with a tokenizer file; counts are cached in the run."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from infra import beam, progress, storage, tables
from infra.beam import Runner
from infra.errors import StageError
from infra.hashing import file_sha256, fingerprint
from mixtures.plan.members_index import RunShard, view_numbers
from mixtures.plan.recipe import ContractSettings
from mixtures.reading import prompt_tokens
from mixtures.shards.copying import EXPORT_AGAIN
from mixtures.shards.record import parse_record

SCHEMA = pa.schema([("text_tokens", pa.int64())])


def count_tokens(
    runs: Sequence[str],
    shards: Sequence[RunShard],
    tokenizer: str,
    contract: ContractSettings,
    scratch: str,
    *,
    runner: Runner,
    quiet: bool = False,
) -> NDArray[np.int64]:
    """Count int64 (n,): text tokens of each sample, in the order of the shards and of their indexes.

    Cached in RUN/work/tokens (in `scratch` where a run is read-only), by tokenizer, contract and shard.
    """
    prompt_tokens.open_tokenizer(tokenizer)  # an invalid file fails before any work
    stamp = fingerprint([file_sha256(tokenizer), contract.model_dump()])
    caches = [storage.join(_choose_folder(runs[shard.parent], scratch), "tokens", stamp, f"{shard.sha256}.parquet")
              for shard in shards]  # fmt: skip
    todo = [i for i, cache in enumerate(caches) if not tables.is_intact(cache, shards[i].sha256)]
    if todo:
        tasks = [f"{caches[i]}\n{runs[shards[i].parent]}\n{shards[i].name}\n{shards[i].sha256}" for i in todo]
        task = functools.partial(count_shard, tokenizer, contract)

        def count_done() -> int:
            return len(todo) - sum(not tables.is_intact(caches[i], shards[i].sha256) for i in todo)

        with progress.watch("count tokens", len(todo), count_done, what="shards", quiet=quiet):
            beam.run_tasks("count tokens", task, tasks, storage.join(scratch, "tokens.counters.json"), runner)
    columns = [tables.read(cache)["text_tokens"] for cache in caches]
    return np.concatenate(
        [np.zeros(0, dtype=np.int64), *(view_numbers(chunk) for column in columns for chunk in column.chunks)]
    )


def _choose_folder(run: str, scratch: str) -> str:
    if storage.is_local(run) and not os.access(storage.local_path(run), os.W_OK):
        return scratch
    return storage.join(run, "work")


def count_shard(tokenizer: str, contract: ContractSettings, task: str) -> Mapping[str, int]:
    """Task: count the text tokens of a shard's samples; records are read by their offset in the tar."""
    cache, run, name, sha256 = task.split("\n")
    reader = prompt_tokens.open_tokenizer(tokenizer)
    tar = storage.join(run, "shards", f"{name}.tar")
    index = tables.read(storage.join(run, "members", f"{name}.parquet"), ["key", "members"])
    counts = []
    with storage.open_read(tar) as file:
        for key, members in zip(index["key"].to_pylist(), index["members"].to_pylist(), strict=True):
            location = next(member for member in members if member["name"].endswith(".json"))
            file.seek(location["offset"])
            try:
                record = parse_record(file.read(location["size"]))
            except ValueError as error:
                raise StageError(f"the record of {key} cannot be read: {error}", where=tar, hint=EXPORT_AGAIN) from None
            if record.id != key:
                raise StageError(f"found the record of {record.id}, expected {key}", where=tar, hint=EXPORT_AGAIN)
            turns = [{"from": turn.speaker, "value": turn.text} for turn in record.conversations]
            sample = {"data_type": record.data_type, "conversations": turns, "duration": record.duration,
                      "n_frames": record.n_frames, "fps": record.fps}  # fmt: skip
            counts.append(prompt_tokens.count_text_tokens(sample, contract.contract(), reader))
    tables.write(cache, pa.table({"text_tokens": counts}, schema=SCHEMA), fingerprint=sha256)
    return {"samples": len(counts)}
