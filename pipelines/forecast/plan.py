"""plan: forecast what a config would keep and cost, from a pseudo-random sample of its inputs.

The inventory is complete. What pixels and models say is measured on the sample and forecast with intervals; texts are
read whole where copies or n-grams decide (see `full_texts`).
"""

from __future__ import annotations

import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from infra import storage
from infra.beam import Runner
from pipelines.core.console import print_table, print_text
from pipelines.core.resolve import resolve
from pipelines.core.run import Run, open_run
from pipelines.decide.decide import judge_units
from pipelines.decide.duplicates import duplicates
from pipelines.forecast import estimates
from pipelines.forecast.estimates import Estimate
from pipelines.forecast.forecaster import Forecaster
from pipelines.forecast.full_texts import read_full_texts
from pipelines.forecast.item_sample import ItemSample
from pipelines.forecast.sample_stats import collect_stats
from pipelines.ingest.ingest import ingest_parts
from pipelines.ingest.inventory import take_inventory
from pipelines.ingest.sources.accounting import MemberAccount
from pipelines.measure import measure


def run(config_path: str, *, share: float = 0.01, workers: int = 1, quiet: bool = False) -> dict[str, Any]:
    """Forecast yield per filter, hours, bytes and tokens of a config, with 99 % intervals.

    share: of the items, drawn by hash(seed, item). Cells go to the config's store; everything else to a scratch folder
    that is removed. Raises ConfigError as `reelmill run` does.
    """
    begun = time.monotonic()
    run = open_run(config_path, runner=Runner(workers=workers), quiet=quiet)
    resolve(run)
    with tempfile.TemporaryDirectory(prefix="reelmill-plan-") as scratch:
        forecast = _forecast(run, scratch, share)
    seconds = round(time.monotonic() - begun, 1)
    return {"config": config_path, "share": share, "workers": workers, **forecast, "seconds": seconds}


def _forecast(run: Run, scratch: str, share: float) -> dict[str, Any]:
    resolved = resolve(run)
    inventory_run, sample_run = (_move(run, storage.join(scratch, name)) for name in ("inventory", "sample"))
    items, accounts = take_inventory(inventory_run)
    expanded = Path(inventory_run.work("expanded"))
    if expanded.is_dir():  # media are ranges of these tars, below the run that measures them
        Path(sample_run.work()).mkdir(parents=True)
        expanded.rename(sample_run.work("expanded"))
    sample = ItemSample(items, [source.name for source in run.config.sources], run.config.seed, share)
    full_texts = read_full_texts(run, resolved, sample, scratch)
    sampled_items = sample.copy_items(
        sample_run.out,
        lambda names, modality: (
            sample.contains(names, modality) | np.array([name in full_texts.copies for name in names], dtype=bool)
        ),
    )
    ingest_parts(sample_run, sampled_items)
    measure.run(sample_run)
    names, stamp = judge_units(sample_run)
    duplicates.run(sample_run, names, stamp)
    stats = collect_stats(sample_run, resolved, names, sample)
    forecaster = Forecaster(resolved, sample, full_texts)
    forecasts = {kind: forecaster.forecast(kind, entry) for kind, entry in stats.items()}
    forecasts["all"] = _add(list(forecasts.values()))
    return {
        "modalities": {kind: _to_json(forecast) for kind, forecast in forecasts.items()},
        "ignored": _count_ignored(run, accounts),
        "hours": forecaster.hours(sample_run, stats),
        "notes": forecaster.notes,
    }


def _count_ignored(run: Run, accounts: Sequence[MemberAccount]) -> dict[str, int]:
    """Number of ignored members by modality, where there are any."""
    ignored: Counter[str] = Counter()
    for source, account in zip(run.config.sources, accounts, strict=True):
        ignored[source.modality] += account.ignored_members
    return dict(+ignored)


def _move(run: Run, folder: str) -> Run:
    return replace(run, config=run.config.model_copy(update={"out": folder}))


def _add(forecasts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The forecast of all modalities together."""
    total: dict[str, Any] = {name: sum(entry[name] for entry in forecasts) for name in ("inputs", "sampled")}
    for name in ("passed", "kept", "duplicates", "failed", "bytes", "tokens"):
        total[name] = estimates.add([entry[name] for entry in forecasts])
    filters = dict.fromkeys(name for entry in forecasts for name in entry["dropped"])
    total["dropped"] = {
        name: estimates.add([entry["dropped"][name] for entry in forecasts if name in entry["dropped"]])
        for name in filters
    }
    return total


def _to_json(forecast: Any) -> Any:
    if isinstance(forecast, Estimate):
        return forecast.to_json()
    if isinstance(forecast, Mapping):
        return {name: _to_json(entry) for name, entry in forecast.items()}
    return forecast


# -- for people -------------------------------------------------------------------------------------------------


def show(forecast: Mapping[str, Any]) -> None:
    """Print the forecast: a table with a column per modality, hours and notes."""
    modalities = forecast["modalities"]
    entries = list(modalities.values())
    rows: list[Sequence[object]] = [(name, *(entry[name] for entry in entries)) for name in ("inputs", "sampled")]
    for name in modalities["all"]["dropped"]:
        rows.append((f"dropped by {name}", *(_format(entry["dropped"].get(name)) for entry in entries)))
    for name in ("failed", "duplicates", "passed", "kept", "bytes", "tokens"):
        rows.append((name, *(_format(entry[name]) for entry in entries)))
    print_table("Forecast, with 99 % intervals", ["", *modalities], rows)
    hours = forecast["hours"]
    interval = f"{hours['value']:.3g} ({hours['low']:.3g} to {hours['high']:.3g})"
    print_text(
        f"hours with {forecast['workers']} workers: {interval}; {hours['of']}",
        *(f"- {note}" for note in dict.fromkeys(forecast["notes"])),
    )


def _format(estimate: Mapping[str, float] | None) -> str:
    if estimate is None:
        return ""
    number, low, high = (_shorten(estimate[name]) for name in ("value", "low", "high"))
    return number if low == high else f"{number} ({low} to {high})"


def _shorten(number: float) -> str:
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M")):
        if abs(number) >= 10 * size:
            return f"{number / size:,.3g} {unit}"
    return f"{number:,.0f}"
