"""From the config's words to annotators and filters that are checked, in the order in which they work."""

from __future__ import annotations

import functools
import importlib
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, Field

from annotators import ANNOTATORS
from annotators.interface import Annotator
from filters import FILTERS
from filters.interface import Judgement
from infra.config import ConfigDocument, Strict, validate
from infra.errors import ConfigError
from infra.hashing import fingerprint
from pipelines.core.run import Run
from pipelines.decide.duplicates.settings import Duplicates


class Measure(Strict):
    """Settings that belong to no single annotator. late: annotators that run on kept samples only, after decide."""

    late: tuple[str, ...] = ()
    window_bytes: int = Field(default=256 * 2**20, gt=0)
    watchdog_s: float = Field(default=120.0, gt=0)
    max_pixels: int = Field(default=2**26, gt=0)
    max_frames: int = Field(default=100_000, gt=0)
    max_bytes: int = Field(default=16 * 2**30, gt=0)
    max_seconds: float = Field(default=6 * 3600.0, gt=0)


@dataclass(frozen=True)
class Filter:
    """A filter module with its settings."""

    name: str
    module: ModuleType
    settings: BaseModel

    @property
    def reads(self) -> tuple[str, ...]:
        return tuple(self.module.READS)

    @property
    def modalities(self) -> frozenset[str]:
        chosen = getattr(self.settings, "modalities", None)
        able = frozenset(self.module.MODALITIES)
        return able if chosen is None else able & frozenset(chosen)

    @property
    def absolute(self) -> bool:
        """False where the threshold is a percentile, known only once all is measured: it cannot stop the cascade."""
        return getattr(self.settings, "keep_top", None) is None

    def judge(self, signals: pa.Table) -> Judgement:
        judged: Judgement = self.module.judge(signals, self.settings)
        return judged


@dataclass(frozen=True)
class Step:
    """One step of the cascade: what must be measured first, then the question; `filter` None only measures."""

    annotators: tuple[str, ...]
    filter: Filter | None = None


@dataclass(frozen=True)
class Resolved:
    """Everything that the config names, checked."""

    annotators: Mapping[str, Annotator]
    makers: Mapping[str, str]
    steps: tuple[Step, ...]
    late: tuple[Step, ...]
    duplicates: Duplicates
    resample: Any  # filters.resample.ResampleSettings | None
    measure: Measure
    annotate: Any = None  # pipelines.annotate.writing.AnnotateSettings | None

    @property
    def filters(self) -> tuple[Filter, ...]:
        return tuple(step.filter for step in self.steps if step.filter is not None)

    def columns(self, name: str) -> list[tuple[str, pa.DataType]]:
        """Columns of an annotator in signals, with its prefix, `error` last."""
        annotator = self.annotators[name]
        kept = [(f"{name}.{c}", t) for c, t in annotator.columns.items() if c not in annotator.store_only]
        return [*kept, (f"{name}.error", pa.string())]

    def schema(self, steps: tuple[Step, ...]) -> pa.Schema:
        """Schema of the signals of these steps; each group's first field names its maker."""
        fields = [pa.field("key", pa.string())]
        for name in ordered(steps):
            for i, (column, kind) in enumerate(self.columns(name)):
                fields.append(pa.field(column, kind, metadata={"maker": self.makers[name]} if i == 0 else None))
        return pa.schema(fields)


def ordered(steps: tuple[Step, ...]) -> list[str]:
    """Annotators in the order in which the steps first need them."""
    found: list[str] = []
    for step in steps:
        found += [name for name in step.annotators if name not in found]
    return found


@functools.lru_cache(maxsize=8)
def _resolve(run: _ById) -> Resolved:
    return _Resolver(run.run.document, run.run).resolve()


class _ById:
    """Runs hold dicts and cannot be hashed; equal config text is equal resolution."""

    def __init__(self, run: Run) -> None:
        self.run = run
        # Filters in their order, which canonical JSON would sort away and which is the cascade.
        made = None if run.makers is None else dict(run.makers)
        self.name = fingerprint([run.config.model_dump(mode="json"), list(run.config.filters), made])

    def __hash__(self) -> int:
        return hash(self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and other.name == self.name


def resolve(run: Run) -> Resolved:
    """Check every part of the config against the module that it names.

    Raises ConfigError with file and line. Loads no model and opens no medium; hashes weights and vocabularies, unless
    `run.makers` already says who measured ("" stands for an annotator that did not).
    """
    return _resolve(_ById(run))


def annotator_settings(kind: type) -> type[BaseModel]:
    """The settings class of an annotator: what its constructor is given."""
    hint = typing.get_type_hints(kind.__init__)["settings"]  # type: ignore[misc]
    for argument in (hint, *typing.get_args(hint)):
        if isinstance(argument, type) and issubclass(argument, BaseModel):
            return argument
    raise TypeError(f"{kind.__name__}'s constructor does not say what settings it takes")


def annotator_class(name: str) -> type:
    """The class behind a name of the registry."""
    module, _, attribute = ANNOTATORS[name].partition(":")
    found: type = getattr(importlib.import_module(module), attribute)
    return found


class _Resolver:
    def __init__(self, document: ConfigDocument, run: Run) -> None:
        self.document = document
        self.config = run.config
        self.made = run.makers
        self.annotators: dict[str, Annotator] = {}
        self.makers: dict[str, str] = {}

    def resolve(self) -> Resolved:
        general, own = self._measure()
        self.own = own
        filters = [self._filter(name, settings) for name, settings in self.config.filters.items()]
        duplicates = validate(self.document, Duplicates, self.config.duplicates, ("duplicates",))
        resample = self._resample()
        needs: list[tuple[str, ...]] = []
        for filter_ in filters:
            found: list[str] = []
            for column in filter_.reads:
                found += [name for name in self._need(column) if name not in found]
            needs.append(tuple(found))
        filters = self._thresholds(filters)
        steps = [Step(self._need("clean.text"))]
        steps += [Step(names, filter_) for names, filter_ in zip(needs, filters, strict=True)]
        modalities = {source.modality for source in self.config.sources}
        tail = []
        if modalities - {"text"}:
            tail.append("facts")
        if duplicates.uses_fingerprints:
            tail.append("fingerprint")
        if duplicates.text is not None:
            tail.append("minhash")
        if resample is not None:
            tail.append("ngrams")
        steps += [Step(self._need(f"{name}.")) for name in tail]
        self._copies_have_thresholds(duplicates)
        late = tuple(Step(self._need(f"{name}.")) for name in general.late)
        self._unused(own)
        copies = duplicates.with_default_thresholds()
        annotate = self._annotate()
        return Resolved(self.annotators, self.makers, tuple(steps), late, copies, resample, general, annotate)

    def _measure(self) -> tuple[Measure, dict[str, Any]]:
        own = {k: v for k, v in self.config.measure.items() if k in ANNOTATORS}
        rest = {k: v for k, v in self.config.measure.items() if k not in ANNOTATORS}
        general = validate(self.document, _with_names(Measure, tuple(ANNOTATORS)), rest, ("measure",))
        for i, name in enumerate(general.late):
            if name not in ANNOTATORS:
                raise ConfigError(
                    f"measure.late: there is no annotator {name!r}",
                    where=self.document.where(("measure", "late", i)),
                    hint=f"known: {', '.join(ANNOTATORS)}",
                )
        return general, own

    def _filter(self, name: str, settings: Any) -> Filter:
        if name not in FILTERS:
            validate(self.document, _with_names(Strict, tuple(FILTERS)), {name: None}, ("filters",))
        module = importlib.import_module(FILTERS[name])
        place = ("filters", name)
        return Filter(name, module, validate(self.document, module.Settings, settings, place))

    def _resample(self) -> Any:
        if self.config.resample is None:
            return None
        from filters.resample import ResampleSettings

        return validate(self.document, ResampleSettings, self.config.resample, ("resample",))

    def _annotate(self) -> Any:
        if self.config.annotate is None:
            return None
        from pipelines.annotate.settings import AnnotateSettings

        return validate(self.document, AnnotateSettings, self.config.annotate, ("annotate",))

    def _need(self, column: str) -> tuple[str, ...]:
        """The annotators behind a column, those that they read first."""
        name = column.split(".")[0]
        if name not in ANNOTATORS:
            raise ConfigError(f"nothing measures {column}", where=self.document.path)
        kind = annotator_class(name)
        before: list[str] = []
        for read in getattr(kind, "depends_on", ()):
            before += [n for n in self._need(read) if n not in before]
        if name not in self.annotators:
            place = ("measure", name)
            settings = validate(self.document, annotator_settings(kind), self.own.get(name), place)
            annotator = kind(settings)
            self.annotators[name] = annotator
            if self.made is not None:
                self.makers[name] = self.made.get(name, "")
                return (*before, name)
            try:
                made = annotator.fingerprint_inputs()
            except ConfigError as error:
                error.where = error.where or self.document.where(place)
                raise
            self.makers[name] = fingerprint(
                {
                    "annotator": name,
                    "version": annotator.VERSION,
                    "maker": made,
                    "reads": sorted(self.makers[n] for n in before),
                }
            )
        return (*before, name)

    def _unused(self, own: Mapping[str, Any]) -> None:
        for name in own:
            if name not in self.annotators:
                raise ConfigError(
                    f"measure.{name}: nothing asks for this annotator",
                    where=self.document.where(("measure", name)),
                    hint=f"add a filter that reads it, list it under measure.late, or take it out; filters here: "
                    f"{', '.join(self.config.filters) or 'none'}",
                )

    def _thresholds(self, filters: list[Filter]) -> list[Filter]:
        """A model's threshold belongs to that model: other weights need a number of their own."""
        found = []
        for filter_ in filters:
            settings: Any = filter_.settings
            if (
                hasattr(filter_.module, "default_threshold")
                and settings.min_score is None
                and settings.keep_top is None
            ):
                model = self.annotators[filter_.reads[0].split(".")[0]].fingerprint_inputs()
                known = filter_.module.default_threshold(str(model.get("model")), str(model.get("weights")))
                if known is None:
                    self._no_threshold(("filters", filter_.name), f"filters.{filter_.name}: min_score is required")
                filter_ = replace(filter_, settings=settings.model_copy(update={"min_score": known}))
            found.append(filter_)
        return found

    def _copies_have_thresholds(self, duplicates: Duplicates) -> None:
        """The same for fingerprints: only PDQ's threshold is known."""
        engine = getattr(getattr(self.annotators.get("fingerprint"), "settings", None), "engine", "pdq")
        for modality in ("image", "multi_image", "video"):
            settings = duplicates.for_visual(modality)
            if settings is not None and settings.threshold is None and engine != "pdq":
                self._no_threshold(("duplicates", modality), f"duplicates.{modality}: threshold is required")

    def _no_threshold(self, place: tuple[str, ...], what: str) -> None:
        raise ConfigError(
            f"{what}: a threshold belongs to the model that it was calibrated for",
            where=self.document.where(place),
            hint="give the number for the weights named under `measure:` (docs/models.md lists those that we know)",
        )


def _with_names(base: type[Strict], names: tuple[str, ...]) -> Any:
    """`base` with optional fields of these names, so that a misspelt one is told the nearest."""
    from pydantic import create_model

    fields: dict[str, Any] = dict.fromkeys(names, (Any, None))
    return create_model(base.__name__, __base__=base, **fields)


Judge = Callable[[pa.Table], Judgement]
