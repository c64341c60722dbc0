"""Show a training's log: the loss curve as a picture and on the terminal, and a table of its stages."""

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
from pipelines.core.console import print_table, print_text

#: Share of a stage's steps at either end over which its first and last loss are averaged (ours).
ENDS = 0.1

_BARS = "▁▂▃▄▅▆▇█"


def read(log: Path) -> list[dict[str, Any]]:
    """Read the lines of a log."""
    return [json.loads(line) for line in log.read_bytes().splitlines()]


def summarise(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
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
    axes.set_ylabel("loss, nats per labelled token")
    axes.grid(axis="y", color="0.92")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, title="running mean")
    picture_bytes = io.BytesIO()
    figure.savefig(picture_bytes, format="png", metadata={"Software": None})
    storage.write_bytes(str(picture), picture_bytes.getvalue())
    return True


def bars(values: Sequence[float], width: int = 20) -> str:
    """Values as a line of at most `width` small bars, each the mean of consecutive values."""
    means = np.array([chunk.mean() for chunk in np.array_split(np.asarray(values, float), min(width, len(values)))])
    low, high = float(means.min()), float(means.max())
    level = (means - low) / (high - low) if high > low else np.zeros(len(means))
    return "".join(_BARS[round(x * (len(_BARS) - 1))] for x in level)


def show(summary: Mapping[str, Any], log: Path, picture: Path) -> None:
    """Print the stages in a table with their curves."""
    lines = read(log)
    print_table(
        "Trained",
        ["stage", "trains at", "weights", "steps", "samples", "tokens", "loss", "curve"],
        (
            (
                stage["stage"],
                "\n".join(f"{component} {rate:g}" for component, rate in stage["trains"].items()),
                "\n".join(f"{stage['parameters'][component]:,}" for component in stage["trains"]),
                *(stage[name] for name in ("steps", "samples", "tokens")),
                f"{stage['first_loss']:.3f} → {stage['last_loss']:.3f}",
                bars([line["loss"] for line in lines if line["stage"] == stage["stage"]]),
            )
            for stage in summary["stages"]
        ),
        left_aligned=["stage", "trains at", "loss", "curve"],
    )
    names = ", ".join(f"{stage['stage']}.safetensors" for stage in summary["stages"])
    print_text(
        *(f"note: {warning}" for warning in summary["warnings"]),
        f"weights: {names} in {summary['out']}",
        f"curve: {picture}"
        if picture.is_file()
        else 'no picture of the curve: it needs matplotlib (pip install -c constraints.txt -e ".[demo]")',
    )
