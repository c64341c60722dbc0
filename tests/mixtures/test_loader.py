from __future__ import annotations

import itertools
import json
import os
import pickle
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import psutil
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import ConfigError, StageError
from mixtures.loader import Loader
from mixtures.reading.contract import Contract
from mixtures.shards import manifest
from mixtures.shards.manifest import Mixture, open_mixture
from tests.mixtures import small

COUNTS = {"video": 20, "image": 16, "multi_image": 8, "text": 7}


@pytest.fixture(scope="module")
def mix(tmp_path_factory: pytest.TempPathFactory) -> Mixture:
    """51 samples, each twice, in 5 virtual shards."""
    return small.write(tmp_path_factory.mktemp("mix"), COUNTS, vshards=5, repeats=2)


def keys(samples: Any) -> list[str]:
    return [sample["__key__"] for sample in samples]


@pytest.fixture(scope="module")
def planned(mix: Mixture) -> Counter[str]:
    return Counter(mix.members(["key"])["key"].to_pylist())


# -- what is read -----------------------------------------------------------------------------------------------


def test_samples_are_those_of_the_tars(mix: Mixture) -> None:
    for sample in Loader(mix, verify=True):
        number = next(i for i in range(51) if small.key_of(i) == sample["__key__"])
        modality = sample["json"]["data_type"]
        _, parts = small.sample(number, modality)
        assert {name: sample[name] for name in small.SUFFIX[modality]} == {p.suffix: p.content for p in parts[:-1]}
        assert sample["json"] == json.loads(parts[-1].content or b"")
        assert Path(sample["__url__"]).name == f"{modality}-000000.tar"
        assert set(sample) == {"__key__", "__url__", "json", *small.SUFFIX[modality]}


def test_a_materialized_mixture_reads_the_same(tmp_path: Path) -> None:
    own = small.write(tmp_path, COUNTS, vshards=5, repeats=2, materialized=True)
    virtual = small.write(tmp_path / "virtual", COUNTS, vshards=5, repeats=2)
    loader = Loader(own.uri, batch=4, verify=True)
    assert all("mix-0000" in file for file in loader._fetcher.files)
    ours = [sample | {"__url__": ""} for sample in loader]
    assert ours == [sample | {"__url__": ""} for sample in Loader(virtual.uri, batch=4)]
    # Plain webdataset finds the same samples in the same tars; copies have names of their own there.
    import webdataset

    theirs = webdataset.WebDataset(loader._fetcher.files, shardshuffle=False)
    records = {sample["__key__"]: json.loads(sample["json"]) for sample in theirs}
    assert Counter(key.split("-")[0] for key in records) == Counter(keys(ours)) and len(records) == 102
    by_key = {sample["__key__"]: sample["json"] for sample in ours}
    assert all(record == by_key[key.split("-")[0]] for key, record in records.items())


def test_remote_mixtures_read_the_same(tmp_path: Path) -> None:
    here = small.write(tmp_path, COUNTS)
    memory = fsspec.filesystem("memory")
    memory.put(str(tmp_path), "/loader-far", recursive=True)
    far = Loader("memory://loader-far/mix", cache_bytes=20_000, batch=3)
    assert [s | {"__url__": ""} for s in far] == [s | {"__url__": ""} for s in Loader(here, batch=3)]
    assert 0 < far._fetcher.requests < 51 and far._fetcher.peak <= 20_000


# -- who reads what ---------------------------------------------------------------------------------------------


@settings(max_examples=30)
@given(st.integers(1, 6), st.integers(1, 7), st.integers(0, 2), st.booleans())
def test_each_sample_as_often_as_planned(
    mix: Mixture, planned: Counter[str], world: int, batch: int, epoch: int, drop_last: bool
) -> None:
    ranks = [Loader(mix, rank=r, world=world, batch=batch, epoch=epoch, drop_last=drop_last) for r in range(world)]
    steps = [[keys(samples) for samples in rank.batches()] for rank in ranks]
    sizes = [sum(map(len, rank_steps)) for rank_steps in steps]
    read = Counter(key for rank_steps in steps for batch_keys in rank_steps for key in batch_keys)
    if drop_last:
        assert not read - planned
        assert sizes == [102 // (world * batch) * batch] * world
    else:
        assert read == planned
        assert max(sizes) - min(sizes) <= 1
    # Laid side by side, the ranks' steps are the stream that one rank alone reads.
    whole = keys(Loader(mix, epoch=epoch))
    rounds = max(map(len, steps))
    laid = [key for i in range(rounds) for rank_steps in steps if i < len(rank_steps) for key in rank_steps[i]]
    assert laid == whole[: len(laid)]
    assert all(loader.state_dict()["epoch"] == epoch + 1 for loader in ranks)


@pytest.mark.parametrize(("world", "workers", "batch"), [(1, 2, 4), (2, 3, 5)])
def test_workers_read_the_same_steps(mix: Mixture, world: int, workers: int, batch: int) -> None:
    for rank in range(world):
        alone, helped = (Loader(mix, rank=rank, world=world, batch=batch) for _ in range(2))
        states = []
        for batch_alone, batch_helped in zip(alone.batches(), helped.batches(workers=workers), strict=True):
            assert keys(batch_alone) == keys(batch_helped)
            states.append((alone.state_dict(), helped.state_dict()))
        assert all(a == b for a, b in states)
        assert alone.state_dict() == helped.state_dict()


def test_a_torch_dataloader_reads_the_same_batches(mix: Mixture, planned: Counter[str]) -> None:
    from torch.utils.data import DataLoader

    loader = Loader(mix, batch=4)
    batches = []
    for batch in DataLoader(loader.dataset(), batch_size=4, num_workers=2, collate_fn=keys):
        batches.append(batch)
        loader.advance(len(batch))
        if len(batches) == 10:
            state = loader.state_dict()
    assert batches == [keys(batch) for batch in Loader(mix, batch=4).batches()]
    assert loader.epoch == 1
    again = Loader(mix, batch=4)
    again.load_state_dict(state)
    assert [keys(batch) for batch in again.batches()] == batches[10:]


def test_collate_runs_in_the_worker_that_reads(mix: Mixture) -> None:
    there = set(Loader(mix, batch=8).batches(workers=2, collate=get_worker_pid))
    assert len(there) == 2 and os.getpid() not in there
    assert set(Loader(mix, batch=8).batches(collate=get_worker_pid)) == {os.getpid()}


def get_worker_pid(samples: list[Any]) -> int:
    return os.getpid()


# -- going on ---------------------------------------------------------------------------------------------------

SPLIT = st.tuples(st.integers(1, 5), st.integers(1, 6))


@settings(max_examples=25)
@given(SPLIT, SPLIT, st.integers(1, 12))
def test_resuming_with_another_split(mix: Mixture, before: tuple[int, int], after: tuple[int, int], steps: int) -> None:
    whole = keys(Loader(mix))
    world, batch = before
    steps = min(steps, 102 // (world * batch))
    read: list[str] = []
    states = []
    for rank in range(world):
        loader = Loader(mix, rank=rank, world=world, batch=batch)
        read += [key for samples in itertools.islice(loader.batches(), steps) for key in keys(samples)]
        states.append(loader.state_dict() | {"split": []})
    assert all(state == states[0] for state in states)
    assert sorted(read) == sorted(whole[: len(read)])
    world, batch = after
    laid: list[list[list[str]]] = []
    for rank in range(world):
        loader = Loader(mix, rank=rank, world=world, batch=batch)
        loader.load_state_dict(json.loads(json.dumps(states[0])))
        laid.append([keys(samples) for samples in loader.batches()])
    rounds = range(max(map(len, laid)))
    rest = [key for i in rounds for rank_steps in laid if i < len(rank_steps) for key in rank_steps[i]]
    assert rest == (whole[len(read) :] if len(read) < 102 else keys(Loader(mix, epoch=1)))


@settings(max_examples=30)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 200))
def test_resuming_at_any_sample(mix: Mixture, world: int, batch: int, stop: int) -> None:
    def read_some(loader: Loader, count: int) -> list[str]:
        read = []
        while len(read) < count:
            for sample in loader:
                read.append(sample["__key__"])
                if len(read) == count:
                    break
        return read

    first = Loader(mix, rank=world - 1, world=world, batch=batch)
    read_some(first, stop)
    second = Loader(mix, rank=world - 1, world=world, batch=batch)
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert second.state_dict() == first.state_dict()
    straight = read_some(Loader(mix, rank=world - 1, world=world, batch=batch), stop + 30)
    assert read_some(second, 30) == straight[stop:]
    assert read_some(first, 30) == straight[stop:]


def test_resuming_in_the_middle_of_a_step(mix: Mixture) -> None:
    first = Loader(mix, batch=4)
    samples = iter(first)
    read = [next(samples)["__key__"] for _ in range(6)]
    second = Loader(mix, batch=5, world=1)
    second.load_state_dict(first.state_dict())
    assert read + keys(second) == keys(Loader(mix))
    two = Loader(mix, batch=4, world=2)
    samples = iter(two)
    for _ in range(6):
        next(samples)
    same = Loader(mix, batch=4, world=2)
    same.load_state_dict(two.state_dict())
    assert keys(same) == keys(samples)
    with pytest.raises(ConfigError, match="saved 2 samples into a step of rank 0 of 2"):
        Loader(mix, batch=4, world=3).load_state_dict(two_after(mix, 6))


def two_after(mix: Mixture, count: int) -> dict[str, Any]:
    loader = Loader(mix, batch=4, world=2)
    samples = iter(loader)
    for _ in range(count):
        next(samples)
    return loader.state_dict()


def test_states_of_other_orders_are_refused(mix: Mixture, tmp_path: Path) -> None:
    state = Loader(mix).state_dict()
    another = small.write(tmp_path, COUNTS)
    for loader, what in (
        (Loader(another), "mixture"),
        (Loader(mix, seed=8), "seed"),
        (Loader(mix, window=3), "window"),
    ):
        with pytest.raises(ConfigError, match=f"another {what}"):
            loader.load_state_dict(state)
    with pytest.raises(ConfigError, match="another Reelmill"):
        Loader(mix).load_state_dict({**state, "version": 0})
    with pytest.raises(ConfigError, match="on_error"):
        Loader(mix, on_error="ignore")


def test_epochs_follow_one_another(mix: Mixture, planned: Counter[str]) -> None:
    loader = Loader(mix, batch=4)
    epochs = [keys(loader) for _ in range(3)]
    assert all(Counter(epoch) == planned for epoch in epochs)
    assert len(set(map(tuple, epochs))) == 3
    loader.set_epoch(1)
    assert len(loader) == 26 and keys(loader) == epochs[1]
    assert keys(Loader(mix, epoch=2)) == epochs[2]
    copy = pickle.loads(pickle.dumps(loader))
    assert keys(copy) == epochs[2] == keys(loader)


# -- what was read ----------------------------------------------------------------------------------------------


@settings(max_examples=20)
@given(st.integers(0, 103))
def test_composition_counts_what_was_read(mix: Mixture, count: int) -> None:
    loader = Loader(mix)
    table = mix.members(["key", "group", "tokens", "seconds", "bytes"]).to_pylist()
    row_of = {row["key"]: row for row in table}
    samples = iter(loader)
    read = [row_of[next(samples)["__key__"]] for _ in range(min(count, 102))]
    summary = loader.composition()
    assert (summary["samples"], summary["of"], summary["unit"], summary["epoch"]) == (len(read), 102, "samples", 0)
    for group, modality in enumerate(COUNTS):
        rows = [row for row in read if row["group"] == group]
        counted = summary["modalities"][modality]
        assert counted["samples"] == len(rows)
        assert (counted["tokens"], counted["bytes"]) == (sum(r["tokens"] for r in rows), sum(r["bytes"] for r in rows))
        assert counted["seconds"] == sum(r["seconds"] for r in rows)
        assert counted["share"] == pytest.approx(len(rows) / len(read) if read else 0, abs=1e-6)
        assert counted["planned"] == pytest.approx(COUNTS[modality] / 51)
    if len(read) == 102:
        assert summary["largest_gap"] < 1e-5


# -- when something is wrong ------------------------------------------------------------------------------------


@pytest.fixture
def fresh_mixture(tmp_path: Path) -> Mixture:
    return small.write(tmp_path, COUNTS, vshards=3)


def tar(mix: Mixture, name: str) -> Path:
    return Path(mix.uri).parent / "run" / "shards" / f"{name}-000000.tar"


@pytest.mark.parametrize("workers", [0, 2])
def test_a_missing_shard(fresh_mixture: Mixture, workers: int) -> None:
    tar(fresh_mixture, "image").unlink()
    with pytest.raises(
        StageError, match=r"image-000000\.tar: the shard of sample [a-z2-7]{26} cannot be opened"
    ) as caught:
        list(Loader(fresh_mixture, batch=2).batches(workers=workers))
    assert "Traceback" not in str(caught.value)


def test_a_truncated_shard(fresh_mixture: Mixture) -> None:
    os.truncate(tar(fresh_mixture, "video"), 10_000)
    with pytest.raises(StageError, match=r"video-000000\.tar: the shard is truncated: .* of .* bytes of sample"):
        list(Loader(fresh_mixture))


def test_a_swapped_shard(fresh_mixture: Mixture) -> None:
    video, image = tar(fresh_mixture, "video"), tar(fresh_mixture, "image")
    bytes_ = video.read_bytes(), image.read_bytes()
    video.write_bytes(bytes_[1])
    image.write_bytes(bytes_[0])
    with pytest.raises(StageError, match=r"\.tar, byte \d+: sample [a-z2-7]{26} is not here"):
        list(Loader(fresh_mixture))


def test_a_flipped_byte_of_media_is_seen_when_asked_for(fresh_mixture: Mixture) -> None:
    path = tar(fresh_mixture, "video")
    content = bytearray(path.read_bytes())
    at = content.index(b".mp4\0") // 512 * 512 + 512 + 7
    content[at] ^= 1
    path.write_bytes(content)
    assert len(list(Loader(fresh_mixture))) == 51
    with pytest.raises(StageError, match=r"the media of sample .* differ from the sha256 in its JSON \(mp4\)"):
        list(Loader(fresh_mixture, verify=True))


def test_missing_rows_are_an_error(fresh_mixture: Mixture) -> None:
    shorter = {**fresh_mixture.manifest, "members": {"rows": 50, "sha256": "x"}}
    with pytest.raises(StageError, match=r"there are 51 rows, 50 in mixture\.json"):
        Loader(Mixture(fresh_mixture.uri, shorter))
    with pytest.raises(StageError, match="there is no mixture here"):
        Loader(fresh_mixture.uri + "/nowhere")
    path = Path(fresh_mixture.uri) / manifest.MANIFEST
    path.write_text(path.read_text().replace('"mixture":1', '"mixture":0'))
    with pytest.raises(StageError, match="this mixture is of version 0"):
        open_mixture(fresh_mixture.uri)


def test_a_killed_reader_loses_no_sample_that_was_delivered(mix: Mixture) -> None:
    whole = [keys(batch) for batch in Loader(mix, batch=2).batches()]
    loader = Loader(mix, batch=2)
    read: list[list[str]] = []
    before = set(psutil.Process().children())
    with pytest.raises(StageError, match="a worker process of the loader died"):
        for batch in loader.batches(workers=2, prefetch_factor=1):
            read.append(keys(batch))
            if len(read) == 5:
                for child in set(psutil.Process().children()) - before:
                    child.send_signal(signal.SIGKILL)
    state = loader.state_dict()
    assert state["consumed"] == 2 * len(read)
    again = Loader(mix, batch=2)
    again.load_state_dict(state)
    assert read + [keys(batch) for batch in again.batches()] == whole


def test_an_empty_mixture_has_no_batches(tmp_path: Path) -> None:
    empty = small.write(tmp_path, {"text": 0}, vshards=1)
    loader = Loader(empty)
    assert list(loader) == [] and loader.composition()["samples"] == 0


@pytest.mark.parametrize(("world", "batch", "drop_last"), [(1, 1, False), (1, 4, True), (3, 4, False), (2, 5, True)])
def test_composition_describes_a_whole_epoch_at_its_end(mix: Mixture, world: int, batch: int, drop_last: bool) -> None:
    for rank in range(world):
        loader = Loader(mix, rank=rank, world=world, batch=batch, drop_last=drop_last)
        assert loader.composition()["samples"] == 0
        for epoch in range(2):
            for _ in loader.batches():
                pass
            read = loader.composition()
            assert (read["epoch"], read["of"]) == (epoch, 102)
            assert read["samples"] == (102 // (world * batch) * world * batch if drop_last else 102)
            assert loader.epoch == epoch + 1
    next(iter(loader))
    loader.set_epoch(5)
    assert (loader.composition()["epoch"], loader.composition()["samples"]) == (5, 0)


# -- decoded ----------------------------------------------------------------------------------------------------


def test_media_that_cannot_be_shown_stop_or_are_counted(fresh_mixture: Mixture) -> None:
    with pytest.raises(StageError, match=r"media of sample [a-z2-7]{26} cannot be decoded \((decode|empty)") as caught:
        list(Loader(fresh_mixture, decode=True))
    assert "on_error" in str(caught.value)
    for workers in (0, 2):
        loader = Loader(fresh_mixture, batch=4, decode=True, on_error="skip", contract=Contract(tokens_per_frame=8))
        batches = list(loader.batches(workers=workers))
        assert len(batches) == 13  # no step is lost, some are shorter
        assert [sample.modality for batch in batches for sample in batch] == ["text"] * 7
        assert sum(loader.skipped.values()) == 44 == sum(loader.state_dict()["skipped"].values())
        assert set(loader.skipped) <= {"decode", "empty", "no_video"}
        loader.close()


def test_defaults_come_from_the_mixture(tmp_path: Path) -> None:
    mixture = small.write(tmp_path, {"text": 3}, contract=Contract(tokens_per_frame=16, max_clips=25), seed=99)
    loader = Loader(mixture.uri, decode=True)
    assert loader.contract == Contract(tokens_per_frame=16, max_clips=25) and loader.order.seed == 99
    assert [sample.clips for sample in loader] == [[], [], []]
    assert np.array_equal(next(iter(loader)).times, np.zeros((0, 2)))
