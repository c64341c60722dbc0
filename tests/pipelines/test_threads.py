"""Engines run tasks in processes or in threads of one process; the bytes are those of one thread in either."""

from __future__ import annotations

import ast
import functools
import os
import pickle
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra import beam, storage
from infra.beam import Runner
from infra.engines.jobs import Phase
from infra.hashing import canonical_json
from mixtures.plan.recipe import Recipe, VirtualShardSettings
from pipelines import stages
from pipelines.core.run import Run
from pipelines.decide import decide
from pipelines.decide.duplicates import duplicates
from pipelines.demo.demo import config_text
from pipelines.demo.world import make_world
from pipelines.mix import mix
from pipelines.tools import vocab
from tests import corpus
from tests.mixtures.tokenizer import tokenizer

THREADS = 8
ROOT = Path(__file__).parents[2]
CLIP = {"model": f"local-dir:{ROOT / 'pipelines' / 'demo' / 'weights' / 'clip'}"}

#: Tasks of jobs that are more than a map of tasks: they run under Beam itself, see the test of its threads.
UNDER_BEAM = {"count_unit"}


def write_corpus(root: Path) -> Path:
    """The tiny corpus with its broken media, and clips that take very different times to decode."""
    corpus.write_corpus(root)
    slow = root / "slow"
    slow.mkdir()
    for number in range(8):
        corpus.write_clip(slow / f"{number}.mp4", 70 + number, frames=240 if number % 4 == 0 else 12)
        (slow / f"{number}.txt").write_text(corpus.caption(700 + number))
    return root


def open_run(root: Path, folder: Path, runner: Runner) -> Run:
    """A run with all annotators that need no download, over many small units."""
    content = corpus.config(root, folder / "store", folder / "run")
    content["sources"].append({"name": "slow", "path": str(root / "slow"), "modality": "video"})
    content["units"] = {"target_rows": 2}
    content["duplicates"] = {"image": {}, "video": {}, "text": {}, "buckets": 5}
    content["measure"] |= {"alignment": CLIP, "video_alignment": {**CLIP, "frames": 2}}
    content["measure"] |= {"overlay": {"frames": 1, "size": 160}}
    content["measure"]["late"] = ["alignment", "video_alignment", "overlay", "shots"]
    content["annotate"] = {}
    path = corpus.write_config(folder / "config.yaml", content)
    return stages.open_for_work(str(path), out=None, replace=False, runner=runner, quiet=True)


def work(root: Path, folder: Path, runner: Runner) -> Run:
    """Every verb that has tasks, over the corpus, into `folder`."""
    folder.mkdir()
    run = open_run(root, folder, runner)
    stages.run_all(run)
    tokenizer().save(str(folder / "tokenizer.json"))
    recipe = Recipe(tokenizer=str(folder / "tokenizer.json"), virtual=VirtualShardSettings(samples=3))
    mix.run([run.out], recipe, str(folder / "mix"), materialize=True, runner=runner, quiet=True)
    vocab.run([str(root / "texts" / "texts.jsonl")], str(folder / "vocab.json"), runner=runner, quiet=True)
    return run


def read_files(folder: Path) -> dict[str, bytes]:
    """Every file that is the same in each run of the same config: no times, no paths."""
    varying = {"config.yaml", "tokenizer.json", "run/run.json", "run/checksums.json", "mix/mixture.json"}
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in paths}
    return {
        name: path.read_bytes()
        for name, path in names.items()
        if name not in varying and "work" not in path.relative_to(folder).parts
    }


@pytest.fixture(scope="module")
def corpus_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus") / "in")


def use_threads(patch: pytest.MonkeyPatch, count: int) -> set[str]:
    """Run the tasks of a job as an engine with `count` threads does, each with a copy of the task's function and in no
    promised order. Returns a set that gets the names of the tasks' functions."""
    ran: set[str] = set()

    def run_in_threads(function: Callable[[str], Any], tasks: Sequence[str]) -> list[Any]:
        ran.update(list_task_names(function))
        payload = pickle.dumps(function)
        with ThreadPoolExecutor(count) as threads:
            return list(threads.map(lambda task: pickle.loads(payload)(task), reversed(tasks)))

    def run_tasks(
        job: str, function: Callable[[str], Mapping[str, int]], tasks: Sequence[str], counters_uri: str, runner: Runner
    ) -> dict[str, int]:
        total = beam.sum_counters(run_in_threads(function, tasks))
        storage.write_bytes(counters_uri, canonical_json(total))
        return total

    def run_phases(job: str, phases: Sequence[Phase], runner: Runner, folder: str, **further: object) -> None:
        for phase in phases:
            results = run_in_threads(phase.task, phase.list_tasks())
            if phase.finish is not None:
                phase.finish(phase.combine(results) if results else None)

    patch.setattr(beam, "run_tasks", run_tasks)
    for module in (decide, duplicates):
        patch.setattr(module, "run_phases", run_phases)
    return ran


@pytest.fixture(scope="module")
def alone(corpus_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of one thread."""
    folder = tmp_path_factory.mktemp("alone") / "out"
    with pytest.MonkeyPatch.context() as patch:
        use_threads(patch, 1)
        work(corpus_root, folder, Runner())
    return folder


@pytest.fixture
def hasty() -> Iterator[None]:
    """Threads that take turns a thousand times as often as usual."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(5e-6)
    yield
    sys.setswitchinterval(before)


def task_functions() -> set[str]:
    """The functions of pipelines whose docstring says that they are tasks."""
    trees = [ast.parse(path.read_text("utf-8")) for path in (ROOT / "pipelines").rglob("*.py")]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    return {node.name for node in functions if (ast.get_docstring(node) or "").startswith("Task")}


def list_task_names(function: Callable[..., Any]) -> set[str]:
    """The names of a task's function and of those among its arguments, which may be the task proper."""
    names = {getattr(function, "__name__", "")}
    if isinstance(function, functools.partial):
        for inner in (function.func, *function.args):
            names |= list_task_names(inner) if callable(inner) else set()
    return names


@pytest.mark.usefixtures("hasty")
def test_every_task_gives_the_same_bytes_in_eight_threads_of_one_process(
    corpus_root: Path, alone: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ran = use_threads(monkeypatch, THREADS)
    work(corpus_root, tmp_path / "out", Runner(workers=THREADS))
    ours, theirs = read_files(tmp_path / "out"), read_files(alone)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert task_functions() <= ran | UNDER_BEAM


def test_the_corpus_of_these_tests_has_failing_media_and_many_units(alone: Path) -> None:
    files = read_files(alone)
    assert len([name for name in files if name.startswith("run/signals/")]) > 30
    assert b"facts: decode" in b"".join(files[name] for name in files if name.startswith("run/verdicts/"))


def run_config(content: Mapping[str, Any], folder: Path, runner: Runner) -> dict[str, bytes]:
    """The files of a run of this config, its store and its run in `folder`."""
    folder.mkdir()
    own = {**content, "store": str(folder / "store"), "out": str(folder / "run")}
    path = corpus.write_config(folder / "config.yaml", own)
    stages.run_all(stages.open_for_work(str(path), out=None, replace=False, runner=runner, quiet=True))
    return read_files(folder)


def demo_config(folder: Path) -> dict[str, Any]:
    """The demo's config over its smallest world, in small units."""
    make_world(folder, 3, scale=0.005, workers=1)
    return {**yaml.safe_load(config_text(folder, 3)), "units": {"target_rows": 8}}


def corpus_config(folder: Path) -> dict[str, Any]:
    """examples/corpus.yaml over a part of its media."""
    root = os.environ.get("REELMILL_CORPUS")
    if root is None:
        pytest.skip("REELMILL_CORPUS is not set")
    text = (ROOT / "examples" / "corpus.yaml").read_text("utf-8").replace("${REELMILL_CORPUS}", root)
    text = text.replace("videos/*", "videos/*_mp4_*").replace("images/*", "images/*7*")
    content: dict[str, Any] = yaml.safe_load(text)
    return {**content, "sources": [source for source in content["sources"] if source["modality"] != "text"]}


@pytest.mark.parametrize("make_config", [demo_config, corpus_config])
def test_beams_own_threads_give_the_same_bytes(make_config: Callable[[Path], dict[str, Any]], tmp_path: Path) -> None:
    content = make_config(tmp_path)
    threads = ("--direct_running_mode=multi_threading", f"--direct_num_workers={THREADS}")
    theirs = run_config(content, tmp_path / "one", Runner())
    ours = run_config(content, tmp_path / "many", Runner(options=threads))
    assert ours.keys() == theirs.keys()
    assert [name for name in theirs if ours[name] != theirs[name]] == []
