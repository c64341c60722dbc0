"""Who answers a run's requests, behind its cache: servers, the files of a batch, or a model in this process."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from infra import storage
from infra.errors import ConfigError
from infra.llm.batch_files import BatchFiles
from infra.llm.requests import CachedClient, RequestCache
from infra.llm.servers import Endpoint, Servers
from pipelines.annotate.settings import RULES, AnnotateSettings
from pipelines.core.run import Run


def cache_path(run: Run, settings: AnnotateSettings) -> str:
    """The request cache: a file of this machine or of a disk that all workers share.

    Raises ConfigError where the store is an object store and `annotate.cache` does not name such a place.
    """
    uri = settings.cache or storage.join(run.store, "requests.sqlite")
    if not storage.is_local(uri):
        raise ConfigError(
            f"the request cache cannot lie at {uri}",
            where=run.document.where(("annotate",)),
            hint="set annotate.cache to a path on a disk that all workers see",
        )
    path = storage.local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def share_endpoints(endpoints: Sequence[Endpoint], among: int) -> list[Endpoint]:
    """Endpoints with one process's share of the requests that each may have in flight, at least one."""
    return [e.model_copy(update={"in_flight": max(1, e.in_flight // max(among, 1))}) for e in endpoints]


@asynccontextmanager
async def open_server_client(
    run: Run, settings: AnnotateSettings, endpoints: Sequence[Endpoint], among: int
) -> AsyncIterator[CachedClient]:
    """A client before `endpoints`, for one of `among` processes that ask them at the same time."""
    with RequestCache(cache_path(run, settings)) as cache:
        async with Servers(
            share_endpoints(endpoints, among),
            timeout_s=settings.timeout_s,
            patience_s=settings.patience_s,
            tries=settings.tries,
            notify=tell,
        ) as servers:
            yield CachedClient(cache, servers)


@asynccontextmanager
async def open_client(run: Run, settings: AnnotateSettings, among: int) -> AsyncIterator[CachedClient | None]:
    """The client before whoever writes this run's dialogues; None where the rules do."""
    if settings.generator == RULES:
        yield None
    elif run.batch is not None:
        with RequestCache(cache_path(run, settings)) as cache:
            async with BatchFiles(run.batch) as batch:
                yield CachedClient(cache, batch)
    elif settings.endpoints:
        async with open_server_client(run, settings, settings.endpoints, among) as client:
            yield client
    else:
        from infra.llm.offline import OfflineVllm

        with RequestCache(cache_path(run, settings)) as cache:
            async with OfflineVllm(settings.served_model, dict(settings.offline or {})) as engine:
                yield CachedClient(cache, engine)


def tell(text: str) -> None:
    """A sentence for the person who waits."""
    sys.stderr.write(f"annotate: {text}\n")
    sys.stderr.flush()
