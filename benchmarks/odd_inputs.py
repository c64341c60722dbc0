"""Ingest sources that are odd but legal and count what a reader gets wrong. Prints one JSON object as its last line.

    python -m benchmarks.odd_inputs [--seed 0] [--show 20]

The sources are those of sets/odd_cases.py: 673 of five rows each over every reader and container, written anew from
--seed into a temporary folder. `pipelines.ingest` runs over them in processes of their own, many sources in one config;
where a config stops or hangs, it is halved until the source is known.

inputs: rows that the sources contain. rows_lost: rows that are neither an input nor a failed row. rows_invented: inputs
whose text or media bytes are no row's. rows_refused: rows that became a failed row, though they are legal. stops:
sources that end the job. hangs: sources without a result within --patience seconds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that its path can be given, too

from benchmarks.sets.odd_cases import ExpectedRow, OddCase, make_cases

#: Sources of one config.
BUNDLE = 40

Sample = Mapping[str, Any]


@dataclass
class ReaderScore:
    """The counts of the module's docstring, and a line for each source that is not right."""

    counts: Counter[str] = field(default_factory=Counter)
    lines: list[str] = field(default_factory=list)

    def add(self, case: OddCase, expected: Sequence[ExpectedRow], samples: Sequence[Sample]) -> None:
        sound = [sample for sample in samples if sample["error"] is None]
        failed = [sample for sample in samples if sample["error"] is not None]
        unmatched = list(expected)
        invented = []
        for sample in sound:
            row = next((row for row in unmatched if _is_row(sample, row)), None)
            if row is None:
                invented.append(sample)
            else:
                unmatched.remove(row)
        refused = min(len(failed), len(unmatched))
        wrong = Counter(rows_lost=len(unmatched) - refused, rows_invented=len(invented), rows_refused=refused)
        self.counts += wrong
        if wrong.total():
            example = failed[0]["error"] if failed else repr(invented[0]["text"])[:80] if invented else ""
            self.lines.append(f"{case.name}: {dict(+wrong)} {example}")


def _is_row(sample: Sample, row: ExpectedRow) -> bool:
    """Whether a sample contains a row's media and texts; one text must be equal, several are turns in their order."""
    text = sample["text"] or ""
    if tuple(medium["sha256"] for medium in sample["media"]) != row.sha256s:
        return False
    if len(row.texts) == 1:
        return bool(text.strip() == row.texts[0].strip())
    position = 0
    for turn in row.texts:
        position = text.find(turn.strip(), position)
        if position < 0:
            return False
        position += len(turn.strip())
    return True


def _ingest(folder: str, cases: Sequence[OddCase], results: Any) -> None:
    """In a process of its own: ingest the sources and send their samples, or the error that stopped the job."""
    from infra.errors import ReelmillError
    from pipelines.core.run import open_run
    from pipelines.ingest import ingest

    sources = [
        {"name": f"s{number:04d}", "path": f"{folder}/in/s{number:04d}", **case.settings}
        for number, case in enumerate(cases)
    ]
    config = {"name": "odd", "store": f"{folder}/store", "out": f"{folder}/run", "sources": sources, "filters": {}}
    try:
        run = open_run("odd.yaml", text=json.dumps(config), quiet=True)
        ingest.run(run)
    except ReelmillError as error:
        results.send(str(error))
        return
    except BaseException:  # noqa: BLE001 - whatever it is, the job stopped
        results.send(traceback.format_exc())
        return
    columns = ["source", "text", "media", "error"]
    results.send([row for unit in run.unit_names("samples") for row in run.read("samples", unit, columns).to_pylist()])


def _run_bundle(cases: Sequence[tuple[int, OddCase]], seed: int, patience_s: float, score: ReaderScore) -> None:
    with tempfile.TemporaryDirectory(prefix="odd-", ignore_cleanup_errors=True) as folder:
        expected = []
        for position, (number, case) in enumerate(cases):
            path = Path(folder) / "in" / f"s{position:04d}"
            path.mkdir(parents=True)
            expected.append(case.write(path, np.random.default_rng([seed, number])))
        results, sender = multiprocessing.Pipe(duplex=False)
        process = multiprocessing.get_context("spawn").Process(
            target=_ingest, args=(folder, [_without_writer(case) for _, case in cases], sender)
        )
        process.start()
        sender.close()
        try:
            outcome = results.recv() if results.poll(patience_s) else None
        except EOFError:
            outcome = f"the process ended with {process.exitcode}"
        process.kill()
        process.join()
    if isinstance(outcome, list):
        for position, (rows, (_, case)) in enumerate(zip(expected, cases, strict=True)):
            score.add(case, rows, [sample for sample in outcome if sample["source"] == f"s{position:04d}"])
        score.counts["inputs"] += sum(map(len, expected))
    elif len(cases) > 1:
        middle = len(cases) // 2
        _run_bundle(cases[:middle], seed, patience_s, score)
        _run_bundle(cases[middle:], seed, patience_s, score)
    else:
        score.counts["inputs"] += len(expected[0])
        score.counts["hangs" if outcome is None else "stops"] += 1
        score.lines.append(f"{cases[0][1].name}: {outcome or 'no result'}"[:2000])


def _without_writer(case: OddCase) -> OddCase:
    return OddCase(case.name, case.settings, _write_nothing)


def _write_nothing(folder: Path, rng: np.random.Generator) -> list[ExpectedRow]:
    return []


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--show", type=int, default=20, help="number of wrong sources to name")
    parser.add_argument("--patience", type=float, default=300.0)
    options = parser.parse_args()
    cases = list(enumerate(make_cases()))
    score = ReaderScore()
    for start in range(0, len(cases), BUNDLE):
        _run_bundle(cases[start : start + BUNDLE], options.seed, options.patience, score)
    print("\n".join(score.lines[: options.show]))
    names = ("inputs", "rows_lost", "rows_invented", "rows_refused", "stops", "hangs")
    print(json.dumps({"sources": len(cases), **{name: score.counts[name] for name in names}}))


if __name__ == "__main__":
    main()
