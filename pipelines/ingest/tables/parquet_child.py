"""The child process that reads Parquet: a file of 2 KB may describe gigabytes, and the library trusts what it says.

Run by pipelines.ingest.tables.parquet as `python -m pipelines.ingest.tables.parquet_child REQUEST`, a JSON object:

    path           of the file
    address_space  bytes of memory, beyond what the process has at the start
    media          names of columns whose bytes are sent
    text           name of the column whose bytes must be text, or null
    max_row_bytes  limit of a row without its media

On stdout it writes messages: 8 bytes with the length of a JSON object, the object, and the bytes whose lengths are in
its list `blobs`. A message is {"columns": types by name} once, {"row": …} or {"fault": …} for each row, and last
{"end": …}, with the error that ended the table or null. A mistake of ours is a traceback and exit code 1.
"""

from __future__ import annotations

import json
import resource
import struct
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.ingest.tables.column_names import unique_names

#: Bytes of decoded rows in a batch, as the file's own sizes have them (ours).
_BATCH_BYTES = 32 * 2**20
_MAX_BATCH_ROWS = 1024

#: A byte takes at most six characters of JSON.
_ESCAPED = 6

#: Key of an object that stands for a blob: its number in the message.
BLOB = "$blob"


class RowWriter:
    """Writes messages, and turns cells into JSON."""

    def __init__(self, output: IO[bytes], media: Sequence[str], text: str | None, max_row_bytes: int) -> None:
        self._output = output
        self._media = media
        self._text = text
        self._max_row_bytes = max_row_bytes
        self._blobs: list[bytes] = []

    def write(self, message: Mapping[str, Any]) -> None:
        payload = json.dumps({**message, "blobs": [len(blob) for blob in self._blobs]}).encode()
        if "row" in message and len(payload) > _ESCAPED * self._max_row_bytes:
            self._blobs = []
            self.write({"fault": f"too_large: the row has more than {self._max_row_bytes} bytes"})
            return
        self._output.write(struct.pack("<Q", len(payload)))
        self._output.write(payload)
        for blob in self._blobs:
            self._output.write(blob)
        self._blobs = []

    def write_row(self, row: Mapping[str, Any]) -> None:
        """Write a row, or why it cannot be used."""
        fault = ""
        plain: dict[str, Any] = {}
        for name, cell in row.items():
            if name not in self._media and isinstance(cell, bytes | str) and len(cell) > self._max_row_bytes:
                fault = f"too_large: the column {name!r} has {len(cell)} bytes or characters"
                break
            plain[name] = self._to_plain(cell, name)
        if fault:
            self._blobs = []
        self.write({"fault": fault} if fault else {"row": plain})

    def _to_plain(self, cell: Any, column: str) -> Any:
        """A cell in types that JSON has: bytes as text where they are UTF-8, dates and decimals as text."""
        if isinstance(cell, bytes):
            return self._describe_bytes(cell, column)
        if isinstance(cell, Mapping):
            return {str(key): self._to_plain(field, column) for key, field in cell.items()}
        if isinstance(cell, list | tuple):
            return [self._to_plain(element, column) for element in cell]
        return cell if cell is None or isinstance(cell, str | int | float | bool) else str(cell)

    def _describe_bytes(self, cell: bytes, column: str) -> Any:
        if column in self._media:
            self._blobs.append(cell)
            return {BLOB: len(self._blobs) - 1}
        try:
            return cell.decode()
        except UnicodeDecodeError:
            # The parent reports lone surrogates in the text; other columns are only stored beside the sample.
            return cell.decode("utf-8", "surrogateescape") if column == self._text else f"({len(cell)} bytes)"


def read_rows(file: pq.ParquetFile) -> Iterator[dict[str, Any]]:
    """The rows of a file, in batches that fit into memory by the sizes that the file states."""
    metadata = file.metadata
    for group in range(metadata.num_row_groups):
        stated = metadata.row_group(group)
        row_bytes = max(1, stated.total_byte_size // max(1, stated.num_rows))
        size = min(_MAX_BATCH_ROWS, max(1, _BATCH_BYTES // row_bytes))
        for batch in file.iter_batches(batch_size=size, row_groups=[group], use_threads=False):
            columns = [iterate_cells(batch.column(index)) for index in range(batch.num_columns)]
            for cells in zip(*columns, strict=True):
                yield dict(zip(unique_names(batch.schema.names), cells, strict=True))


def iterate_cells(array: pa.Array) -> Iterator[Any]:
    """The cells of a column; those that Python cannot represent, such as a date beyond the year 9999, as text."""
    if pa.types.is_dictionary(array.type):
        for index in array.indices:
            yield _to_python(array.dictionary[index.as_py()]) if index.is_valid else None
        return
    for scalar in array:
        yield _to_python(scalar)


def _to_python(scalar: pa.Scalar) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError:
        if hasattr(scalar, "as_buffer"):
            return scalar.as_buffer().to_pybytes()
    except (pa.ArrowException, ValueError, OverflowError, KeyError, OSError):
        pass  # an unknown time zone, a date that is out of range
    if not scalar.is_valid:
        return None
    if isinstance(scalar, pa.StructScalar):
        return {field.name: _to_python(scalar[index]) for index, field in enumerate(scalar.type)}
    if isinstance(scalar, pa.ListScalar | pa.LargeListScalar | pa.FixedSizeListScalar):
        return [_to_python(element) for element in scalar.values]
    return f"{getattr(scalar, 'value', '?')} ({scalar.type})"


def limit_memory(address_space: int) -> None:
    """Allow `address_space` bytes beyond what this process has."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = address_space + pages * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))  # threads: of this process, which has one


def main(request: Mapping[str, Any], output: IO[bytes]) -> None:
    """Write a file's rows to `output`."""
    writer = RowWriter(output, request["media"], request["text"], request["max_row_bytes"])
    limit_memory(request["address_space"])
    error = None
    try:
        with pq.ParquetFile(request["path"], buffer_size=2**20) as file:
            schema = file.schema_arrow
            types = dict(zip(unique_names(schema.names), map(str, schema.types), strict=True))
            writer.write({"columns": types})
            for row in read_rows(file):
                writer.write_row(row)
    except MemoryError:
        gigabytes = request["address_space"] / 2**30
        error = f"too_large: the table needs more than {gigabytes:g} GiB of memory from here on"
    except BrokenPipeError:
        raise
    except (pa.ArrowException, OSError, ValueError) as broken:
        error = f"unreadable table: {broken}"
    writer.write({"end": error})
    output.flush()


if __name__ == "__main__":
    pa.set_memory_pool(pa.system_memory_pool())
    main(json.loads(sys.argv[1]), sys.stdout.buffer)
