"""Annotators: each measures one property of a sample's text or media and never judges it."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import BaseModel

from infra.errors import BadSample
from infra.media.interface import DecodedMedia, FramePlan, Frames, StreamObserver


class Column(NamedTuple):
    """A column of signals: its Arrow type and what it means, as `reelmill schema` and the documents show it."""

    type: pa.DataType
    meaning: str


class Annotator:
    """Measure one property. Subclasses annotate `settings` with their settings class; construction loads nothing.

    Threads share an annotator: measuring must not change it, and what it loads is safe for threads, borrowed from an
    `infra.pool.Pool`, or guarded.

    name: in the registry, and prefix of its columns in signals ("motion" -> "motion.score").
    VERSION: raised whenever the same input would give another number.
    keyed_by: the content that the measurement is a function of, by which the store keys it.
    input: "text" (no medium), "header" (container opened, nothing decoded), "stream" (runs beside the decoder),
        "frames" (pixels at the times and size of `plan`).
    depends_on: columns of other annotators that it reads, as "annotator.column".
    columns: its own columns; an `error` string column follows them.
    store_only: those of `columns` that stay in the store and are not copied into signals (vectors).
    """

    name: ClassVar[str]
    VERSION: ClassVar[int] = 1
    keyed_by: ClassVar[Literal["text", "media", "pair"]]
    input: ClassVar[Literal["text", "header", "stream", "frames"]]
    modalities: ClassVar[frozenset[str]]
    depends_on: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[Mapping[str, Column]]
    store_only: ClassVar[frozenset[str]] = frozenset()
    settings: Any

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.settings_class()() if settings is None else settings

    @classmethod
    def settings_class(cls) -> type[BaseModel]:
        """The settings class: an annotator's constructor takes an instance of it."""
        annotated: type[BaseModel] = typing.get_type_hints(cls)["settings"]
        return annotated

    @classmethod
    def schema(cls) -> pa.Schema:
        """The schema of the table that `measure` returns: the columns in order, then `error`."""
        fields = [pa.field(name, column.type) for name, column in cls.columns.items()]
        return pa.schema([*fields, pa.field("error", pa.string())])

    def fingerprint_inputs(self) -> Mapping[str, object]:
        """Everything that the numbers depend on besides name and VERSION: resolved parameters, sha256 of each
        weight or vocabulary file, device kind and dtype where they matter. Plain JSON values."""
        return self.settings.model_dump(mode="json")  # type: ignore[no-any-return]

    def measure(self, chunk: pa.Table, media: Sequence[DecodedMedia | None]) -> pa.Table:
        """Measure the rows of `chunk`: columns key, modality, text (raw) and those of `depends_on`.

        `media[i]` is None for input "text". Returns as many rows, with `schema()`. A row that cannot be measured has
        nulls and an error; it is never given a score. Float scores are rounded to 6 decimals. A row's numbers must not
        depend on the other rows of the chunk. Here each row is measured by `measure_one`; override for speed.
        """
        samples = chunk.select([name for name in chunk.column_names if name != "text"]).to_pylist()
        rows: list[Mapping[str, Any]] = []
        for sample, medium in zip(samples, media, strict=True):
            try:
                rows.append(self.measure_one(sample, self.content_of(medium)))
            except BadSample as error:
                rows.append({"error": str(error)})
        return pa.Table.from_pylist(rows, schema=self.schema())

    def measure_one(self, sample: Mapping[str, Any], content: Any) -> Mapping[str, Any]:
        """Measure one sample: values by column name, absent ones null.

        sample: key, modality and the columns of `depends_on`. content: None for input "text", the header of the medium
        for "header", `Frames` for "frames", the observer's output for "stream". Raises BadSample for a row without a
        measurement; its text becomes the row's error.
        """
        raise NotImplementedError(f"{type(self).__name__} has neither measure nor measure_one")

    def content_of(self, medium: DecodedMedia | None) -> Any:
        """The part of a decoded medium that this annotator reads. Raises BadSample where it is missing."""
        if self.input == "text":
            return None
        if medium is None:
            raise BadSample("no_media", "nothing was decoded")
        if medium.error is not None:
            raise BadSample(medium.error)
        return medium.header

    def table_of(self, columns: Mapping[str, Any]) -> pa.Table:
        """Build a table without errors from whole columns: lists, numpy arrays (floats are rounded) or Arrow arrays."""
        arrays: list[pa.Array] = []
        for name, column in self.columns.items():
            values = columns[name]
            if isinstance(values, np.ndarray) and values.dtype.kind == "f":
                values = np.round(values, 6)
            is_arrow = isinstance(values, pa.Array)
            arrays.append(pc.cast(values, column.type) if is_arrow else pa.array(values, column.type))
        return pa.table([*arrays, pa.nulls(len(arrays[0]), pa.string())], schema=self.schema())


class FrameAnnotator(Annotator):
    """An annotator of decoded pixels."""

    input = "frames"

    @property
    def plan(self) -> FramePlan:
        """The frames to decode, and their size."""
        raise NotImplementedError(f"{type(self).__name__} has no plan")

    def content_of(self, medium: DecodedMedia | None) -> Frames:
        super().content_of(medium)
        frames = None if medium is None else medium.frames.get(self.name)
        if frames is None or len(frames.pictures) == 0:
            raise BadSample("no_frames", "the medium gave no picture")
        return frames


class StreamAnnotator(Annotator):
    """An annotator that runs beside the decoder; its observer returns the row."""

    input = "stream"

    def observer(self) -> StreamObserver:
        """Create the observer of one medium."""
        raise NotImplementedError(f"{type(self).__name__} has no observer")

    def content_of(self, medium: DecodedMedia | None) -> Mapping[str, Any]:
        super().content_of(medium)
        answer = None if medium is None else medium.streams.get(self.name)
        if not answer:
            raise BadSample(f"no_{self.name}", "no video stream")
        return answer

    def measure_one(self, sample: Mapping[str, Any], content: Any) -> Mapping[str, Any]:
        answer: Mapping[str, Any] = content
        return answer
