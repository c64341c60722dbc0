"""What a take-down asks for, and which rows of samples that is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage
from infra.errors import ConfigError

#: Columns of samples that a selection looks at.
COLUMNS = ("key", "source", "licence", "container", "media", "origin")

_PORTS = {"http": 80, "https": 443, "ftp": 21}


@dataclass(frozen=True)
class TakedownRequest:
    """Samples with one of these keys, sources, licences, or from one of these URLs (normalised)."""

    keys: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    licences: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()

    def matches(self, samples: pa.Table, roots: Mapping[str, str]) -> NDArray[np.object_]:
        """object (n,): why each row is asked for, None where it is not; the first reason of key, source, licence, url.

        samples: COLUMNS of the samples table; roots: where each source lies, so that full paths match too.
        """
        why = np.full(samples.num_rows, None, dtype=object)
        if self.urls:
            why[self._by_url(samples, roots)] = "url"
        for name, wanted in (("licence", self.licences), ("source", self.sources)):
            for value in sorted(wanted):
                why[_equal(samples[name], [value])] = f"{name}={value}"
        if self.keys:
            why[_equal(samples["key"], sorted(self.keys))] = "key"
        return why

    def _by_url(self, samples: pa.Table, roots: Mapping[str, str]) -> NDArray[np.bool_]:
        found = self._known(samples["origin"]) | self._known(samples["container"])
        media = samples["media"].combine_chunks()
        rows = np.asarray(pc.list_parent_indices(media), dtype=np.int64)
        uris = pc.struct_field(pc.list_flatten(media), "uri")
        found[rows[self._known(uris)]] = True
        sources = samples["source"]
        for source, root in roots.items():
            mine = np.asarray(pc.equal(sources, source), dtype=bool)
            if mine.any():
                found |= mine & self._known(samples["container"], root)
                found[rows[mine[rows] & self._known(uris, root)]] = True
        return found

    def _known(self, values: pa.ChunkedArray | pa.Array, root: str = "") -> NDArray[np.bool_]:
        """bool (n,): values, below `root`, that are on the list; each distinct value is looked at once."""
        coded = pc.dictionary_encode(pc.fill_null(values, ""))
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        names = coded.dictionary.to_pylist()
        hits = [bool(name) and normal(storage.join(root, name) if root else name) in self.urls for name in names]
        return np.array(hits, dtype=bool)[np.asarray(coded.indices, dtype=np.int64)] if names else np.zeros(0, bool)


def _equal(values: pa.ChunkedArray, wanted: list[str]) -> NDArray[np.bool_]:
    return np.asarray(pc.fill_null(pc.is_in(values, value_set=pa.array(wanted, pa.string())), False), dtype=bool)


def normal(url: str) -> str:
    """A URL or path in the one form in which it is compared.

    White space around it, "./" before it, the fragment and slashes at the end go; the host is in lower case, without
    the default port; http and https are the same. Path, query and everything else must be equal to the letter.
    """
    url = url.strip().removeprefix("./")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:  # no URL: a path with brackets or colons in it
        return url.rstrip("/")
    if not parts.scheme or not parts.netloc:
        return url.rstrip("/")
    scheme = "http" if parts.scheme == "https" else parts.scheme
    host = parts.hostname or ""
    if port is not None and port != _PORTS.get(parts.scheme):
        host = f"{host}:{port}"
    query = f"?{parts.query}" if parts.query else ""
    return f"{scheme}://{host}{parts.path.rstrip('/')}{query}"


def build_request(
    keys: Iterable[str] = (), sources: Iterable[str] = (), licences: Iterable[str] = (), url_lists: Iterable[str] = ()
) -> TakedownRequest:
    """A selection from the command line; a list of URLs has one a line, empty lines and those after "#" are left out.

    Raises ConfigError where nothing is asked for, or a list cannot be read or is empty.
    """
    urls: set[str] = set()
    for uri in url_lists:
        urls |= _read(uri)
    found = TakedownRequest(frozenset(keys), frozenset(sources), frozenset(licences), frozenset(urls))
    if found == TakedownRequest():
        raise ConfigError("nothing to take down is named", hint="give --key, --source, --licence or --url-list")
    return found


def _read(uri: str) -> set[str]:
    if not storage.is_file(uri):
        raise ConfigError("there is no such list", where=uri, hint="--url-list wants a file with one URL a line")
    try:
        lines = storage.read_bytes(uri).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError("the list is not UTF-8 text", where=uri, hint="one URL a line") from None
    found = {normal(line) for line in lines if line.strip() and not line.startswith("#")}
    if not found - {""}:
        raise ConfigError("the list has no URL in it", where=uri, hint="one URL a line; lines after # are left out")
    return found - {""}
