"""Exit 1 where a demo falls below its mark (docs/demo.md)."""

import json
import sys
from pathlib import Path

BAR = 0.95

report = json.loads(Path(sys.argv[1]).read_text("utf-8"))
wrong = []
for name, entry in report["filters"].items():
    for measure in ("precision", "recall"):
        if entry["planted"] and (entry[measure] is None or entry[measure] < BAR):
            wrong.append(f"{name}: {measure} {entry[measure]}")
if not report["resample"]["fair"]:
    wrong.append(f"resample: {report['resample']['all']}")
broken = report["broken"]
if broken["caught"] != broken["planted"] or broken["named"] != broken["right"]:
    wrong.append(f"broken files: {broken['caught']} of {broken['planted']} failed, {broken['named']} rows failed")
if report["unmatched"]["truth"] or report["unmatched"]["verdicts"]:
    wrong.append(f"unmatched: {report['unmatched']}")
sys.stderr.write(f"seed {report['seed']}, {report['seconds']} s: {wrong or 'good'}\n")
sys.exit(bool(wrong))
