"""RUN/work is scratch: whatever becomes of a file in it, the same command gives the same bytes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from random import Random

import pytest

from infra import storage
from pipelines import stages
from pipelines.core import summary
from pipelines.core.run import Run
from tests import corpus


def lose(path: Path) -> None:
    path.unlink()


def cut(path: Path) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garble(path: Path) -> None:
    """Flip every bit of a stretch in the middle, as a bad block does; of JSON a digit or a letter."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    for i in range(middle, min(middle + 8, len(content))):
        content[i] = content[i] ^ 0xFF if path.suffix == ".parquet" else ord("7")
    path.write_bytes(bytes(content))


def replace(path: Path) -> None:
    """Put something of another type there."""
    path.write_bytes(b'["not what was here"]')


DAMAGES = (lose, cut, empty, garble, replace)


@pytest.fixture
def finished(make_run: Callable[..., Run], tmp_path: Path) -> Run:
    """A small run with everything in it that is reused: cut-offs, trained cells, duplicates, resampling, shards."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "images").mkdir()
    for number in range(5):
        (tmp_path / "texts" / f"{number}.txt").write_text(corpus.document(number % 4))
        (tmp_path / "images" / f"{number}.jpg").write_bytes(corpus.image_bytes(corpus.picture(number % 4)))
        (tmp_path / "images" / f"{number}.txt").write_text(corpus.caption(number))
    sources = [
        {"name": "t", "path": str(tmp_path / "texts"), "modality": "text"},
        {"name": "i", "path": str(tmp_path / "images"), "modality": "image"},
    ]
    run = make_run(
        sources,
        units={"target_rows": 3},
        duplicates={"text": {}, "image": {}},
        export={"shard_samples": 4},
        annotate={},
    )
    stages.run_all(run)
    return run


def scratch(run: Run) -> list[Path]:
    return sorted(path for path in Path(run.at("work")).rglob("*") if path.is_file())


def checksums(run: Run) -> dict[str, str]:
    return dict(json.loads(Path(run.at("checksums.json")).read_bytes()))


def interrupt(run: Run) -> None:
    """Take back the ends of the stages after measure, as if they had been killed just before."""
    for stage in ("verdicts", "duplicates", "dialogues", "members"):
        Path(run.at(stage, "_manifest.json")).unlink()
        next(iter(sorted(Path(run.at(stage)).glob("*.parquet")))).unlink()


@pytest.mark.parametrize("is_interrupted", [False, True], ids=["finished", "interrupted"])
def test_whatever_becomes_of_scratch_the_same_command_gives_the_same_bytes(finished: Run, is_interrupted: bool) -> None:
    whole = checksums(finished)
    random = Random(0)
    for _ in range(6):
        if is_interrupted:
            interrupt(finished)
        for path in random.sample(scratch(finished), 25):
            random.choice(DAMAGES)(path)
        stages.run_all(finished)
        assert checksums(finished) == whole
        for name, sha256 in whole.items():
            assert storage.sha256(finished.at(name)) == sha256, name
        summary.print_run(finished)
    shutil.rmtree(finished.at("work"))
    stages.run_all(finished)
    assert checksums(finished) == whole
