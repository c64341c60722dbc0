"""Read a loader's steps through PyTorch's DataLoader, and wrap a loader as a PyTorch dataset."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from infra.errors import MissingExtra, ReelmillError, StageError

Collate = Callable[[list[Any]], Any]


@dataclass
class LoadedStep:
    """The samples of one step of a rank. skipped: by kind of error, samples whose media could not be decoded."""

    number: int
    samples: list[Any] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)


class StepReader(Protocol):
    """A loader, as its workers see it."""

    def __iter__(self) -> Iterator[Any]: ...

    def steps(self, worker: int, workers: int, *, whole: bool) -> Iterator[LoadedStep]: ...


def get_worker() -> tuple[int, int]:
    """(number, count) of the DataLoader worker that this process is; (0, 1) outside of workers."""
    if "torch.utils.data" not in sys.modules:
        return 0, 1
    info = sys.modules["torch.utils.data"].get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def read_with_workers(
    loader: StepReader, where: str, workers: int, collate: Collate | None, options: Mapping[str, Any]
) -> Iterator[tuple[int, Mapping[str, int], Any]]:
    """Yield (number, skipped, batch) of each step, in order, read by `workers` processes.

    where: the mixture, for errors. options: of torch's DataLoader.
    Raises the error that ended the reading, and StageError where a process died.
    """
    # PyTorch's own collate_fn would turn arrays into tensors, and merge counters.
    options = {"batch_size": None, "collate_fn": _identity, "num_workers": workers, **options}
    steps = iter(_torch().utils.data.DataLoader(build_dataset(loader, collate or _identity), **options))
    try:
        while (step := _read_next(steps, where)) is not None:
            if isinstance(step, ReelmillError):
                raise step
            yield step
    finally:
        del steps  # ends the workers now, not when the last traceback is freed


def _read_next(steps: Iterator[Any], where: str) -> Any:
    """The workers' next step, None after the last; the error that ended it is returned, not raised."""
    try:
        return next(steps, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        return StageError(
            f"a worker process of the loader died ({str(error).splitlines()[0]})",
            where=where,
            hint="resume from the last state_dict(): nothing that was yielded is lost",
        )


def build_dataset(loader: StepReader, collate: Collate | None) -> Any:
    """Build an IterableDataset; its class is defined here so that importing this module does not import PyTorch.

    Without `collate` it yields samples; with it (number, skipped, batch) of each step, or the error that ended it.
    """
    torch = _torch()

    class Dataset(torch.utils.data.IterableDataset):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Iterator[Any]:
            if collate is None:
                yield from loader
                return
            try:
                for step in loader.steps(*get_worker(), whole=True):
                    yield step.number, step.skipped, collate(step.samples)
            except ReelmillError as error:  # yielded: PyTorch would wrap it in a traceback
                yield error

        def __reduce__(self) -> tuple[Any, ...]:
            return build_dataset, (loader, collate)

    return Dataset()


def _identity(batch: Any) -> Any:
    return batch


def _torch() -> Any:
    try:
        import torch.utils.data
    except ImportError:
        raise MissingExtra("torch", "train", "reading with workers") from None
    return torch
