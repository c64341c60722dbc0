"""Turn a config into annotators and filters: checked, and in the order in which they work."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import BaseModel, create_model

from annotators import ANNOTATORS
from annotators.interface import Annotator
from filters import FILTERS
from filters.interface import Filter
from filters.resample import ResampleSettings
from infra.config import Config, ConfigDocument, Strict, validate
from infra.errors import ConfigError, MissingExtra
from infra.hashing import fingerprint
from infra.media.interface import DECODING_VERSION, VISUAL
from pipelines.annotate.settings import AnnotateSettings
from pipelines.core.run import Run
from pipelines.core.settings import Measure
from pipelines.decide.duplicates.settings import Duplicates

#: Part of every annotator's fingerprint, those of other packages included: raised when no cell measured so far can be
#: trusted. 2: tasks in threads of one process may have stored measurements of other samples.
CELLS_VERSION = 2


@dataclass(frozen=True)
class Step:
    """One step of the cascade: the annotators to run first, then the filter; without a filter it only measures."""

    annotators: tuple[str, ...]
    filter: Filter | None = None


@dataclass(frozen=True)
class CheckedConfig:
    """Every section of a config as its settings class, and the steps that it comes to.

    annotator_settings: by annotator, dependencies first.
    """

    annotator_settings: Mapping[str, BaseModel]
    steps: tuple[Step, ...]
    late: tuple[Step, ...]
    duplicates: Duplicates
    resample: ResampleSettings | None
    measure: Measure
    annotate: AnnotateSettings | None


@dataclass(frozen=True)
class Resolved:
    """A checked config with its annotators. makers: by annotator, fingerprint of what its numbers depend on."""

    annotators: Mapping[str, Annotator]
    makers: Mapping[str, str]
    steps: tuple[Step, ...]
    late: tuple[Step, ...]
    duplicates: Duplicates
    resample: Any  # ResampleSettings | None
    measure: Measure
    annotate: Any = None  # AnnotateSettings | None

    @property
    def filters(self) -> tuple[Filter, ...]:
        return tuple(step.filter for step in self.steps if step.filter is not None)

    def columns(self, name: str) -> list[tuple[str, pa.DataType]]:
        """Columns of an annotator in signals, with its prefix, `error` last."""
        annotator = self.annotators[name]
        signals = [
            (f"{name}.{column}", declared.type)
            for column, declared in annotator.columns.items()
            if column not in annotator.store_only
        ]
        return [*signals, (f"{name}.error", pa.string())]

    def schema(self, steps: tuple[Step, ...]) -> pa.Schema:
        """Schema of the signals of these steps; the first field of each annotator names its maker."""
        fields = [pa.field("key", pa.string())]
        for name in ordered(steps):
            for i, (column, type_) in enumerate(self.columns(name)):
                fields.append(pa.field(column, type_, metadata={"maker": self.makers[name]} if i == 0 else None))
        return pa.schema(fields)


def ordered(steps: Iterable[Step]) -> list[str]:
    """Annotators in the order in which the steps first need them."""
    return list(dict.fromkeys(name for step in steps for name in step.annotators))


class _CacheKey:
    """Key of the cache of `resolve`. Runs contain dicts and cannot be hashed; equal configs resolve to equal things."""

    def __init__(self, run: Run) -> None:
        self.run = run
        # Filters in their order, which canonical JSON would sort away and which is the cascade.
        measured_by = None if run.makers is None else dict(run.makers)
        self.fingerprint = fingerprint([run.config.model_dump(mode="json"), list(run.config.filters), measured_by])

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _CacheKey) and other.fingerprint == self.fingerprint


def resolve(run: Run) -> Resolved:
    """Check every section of the config against the class that it names, and build its annotators and filters.

    Raises ConfigError with file and line. Loads no model and opens no medium; hashes weights and vocabularies, unless
    `run.makers` already says who measured ("" stands for an annotator that did not).
    """
    return _resolve(_CacheKey(run))


# Threads: safe. Annotators and filters have no state that measuring or judging changes; at worst, several threads
# resolve the same config.
@functools.lru_cache(maxsize=8)
def _resolve(key: _CacheKey) -> Resolved:
    run = key.run
    checked = check(run.document, run.config)
    annotators: dict[str, Annotator] = {}
    makers: dict[str, str] = {}
    for name, settings in checked.annotator_settings.items():
        with _naming_lines(run.document, name, settings):
            annotators[name] = ANNOTATORS[name](settings)
            if run.makers is not None:
                makers[name] = run.makers.get(name, "")
            else:
                makers[name] = _fingerprint_annotator(annotators[name], makers, checked.measure)
    _need_copy_thresholds(run.document, checked)
    return Resolved(
        annotators,
        makers,
        tuple(_with_default_min_score(step, annotators, run.document) for step in checked.steps),
        checked.late,
        checked.duplicates.with_default_thresholds(),
        checked.resample,
        checked.measure,
        checked.annotate,
    )


@contextmanager
def _naming_lines(document: ConfigDocument, name: str, settings: BaseModel) -> Iterator[None]:
    """Raise what an annotator says of its settings, and of files that they name, as ConfigError with key and line."""
    try:
        yield
    except MissingExtra as error:
        error.where = error.where or document.where(("measure", name))
        raise
    except ConfigError as error:
        if error.where.startswith(f"{document.path}:"):
            raise
        keys = ("measure", name, *_find_key(settings, error.where))
        what = f"{'.'.join(keys)}: {error.where}: {error.what}" if error.where else f"{'.'.join(keys)}: {error.what}"
        raise ConfigError(what, where=document.where(keys), hint=error.hint) from error
    except OSError as error:
        keys = ("measure", name, *_find_key(settings, str(error.filename)))
        what = f"{'.'.join(keys)}: cannot read {str(error.filename)!r}: {error.strerror}"
        raise ConfigError(what, where=document.where(keys), hint="give the path of a file") from error


def _find_key(settings: BaseModel, path: str) -> tuple[str, ...]:
    """The keys of the text that is `path`, or names the folder that contains it; () for none."""
    for name in type(settings).model_fields if path else ():
        text = getattr(settings, name)
        if isinstance(text, BaseModel) and (inner := _find_key(text, path)):
            return (name, *inner)
        is_folder = isinstance(text, str) and text.startswith("local-dir:")
        if text == path or (is_folder and Path(text.removeprefix("local-dir:")).expanduser() == Path(path).parent):
            return (name,)
    return ()


def _fingerprint_annotator(annotator: Annotator, makers: Mapping[str, str], measure: Measure) -> str:
    name = annotator.name
    depends_on = [makers[before] for before in with_dependencies([name]) if before != name]
    version = [CELLS_VERSION, annotator.VERSION, *([] if annotator.input == "text" else [DECODING_VERSION])]
    limits = {} if annotator.input == "text" else measure.list_changed_limits()
    inputs = {**annotator.fingerprint_inputs(), **({"limits": limits} if limits else {})}
    return fingerprint({"annotator": name, "version": version, "maker": inputs, "reads": sorted(depends_on)})


# -- checking ---------------------------------------------------------------------------------------------------


def check(document: ConfigDocument, config: Config) -> CheckedConfig:
    """Check every section against its settings class. Hashes and downloads nothing. Raises ConfigError."""
    measure = check_measure(document, config)
    filters = [_check_filter(document, name, settings) for name, settings in config.filters.items()]
    duplicates = validate(document, Duplicates, config.duplicates, ("duplicates",))
    resample = None
    if config.resample is not None:
        resample = validate(document, ResampleSettings, config.resample, ("resample",))
    questions = [Step(_annotators_of(filter_, document), filter_) for filter_ in filters]
    tail = {
        "facts": any(source.modality != "text" for source in config.sources),
        "fingerprint": duplicates.uses_fingerprints,
        "minhash": duplicates.text is not None,
        "ngrams": resample is not None,
    }
    first = Step(("clean",))
    last = [Step(with_dependencies([name])) for name, is_needed in tail.items() if is_needed]
    late = tuple(Step(with_dependencies([name])) for name in measure.late)
    names = ordered([*questions, first, *last, *late])
    settings = {
        name: validate(document, ANNOTATORS[name].settings_class(), config.measure.get(name), ("measure", name))
        for name in names
    }
    for name in config.measure:
        if name in ANNOTATORS and name not in settings:
            raise ConfigError(
                f"measure.{name}: nothing needs this annotator",
                where=document.where(("measure", name)),
                hint="add a filter that reads it, list it under measure.late, or remove it; filters here: "
                f"{', '.join(config.filters) or 'none'}",
            )
    annotate = None
    if config.annotate is not None:
        annotate = validate(document, AnnotateSettings, config.annotate, ("annotate",))
    return CheckedConfig(settings, (first, *questions, *last), late, duplicates, resample, measure, annotate)


def check_measure(document: ConfigDocument, config: Config) -> Measure:
    """Check the settings of `measure` that belong to no single annotator. Raises ConfigError with file and line."""
    general = {key: settings for key, settings in config.measure.items() if key not in ANNOTATORS}
    measure: Measure = validate(document, with_names(Measure, ANNOTATORS), general, ("measure",))
    for i, name in enumerate(measure.late):
        if name not in ANNOTATORS:
            raise ConfigError(
                f"measure.late: there is no annotator {name!r}",
                where=document.where(("measure", "late", i)),
                hint=f"annotators: {', '.join(ANNOTATORS)}",
            )
    return measure


def _check_filter(document: ConfigDocument, name: str, settings: Any) -> Filter:
    if name not in FILTERS:
        validate(document, with_names(Strict, FILTERS), {name: None}, ("filters",))
    kind = FILTERS[name]
    return kind(validate(document, kind.settings_class(), settings, ("filters", name)))


def with_names(base: type[Strict], names: Iterable[str]) -> Any:
    """`base` with optional fields of these names, so that the message on a misspelt one suggests the nearest."""
    fields: dict[str, Any] = dict.fromkeys(names, (Any, None))
    return create_model(base.__name__, __base__=base, **fields)


def _annotators_of(filter_: Filter, document: ConfigDocument) -> tuple[str, ...]:
    names = list(dict.fromkeys(column.partition(".")[0] for column in filter_.columns()))
    for name in names:
        if name not in ANNOTATORS:
            raise ConfigError(
                f"filters.{filter_.name}: no annotator {name!r} measures what it reads",
                where=document.where(("filters", filter_.name)),
                hint=f"annotators: {', '.join(ANNOTATORS)}",
            )
    return with_dependencies(names)


def with_dependencies(names: Iterable[str]) -> tuple[str, ...]:
    """The named annotators, each after those whose columns it reads."""
    in_order: dict[str, None] = {}
    for name in names:
        before = [column.partition(".")[0] for column in ANNOTATORS[name].depends_on]
        in_order |= dict.fromkeys((*with_dependencies(before), name))
    return tuple(in_order)


# -- thresholds that belong to a model ----------------------------------------------------------------------------


def _with_default_min_score(step: Step, annotators: Mapping[str, Annotator], document: ConfigDocument) -> Step:
    """`step` with the published threshold of its model, where the config has none."""
    filter_ = step.filter
    if filter_ is None or not filter_.needs_min_score:
        return step
    model = annotators[filter_.score_column.partition(".")[0]].fingerprint_inputs()
    min_score = filter_.default_min_score(str(model.get("model")), str(model.get("weights")))
    if min_score is None:
        raise _no_threshold(document, ("filters", filter_.name), "min_score")
    return Step(step.annotators, filter_.with_settings(min_score=min_score))


def _need_copy_thresholds(document: ConfigDocument, checked: CheckedConfig) -> None:
    """Only the threshold of PDQ fingerprints has a default."""
    engine = getattr(checked.annotator_settings.get("fingerprint"), "engine", "pdq")
    for modality in VISUAL:
        settings = checked.duplicates.for_visual(modality)
        if settings is not None and settings.threshold is None and engine != "pdq":
            raise _no_threshold(document, ("duplicates", modality), "threshold")


def _no_threshold(document: ConfigDocument, keys: tuple[str, ...], key: str) -> ConfigError:
    return ConfigError(
        f"{'.'.join(keys)}: {key} is required: a threshold belongs to the model that it was calibrated for",
        where=document.where(keys),
        hint="give the number for the weights named under `measure:` (docs/models.md lists the published ones)",
    )
