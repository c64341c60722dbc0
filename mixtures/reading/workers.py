"""A loader's steps through PyTorch's DataLoader, and the loader as a dataset of PyTorch's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from infra.errors import MissingExtra, ReelmillError, StageError

if TYPE_CHECKING:
    from mixtures.loader import Loader

Collate = Callable[[list[Any]], Any]


def get_worker() -> tuple[int, int]:
    """(number, count) of the DataLoader's worker that this process is; (0, 1) where it is none."""
    if "torch.utils.data" not in sys.modules:
        return 0, 1
    info = sys.modules["torch.utils.data"].get_worker_info()
    return (0, 1) if info is None else (info.id, info.num_workers)


def read_with_workers(
    loader: Loader, workers: int, collate: Collate | None, how: Mapping[str, Any]
) -> Iterator[tuple[int, Mapping[str, int], Any]]:
    """(number, skipped, batch) of each step, in order, read by `workers` processes. `how`: of torch's DataLoader.

    Raises what ended the reading, and StageError where a process died.
    """
    # PyTorch's own collate_fn would turn arrays into tensors, and add up counters.
    how = {"batch_size": None, "collate_fn": _same, "num_workers": workers, **how}
    steps = iter(_torch().utils.data.DataLoader(build_dataset(loader, collate or _same), **how))
    try:
        while (found := _next(steps, loader.mixture.uri)) is not None:
            if isinstance(found, ReelmillError):
                raise found
            yield found
    finally:
        del steps  # ends the workers now, and not when the last traceback is forgotten


def _next(steps: Iterator[Any], where: str) -> Any:
    """What the workers' next step gave, None after the last; an error that ended it as a value."""
    try:
        return next(steps, None)
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        return StageError(
            f"a process that reads for the loader died ({str(error).splitlines()[0]})",
            where=where,
            hint="go on from the last state_dict(): nothing that was given is lost",
        )


def build_dataset(loader: Loader, collate: Collate | None) -> Any:
    """An IterableDataset, made here so that importing this module imports no PyTorch. Without `collate` it gives
    samples; with it (number, skipped, batch) of each step, or the error that ended the reading."""
    torch = _torch()

    class Dataset(torch.utils.data.IterableDataset):  # type: ignore[misc,name-defined]
        def __iter__(self) -> Iterator[Any]:
            if collate is None:
                yield from loader
                return
            try:
                for step in loader.steps(*get_worker(), whole=True):
                    yield step.number, step.skipped, collate(step.samples)
            except ReelmillError as error:  # as a value: PyTorch would wrap it in a traceback
                yield error

        def __reduce__(self) -> tuple[Any, ...]:
            return build_dataset, (loader, collate)

    return Dataset()


def _same(value: Any) -> Any:
    return value


def _torch() -> Any:
    try:
        import torch.utils.data
    except ImportError:
        raise MissingExtra("torch", "train", "reading with workers") from None
    return torch
