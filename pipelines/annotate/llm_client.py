"""Choose the LLM backend of a run (servers, batch files or in-process vLLM) and wrap it in the request cache."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from infra import storage
from infra.errors import ConfigError
from infra.llm.batch_files import BatchFiles
from infra.llm.requests import CachedClient, CompletionBackend, RequestCache
from infra.llm.servers import Endpoint, Servers
from infra.terminal import write_line
from pipelines.annotate.settings import RULES, AnnotateSettings
from pipelines.core.run import Run


def cache_uri(run: Run, settings: AnnotateSettings) -> str:
    """Return where the request cache is: `annotate.cache`, by default requests.sqlite in the store."""
    return settings.cache or storage.join(run.store, "requests.sqlite")


def cache_path(run: Run, settings: AnnotateSettings) -> str:
    """Return the path of the request cache and make its folder: on this machine or a disk that all workers share.

    Raises ConfigError if it is not a local path, because the store is an object store and `annotate.cache` is not set.
    """
    uri = cache_uri(run, settings)
    if not storage.is_local(uri):
        raise ConfigError(
            f"the request cache cannot be at {uri}",
            where=run.document.where(("annotate",)),
            hint="set annotate.cache to a path on a disk that all workers share",
        )
    path = storage.local_path(uri)
    path.parent.mkdir(parents=True, exist_ok=True)
    return str(path)


def share_endpoints(endpoints: Sequence[Endpoint], processes: int) -> list[Endpoint]:
    """Return the endpoints with one process's share of their requests in flight, at least one each."""
    return [e.model_copy(update={"in_flight": max(1, e.in_flight // max(processes, 1))}) for e in endpoints]


@asynccontextmanager
async def open_client(run: Run, settings: AnnotateSettings, processes: int) -> AsyncIterator[CachedClient | None]:
    """Open the client that writes this run's dialogues, for one of `processes` at work; None for the rules."""
    backend: AbstractAsyncContextManager[CompletionBackend]
    if settings.generator == RULES:
        yield None
        return
    if run.batch is not None:
        backend = BatchFiles(run.batch)
    elif settings.endpoints:
        backend = _make_servers(settings, settings.endpoints, processes)
    else:
        from infra.llm.offline import OfflineVllm

        backend = OfflineVllm(settings.served_model, dict(settings.offline or {}))
    async with _open_cached(run, settings, backend) as client:
        yield client


def open_server_client(
    run: Run, settings: AnnotateSettings, endpoints: Sequence[Endpoint], processes: int
) -> AbstractAsyncContextManager[CachedClient]:
    """Open a client of `endpoints`, for one of `processes` that use them at the same time."""
    return _open_cached(run, settings, _make_servers(settings, endpoints, processes))


def _make_servers(settings: AnnotateSettings, endpoints: Sequence[Endpoint], processes: int) -> Servers:
    return Servers(
        share_endpoints(endpoints, processes),
        timeout_s=settings.timeout_s,
        patience_s=settings.patience_s,
        tries=settings.tries,
        notify=notify,
    )


@asynccontextmanager
async def _open_cached(
    run: Run, settings: AnnotateSettings, backend: AbstractAsyncContextManager[CompletionBackend]
) -> AsyncIterator[CachedClient]:
    with RequestCache(cache_path(run, settings)) as cache:
        async with backend as opened:
            yield CachedClient(cache, opened)


def notify(text: str) -> None:
    """Print a sentence on stderr for the person who waits."""
    write_line(f"annotate: {text}")
