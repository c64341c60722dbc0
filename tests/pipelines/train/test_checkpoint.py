"""Checkpoints are restored bit for bit; damaged ones are rejected."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import StageError
from pipelines.train import checkpoint, stages
from pipelines.train.model import VideoLanguageModel
from pipelines.train.settings import Optimizer
from tests.pipelines.train.test_model import sample
from tests.pipelines.train.test_stages import built, copy_model, take_step

__all__ = ["built"]

PEAK = {"vision": 1e-3, "connector": 1e-3, "language": 1e-3}


def save(path: Path, model: VideoLanguageModel, optimizer: Any) -> None:
    tensors = {**checkpoint.weights(model), **checkpoint.optimizer_tensors(model, optimizer)}
    checkpoint.save(path, tensors, {"stage": 1, "loader": {"epoch": 0}})


def test_a_resumed_training_gives_bitwise_equal_weights(built: VideoLanguageModel, tmp_path: Path) -> None:
    import torch

    batches = [[sample(1, 5, 9, n)] for n in range(4)]
    straight = copy_model(built)
    optimizer = stages.begin(straight, PEAK, Optimizer())
    for batch in batches[:2]:
        take_step(straight, optimizer, PEAK, batch)
    save(tmp_path / "c", straight, optimizer)
    for batch in batches[2:]:
        take_step(straight, optimizer, PEAK, batch)
    again = copy_model(built)
    optimizer = stages.begin(again, PEAK, Optimizer())
    tensors, state = checkpoint.load(tmp_path / "c")
    checkpoint.restore(again, optimizer, tensors, "c")
    for batch in batches[2:]:
        take_step(again, optimizer, PEAK, batch)
    assert state == {"stage": 1, "loader": {"epoch": 0}}
    expected, resumed = checkpoint.weights(straight), checkpoint.weights(again)
    assert expected.keys() == resumed.keys()
    assert all(torch.equal(expected[name], resumed[name]) for name in expected)


def test_shared_weights_are_saved_once(built: VideoLanguageModel) -> None:
    language = built.modules["language"]
    assert language.lm_head.weight is language.get_input_embeddings().weight
    pointers = [tensor.data_ptr() for tensor in checkpoint.weights(built).values()]
    assert len(pointers) == len(set(pointers))


def test_a_damaged_file_is_named(built: VideoLanguageModel, tmp_path: Path) -> None:
    path = tmp_path / "c"
    checkpoint.save(path, checkpoint.weights(built, ("connector",)), {})
    content = path.read_bytes()
    rng = np.random.default_rng(1)
    for cut in [0, 5, len(content) - 1, *rng.integers(0, len(content), 5)]:
        path.write_bytes(content[:cut])
        with pytest.raises(StageError, match="this checkpoint is damaged"):
            checkpoint.load(path)


def test_files_of_other_programs_are_rejected(built: VideoLanguageModel, tmp_path: Path) -> None:
    from safetensors.torch import save_file

    save_file(checkpoint.weights(built, ("connector",)), tmp_path / "c")
    with pytest.raises(StageError, match="no checkpoint of version 1"):
        checkpoint.load(tmp_path / "c")


def test_weights_of_another_model_are_rejected(built: VideoLanguageModel) -> None:
    import torch

    for name, tensor in [("connector.project.weight", torch.zeros(3, 3)), ("connector.other", torch.zeros(3))]:
        with pytest.raises(StageError, match=f"{name} is not in this model, or of another shape"):
            checkpoint.restore(built, None, {name: tensor}, "c")


def test_the_old_checkpoint_remains_until_the_new_one_is_complete(
    built: VideoLanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "c"
    checkpoint.save(path, checkpoint.weights(built, ("connector",)), {"step": 1})

    def raise_disk_full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", raise_disk_full)
        with pytest.raises(StageError, match="No space"):
            checkpoint.save(path, checkpoint.weights(built, ("connector",)), {"step": 2})
    assert checkpoint.load(path, state_only=True) == ({}, {"step": 1})
    assert [entry.name for entry in tmp_path.iterdir()] == ["c"]
