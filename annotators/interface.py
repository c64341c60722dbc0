"""What every annotator is: measures a chunk, never judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

import pyarrow as pa

from infra.media.interface import Decoded, FramePlan, StreamObserver


@runtime_checkable
class Annotator(Protocol):
    """One thing measured. Constructed as `Kind(settings)` with its module's `Settings`; construction loads nothing.

    name: registry name and prefix of its columns in signals ("motion" -> "motion.score").
    VERSION: raised whenever the same input would give another number.
    of: what the result is a function of, which is what the store keys it by.
    needs: "text" (no medium), "header" (container opened, nothing decoded), "stream" (beside the decoder),
        "frames" (pixels at the times and size of `plan`).
    reads: columns of other annotators that it reads, as "annotator.column".
    columns: its own columns, name -> Arrow type; an `error` string column is added by `measure`.
    stored: those of `columns` that stay in the store and are not copied into signals (vectors).
    """

    name: ClassVar[str]
    VERSION: ClassVar[int]
    of: ClassVar[Literal["text", "media", "pair"]]
    needs: ClassVar[Literal["text", "header", "stream", "frames"]]
    modalities: ClassVar[frozenset[str]]
    reads: ClassVar[tuple[str, ...]]
    columns: ClassVar[Mapping[str, pa.DataType]]
    stored: ClassVar[frozenset[str]]

    def maker(self) -> Mapping[str, object]:
        """Everything that the numbers depend on besides name and VERSION: resolved parameters, sha256 of each
        weight or vocabulary file, device kind and dtype where they matter. Plain JSON values."""

    def measure(self, chunk: pa.Table, media: Sequence[Decoded | None]) -> pa.Table:
        """Rows of `chunk` (key, modality, text, and the columns in `reads`) in, as many rows out: `columns` in
        order and then `error` (string, null where measured). A row that cannot be measured has nulls and an
        error; it is never given a score. `media[i]` is None for needs "text". Float scores are rounded to 6
        decimals. The result of a row must not depend on the other rows of the chunk."""


class FrameAnnotator(Annotator, Protocol):
    """needs "frames": `media[i].frames[name]` is there when `media[i].error` is None."""

    @property
    def plan(self) -> FramePlan: ...


class StreamAnnotator(Annotator, Protocol):
    """needs "stream": `media[i].streams[name]` is what `observer().finish()` returned."""

    def observer(self) -> StreamObserver: ...
