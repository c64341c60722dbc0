"""The loader that trainers import: samples of a mixture in an exact, resumable order, split over ranks and workers.

    loader = Loader("MIX", rank=0, world=8, batch=4, decode=True)
    for batch in loader.batches(workers=4):
        ...
        save(loader.state_dict())

Reads virtual mixtures (ranges of their runs' tars) and materialized ones, near or behind any fsspec URI.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from infra.errors import BadSample, ConfigError, StageError
from mixtures.reading.contract import Contract
from mixtures.reading.fetch import CACHE_BYTES, ByteRange, Fetcher
from mixtures.reading.order import WINDOW, Order, RankShare
from mixtures.reading.sample_locations import SampleLocations
from mixtures.reading.training_sample import FRAME_SIZE, SampleDecoder
from mixtures.reading.workers import build_dataset, get_worker, read_with_workers
from mixtures.shards.manifest import Mixture, open_mixture
from mixtures.shards.unpack import extract_record, unpack_members, verify_media

#: Raised when a field of the state changes its meaning.
STATE_VERSION = 1


@dataclass
class LoadedStep:
    """What one step of a rank gave. skipped: by kind of error, samples whose media could not be shown."""

    number: int
    samples: list[Any] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class Loader:
    """Samples of a mixture.

    mixture: its folder, path or fsspec URI. rank, world: which of how many trainers this is. batch: samples a step.
    seed: of the order; None takes the mixture's. epoch: the first to be read. window: virtual shards shuffled together.
    drop_last: leave out the end of an epoch that does not fill a step of all ranks; else ranks differ by at most one
    sample, and the last step of some has one less or none.
    decode: give `Decoded` samples instead of raw ones. contract: of clips and tokens; None takes the mixture's.
    frame_size: longest side of decoded frames in pixels. on_error: "raise" stops at a medium that cannot be shown,
    "skip" leaves the sample out of its batch and counts it in `skipped`. verify: hold media against their sha256.
    cache_bytes: most bytes of remote shards held or under way, in each process that reads.

    Iterating gives the samples of one epoch from where the loader stands, for this rank; then it stands at the start
    of the next. A raw sample is {"__key__", "__url__", "json": its record, media bytes by suffix}.

    Raises ConfigError for arguments that cannot be; StageError, naming shard, byte and key, where shards are missing,
    cut short or others than the mixture was made from.
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
            raise ConfigError(f"on_error is {on_error!r}", where="loader", hint='give "raise" or "skip"')
        self.mixture = open_mixture(mixture) if isinstance(mixture, str) else mixture
        self.share = RankShare(rank, world, batch, drop_last)
        self.contract = contract or self.mixture.contract
        self.skipped: Counter[str] = Counter()
        self._on_error = on_error
        self._verify = verify
        self._decoder = SampleDecoder(self.contract, frame_size) if decode else None
        self._places = SampleLocations(self.mixture)
        self._fetcher = Fetcher(self._places.files, cache_bytes=cache_bytes)
        self.order = Order(self._places.counts, int(self.mixture.manifest["seed"]) if seed is None else seed, window)
        self._stand(epoch, 0)

    def _stand(self, epoch: int, start: int) -> None:
        self.epoch = epoch
        self._start = start  # places that lie behind all ranks
        self._step = 0  # whole steps of this rank since
        self._within = 0  # samples of the step that has begun

    def __len__(self) -> int:
        """Steps that this rank still has in the epoch."""
        return max(0, self.share.steps(self.order.total - self._start) - self._step)

    # -- reading ------------------------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Any]:
        """One sample after another. Inside a worker of PyTorch's DataLoader, that worker's share."""
        worker, workers = get_worker()
        for step in self.steps(worker, workers, whole=False):
            yield from step.samples

    def batches(
        self, *, workers: int = 0, collate: Callable[[list[Any]], Any] | None = None, **how: Any
    ) -> Iterator[Any]:
        """One batch a step, a list of samples or what `collate` makes of it; the state is that after the last given.

        workers: processes that read ahead, through PyTorch's DataLoader, which takes `how`; `collate` runs in them.
        With on_error "skip" a batch may be shorter, or empty.
        """
        if workers == 0:
            for step in self.steps(0, 1, whole=True):
                yield collate(step.samples) if collate else step.samples
            return
        epoch = self.epoch
        for number, skipped, batch in read_with_workers(self, workers, collate, how):
            if number != self._step:
                raise ConfigError("steps come out of order", where="loader", hint="leave the DataLoader's in_order on")
            self.skipped.update(skipped)
            self._step, self._within = number + 1, 0
            yield batch
        self._stand(epoch + 1, 0)

    def dataset(self) -> Any:
        """This loader as a torch IterableDataset, for a DataLoader of your own: give it this loader's batch as its
        batch_size, and steps come in order. Workers do not move this loader: count samples with `advance`."""
        return build_dataset(self, None)

    def steps(self, worker: int, workers: int, *, whole: bool) -> Iterator[LoadedStep]:
        """This rank's steps from here on, those of one of `workers` processes; a single one moves the loader.

        whole: a step is given when all of it is read; else sample by sample, each as a Step of its own.
        """
        left = self.order.total - self._start
        begin, within, epoch, start = self._step, self._within, self.epoch, self._start
        last = self.share.steps(left)
        mine = range(begin + worker, last, workers)

        def wanted() -> Iterator[ByteRange]:
            for number in mine:
                low, high = self.share.run(left, number)
                skip = within if number == begin else 0
                rows = self.order.rows(epoch, start + low, start + high).tolist()
                for i, row in enumerate(rows[skip:], skip + 1):
                    yield self._places.span(row, (number, i == len(rows), i, row))

        step = LoadedStep(mine.start)
        with closing(self._fetcher.stream(wanted())) as stream:
            for span, data in stream:
                number, ends, done, _ = span.tag
                try:
                    step.samples.append(self._sample(span, data))
                except BadSample as error:
                    self._bad(span, error)
                    step.skipped[error.kind] += 1
                if whole and not ends:
                    continue
                step.number = number
                if workers == 1:
                    self._step, self._within = (number + 1, 0) if ends else (number, done)
                if step.skipped:
                    self.skipped.update(step.skipped)
                yield step
                step = LoadedStep(number)
        if workers == 1:
            self._stand(epoch + 1, 0)

    def _sample(self, span: ByteRange, data: memoryview) -> Any:
        where = self._fetcher.files[span.file]
        members = unpack_members(data, span.key, where, span.offset, self._places.name(span.tag[-1], span.key))
        record = extract_record(members, span.key, where, span.offset)
        if self._verify:
            verify_media(members, record, span.key, where, span.offset)
        sample: dict[str, Any] = {"__key__": span.key, "__url__": where, **members, "json": record}
        return sample if self._decoder is None else self._decoder.decode(sample)

    def _bad(self, span: ByteRange, error: BadSample) -> None:
        if self._on_error == "raise":
            raise StageError(
                f"a medium of sample {span.key} cannot be shown ({error})",
                where=f"{self._fetcher.files[span.file]}, byte {span.offset}",
                hint='Loader(on_error="skip") leaves such samples out and counts them',
            ) from None

    # -- where it stands ----------------------------------------------------------------------------------------

    @property
    def consumed(self) -> int:
        """Samples of the epoch that all ranks have read once they are where this one is."""
        ahead = self._step * self.share.stride + (self._within if self.share.world == 1 else 0)
        return min(self.order.total, self._start + ahead)

    def advance(self, samples: int) -> None:
        """Count samples that this rank got through a DataLoader of its own."""
        left = self.order.total - self._start
        done = self._step * self.share.batch + self._within + samples
        low, high = self.share.run(left, left // self.share.stride)
        if done >= left // self.share.stride * self.share.batch + high - low:
            self._stand(self.epoch + 1, 0)
        else:
            self._step, self._within = divmod(done, self.share.batch)

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands, as JSON values: after the last sample or batch that was given.

        All ranks have the same after the same number of steps, so that of rank 0 serves all.
        """
        ended = 0 < self._step >= self.share.most_steps(self.order.total - self._start)
        return {
            "version": STATE_VERSION,
            "members": self.mixture.manifest["members"]["sha256"],
            "seed": self.order.seed,
            "window": self.order.window,
            "epoch": self.epoch + ended,
            "consumed": 0 if ended else self.consumed,
            "within": self._within if self.share.world > 1 else 0,
            "split": [self.share.rank, self.share.world, self.share.batch],
            "skipped": dict(sorted(self.skipped.items())),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Stand where another loader stood, also one of another world size or batch; the next sample is the next.

        Raises ConfigError where the state is of another mixture or order, or was saved in the middle of a step of
        several ranks and is to be split otherwise.
        """
        mine = self.state_dict()
        for name, what in (("version", "Reelmill"), ("members", "mixture"), ("seed", "seed"), ("window", "window")):
            if state.get(name) != mine[name]:
                raise ConfigError(
                    f"this state is of another {what}: {state.get(name)!r}, not {mine[name]!r}",
                    where="loader state",
                    hint="open the loader as it was when the state was saved",
                )
        within = int(state["within"])
        if within and list(state["split"]) != mine["split"]:
            raise ConfigError(
                f"this state was saved {within} samples into a step of rank {state['split'][0]} of {state['split'][1]}",
                where="loader state",
                hint="save after whole steps (Loader.batches) to go on with another split",
            )
        self._stand(int(state["epoch"]), int(state["consumed"]))
        self._within = within
        self.skipped = Counter(state.get("skipped", {}))

    def set_epoch(self, epoch: int) -> None:
        """Stand at the start of an epoch."""
        self._stand(epoch, 0)

    def composition(self) -> dict[str, Any]:
        """What all ranks have read of this epoch, held against the plan.

        {"epoch", "samples", "of", "unit", "skipped", "modalities": {name: {"samples", "tokens", "seconds", "bytes",
        "share", "planned"}}, "largest_gap"}: shares are of the mixture's binding unit; skipped counts this rank's.
        """
        return self._places.composition(self.order, self.epoch, self.consumed) | {
            "epoch": self.epoch,
            "skipped": dict(sorted(self.skipped.items())),
        }

    def close(self) -> None:
        """Close files and end the decoder's child; reading starts them again."""
        self._fetcher.close()
        if self._decoder is not None:
            self._decoder.close()
