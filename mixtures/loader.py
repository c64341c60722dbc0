"""The loader that trainers import: samples of a mixture in an exact, resumable order, split over ranks and workers.

    loader = Loader("MIX", rank=0, world=8, batch=4, decode=True)
    for batch in loader.batches(workers=4):
        ...
        save(loader.state_dict())

Reads virtual mixtures (byte ranges of their runs' tars) and materialized ones, from local disk or any fsspec URI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from typing import Any

from infra.errors import BadSample, ConfigError, StageError
from mixtures.reading.contract import Contract
from mixtures.reading.fetch import CACHE_BYTES, ByteRange, Fetcher
from mixtures.reading.order import WINDOW, Order, RankShare
from mixtures.reading.sample_locations import SampleLocations
from mixtures.reading.training_sample import FRAME_SIZE, SampleDecoder
from mixtures.reading.workers import LoadedStep, build_dataset, get_worker, read_with_workers
from mixtures.shards.manifest import Mixture, open_mixture
from mixtures.shards.unpack import extract_record, unpack_members, verify_media

#: Incremented when a field of the state changes its meaning.
STATE_VERSION = 1

#: Fields that a state must share with the loader, and what differs where it does not.
_STATE_IDENTITY = {"version": "Reelmill", "members": "mixture", "seed": "seed", "window": "window"}


class Loader:
    """Samples of a mixture.

    mixture: its folder, path or fsspec URI. rank, world: the number of this trainer and how many there are.
    batch: samples per step. seed: of the order; None takes the mixture's. epoch: the first to read. window: virtual
    shards shuffled together. drop_last: omit the end of an epoch that does not fill a step of all ranks; otherwise
    ranks differ by at most one sample, and the last step of some ranks is one sample shorter or absent.
    decode: return `TrainingSample`s instead of raw samples. contract: of clips and tokens; None takes the mixture's.
    frame_size: longest side of decoded frames in pixels. on_error: "raise" stops at media that cannot be decoded,
    "skip" omits the sample from its batch and counts it in `skipped`. verify: verify media against their sha256.
    cache_bytes: maximum bytes of remote shards in memory or in flight, in each reading process.

    Iterating yields the rest of this rank's samples of the epoch; the loader is then at the start of the next epoch.
    A raw sample is {"__key__", "__url__", "json": its record, media bytes by suffix}.

    Raises ConfigError for invalid arguments; StageError, naming shard, byte and key, where shards are missing,
    truncated, or not those that the mixture was made from.
    """

    def __init__(
        self,
        mixture: str | Mixture,
        *,
        rank: int = 0,
        world: int = 1,
        batch: int = 1,
        seed: int | None = None,
        epoch: int = 0,
        window: int = WINDOW,
        drop_last: bool = False,
        decode: bool = False,
        contract: Contract | None = None,
        frame_size: int = FRAME_SIZE,
        on_error: str = "raise",
        verify: bool = False,
        cache_bytes: int = CACHE_BYTES,
    ) -> None:
        if on_error not in ("raise", "skip"):
            raise ConfigError(f"on_error is {on_error!r}", where="loader", hint='use "raise" or "skip"')
        self.mixture = open_mixture(mixture) if isinstance(mixture, str) else mixture
        self.share = RankShare(rank, world, batch, drop_last)
        self.contract = contract or self.mixture.contract
        self.skipped: Counter[str] = Counter()
        self._on_error = on_error
        self._verify = verify
        self._decoder = SampleDecoder(self.contract, frame_size) if decode else None
        self._locations = SampleLocations(self.mixture)
        self._fetcher = Fetcher(self._locations.files, cache_bytes=cache_bytes)
        mixture_seed = int(self.mixture.manifest["seed"])
        self.order = Order(self._locations.counts, mixture_seed if seed is None else seed, window)
        self._move_to(epoch, 0)

    def _move_to(self, epoch: int, start: int) -> None:
        self.epoch = epoch
        self._finished = (epoch, start)  # the epoch that ended last, if nothing was read since, and samples read of it
        self._start = start  # positions that all ranks have consumed
        self._step = 0  # whole steps of this rank since
        self._within = 0  # samples of the step in progress

    def _end_epoch(self, epoch: int) -> None:
        """Move to the start of the next epoch; `composition` describes this one until something is read."""
        stop = self._start + min(self._remaining, self.share.most_steps(self._remaining) * self.share.stride)
        self._move_to(epoch + 1, 0)
        self._finished = (epoch, stop)

    @property
    def _remaining(self) -> int:
        return self.order.total - self._start

    def __len__(self) -> int:
        """Number of steps that remain for this rank in the epoch."""
        return max(0, self.share.steps(self._remaining) - self._step)

    # -- reading ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """Yield sample after sample; inside a worker of PyTorch's DataLoader, those of that worker."""
        worker, workers = get_worker()
        for step in self.steps(worker, workers, whole=False):
            yield from step.samples

    def batches(
        self, *, workers: int = 0, collate: Callable[[list[Any]], Any] | None = None, **options: Any
    ) -> Iterator[Any]:
        """Yield one batch per step, a list of samples or `collate` of it; the state is that after the last batch.

        workers: processes that read ahead, through PyTorch's DataLoader, which takes `options`; `collate` runs in them.
        With on_error "skip" a batch may be shorter, or empty.
        """
        if workers == 0:
            for step in self.steps(0, 1, whole=True):
                yield collate(step.samples) if collate else step.samples
            return
        epoch = self.epoch
        for number, skipped, batch in read_with_workers(self, self.mixture.uri, workers, collate, options):
            if number != self._step:
                raise ConfigError("steps are out of order", where="loader", hint="do not disable in_order")
            self.skipped.update(skipped)
            self._step, self._within = number + 1, 0
            yield batch
        self._end_epoch(epoch)

    def dataset(self) -> Any:
        """Wrap this loader as a torch IterableDataset, for a DataLoader of your own whose batch_size is this loader's
        batch; steps arrive in order. Workers do not move this loader: count samples with `advance`."""
        return build_dataset(self, None)

    def steps(self, worker: int, workers: int, *, whole: bool) -> Iterator[LoadedStep]:
        """Yield the remaining steps of this rank that belong to one of `workers` processes; a single one moves the
        loader.

        whole: yield a step once all of it is read; otherwise yield sample by sample, each in a LoadedStep of its own.
        """
        epoch, first = self.epoch, self._step
        step = LoadedStep(first + worker)
        with closing(self._fetcher.stream(self._plan_ranges(worker, workers))) as stream:
            for byte_range, content in stream:
                number, is_last, count, _ = byte_range.tag
                try:
                    step.samples.append(self._read_sample(byte_range, content))
                except BadSample as error:
                    self._raise_unless_skipped(byte_range, error)
                    step.skipped[error.kind] += 1
                if whole and not is_last:
                    continue
                step.number = number
                if workers == 1:
                    self._step, self._within = (number + 1, 0) if is_last else (number, count)
                self.skipped.update(step.skipped)
                yield step
                step = LoadedStep(number)
        if workers == 1:
            self._end_epoch(epoch)

    def _plan_ranges(self, worker: int, workers: int) -> Iterator[ByteRange]:
        """Byte ranges of a worker's samples in order, tagged (step, is last of the step, number in the step, row)."""
        remaining, start, epoch, first, within = self._remaining, self._start, self.epoch, self._step, self._within
        for number in range(first + worker, self.share.steps(remaining), workers):
            low, high = self.share.run(remaining, number)
            rows = self.order.rows(epoch, start + low, start + high).tolist()
            done = within if number == first else 0
            for count, row in enumerate(rows[done:], done + 1):
                yield self._locations.byte_range(row, (number, count == len(rows), count, row))

    def _read_sample(self, byte_range: ByteRange, content: memoryview) -> Any:
        key, offset, where = byte_range.key, byte_range.offset, self._fetcher.files[byte_range.file]
        members = unpack_members(content, key, where, offset, self._locations.name(byte_range.tag[-1], key))
        record = extract_record(members, key, where, offset)
        if self._verify:
            verify_media(members, record, key, where, offset)
        sample: dict[str, Any] = {"__key__": key, "__url__": where, **members, "json": record}
        return sample if self._decoder is None else self._decoder.decode(sample)

    def _raise_unless_skipped(self, byte_range: ByteRange, error: BadSample) -> None:
        if self._on_error == "raise":
            raise StageError(
                f"media of sample {byte_range.key} cannot be decoded ({error})",
                where=f"{self._fetcher.files[byte_range.file]}, byte {byte_range.offset}",
                hint='Loader(on_error="skip") omits such samples and counts them',
            ) from None

    # -- state --------------------------------------------------------------------------------------------------

    @property
    def consumed(self) -> int:
        """Samples of the epoch that all ranks have read once they have taken as many steps as this one."""
        ahead = self._step * self.share.stride + (self._within if self.share.world == 1 else 0)
        return min(self.order.total, self._start + ahead)

    def advance(self, samples: int) -> None:
        """Count samples that this rank received through a DataLoader of its own."""
        steps, batch = self._remaining // self.share.stride, self.share.batch
        done = self._step * batch + self._within + samples
        low, high = self.share.run(self._remaining, steps)
        if done >= steps * batch + high - low:
            self._end_epoch(self.epoch)
        else:
            self._step, self._within = divmod(done, batch)

    def state_dict(self) -> dict[str, Any]:
        """Position of the loader after the last sample or batch yielded, as JSON values.

        All ranks have the same after the same number of steps, so that of rank 0 serves all.
        """
        is_finished = 0 < self._step >= self.share.most_steps(self._remaining)
        return {
            "version": STATE_VERSION,
            "members": self.mixture.manifest["members"]["sha256"],
            "seed": self.order.seed,
            "window": self.order.window,
            "epoch": self.epoch + is_finished,
            "consumed": 0 if is_finished else self.consumed,
            "within": self._within if self.share.world > 1 else 0,
            "split": [self.share.rank, self.share.world, self.share.batch],
            "skipped": dict(sorted(self.skipped.items())),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Resume after the last sample of another loader, also one of another world size or batch.

        Raises ConfigError where the state is of another mixture or order, or was saved in the middle of a step of
        several ranks and the split differs.
        """
        current = self.state_dict()
        for name, subject in _STATE_IDENTITY.items():
            if state.get(name) != current[name]:
                raise ConfigError(
                    f"this state is of another {subject}: {state.get(name)!r}, not {current[name]!r}",
                    where="loader state",
                    hint="open the loader with the arguments it had when the state was saved",
                )
        within = int(state["within"])
        if within and list(state["split"]) != current["split"]:
            raise ConfigError(
                f"this state was saved {within} samples into a step of rank {state['split'][0]} of {state['split'][1]}",
                where="loader state",
                hint="save after whole steps (Loader.batches) to resume with another split",
            )
        self._move_to(int(state["epoch"]), int(state["consumed"]))
        self._within = within
        self.skipped = Counter(state.get("skipped", {}))

    def set_epoch(self, epoch: int) -> None:
        """Move to the start of an epoch."""
        self._move_to(epoch, 0)

    def composition(self) -> dict[str, Any]:
        """Compare what all ranks have read of this epoch with the plan; at an epoch's end, that whole epoch.

        {"epoch", "samples", "of", "unit", "skipped", "modalities": {name: {"samples", "tokens", "seconds", "bytes",
        "share", "planned"}}, "largest_gap"}: shares are in the mixture's unit; skipped counts those of this rank.
        """
        epoch, consumed = (self.epoch, self.consumed) if self.consumed else self._finished
        return self._locations.composition(self.order, epoch, consumed) | {
            "epoch": epoch,
            "skipped": dict(sorted(self.skipped.items())),
        }

    def close(self) -> None:
        """Close files and end the decoder's child process; reading starts them again."""
        self._fetcher.close()
        if self._decoder is not None:
            self._decoder.close()
