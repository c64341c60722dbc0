"""What every annotator is: measures a chunk, never judges."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal, Protocol, runtime_checkable

import pyarrow as pa

from infra.media.interface import DecodedMedia, FramePlan, StreamObserver


@runtime_checkable
class Annotator(Protocol):
    """One thing measured. Constructed as `Kind(settings)` with its module's settings; construction loads nothing.

    name: registry name and prefix of its columns in signals ("motion" -> "motion.score").
    VERSION: raised whenever the same input would give another number.
    keyed_by: the content that the measurement is a function of, by which the store keys it.
    input: "text" (no medium), "header" (container opened, nothing decoded), "stream" (beside the decoder),
        "frames" (pixels at the times and size of `plan`).
    depends_on: columns of other annotators that it reads, as "annotator.column".
    columns: its own columns, name -> Arrow type; an `error` string column is added by `measure`.
    store_only: those of `columns` that stay in the store and are not copied into signals (vectors).
    """

    name: ClassVar[str]
    VERSION: ClassVar[int]
    keyed_by: ClassVar[Literal["text", "media", "pair"]]
    input: ClassVar[Literal["text", "header", "stream", "frames"]]
    modalities: ClassVar[frozenset[str]]
    depends_on: ClassVar[tuple[str, ...]]
    columns: ClassVar[Mapping[str, pa.DataType]]
    store_only: ClassVar[frozenset[str]]

    def fingerprint_inputs(self) -> Mapping[str, object]:
        """Everything that the numbers depend on besides name and VERSION: resolved parameters, sha256 of each
        weight or vocabulary file, device kind and dtype where they matter. Plain JSON values."""

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        """Rows of `chunk` (key, modality, text, and the columns in `depends_on`) in, as many rows out: `columns` in
        order and then `error` (string, null where measured). A row that cannot be measured has nulls and an
        error; it is never given a score. `media[i]` is None for input "text". Float scores are rounded to 6
        decimals. The result of a row must not depend on the other rows of the chunk."""


class FrameAnnotator(Annotator, Protocol):
    """input "frames": `media[i].frames[name]` is there when `media[i].error` is None."""

    @property
    def plan(self) -> FramePlan: ...


class StreamAnnotator(Annotator, Protocol):
    """input "stream": `media[i].streams[name]` is what `observer().finish()` returned."""

    def observer(self) -> StreamObserver: ...
