"""Compressed tars: expanded once into the run's scratch, since media are addressed by byte range."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from infra import storage
from infra.commit import read_scratch, write_scratch
from infra.errors import BadSample, StageError
from infra.hashing import digest, fingerprint
from pipelines.ingest.tables.streams import open_unpacked

#: A compressed tar may always expand to this many bytes, and beyond that to MAX_RATIO times its size (ours).
FREE_BYTES = 2**30
MAX_RATIO = 100

_BLOCK = 2**20


class _SourceError(Exception):
    """The OSError of reading the compressed tar, which is not one of writing."""


def expand(uri: str, size: int, stamp: str, folder: str, name: str) -> tuple[str, str]:
    """Expand the compressed tar at `uri` to a file of `folder`; returns (name of that file, why it is not whole).

    The file's name is a hash of `name`, so it does not depend on when and where the tar was read. An expanded tar whose
    size and stamp have not changed is used again. A damaged or too large stream is expanded as far as it goes. Raises
    StageError if the scratch cannot be written, OSError if the tar cannot be read.
    """
    target = f"{digest(name.encode(), size=16).hex()}.tar"
    target_uri, note_uri = storage.join(folder, target), storage.join(folder, f"{target}.json")
    inputs = fingerprint({"name": name, "size": size, "stamp": stamp})
    note = read_scratch(note_uri, inputs)
    if note is not None and storage.is_file(target_uri):
        return target, str(note["fault"])
    try:
        with storage.publish_when_written(target_uri) as file:
            fault = _copy(uri, FREE_BYTES + MAX_RATIO * size, file)
        write_scratch(note_uri, inputs, {"fault": fault})
    except _SourceError as error:
        raise error.args[0] from None
    except OSError as error:
        raise StageError(
            f"a compressed tar cannot be expanded: {error.strerror or error}",
            where=folder,
            hint="free space for RUN/work, then run the same command again; or expand the tar yourself",
        ) from error
    return target, fault


def _copy(uri: str, budget: int, file: storage.PendingFile) -> str:
    """Write the stream to `file` as far as it goes; returns why it ends early, "" if it does not."""
    state, fault = hashlib.sha256(), ""
    with file.path.open("wb") as target:
        try:
            for block in _read_blocks(uri):
                budget -= len(block)
                if budget < 0:
                    fault = f"it expands to more than {MAX_RATIO} times its size"
                    break
                state.update(block)
                target.write(block)
        except BadSample as error:
            fault = error.detail
    file.sha256 = state.hexdigest()
    return fault


def _read_blocks(uri: str) -> Iterator[bytes]:
    try:
        with open_unpacked(uri) as stream:
            while block := stream.read(_BLOCK):
                yield block
    except OSError as error:
        raise _SourceError(error) from None
