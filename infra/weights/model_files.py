"""Check that a file contains a model of its format, without loading it: a wrong path is named before any work.

Only the outer form is read: the fields of an ONNX message, the head of a fastText file, the header of safetensors, the
directory of PyTorch's archives, and the names of the methods of a TorchScript module. A file cut short is found too,
except for fastText's and PyTorch's older form.
"""

from __future__ import annotations

import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from infra.errors import ConfigError

#: fastText's FASTTEXT_FILEFORMAT_MAGIC_INT32, and the newest version of its format.
FASTTEXT_MAGIC, FASTTEXT_VERSION = 793712314, 12
#: ModelProto's field `graph` in onnx.proto.
ONNX_GRAPH = 7
#: Longest header of safetensors, as its own library limits it.
MAX_HEADER = 100_000_000
#: How torch.save began before it wrote zip archives: a pickled number.
TORCH_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"

#: Errors by which a damaged zip archive shows.
ZIP_DAMAGE = (zipfile.BadZipFile, OSError, EOFError, ValueError, NotImplementedError, RuntimeError)


def check_onnx(path: Path) -> None:
    """Raise ConfigError unless a file is an ONNX model."""
    with path.open("rb") as file:
        try:
            is_model = ONNX_GRAPH in _iterate_fields(file, os.fstat(file.fileno()).st_size)
        except ValueError:
            is_model = False
    _require(is_model, path, "an ONNX model")


def check_fasttext(path: Path) -> None:
    """Raise ConfigError unless a file begins as a fastText model (.bin or .ftz)."""
    head = _read_head(path, 8)
    magic, version = struct.unpack("<ii", head) if len(head) == 8 else (0, 0)
    _require(magic == FASTTEXT_MAGIC and 0 < version <= FASTTEXT_VERSION, path, "a fastText model")


def check_weights(path: Path) -> None:
    """Raise ConfigError unless a file contains weights: safetensors by its suffix, else what torch.save or TorchScript
    writes."""
    if path.suffix == ".safetensors":
        _require(_is_safetensors(path), path, "a file of safetensors")
    elif path.suffix not in (".npz", ".npy"):  # open_clip reads these of other projects
        is_torch = _read_head(path, len(TORCH_LEGACY)) == TORCH_LEGACY or _is_torch_archive(path)
        _require(is_torch, path, "a file of PyTorch weights")


def check_script(content: bytes, location: str, methods: Sequence[str]) -> None:
    """Raise ConfigError unless the bytes of a file are a TorchScript module with these methods. No code is run."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            names = archive.namelist()
            sources = [archive.read(name) for name in names if "/code/" in name and name.endswith(".py")]
    except (*ZIP_DAMAGE, zlib.error):
        names, sources = [], []
    is_archive = any(name.endswith("/data.pkl") for name in names)
    if not is_archive or not sources:
        what = "PyTorch weights without the code of a module" if is_archive else f"{len(content):,} bytes"
        raise ConfigError(
            f"this is not a TorchScript module ({what}), or it is cut short",
            where=location,
            hint="a file that torch.jit.save wrote is needed, often named *.torchscript.pt; a page of HTML or a Git "
            "LFS pointer in its place is a frequent cause",
        )
    for method in methods:
        if not any(re.search(rf"\bdef {method}\(".encode(), source) for source in sources):
            hint = "docs/models.md says what the module must offer"
            raise ConfigError(f"this TorchScript module has no method {method}", where=location, hint=hint)


def _require(is_model: bool, path: Path, what: str) -> None:
    if not is_model:
        size = path.stat().st_size
        raise ConfigError(
            f"this is not {what} ({size:,} bytes), or it is cut short",
            where=str(path),
            hint="download the file again; a page of HTML or a Git LFS pointer in its place is a frequent cause",
        )


def _read_head(path: Path, size: int) -> bytes:
    with path.open("rb") as file:
        return file.read(size)


def _is_safetensors(path: Path) -> bool:
    """Whether the header is JSON and its tensors end where the file ends."""
    with path.open("rb") as file:
        head = file.read(8)
        length = int.from_bytes(head, "little")
        if len(head) < 8 or length > MAX_HEADER:
            return False
        try:
            header = json.loads(file.read(length))
            tensors = [entry for name, entry in header.items() if name != "__metadata__"]
            end = max((entry["data_offsets"][1] for entry in tensors), default=0)
        except (ValueError, RecursionError, AttributeError, TypeError, LookupError):
            return False
        return bool(tensors) and end == os.fstat(file.fileno()).st_size - 8 - length


def _is_torch_archive(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith("/data.pkl") for name in archive.namelist())
    except ZIP_DAMAGE:
        return False


def _iterate_fields(file: IO[bytes], size: int) -> Iterator[int]:
    """The numbers of the fields of a Protocol Buffers message that fills a file; ValueError where it is none."""
    while file.tell() < size:
        tag = _read_varint(file)
        number, wire_type = tag >> 3, tag & 7
        if number == 0 or wire_type not in (0, 1, 2, 5):
            raise ValueError("not a field")
        if wire_type == 0:
            _read_varint(file)
        else:
            length = _read_varint(file) if wire_type == 2 else {1: 8, 5: 4}[wire_type]
            if file.tell() + length > size:
                raise ValueError("the file is cut short")
            file.seek(length, os.SEEK_CUR)
        yield number


def _read_varint(file: IO[bytes]) -> int:
    number = 0
    for shift in range(0, 70, 7):
        byte = file.read(1)
        if not byte:
            break
        number |= (byte[0] & 0x7F) << shift
        if byte[0] < 0x80:
            return number
    raise ValueError("not a number")
