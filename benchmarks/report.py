"""Time until the report of a large run is usable in a browser, and the time to write it.

    python -m benchmarks.report [--rows 100000] [--pictures 100] [--rounds 3] [--seed 0]

How the run is made. No medium is measured: the tables of a finished run are written with made-up signals. Half of the
rows are images, 20 % videos, 30 % texts, from 12 sources, in units of 10,000 rows; captions have 8 to 20 words drawn by
Zipf's law, texts 60 to 200. Signals are drawn so that some 4 % of the rows fall to each of five filters (caption,
language, quality, facts, motion); what the cascade would not have measured is null, and verdicts are those of the run's
own judge. 3 % of the survivors are in groups of duplicates. All rows refer to one small picture or one small
clip on disk, so that pictures can be drawn, --pictures of them for each filter and outcome and a tenth as many clips.

What is timed. open_s: headless Chromium, from the start of navigation to the list of samples until its first rows are
shown, all rows have come, one filter has been chosen, and the count of what it leaves is right; the median of --rounds
with a new profile each, from disk. first_rows_s: until the first rows are shown. overview_s: until the first page's
cascade and a chart are drawn. write_s: the whole writing, pictures_s of them for the pictures.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that its path can be given, too

from infra import storage, tables
from infra.commit import collect_units, write_manifest
from infra.hashing import canonical_json
from pipelines.core.resolve import Resolved, resolve
from pipelines.core.run import Run, open_run
from pipelines.core.verdicts import ALIVE, judge_rows, tally
from pipelines.export import provenance
from pipelines.report import report
from tests.chromium import ARGUMENTS

UNIT = 10_000
SOURCES = 12


#: What a person does, inside the page, so that the way to it is not counted: milliseconds to the first rows, and
#: to the list behind one filter, whose length is checked against a plain count.
USE = """async () => {
    const frame = () => new Promise(requestAnimationFrame);
    while (!document.querySelector(".row .caption")) await frame();
    const first = performance.now();
    const select = document.querySelector("select[name=outcome]");
    select.value = "dropped";
    select.dispatchEvent(new Event("change"));
    const dropped = REELMILL.meta.words.outcome.indexOf("dropped");
    const wanted = RM.rows.columns.outcome.filter((code) => code === dropped).length;
    const count = document.querySelector(".count");
    while (+count.dataset.found !== wanted || RM.rows.ready !== RM.rows.count) await frame();
    return [first, performance.now()];
}"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--pictures", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="reelmill-bench-report-"))
    try:
        figures = measure(folder, arguments)
    finally:
        shutil.rmtree(folder)
    print(json.dumps(figures))


def measure(folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    run = make_run(folder, arguments.rows, arguments.seed)
    out = folder / "report"
    spent: list[float] = []
    draw = report.draw_thumbnails

    def timed(*args: Any, **how: Any) -> Any:
        started = time.perf_counter()
        try:
            return draw(*args, **how)
        finally:
            spent.append(time.perf_counter() - started)

    report.draw_thumbnails = timed
    started = time.perf_counter()
    marks = report.run(run.out, str(out), quiet=True, thumbs=arguments.pictures, clips=arguments.pictures // 10)
    write_s = time.perf_counter() - started
    times = [open_report(out) for _ in range(arguments.rounds)]
    return {
        "rows": marks["samples"],
        **{name: round(statistics.median(timing[name] for timing in times), 3) for name in times[0]},
        "write_s": round(write_s, 1),
        "pictures_s": round(sum(spent), 1),
        "pictures": marks["thumbs"],
        "clips": marks["clips"],
        "bytes": marks["bytes"],
        "bytes_before_use": sum(
            path.stat().st_size
            for pattern in ("index.html", "static/**/*", "data/meta.js", "data/rows.js", "data/texts-00000.js")
            for path in out.glob(pattern)
            if path.is_file()
        ),
    }


def open_report(out: Path) -> dict[str, float]:
    from playwright.sync_api import sync_playwright

    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser_path is None:
        sys.exit("no Chromium here: apt-get install chromium")
    listed = {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path, args=ARGUMENTS)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"file://{out}/index.html#/samples", wait_until="domcontentloaded")
        listed["first_rows_s"], listed["open_s"] = (ms / 1000 for ms in page.evaluate(USE))
        assert page.evaluate("document.querySelectorAll('.row').length") > 5
        page.close()
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        page.goto(f"file://{out}/index.html#/", wait_until="domcontentloaded")
        listed["overview_s"] = clock(page, "document.querySelector('.step.good') && document.querySelector('.uplot')")
        browser.close()
    return listed


def clock(page: Any, condition: str) -> float:
    """Seconds from the start of navigation until a condition holds, by the page's own clock."""
    loop = (
        f"async () => {{ while (!({condition})) await new Promise(requestAnimationFrame); return performance.now(); }}"
    )
    return float(page.evaluate(loop)) / 1000


def make_run(folder: Path, rows: int, seed: int) -> Run:
    """A finished run of made-up rows in folder/run."""
    from tests import corpus

    rng = np.random.default_rng(seed)
    raw = folder / "raw"
    raw.mkdir()
    (raw / "one.jpg").write_bytes(corpus.image_bytes(corpus.picture(1, 320, 240)))
    corpus.write_clip(raw / "one.mp4", 2)
    kinds = rng.choice(["image", "video", "text"], SOURCES, p=[0.5, 0.2, 0.3])
    kinds[:3] = ["image", "video", "text"]
    sources = [{"name": f"source-{i:02}", "path": str(raw), "modality": str(kind)} for i, kind in enumerate(kinds)]
    document = {
        "name": "large", "store": str(folder / "store"), "out": str(folder / "run"), "sources": sources,
        "filters": {"caption": None, "language": None, "quality": {"document": {"min_words": 20}},
                    "facts": {"min_side": 200}, "motion": {"min_score": 0.002}},
        "duplicates": {"image": {}, "video": {}, "text": {}},
    }  # fmt: skip
    run = open_run(str(corpus.write_config(folder / "config.yaml", document)), quiet=True)
    resolved = resolve(run)
    digests = {"image": storage.sha256(str(raw / "one.jpg")), "video": storage.sha256(str(raw / "one.mp4"))}
    words = np.array(["".join(rng.choice(list("bdklmnprst")) + rng.choice(list("aeiou")) for _ in range(k)) for k in
                      rng.integers(1, 5, 20_000)], dtype=object)  # fmt: skip
    names = []
    verdicts, copies = [], []
    for index, start in enumerate(range(0, rows, UNIT)):
        name = f"u{index:06d}"
        names.append(name)
        count = min(UNIT, rows - start)
        samples = make_samples(rng, sources, digests, words, start, count)
        signals = make_signals(rng, resolved, samples)
        judged, signals = settle(run, resolved, samples, signals)
        outcome = np.array(judged["outcome"].to_pylist(), dtype=object)
        table, counts = finish(rng, judged, outcome, index)
        verdicts.append(table)
        copies.append(counts)
        for stage, unit_table in (("samples", samples), ("signals", signals), ("verdicts", table)):
            tables.write(run.at(stage, f"{name}.parquet"), unit_table)
    tables.write(run.at("duplicates", "image-p00000.parquet"), pa.concat_tables(copies))
    everything = pa.concat_tables(verdicts)
    write_members(rng, run, everything)
    write_manifest(
        run.at("duplicates"), "duplicates", "0" * 32, collect_units(run.at("duplicates"), ["image-p00000"], "x")
    )
    for stage in ("samples", "signals", "verdicts"):
        write_manifest(run.at(stage), stage, "0" * 32, collect_units(run.at(stage), names, stage))
    storage.write_bytes(run.at("ledger.json"), canonical_json(tally(everything, {})))
    provenance.write_run_json(run)
    return run


def make_samples(rng: Any, sources: Any, digests: Any, words: Any, start: int, count: int) -> pa.Table:
    picked = rng.integers(0, len(sources), count)
    kinds = [sources[i]["modality"] for i in picked]
    sizes = np.where(np.array(kinds) == "text", rng.integers(60, 200, count), rng.integers(8, 20, count))
    ranks = np.minimum(rng.zipf(1.3, int(sizes.sum())) - 1, len(words) - 1)
    parts = np.split(words[ranks], np.cumsum(sizes)[:-1])
    alphabet = np.array(list("abcdefghijklmnopqrstuvwxyz234567"))
    keys = ["".join(row) for row in alphabet[rng.integers(0, 32, (count, 26))]]
    media = [
        [] if kind == "text" else
        [{"uri": "one.jpg" if kind == "image" else "one.mp4", "offset": 0, "length": -1, "start_s": 0.0, "end_s": -1.0,
          "sha256": digests[kind]}]
        for kind in kinds
    ]  # fmt: skip
    return pa.table(
        {
            "key": keys, "modality": kinds, "source": [sources[i]["name"] for i in picked],
            "container": [f"part-{(start + i) // 500:05}.tar" for i in range(count)],
            "position": [f"{start + i:08}.bin" for i in range(count)], "media": media,
            "text": [" ".join(batch) for batch in parts], "licence": rng.choice(["CC0-1.0", "CC-BY-4.0", ""], count),
            "origin": ["made up"] * count, "extra": ["{}"] * count, "error": pa.nulls(count, pa.string()),
            "members": np.ones(count, np.int64), "unused_captions": np.zeros(count, np.int64),
        },
        schema=tables.SAMPLES,
    )  # fmt: skip


def make_signals(rng: Any, resolved: Resolved, samples: pa.Table) -> pa.Table:
    """Signals as if everything had been measured."""
    n = samples.num_rows
    odd = rng.random(n) < 0.04
    columns_known: dict[str, Any] = {
        "clean.text": [" " if x else t for x, t in zip(rng.random(n) < 0.01, samples["text"].to_pylist(), strict=True)],
        "language.label": np.where(odd, rng.choice(["de", "fr", "pl"], n), "en"),
        "language.english": np.round(np.where(odd, 0.01, rng.beta(30, 2, n)), 6),
        "language.score": np.round(rng.beta(30, 2, n), 6),
        "language.english_share": np.round(np.where(odd, 0.0, rng.random(n) / 2), 6),
        "language.letters": rng.integers(40, 90, n),
        "language.latin": rng.integers(90, 91, n),
        "quality.words": np.where(rng.random(n) < 0.04, 2, rng.integers(24, 200, n)),
        "quality.chars": rng.integers(40, 1200, n),
        "quality.mean_word_length": np.round(rng.normal(5, 0.4, n), 6),
        "quality.alpha_words": np.round(1 - rng.beta(1, 40, n), 6),
        "quality.stop_words": rng.integers(2, 9, n),
        "quality.terminal_lines": np.ones(n),
        "facts.width": np.where(rng.random(n) < 0.04, 120, rng.integers(210, 1900, n)),
        "facts.height": rng.integers(640, 700, n),
        "facts.duration": np.round(rng.gamma(4, 3, n), 3),
        "facts.codec": np.array(["h264"] * n),
        "facts.container": rng.choice(["JPEG", "PNG", "WEBP"], n),
        "motion.score": np.round(np.where(rng.random(n) < 0.1, 0.0, rng.gamma(2, 0.01, n)), 6),
    }
    columns: dict[str, pa.Array] = {"key": samples["key"]}
    for field in resolved.schema(resolved.steps):
        if field.name == "key":
            continue
        if field.name.endswith(".error"):
            columns[field.name] = pa.nulls(n, field.type)
        elif field.name in columns_known:
            columns[field.name] = pa.array(columns_known[field.name]).cast(field.type)
        elif field.name.startswith("quality."):
            columns[field.name] = pa.array(np.round(rng.beta(1, 200, n), 6)).cast(field.type, safe=False)
        elif pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            columns[field.name] = pa.array(rng.integers(0, 9, n)).cast(field.type)
        else:
            columns[field.name] = pa.nulls(n, field.type)
    return pa.table(columns)


def settle(run: Run, resolved: Resolved, samples: pa.Table, signals: pa.Table) -> tuple[pa.Table, pa.Table]:
    """Judge the rows; returns verdicts, and signals with null for all that the cascade would not have measured."""
    judged, unknown = judge_rows(resolved, samples, signals, run.captions_optional)
    assert not unknown.any()
    order = [filter_.name for filter_ in resolved.filters]
    stop = np.array([order.index(name) if name else len(order) for name in judged["filter"].to_pylist()])
    modality = np.array(samples["modality"].to_pylist(), dtype=object)
    first: dict[str, int] = {}
    for position, step in enumerate(step for step in resolved.steps if step.filter is not None):
        for annotator in step.annotators:
            first.setdefault(annotator, position)
    for index, name in enumerate(signals.schema.names):
        annotator = name.partition(".")[0]
        if annotator in resolved.annotators and not name.endswith(".error"):
            able = np.isin(modality, sorted(resolved.annotators[annotator].modalities))
            seen = able & (stop >= first.get(annotator, len(order)))
            masked = pa.array(signals[name].to_pylist(), signals.schema.field(index).type)
            signals = signals.set_column(index, name, pa.compute.if_else(pa.array(seen), masked, None))
    return judged, signals


def finish(rng: Any, judged: pa.Table, outcome: Any, index: int) -> tuple[pa.Table, pa.Table]:
    """(verdicts, groups of duplicates among the survivors)."""
    keys = judged["key"].to_pylist()
    alive = np.flatnonzero(outcome == ALIVE)
    outcome[alive] = "kept"
    pairs = alive[: len(alive) // 33 * 2].reshape(-1, 2)
    of: dict[int, str] = {int(b): keys[a] for a, b in pairs}
    outcome[pairs[:, 1]] = "duplicate"
    by = judged["filter"].to_pylist()
    reason = judged["reason"].to_pylist()
    for row in of:
        by[row], reason[row] = "duplicates", "copy_of_image"
    n = len(keys)
    table = pa.table(
        {**{name: judged[name] for name in ("key", "modality", "source", "value", "threshold", "others")},
         "outcome": outcome, "filter": pa.array(by, pa.string()), "reason": pa.array(reason, pa.string()),
         "duplicate_of": pa.array([of.get(row) for row in range(n)], pa.string()),
         "keep_probability": pa.nulls(n, pa.float64())}
    ).select(tables.VERDICTS.names).cast(tables.VERDICTS)  # fmt: skip
    rows = [
        {"key": keys[row], "row": (index << 32) | int(row), "survivor": keys[a], "component": (index << 32) | int(a),
         "similarity": 0.9, "match": keys[b if row == a else a]}
        for a, b in pairs for row in (a, b)
    ]  # fmt: skip
    return table, pa.Table.from_pylist(rows, schema=tables.DUPLICATES)


def write_members(rng: Any, run: Run, verdicts: pa.Table) -> None:
    """Members of shards that are not there: the report then takes pictures from the sources."""
    kept = verdicts.filter(pa.compute.equal(verdicts["outcome"], "kept"))
    n = kept.num_rows
    table = pa.table(
        {"key": kept["key"], "shard": [f"image-{i // 5000:06}" for i in range(n)], "offset": np.zeros(n, int),
         "size": np.full(n, 1536), "members": pa.array([[]] * n, tables.MEMBERS.field("members").type),
         "modality": kept["modality"], "source": kept["source"], "licence": ["CC0-1.0"] * n, "kind": ["caption"] * n,
         "language": ["en"] * n, "tokens": rng.integers(40, 400, n), "text_tokens": rng.integers(9, 40, n),
         "images": np.ones(n, int), "seconds": np.zeros(n), "bytes": rng.integers(9_000, 90_000, n)}
    ).cast(tables.MEMBERS)  # fmt: skip
    tables.write(run.at("members", "image-000000.parquet"), table)
    write_manifest(run.at("members"), "members", "0" * 32, collect_units(run.at("members"), ["image-000000"], "x"))


if __name__ == "__main__":
    main()
