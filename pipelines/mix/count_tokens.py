"""Text tokens of every sample of some runs by a tokenizer file: counted once, kept beside the run."""

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
from mixtures.shards import record
from mixtures.shards.copying import EXPORT_AGAIN

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
    """int64 (n,): text tokens of each sample, shard after shard as an index lists them.

    Kept in RUN/work/tokens (in `scratch` where a run cannot be written to), by tokenizer, contract and shard.
    """
    prompt_tokens.open_tokenizer(tokenizer)  # a wrong file is told before any work
    stamp = fingerprint([file_sha256(tokenizer), contract.model_dump()])
    places = [storage.join(_writable(runs[shard.parent], scratch), "tokens", stamp, f"{shard.sha256}.parquet")
              for shard in shards]  # fmt: skip
    todo = [i for i, place in enumerate(places) if not tables.is_done(place, shards[i].sha256)]
    if todo:
        tasks = [f"{places[i]}\n{runs[shards[i].parent]}\n{shards[i].name}\n{shards[i].sha256}" for i in todo]
        task = functools.partial(count_shard, tokenizer, contract)

        def done() -> int:
            return len(todo) - sum(not tables.is_done(places[i], shards[i].sha256) for i in todo)

        with progress.watch("count tokens", len(todo), done, what="shards", quiet=quiet):
            beam.run_tasks("count tokens", task, tasks, storage.join(scratch, "tokens.counters.json"), runner)
    parts = [tables.read(place)["text_tokens"] for place in places]
    return np.concatenate(
        [np.zeros(0, dtype=np.int64), *(view_numbers(chunk) for part in parts for chunk in part.chunks)]
    )


def _writable(run: str, scratch: str) -> str:
    if storage.is_local(run) and not os.access(storage.local_path(run), os.W_OK):
        return scratch
    return storage.join(run, "work")


def count_shard(tokenizer: str, contract: ContractSettings, task: str) -> Mapping[str, int]:
    """Task: count the text of a shard's samples, whose records are read by their place in the tar."""
    place, run, name, sha256 = task.split("\n")
    reader = prompt_tokens.open_tokenizer(tokenizer)
    tar = storage.join(run, "shards", f"{name}.tar")
    members = tables.read(storage.join(run, "members", f"{name}.parquet"), ["key", "members"])
    counts = []
    with storage.open_read(tar) as file:
        for key, parts in zip(members["key"].to_pylist(), members["members"].to_pylist(), strict=True):
            at = next(part for part in parts if part["name"].endswith(".json"))
            file.seek(at["offset"])
            try:
                found = record.parse_record(file.read(at["size"]))
            except ValueError as error:
                raise StageError(f"the record of {key} cannot be read: {error}", where=tar, hint=EXPORT_AGAIN) from None
            if found.id != key:
                raise StageError(
                    f"the record of {found.id} lies where that of {key} should be", where=tar, hint=EXPORT_AGAIN
                )
            turns = [{"from": turn.speaker, "value": turn.text} for turn in found.conversations]
            value = {"data_type": found.data_type, "conversations": turns, "duration": found.duration,
                     "n_frames": found.n_frames, "fps": found.fps}  # fmt: skip
            counts.append(prompt_tokens.count_text_tokens(value, contract.contract(), reader))
    tables.write(place, pa.table({"text_tokens": counts}, schema=SCHEMA), fingerprint=sha256)
    return {"samples": len(counts)}
