"""Measure the files of a folder, judge them with two settings of the same filter, run a whole config, look at the run.

python examples/python_api.py FOLDER_OF_PICTURES WORK_FOLDER
"""

from __future__ import annotations

import sys
from collections import Counter

from pipelines import api


def main(folder: str, work: str) -> None:
    # Measured once, judged twice: the second threshold opens no file.
    table = api.measure(folder, {"facts": {}, "fingerprint": {"engine": "pdq"}})
    for min_side in (16, 200):
        verdicts = api.judge(table, {"facts": {"min_side": min_side}})
        print(f"min_side {min_side}:", dict(Counter(verdicts["outcome"].to_pylist())))

    # The same as `reelmill run`, from a dict.
    run = api.run(
        {
            "name": "example",
            "store": f"{work}/store",
            "out": f"{work}/run",
            "sources": [{"name": "pictures", "path": folder, "modality": "image", "captions": "optional"}],
            "filters": {"facts": {"min_side": 16}},
            "duplicates": {"image": {}},
        }
    )

    # A finished run opens from its folder alone.
    run = api.open_run(run.out)
    for unit in run.unit_names("verdicts"):
        rows = run.read("verdicts", unit, ["key", "outcome", "duplicate_of"]).to_pylist()
        print(unit, Counter(row["outcome"] for row in rows))


if __name__ == "__main__":
    main(*sys.argv[1:3])
