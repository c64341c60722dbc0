"""Check forecasts against whole runs: worlds of texts, each planned from a pseudo-random share and then run whole.

    python -m benchmarks.plan [--seeds 10] [--first 10] [--samples 20000] [--share 0.01]

Each seed makes another world and also seeds the draws. Texts of 12 to 60 words, drawn from 170
common English words (half of the time from the 20 first) and, by 1 / (rank + 5), from 400 made-up topic words, which
are the vocabulary for resampling. Planted: 8 % too short, 6 % shouted, 6 % German, and copies: every twelfth text is
followed by 1 to 4 copies of itself (other capitals and stops, or 2 % of the words exchanged), and one text comes
samples / 100 times. So copies are a fifth of everything, near ones among them are on both sides of the threshold, and
a sample of 1 % rarely contains two of a group. Filters: language, quality; duplicates of text at 0.8; resampling
with T = samples / 1000.

Printed at the end as one JSON object: `covered`, how many seeds' true yield (samples kept in all) is inside the
forecast's 99 % interval; the same for duplicates, resampling and tokens; width: mean of (high - low) / true
yield; cpu_plan, cpu_run: mean CPU seconds of the plan and of the whole run up to its verdicts.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from infra import tables
from infra.beam import Runner
from infra.commit import need_manifest
from pipelines import stages
from pipelines.export.samples import preview_samples
from pipelines.forecast import plan

ENGLISH = (
    "the of and to in is that it was for on are as with his they at be this from have or by one had not but what all "
    "were when we there can an your which their said if do will each about how up out them then she many some so these "
    "would other into has more her two like him see time could no make than first been its who now people my made over "
    "did down only way find use may water long little very after words called just where most know get through back "
    "much before go good new write our used me man too any day same right look think also around another came come "
    "work three word must because does part even place well such here take why things help put years different away "
    "again off went old number great tell men say small every found still between name should home big give air line"
)
GERMAN = (
    "der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch es an werden aus er hat "
    "dass sie nach wird bei einer um am sind noch wie einem über einen so zum war haben nur oder aber vor zur bis durch"
)


def world(folder: Path, seed: int, samples: int) -> Path:
    """A config over `samples` texts, written to `folder`."""
    rng = np.random.default_rng([seed, 20_000])
    letters = [a + b for a in "bdfgklmnprstvz" for b in "aeiou"]
    topics = ["".join(rng.choice(letters, 3)) + "x" for _ in range(400)]
    chance = 1 / (np.arange(400) + 5.0)
    chance /= chance.sum()
    texts: list[str] = []
    english, german = ENGLISH.split(), GERMAN.split()

    def text() -> str:
        kind = rng.random()
        size = int(rng.integers(2, 8) if kind < 0.08 else rng.integers(12, 61))
        bank = german if kind > 0.94 else english
        reach = np.where(rng.random(size) < 0.5, 20, len(bank))
        words = [bank[i] for i in (rng.random(size) * reach).astype(int).tolist()]
        for position in rng.integers(0, size, int(rng.integers(0, 3))):
            words[position] = str(rng.choice(topics, p=chance))
        words_made = " ".join(words).capitalize() + "."
        return words_made.upper() if 0.08 <= kind < 0.14 else words_made

    def copy(of: str) -> str:
        if rng.random() < 0.5:
            return of.lower().rstrip(".") + "!"
        words = of.split()
        for position in np.flatnonzero(rng.random(len(words)) < 0.02):
            words[position] = str(rng.choice(english))
        return " ".join(words)

    common = text()
    while len(texts) < samples - samples // 100:
        words_made = text()
        texts.append(words_made)
        if rng.random() < 1 / 12:
            texts += [copy(words_made) for _ in range(int(rng.integers(1, 5)))]
    texts = texts[: samples - samples // 100] + [common] * (samples // 100)
    raw = folder / "raw"
    raw.mkdir(parents=True)
    order = rng.permutation(samples)
    (raw / "texts.jsonl").write_text("".join(json.dumps({"text": texts[i]}) + "\n" for i in order))
    (folder / "vocabulary.json").write_text(json.dumps([*topics, *english[-40:]]))
    config = {
        "name": f"world-{seed}",
        "seed": seed,
        "store": str(folder / "store"),
        "out": str(folder / "run"),
        "sources": [{"name": "texts", "path": str(raw), "modality": "text"}],
        "measure": {"ngrams": {"vocabulary": str(folder / "vocabulary.json")}},
        "filters": {"language": None, "quality": {"document": {"min_words": 10, "min_mean_word_length": 2.0}}},
        "duplicates": {"text": {"threshold": 0.8}},
        "resample": {"modalities": ["text"], "t": samples / 1000},
    }
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, sort_keys=False))
    return path


def whole(path: Path) -> dict[str, Any]:
    """Run everything up to its verdicts, without export; returns the true figures."""
    run = stages.open_for_work(str(path), out=None, replace=False, runner=Runner(), quiet=True)
    for stage in ("ingest", "measure", "decide"):
        stages.run_stage(run, stage)
    ledger = json.loads(Path(run.at("ledger.json")).read_text())["all"]
    tokens = 0
    for name in (unit.name for unit in need_manifest(run.out, "verdicts").units):
        outcome = tables.read(run.at("verdicts", f"{name}.parquet"), ["outcome"])["outcome"].to_pylist()
        kept = [row for row, what in enumerate(outcome) if what == "kept"]
        tokens += sum(t for _, t in preview_samples(run, name, kept))
    resampled = ledger["dropped"].get("resample", 0)
    return {"kept": ledger["kept"], "duplicates": ledger["duplicates"], "resample": resampled, "tokens": tokens}


def plan_and_run(seed: int, samples: int, share: float) -> dict[str, Any]:
    """Forecast and truth of one world."""
    with tempfile.TemporaryDirectory(prefix="reelmill-bench-plan-") as name:
        path = world(Path(name), seed, samples)
        begun = time.process_time()
        forecast = plan.run(str(path), share=share, quiet=True)["modalities"]["all"]
        planned = time.process_time()
        truth = whole(path)
        ran = time.process_time()
    forecast["resample"] = forecast["dropped"]["resample"]
    return {
        "seed": seed,
        "truth": truth,
        "forecast": {key: [forecast[key][end] for end in ("low", "value", "high")] for key in truth},
        "cpu_plan": planned - begun,
        "cpu_run": ran - planned,
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--first", type=int, default=10, help="the first seed; 0 to 9 were looked at while tuning")
    parser.add_argument("--samples", type=int, default=20_000)
    parser.add_argument("--share", type=float, default=0.01)
    arguments = parser.parse_args()
    results = []
    for seed in range(arguments.first, arguments.first + arguments.seeds):
        results.append(plan_and_run(seed, arguments.samples, arguments.share))
        print(json.dumps(results[-1]), flush=True)
    inside = {
        key: sum(r["forecast"][key][0] <= r["truth"][key] <= r["forecast"][key][2] for r in results)
        for key in ("kept", "duplicates", "resample", "tokens")
    }
    widths = [(r["forecast"]["kept"][2] - r["forecast"]["kept"][0]) / max(r["truth"]["kept"], 1) for r in results]
    print(
        json.dumps(
            {
                "covered": inside["kept"],
                "seeds": arguments.seeds,
                "samples": arguments.samples,
                "share": arguments.share,
                **{f"covered_{key}": figure for key, figure in inside.items() if key != "kept"},
                "width": round(float(np.mean(widths)), 3),
                "cpu_plan": round(float(np.mean([r["cpu_plan"] for r in results])), 1),
                "cpu_run": round(float(np.mean([r["cpu_run"] for r in results])), 1),
            }
        )
    )
