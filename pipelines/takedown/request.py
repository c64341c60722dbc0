"""Requests to take samples down, and which rows of samples they match."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from infra import storage
from infra.columns import Mask, equals, to_mask
from infra.errors import ConfigError

#: Columns of samples that a request is matched with.
COLUMNS = ("key", "source", "licence", "container", "media", "origin")

_PORTS = {"http": 80, "https": 443, "ftp": 21}


@dataclass(frozen=True)
class TakedownRequest:
    """Samples with one of these keys, sources, licences or normalised URLs."""

    keys: frozenset[str] = frozenset()
    sources: frozenset[str] = frozenset()
    licences: frozenset[str] = frozenset()
    urls: frozenset[str] = frozenset()

    def match(self, samples: pa.Table, roots: Mapping[str, str]) -> NDArray[np.object_]:
        """object (n,): the reason to take each row down, None for the others; of several reasons the first of key,
        source, licence, url.

        samples: COLUMNS of the samples table; roots: folder of each source, so that full paths match too.
        """
        reasons = np.full(samples.num_rows, None, dtype=object)
        if self.urls:
            reasons[self._match_urls(samples, roots)] = "url"
        for column, names in (("licence", self.licences), ("source", self.sources)):
            for name in sorted(names):
                reasons[equals(samples[column], name)] = f"{column}={name}"
        keys = pa.array(sorted(self.keys), pa.string())
        reasons[to_mask(pc.is_in(samples["key"], value_set=keys))] = "key"
        return reasons

    def _match_urls(self, samples: pa.Table, roots: Mapping[str, str]) -> Mask:
        matches = self._is_listed(samples["origin"]) | self._is_listed(samples["container"])
        media = samples["media"].combine_chunks()
        rows = np.asarray(pc.list_parent_indices(media), dtype=np.int64)
        uris = pc.struct_field(pc.list_flatten(media), "uri")
        matches[rows[self._is_listed(uris)]] = True
        for source, root in roots.items():
            in_source = equals(samples["source"], source)
            if in_source.any():
                matches |= in_source & self._is_listed(samples["container"], root)
                matches[rows[in_source[rows] & self._is_listed(uris, root)]] = True
        return matches

    def _is_listed(self, paths: pa.ChunkedArray | pa.Array, root: str = "") -> Mask:
        """bool (n,): paths, relative to `root`, that are among the URLs; each distinct path is normalised once."""
        coded = pc.dictionary_encode(pc.fill_null(paths, ""))
        coded = coded.combine_chunks() if isinstance(coded, pa.ChunkedArray) else coded
        names = coded.dictionary.to_pylist()
        hits = [bool(name) and normalise_url(storage.join(root, name) if root else name) in self.urls for name in names]
        return np.array(hits, dtype=bool)[np.asarray(coded.indices, dtype=np.int64)] if names else np.zeros(0, bool)


def normalise_url(url: str) -> str:
    """The form in which URLs and paths are compared.

    Surrounding white space, a leading "./", the fragment and trailing slashes are removed; the host is in lower case,
    without the default port; https becomes http. Path and query must match exactly.
    """
    url = url.strip().removeprefix("./")
    try:
        parsed = urlsplit(url)
        port = parsed.port
    except ValueError:  # not a URL but a path with brackets or colons
        return url.rstrip("/")
    if not parsed.scheme or not parsed.netloc:
        return url.rstrip("/")
    scheme = "http" if parsed.scheme == "https" else parsed.scheme
    host = parsed.hostname or ""
    if port is not None and port != _PORTS.get(parsed.scheme):
        host = f"{host}:{port}"
    query = f"?{parsed.query}" if parsed.query else ""
    return f"{scheme}://{host}{parsed.path.rstrip('/')}{query}"


def build_request(
    keys: Iterable[str] = (), sources: Iterable[str] = (), licences: Iterable[str] = (), url_lists: Iterable[str] = ()
) -> TakedownRequest:
    """Build a request from command-line options. url_lists: files with one URL per line, "#" begins a comment line.

    Raises ConfigError if nothing is requested, or if a list cannot be read or is empty.
    """
    urls = frozenset(url for uri in url_lists for url in _read_urls(uri))
    request = TakedownRequest(frozenset(keys), frozenset(sources), frozenset(licences), urls)
    if request == TakedownRequest():
        raise ConfigError("no samples to take down are named", hint="give --key, --source, --licence or --url-list")
    return request


def _read_urls(uri: str) -> set[str]:
    if not storage.is_file(uri):
        raise ConfigError("there is no such list", where=uri, hint="--url-list takes a file with one URL per line")
    try:
        lines = storage.read_bytes(uri).decode().splitlines()
    except UnicodeDecodeError:
        raise ConfigError("the list is not UTF-8 text", where=uri, hint="one URL per line") from None
    urls = {normalise_url(line) for line in lines if line.strip() and not line.startswith("#")} - {""}
    if not urls:
        raise ConfigError("the list contains no URL", where=uri, hint="one URL per line; lines with # are skipped")
    return urls
