from __future__ import annotations

import pytest

from infra.commit import read_json
from pipelines import stages
from pipelines.annotate.settings import AnnotateSettings
from pipelines.core import summary
from pipelines.core.run import Run


def test_a_run_is_summarised_by_outcome_and_cause(cold: Run, capsys: pytest.CaptureFixture[str]) -> None:
    summary.print_run(cold)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    ledger = read_json(cold.at("ledger.json"))["all"]
    numbers = (ledger["inputs"], ledger["kept"], sum(ledger["dropped"].values()), ledger["duplicates"],
               sum(ledger["failed"].values()), ledger["ignored"])  # fmt: skip
    assert ["│", "all", *(word for number in numbers for word in ("│", str(number))), "│"] in lines
    assert ["│", "failed", "at", "ingest", "│", str(ledger["failed"]["ingest"]), "│"] in lines
    assert any(line[1:2] == ["shards,"] for line in lines)


def test_the_cascade_is_printed_with_every_threshold(cold: Run, capsys: pytest.CaptureFixture[str]) -> None:
    summary.print_explained(stages.explain_config(cold))
    out = capsys.readouterr().out
    assert "min_score = 0.005" in out and "document.min_words = 10" in out and "tail_share" in out


@pytest.mark.parametrize(("price", "end"), [(None, "2.0 s"), (3.6, "4 GPUs at 3.6 per hour: 0.01")])
def test_the_cost_of_dialogues(price: float | None, end: str) -> None:
    settings = AnnotateSettings(price_per_gpu_hour=price, gpus=4)
    usage = {"sent": 1000, "hits": 5, "tokens_in": 7, "tokens_cached": 3, "tokens_out": 100, "seconds": 2.0}
    line = summary.format_cost(usage, settings)
    assert line.startswith("1,000 requests sent, 5 from the cache") and "50 tokens/s" in line and line.endswith(end)
    assert summary.format_cost({"seconds": 2.0}, settings) == "written by rule in 2.0 s"
