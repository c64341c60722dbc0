"""Time the measure stage on video: wall time per clip, and the share outside the decoder and the models. Prints one
JSON object as its last line.

    python -m benchmarks.measure [--clips 60] [--quick]

Clips: x264, 3 s at 25 fps, 320x240, 480x270 and 640x360 in turn, every other with two lines of burned-in text; see
inputs.py. All have captions. The config asks for clean-up, language, text quality, facts, overlay (PaddleOCR's models
in rapidocr), motion and PDQ fingerprints; no filter drops a clip. One worker, an empty store. The OCR models
and the decoder's child are started before, as a job of hours starts them once.

wall_s_per_clip: of the stage, by the clock. outside_share: the share of the units' time (`total_ms`) that was neither
spent in the decoder (`decode_ms`) nor in an annotator (NAME_ms); outside_share_without_ocr: the same had the overlay
annotator taken no time, since OCR on CPUs is so slow that all else looks small beside it. stage_outside_share: of the
whole stage's time, with what Beam takes to start a job and to end it, which does not grow with the clips.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that its path can be given, too

from benchmarks.sets import inputs
from infra.commit import read_json
from pipelines.core.resolve import resolve
from pipelines.core.run import open_run
from pipelines.ingest import ingest
from pipelines.measure import measure

CONFIG = """
name: measure
store: {folder}/{name}.store
out: {folder}/{name}
sources:
  - {{name: clips, path: {folder}/{name}.raw, include: "*.mp4", modality: video, captions: captions.jsonl}}
filters:
  caption: {{}}
  language: {{}}
  quality: {{min_words: 1}}
  facts: {{min_side: 32}}
  overlay: {{max_area: 1.0}}
  motion: {{min_score: 0.0}}
duplicates: {{video: {{}}}}
"""


def stage(folder: Path, name: str, clips: list[bytes], count: int) -> tuple[float, dict[str, int]]:
    """Measure `count` clips; returns seconds by the clock and the stage's counters."""
    inputs.write_media(folder / f"{name}.raw", "mp4", clips, count)
    path = folder / f"{name}.yaml"
    path.write_text(CONFIG.format(folder=folder, name=name))
    run = open_run(str(path), quiet=True)
    ingest.run(run)
    annotators = ", ".join(resolve(run).annotators)
    begun = time.perf_counter()
    measure.run(run)
    seconds = time.perf_counter() - begun
    print(f"{name}: {count} clips in {seconds:.1f} s: {annotators}", file=sys.stderr)
    return seconds, dict(read_json(run.work("signals.counters.json")))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=60)
    parser.add_argument("--quick", action="store_true", help="6 clips: does it work?")
    options = parser.parse_args()
    count = 6 if options.quick else options.clips
    kinds = min(count, 12)
    clips = [inputs.clip(i, inputs.CLIP_SIZES[i % 3], words=i % 2 == 1) for i in range(kinds)]
    with tempfile.TemporaryDirectory(prefix="reelmill-measure-") as folder:
        stage(Path(folder), "warm", clips[:2], 2)
        seconds, counters = stage(Path(folder), "all", clips, count)
    spent = {name[:-3]: figure for name, figure in counters.items() if name.endswith("_ms")}
    total = spent.pop("total")
    print(
        f"milliseconds a clip: { {name: round(figure / count, 1) for name, figure in spent.items()} }", file=sys.stderr
    )
    figures = {
        "wall_s_per_clip": round(seconds / count, 4),
        "outside_share": round(1 - sum(spent.values()) / total, 4),
        "outside_share_without_ocr": round(
            1 - (sum(spent.values()) - spent["overlay"]) / (total - spent["overlay"]), 4
        ),
        "stage_outside_share": round(1 - sum(spent.values()) / 1000 / seconds, 4),
        "decode_share": round(spent["decode"] / total, 4),
        "clips": count,
        "decodes": counters["decodes"],
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
