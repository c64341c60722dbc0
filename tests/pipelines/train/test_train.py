"""`reelmill train` whole: what it learns, what a kill leaves, several processes, and what it says of wrong configs."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import signal
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from infra.errors import ConfigError, StageError
from mixtures.loader import Loader
from pipelines.cli import app
from pipelines.train import checkpoint, curve
from pipelines.train import train as training
from tests.pipelines.train import worlds
from tests.pipelines.train.conftest import texts, tiny_mixture, tiny_models

__all__ = ["texts", "tiny_mixture", "tiny_models"]


def files(out: Path) -> dict[str, bytes]:
    """The files of a training that must not depend on how often it was killed: hidden ones are temporary."""
    paths = [path for path in sorted(out.iterdir()) if path.name != "loss.png" and not path.name.startswith(".")]
    return {path.name: path.read_bytes() for path in paths}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def in_child(action: Callable[..., None], *arguments: Any) -> int:
    """Exit code of a process that did `action`, from this very state; < 0: killed by that signal."""
    child = multiprocessing.get_context("fork").Process(target=action, args=arguments)
    child.start()
    child.join()
    assert child.exitcode is not None
    return child.exitcode


# -- learning ---------------------------------------------------------------------------------------------------


def test_the_loss_falls_below_that_of_a_model_without_pictures(tmp_path: Path, tiny_models: dict[str, Any]) -> None:
    mixture = worlds.mixture(tmp_path / "world", images=8, videos=0, pairs=0, texts=0)
    stages = worlds.only("sft", batch=8, epochs=50, lr={"connector": 2e-2, "language": 2e-2, "vision": 5e-3})
    summary = training.run(worlds.config(tmp_path / "run.yaml", tiny_models, mixture.uri, stages=stages, micro_batch=8))
    (stage,) = summary["stages"]
    assert (stage["steps"], stage["samples"]) == (50, 8 * 50)
    # Four colours, equally often: who does not look cannot do better than log 4 a caption and the mark at its end.
    blind = np.log(4) / np.mean([len(name) + 1 for name in worlds.COLOURS])
    assert stage["last_loss"] < 0.75 * blind < 5 < stage["first_loss"] + 2


# -- killing ----------------------------------------------------------------------------------------------------


def train_and_kill(config: str, where: str, times: int) -> None:
    """Train, and be killed when a function of the training is called for the `times`-th time."""
    owner, name = {
        "write": (training.Trainer, "_write"),
        "save": (training.Trainer, "_save"),
        "publish": (checkpoint.storage, "publish"),
    }[where]
    whole, remaining = getattr(owner, name), [times]

    def wrapped(*arguments: Any, **options: Any) -> Any:
        remaining[0] -= 1
        if not remaining[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole(*arguments, **options)

    setattr(owner, name, wrapped)
    training.run(config, quiet=True)


def two_stages(texts: Path) -> dict[str, Any]:
    """One over media and one over texts, for which no decoder has to be started."""
    sft = {"batch": 2, "epochs": 2, "mixture": str(texts)}
    return {"checkpoint_every": 2, "stages": {"align": {"batch": 6}, "vision": None, "sft": sft}}


@pytest.fixture(scope="module")
def undisturbed_training(
    tmp_path_factory: pytest.TempPathFactory, tiny_mixture: Path, texts: Path
) -> tuple[dict[str, Any], Path]:
    """Models with dropout, so that chance has to be the same, too; and what an undisturbed training left."""
    folder = tmp_path_factory.mktemp("calm")
    models = worlds.models(folder / "models", dropout=0.2)
    training.run(worlds.config(folder / "calm.yaml", models, str(tiny_mixture), **two_stages(texts)), quiet=True)
    return models, folder / "calm"


@pytest.mark.parametrize("workers", [0, 1])
def test_a_killed_training_resumes_to_the_same_weights(
    workers: int, tmp_path: Path, undisturbed_training: tuple[dict[str, Any], Path], tiny_mixture: Path, texts: Path
) -> None:
    models, undisturbed = undisturbed_training
    assert [(line["stage"], line["step"]) for line in lines(undisturbed / "log.jsonl")] == [
        *(("align", i) for i in range(3)),
        *(("sft", i) for i in range(6)),
    ]
    killed = worlds.config(tmp_path / "killed.yaml", models, str(tiny_mixture), workers=workers, **two_stages(texts))
    kills = [
        ("write", 2),  # in align, before anything was saved
        ("publish", 1),  # the first checkpoint is written, and not yet in its place
        ("save", 2),  # at the end of align
        ("publish", 2),  # align's weights stand, the checkpoint still knows nothing of it
        ("write", 5),  # in the middle of sft's second epoch, one step behind a checkpoint
    ]
    for where, times in kills[1:2] if workers else kills:
        assert in_child(train_and_kill, killed, where, times) == -signal.SIGKILL
    training.run(killed, quiet=True)
    for name in ("keys.jsonl", "log.jsonl"):
        for ended, expected in zip(lines(tmp_path / "killed" / name), lines(undisturbed / name), strict=True):
            assert ended == expected
    assert files(tmp_path / "killed") == files(undisturbed)


def test_keys_are_those_of_the_loader_in_its_order_each_as_often_as_planned(
    tmp_path: Path, tiny_models: dict[str, Any], tiny_mixture: Path
) -> None:
    stages = worlds.only("align", batch=4, epochs=2)
    training.run(worlds.config(tmp_path / "run.yaml", tiny_models, str(tiny_mixture), stages=stages), quiet=True)
    steps = lines(tmp_path / "run" / "keys.jsonl")
    loader = Loader(str(tiny_mixture))
    assert [key for step in steps for key in step["keys"]] == [
        sample["__key__"] for epoch in range(2) for sample in loader
    ]
    assert [len(step["keys"]) for step in steps] == [4, 4, 4, 4, 2] * 2
    loader.close()


def test_a_finished_training_reports_its_summary_and_does_no_work(
    tmp_path: Path, tiny_models: dict[str, Any], texts: Path
) -> None:
    config = worlds.config(tmp_path / "run.yaml", tiny_models, str(texts), stages=worlds.only("sft", batch=6))
    summary = training.run(config, quiet=True)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.safetensors")}
    assert training.run(config, quiet=True) == summary
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "run").glob("*.safetensors")} == before


# -- several processes ------------------------------------------------------------------------------------------


def one_of_two(rank: int, config: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
                   "MASTER_PORT": str(port)}  # fmt: skip
    summary = training.run(config, quiet=True)
    assert bool(summary) == (rank == 0)


def test_two_processes_continue_with_the_same_steps_as_one(
    tmp_path: Path, tiny_models: dict[str, Any], tiny_mixture: Path, texts: Path
) -> None:
    import torch.multiprocessing

    # 18 samples: of the last two of an epoch each process takes one, and in the last step of 4 one read is empty.
    sft = {"batch": 4, "mixture": str(texts)}
    same = {"checkpoint_every": 1, "stages": {"align": {"batch": 8, "epochs": 2}, "vision": None, "sft": sft}}
    single = worlds.config(tmp_path / "one.yaml", tiny_models, str(tiny_mixture), **same)
    two = worlds.config(tmp_path / "two.yaml", tiny_models, str(tiny_mixture), **same)
    training.run(single, quiet=True)
    assert in_child(train_and_kill, two, "write", 2) == -signal.SIGKILL  # the first step is one process's alone
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    torch.multiprocessing.start_processes(one_of_two, (two, port), nprocs=2, start_method="fork")
    for name in ("keys.jsonl", "log.jsonl"):
        pairs = zip(lines(tmp_path / "one" / name), lines(tmp_path / "two" / name), strict=True)
        for alone, both in pairs:
            if name == "keys.jsonl":
                assert sorted(alone.pop("keys")) == sorted(both.pop("keys"))
            for figure in ("loss", "grad_norm"):
                assert both.pop(figure, 0) == pytest.approx(alone.pop(figure, 0), rel=1e-3)
            assert alone == both
    expected, actual = (checkpoint.load(tmp_path / name / "sft.safetensors")[0] for name in ("one", "two"))
    for name, tensor in expected.items():
        torch.testing.assert_close(actual[name], tensor, rtol=0, atol=2e-4)


# -- configs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line", "message"),
    [
        ({"stages": {"aling": None}}, "aling:", r"stages\.aling: there is no such key\n  did you mean 'align'"),
        ({"stages": {"sft": {"lr": {"llm": 1}}}}, "llm:", r"stages\.sft\.lr\.llm: there is no such key"),
        ({"stages": {"sft": {"batch": 3}}, "micro_batch": 2}, "batch:", "batch is 3, which 1 processes .* evenly"),
        ({"stages": dict.fromkeys(("align", "vision", "sft"))}, "stages:", "every stage is null"),
        ({"stages": {"align": {"lr": {"connector": 0}}}}, "align:", r"stages\.align trains nothing"),
        ({"mixture": None, "stages": {"align": None}}, "vision", r"stages\.\w+ has no mixture"),
        ({"precision": "float16"}, "precision:", "precision: Input should be 'float32' or 'bfloat16'"),
        ({"optimizer": {"betas": [0.9, 1.0]}}, "optimizer:", "betas: each must be at least 0 and below 1"),
        ({"vision_encoders": []}, "vision_encoders:", "vision_encoders: .* at least 1 item"),
        ({"out": "s3://bucket/run"}, "out:", "has to be on a file system"),
        ({"connector": {"heads": 6, "key_heads": 4}}, "connector:", "6 cannot share 4 key_heads evenly"),
    ],
)
def test_mistakes_are_named_with_their_line(
    changes: dict[str, Any], line: str, message: str, tmp_path: Path, tiny_models: dict[str, Any], tiny_mixture: Path
) -> None:
    mixture = changes.pop("mixture", str(tiny_mixture)) if "mixture" in changes else str(tiny_mixture)
    config = worlds.config(tmp_path / "run.yaml", tiny_models, mixture, **changes)
    with pytest.raises(ConfigError, match=message) as caught:
        training.run(config, quiet=True)
    assert caught.value.exit_code == 2
    number = re.fullmatch(r".*run\.yaml:(\d+)", caught.value.where)
    assert number is not None, caught.value.where
    if line != "vision":  # a key that is not there has no line of its own
        assert line in Path(config).read_text().splitlines()[int(number[1]) - 1]
    assert not (tmp_path / "run" / "log.jsonl").exists()


def test_only_keys_without_effect_on_the_weights_may_change_in_a_folder(
    tmp_path: Path, tiny_models: dict[str, Any], texts: Path
) -> None:
    same = {"stages": worlds.only("sft", batch=2), "checkpoint_every": 2}
    config = worlds.config(tmp_path / "run.yaml", tiny_models, str(texts), **same)
    assert in_child(train_and_kill, config, "write", 3) == -signal.SIGKILL
    changed = worlds.config(tmp_path / "run.yaml", tiny_models, str(texts), seed=1, **same)
    with pytest.raises(ConfigError, match="contains a training run with another config"):
        training.run(changed, quiet=True)
    again = {**same, "checkpoint_every": 1, "micro_batch": 1, "encode_batch": 1}
    training.run(worlds.config(tmp_path / "run.yaml", tiny_models, str(texts), **again), quiet=True)
    assert [line["step"] for line in lines(tmp_path / "run" / "log.jsonl")] == [0, 1, 2]


def test_a_stage_may_have_its_own_mixture_and_start_from_earlier_weights(
    tmp_path: Path, tiny_models: dict[str, Any], tiny_mixture: Path
) -> None:
    import torch

    videos = worlds.mixture(tmp_path / "videos", images=0, videos=3, pairs=0, texts=0)
    summary = training.run(
        worlds.config(
            tmp_path / "a.yaml", tiny_models, str(tiny_mixture),
            stages={"align": {"batch": 18}, "vision": {"batch": 2, "mixture": videos.uri}, "sft": None},
        ),
        quiet=True,
    )  # fmt: skip
    assert [len(line["keys"]) for line in lines(tmp_path / "a" / "keys.jsonl")] == [18, 2, 1]
    assert summary["warnings"] == ["align: text (22%) teaches nothing while the language model is frozen"]
    first, second = (checkpoint.load(tmp_path / "a" / f"{name}.safetensors")[0] for name in ("align", "vision"))
    assert {name.split(".")[0] for name in first} == {"connector"}
    assert {name.split(".")[0] for name in second} == {"connector", "vision"}
    config = worlds.config(
        tmp_path / "b.yaml", tiny_models, str(tiny_mixture), weights=str(tmp_path / "a" / "vision.safetensors"),
        stages=worlds.only("sft", batch=18, lr={"connector": 1e-30, "language": 1e-3}),
    )  # fmt: skip
    training.run(config, quiet=True)
    ended, _ = checkpoint.load(tmp_path / "b" / "sft.safetensors")
    assert {name.split(".")[0] for name in ended} == {"connector", "vision", "language"}
    # A rate of nearly nothing, and none: what the training ends with is what it began from.
    assert all(torch.equal(ended[name], tensor) for name, tensor in second.items())
    with pytest.raises(ConfigError, match="there is no such file"):
        training.run(worlds.config(tmp_path / "c.yaml", tiny_models, str(tiny_mixture), weights="nowhere"), quiet=True)


def test_half_precision_and_activation_checkpoints_train_too(
    tmp_path: Path, tiny_models: dict[str, Any], tiny_mixture: Path
) -> None:
    import torch

    losses = {}
    for name, changes in (
        ("full", {}),
        ("half", {"precision": "bfloat16"}),
        ("less", {"activation_checkpoints": True}),
    ):
        stages = worlds.only("sft", batch=10)
        training.run(
            worlds.config(tmp_path / f"{name}.yaml", tiny_models, str(tiny_mixture), stages=stages, **changes),
            quiet=True,
        )
        losses[name] = [line["loss"] for line in lines(tmp_path / name / "log.jsonl")]
        tensors, _ = checkpoint.load(tmp_path / name / "sft.safetensors")
        assert {tensor.dtype for tensor in tensors.values()} == {torch.float32}
    assert losses["less"] == pytest.approx(losses["full"], rel=1e-5)
    assert losses["half"] == pytest.approx(losses["full"], rel=0.02)
    assert losses["half"] != losses["full"]


def test_a_medium_that_cannot_be_shown_stops_or_is_skipped(tmp_path: Path, tiny_models: dict[str, Any]) -> None:
    from tests.mixtures import small

    samples = {"image": [small.sample(i, "image", [worlds.plain("red") if i else b"no picture"]) for i in range(4)]}
    mixture = small.write(tmp_path / "world", {"image": 4}, samples=samples, contract=worlds.CONTRACT, vshards=1)
    stages = worlds.only("align", batch=2)
    with pytest.raises(StageError, match=f"media of sample {small.key_of(0)} cannot be decoded"):
        training.run(worlds.config(tmp_path / "a.yaml", tiny_models, mixture.uri, stages=stages), quiet=True)
    summary = training.run(
        worlds.config(tmp_path / "b.yaml", tiny_models, mixture.uri, stages=stages, on_error="skip", micro_batch=1),
        quiet=True,
    )
    assert summary["stages"][0]["samples"] == 3
    assert summary["warnings"] == ["align: 1 samples were skipped because their media cannot be decoded"]
    assert summary["stages"][0]["steps"] == 2


# -- what people and scripts see --------------------------------------------------------------------------------


def test_the_command_prints_one_value_and_its_curve(tmp_path: Path, tiny_models: dict[str, Any], texts: Path) -> None:
    from PIL import Image

    stages = {"align": None, "vision": {"batch": 6, "lr": {"language": 1e-3}}, "sft": {"batch": 2}}
    config = worlds.config(tmp_path / "run.yaml", tiny_models, str(texts), stages=stages, tokens_per_frame=3)
    printed = CliRunner().invoke(app, ["train", config, "--out", str(tmp_path / "other"), "--json"])
    assert printed.exit_code == 0, printed.output
    summary = json.loads(printed.stdout)
    assert [(s["stage"], s["steps"], s["samples"]) for s in summary["stages"]] == [("vision", 1, 6), ("sft", 3, 6)]
    assert summary["warnings"] == [
        "vision: 0% of the mixture is video; Apollo trains this on video alone",
        f"3 tokens per frame here; the shares of {texts} were planned with 2",
    ]
    assert printed.stderr == ""
    assert Image.open(tmp_path / "other" / "loss.png").size == (990, 495)
    shown = CliRunner().invoke(app, ["train", config, "--out", str(tmp_path / "other")])
    assert shown.exit_code == 0, shown.output
    for stage in summary["stages"]:
        assert f"{stage['first_loss']:.3f} → {stage['last_loss']:.3f}" in shown.stdout
    assert str(tmp_path / "other" / "loss.png") in shown.stdout.replace("\n", "")
    assert not (tmp_path / "run").exists()


def test_bars_and_running_means() -> None:
    assert curve.bars([3, 2, 1]) == "█▅▁"
    assert curve.bars([1.0]) == "▁"
    assert len(curve.bars(list(range(1000)))) == 20
    values = np.random.default_rng(1).normal(size=50)
    expected = [values[max(0, i - 6) : i + 1].mean() for i in range(50)]
    np.testing.assert_allclose(curve.smooth(values, 7), expected)
