"""Files behind HTTP servers of every kind, as seekable files."""

from __future__ import annotations

import io
import shutil
import tempfile
from typing import IO, Any


class HttpFile(io.RawIOBase):
    """A file behind HTTP, which is fetched whole to a temporary file where the server does not know range requests.

    file: as fsspec opens it. filesystem, path: by which it is opened again.
    """

    def __init__(self, file: IO[bytes], filesystem: Any, path: str) -> None:
        self._file = file
        self._filesystem = filesystem
        self._path = path
        self._position = 0
        self._is_whole = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        starts = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: 0}
        if whence == io.SEEK_END:
            starts[whence] = self._size()
        self._position = starts[whence] + offset
        return self._position

    def _size(self) -> int:
        size = self._file.seek(0, io.SEEK_END) if self._file.seekable() else None
        if size is None:
            self._fetch()
            size = self._file.seek(0, io.SEEK_END)
        return size

    def readinto(self, buffer: Any) -> int:
        try:
            self._file.seek(self._position)
            block = self._file.read(len(buffer))
        except ValueError:  # the library's error for a server without range requests, and for a stream that is sought
            if self._is_whole:
                raise
            self._fetch()
            self._file.seek(self._position)
            block = self._file.read(len(buffer))
        self._position += len(block)
        buffer[: len(block)] = block
        return len(block)

    def _fetch(self) -> None:
        whole = tempfile.TemporaryFile()  # noqa: SIM115  (closed with this file)
        with self._filesystem.open(self._path, "rb", block_size=0) as stream:
            shutil.copyfileobj(stream, whole, 2**20)
        self._file.close()
        self._file, self._is_whole = whole, True

    def close(self) -> None:
        self._file.close()
        super().close()
