"""Judge the verdicts on footage, pictures and text whose right verdict is known; the last line is one JSON object.

    python -m benchmarks.truth [--corpus FOLDER] [--only overlay duplicates text defaults]

Each set is made anew, in a temporary folder, by a module of sets/: overlay.py burns subtitles into real clips
and draws pages of known words, duplicates.py makes copies of real pictures, text.py reads texts by people
and draws blank pictures, defaults.py counts what the filters drop of sets that people made. Their docstrings say
how. --corpus: the folder of real media and texts; the default is the environment variable REELMILL_CORPUS.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))  # so that its path can be given, too

SETS = ("overlay", "duplicates", "text", "defaults")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, default=os.environ.get("REELMILL_CORPUS"))
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    arguments = parser.parse_args()
    if arguments.corpus is None or not arguments.corpus.is_dir():
        sys.exit("benchmarks.truth needs a folder of real media: --corpus FOLDER, or set REELMILL_CORPUS")
    figures: dict[str, float | int] = {}
    for name in arguments.only:
        module = importlib.import_module(f"benchmarks.sets.{name}")
        with tempfile.TemporaryDirectory() as scratch:
            figures |= getattr(module, f"measure_{name}")(arguments.corpus, Path(scratch))
        print(f"{name}: done", file=sys.stderr)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
