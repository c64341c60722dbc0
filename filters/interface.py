"""Filters: each judges samples by their signals. A filter declares its thresholds; from them are derived the
judgement, the histograms on shard cards, the sliders of the report and the tables in the documents."""

from __future__ import annotations

import typing
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pydantic import BaseModel

from filters.rules import Judgement, Rule, judge_by_rules
from infra.columns import to_floats, to_mask, to_strings

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Threshold:
    """A number in a filter's settings, and the number of each sample that it limits.

    key: the setting, dotted where it is nested ("document.min_words"); None as its value switches the threshold off.
    column: the signal, "annotator.column".
    direction: a sample passes with a number >= the threshold ("min"), <= ("max") or < ("below").
    reason: a short stable word for samples that do not pass; "" where the filter's own `judge` decides.
    modalities: of the samples to which it applies; None: all that the filter judges.
    compute: signals -> float64 (n,), NaN where unknown, for a number that is not a column itself.
    """

    key: str
    column: str
    direction: Literal["min", "max", "below"]
    reason: str = ""
    modalities: frozenset[str] | None = None
    compute: Callable[[pa.Table], Floats] | None = None

    def numbers(self, signals: pa.Table) -> Floats:
        """float64 (n,): the number that is limited, NaN where it is missing."""
        return to_floats(signals[self.column]) if self.compute is None else self.compute(signals)

    def setting(self, settings: BaseModel) -> float | None:
        """Return the threshold in `settings`; None where it is off."""
        setting: Any = settings
        for name in self.key.split("."):
            setting = getattr(setting, name)
        return None if setting is None else float(setting)

    def applies(self, modality: NDArray[Any]) -> NDArray[np.bool_]:
        """bool (n,): samples to which the threshold applies, by their modality."""
        if self.modalities is None:
            return np.ones(len(modality), dtype=bool)
        return np.isin(modality, sorted(self.modalities))


class Filter:
    """Judge samples by their signals, with settings. Subclasses annotate `settings` with their settings class.

    name: in the config under `filters:`.
    modalities: of the samples that it judges; an instance's are those that its settings name, if they name any.
    thresholds: in order; the first one that a sample does not meet gives the reason.
    required: columns without which a sample cannot be judged; by default those of all thresholds.
    reads: further columns that it reads, which may be null.
    histograms: columns whose distribution shard cards show; by default those of all thresholds.
    """

    name: ClassVar[str]
    modalities: frozenset[str]
    thresholds: ClassVar[tuple[Threshold, ...]] = ()
    required: ClassVar[tuple[str, ...] | None] = None
    reads: ClassVar[tuple[str, ...]] = ()
    histograms: ClassVar[tuple[str, ...] | None] = None
    settings: Any

    def __init__(self, settings: Any = None) -> None:
        self.settings = self.settings_class()() if settings is None else settings
        modalities = getattr(self.settings, "modalities", None)
        if modalities is not None:
            self.modalities = type(self).modalities & frozenset(modalities)

    @classmethod
    def settings_class(cls) -> type[BaseModel]:
        """The settings class: a filter's constructor takes an instance of it."""
        annotated: type[BaseModel] = typing.get_type_hints(cls)["settings"]
        return annotated

    @classmethod
    def columns(cls) -> tuple[str, ...]:
        """Every column that the filter may read, as "annotator.column"."""
        of_thresholds = (threshold.column for threshold in cls.thresholds)
        return tuple(dict.fromkeys([*(cls.required or ()), *of_thresholds, *cls.reads]))

    @classmethod
    def histogram_columns(cls) -> tuple[str, ...]:
        """Columns whose distribution shard cards show, where they were measured."""
        of_thresholds = dict.fromkeys(threshold.column for threshold in cls.thresholds)
        return tuple(of_thresholds) if cls.histograms is None else cls.histograms

    @property
    def score_column(self) -> str:
        """The signal that `min_score` and `keep_top` limit: the column of the first threshold."""
        return self.thresholds[0].column

    @property
    def is_absolute(self) -> bool:
        """False where the threshold is a share of all samples, known once all are measured: the cascade goes on."""
        return getattr(self.settings, "keep_top", None) is None

    @property
    def needs_min_score(self) -> bool:
        """Whether `min_score` is unset and must come from the model's published threshold."""
        return False

    def default_min_score(self, model: str, weights: str) -> float | None:
        """The published `min_score` for a model's weights; None: there is none and the config must set one."""
        return None

    def with_settings(self, **changes: Any) -> typing.Self:
        """Copy this filter with some settings replaced, without validation."""
        return type(self)(self.settings.model_copy(update=changes))

    def rules(self, signals: pa.Table, modality: NDArray[Any]) -> Iterator[Rule]:
        """The active thresholds as rules over rows."""
        for threshold in self.thresholds:
            limit = threshold.setting(self.settings)
            if limit is not None:
                numbers, applies = threshold.numbers(signals), threshold.applies(modality)
                yield Rule(threshold.reason, numbers, threshold.direction, limit, applies)

    def judge(self, signals: pa.Table) -> Judgement:
        """Judge each row of `signals`, which has `columns()` and `modality`."""
        modality = to_strings(signals["modality"])
        required = self.columns() if self.required is None else self.required
        return judge_by_rules(list(self.rules(signals, modality)), is_missing(signals, required))


def is_missing(signals: pa.Table, names: tuple[str, ...]) -> NDArray[np.bool_]:
    """bool (n,): rows in which any of the named columns is null or NaN."""
    missing = np.zeros(signals.num_rows, dtype=bool)
    for name in names:
        column = signals[name]
        missing |= to_mask(pc.is_null(column, nan_is_null=pa.types.is_floating(column.type)))
    return missing
