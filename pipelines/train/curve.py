"""A training's log as people look at it: a curve in a picture and on the terminal, and a table of its stages."""

from __future__ import annotations

import importlib.util
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from infra import storage

#: Share of a stage's steps, at its beginning and at its end, over which its first and last loss are means; ours.
ENDS = 0.1

_BARS = "▁▂▃▄▅▆▇█"


def read(log: Path) -> list[dict[str, Any]]:
    """The lines of a log."""
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def summed(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Steps, samples, labelled tokens, and the loss at both ends, of one stage's lines."""
    loss = np.array([line["loss"] for line in lines])
    ends = max(1, round(len(lines) * ENDS))
    return {
        "steps": len(lines),
        "samples": sum(line["samples"] for line in lines),
        "tokens": sum(line["tokens"] for line in lines),
        "first_loss": round(float(loss[:ends].mean()), 6),
        "last_loss": round(float(loss[-ends:].mean()), 6),
    }


def smooth(values: NDArray[np.float64], window: int) -> NDArray[np.float64]:
    """float64 (n,): the mean of each value and of those up to `window` - 1 before it."""
    sums = np.cumsum(np.concatenate([[0.0], values]))
    ends = np.arange(1, len(values) + 1)
    starts = np.maximum(ends - window, 0)
    return np.asarray((sums[ends] - sums[starts]) / (ends - starts))


def draw(log: Path, picture: Path) -> bool:
    """The loss of every step, and its running mean, as a PNG; False where matplotlib is not installed."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    lines = read(log)
    figure = Figure(figsize=(9, 4.5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    start = 0
    names = list(dict.fromkeys(line["stage"] for line in lines))
    for i, name in enumerate(names):
        loss = np.array([line["loss"] for line in lines if line["stage"] == name])
        steps = np.arange(start + 1, start + len(loss) + 1)
        axes.plot(steps, loss, color=f"C{i}", alpha=0.3, linewidth=0.8)
        axes.plot(steps, smooth(loss, max(2, len(loss) // 20)), color=f"C{i}", linewidth=2, label=name)
        if start:
            axes.axvline(start + 0.5, color="0.7", linewidth=0.8, linestyle=":")
        start += len(loss)
    axes.set_xlabel("step of the optimizer")
    axes.set_ylabel("loss, nats a labelled token")
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="running mean")
    data = io.BytesIO()
    figure.savefig(data, format="png", metadata={"Software": None})
    storage.write_bytes(str(picture), data.getvalue())
    return True


def bars(values: Sequence[float], width: int = 20) -> str:
    """Values as a line of small bars, at most `width`; each is the mean of what it stands for."""
    means = np.array([part.mean() for part in np.array_split(np.asarray(values, float), min(width, len(values)))])
    low, high = float(means.min()), float(means.max())
    level = (means - low) / (high - low) if high > low else np.zeros(len(means))
    return "".join(_BARS[round(x * (len(_BARS) - 1))] for x in level)


def show(value: Mapping[str, Any], log: Path, picture: Path) -> None:
    """The stages in a table, with their curves."""
    from rich.table import Table

    from pipelines.core.console import open_console

    lines = read(log)
    table = Table(title="Trained", title_justify="left")
    for name in ("stage", "trains at", "weights", "steps", "samples", "tokens", "loss", "curve"):
        right = name in ("weights", "steps", "samples", "tokens")
        table.add_column(name, justify="right" if right else "left", no_wrap=True)
    for stage in value["stages"]:
        trains = "\n".join(f"{part} {rate:g}" for part, rate in stage["trains"].items())
        weights = "\n".join(f"{stage['parameters'][part]:,}" for part in stage["trains"])
        table.add_row(
            stage["stage"], trains, weights, f"{stage['steps']:,}", f"{stage['samples']:,}", f"{stage['tokens']:,}",
            f"{stage['first_loss']:.3f} → {stage['last_loss']:.3f}",
            bars([line["loss"] for line in lines if line["stage"] == stage["stage"]]),
        )  # fmt: skip
    out = open_console()
    out.print(table)
    for warning in value["warnings"]:
        out.print(f"note: {warning}", highlight=False, markup=False)
    names = ", ".join(f"{stage['stage']}.safetensors" for stage in value["stages"])
    out.print(f"weights: {names} in {value['out']}", highlight=False)
    if picture.is_file():
        out.print(f"curve: {picture}", highlight=False)
    else:
        out.print('no picture of the curve: it needs matplotlib (pip install -c constraints.txt -e ".[demo]")',
                  highlight=False, markup=False)  # fmt: skip
