"""Which weights each stage changes and how fast; a step is the mean over all labelled tokens, however distributed."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.errors import StageError
from pipelines.train import stages
from pipelines.train.model import COMPONENTS, VideoLanguageModel, build
from pipelines.train.settings import Connector, LearningRates, Optimizer, TrainStage
from tests.pipelines.train.test_model import TOKENS, sample, stack_samples


@pytest.fixture(scope="module")
def built(tiny_models: dict[str, Any]) -> VideoLanguageModel:
    return build(**tiny_models, connector=Connector(heads=2, head_size=8, key_heads=1), frames=4, tokens=TOKENS, seed=3)


def copy_model(built: VideoLanguageModel) -> VideoLanguageModel:
    modules = copy.deepcopy(built.modules)
    encoders = tuple(
        type(e)(modules["vision"][i], e.video, e.side, e.patch, e.tubelet, e.width)
        for i, e in enumerate(built.encoders)
    )
    return VideoLanguageModel(modules, encoders, built.frames, built.tokens, built.grid, built.encode_batch)


def take_step(
    model: VideoLanguageModel, optimizer: Any, peak: Any, batches: list[dict[str, Any]], clip_norm: float = 1.0
) -> Any:
    total, count = 0.0, 0
    for batch in batches:
        loss, n = model.loss(batch)
        if loss.requires_grad:
            loss.backward()
        total, count = total + float(loss.detach()), count + n
    return stages.step(optimizer, peak, 1.0, (total, count), clip_norm)


def changed_weights(before: VideoLanguageModel, after: VideoLanguageModel) -> dict[str, set[str]]:
    import torch

    return {
        component: {
            name
            for (name, old), (_, new) in zip(before.parameters(component), after.parameters(component), strict=True)
            if not torch.equal(old, new)
        }
        for component in COMPONENTS
    }


def names(model: VideoLanguageModel, component: str) -> set[str]:
    return {name for name, _ in model.parameters(component)}


@pytest.mark.parametrize("stage", ["align", "vision", "sft"])
def test_a_stage_changes_the_weights_that_it_trains_and_no_others(stage: str, built: VideoLanguageModel) -> None:
    model = copy_model(built)
    peak = stages.resolve_stage(stage, TrainStage(), 3_000_000_000).peak
    optimizer = stages.begin(model, peak, Optimizer())
    take_step(model, optimizer, peak, [sample(1, 5, 9, 1)])
    changed = changed_weights(built, model)
    assert changed["connector"] == names(model, "connector")
    # SigLIP's pooling head makes no patch features, so nothing teaches it.
    seeing = {name for name in names(model, "vision") if not name.startswith("vision.0.head.")}
    assert changed["vision"] == (seeing if stage == "vision" else set())
    assert changed["language"] == (names(model, "language") if stage == "sft" else set())
    training = {name for name in COMPONENTS if model.modules[name].training}
    assert training == {name for name in COMPONENTS if peak[name]}


@pytest.mark.parametrize("stage", ["align", "vision"])
def test_the_connector_learns_through_a_frozen_language_model(stage: str, built: VideoLanguageModel) -> None:
    model = copy_model(built)
    peak = {**stages.resolve_stage(stage, TrainStage(), 10**9).peak, "connector": 3e-2}
    optimizer = stages.begin(model, peak, Optimizer())
    seen = [take_step(model, optimizer, peak, [sample(2, 5, 6, 1)])["loss"] for _ in range(30)]
    assert seen[-1] < seen[0] - 0.1  # of about log 259, all that random weights leave to be changed_weights


def test_learning_rates_are_those_of_the_table_unless_configured() -> None:
    for size, rate, clips in [(1.54e9, 5e-5, 200), (3.09e9, 2e-5, 200), (7.62e9, 1e-5, 150), (27_008, 5e-5, 200)]:
        stage = stages.resolve_stage("sft", TrainStage(), int(size))
        assert stage.peak == {"vision": 0.0, "connector": 1e-4, "language": rate}
        assert (stage.batch, stage.epochs, stage.max_clips) == (256, 1, clips)
    vision = stages.resolve_stage(
        "vision", TrainStage(lr=LearningRates(connector=0.0), batch=8, epochs=2, max_clips=3), 10**9
    )
    assert vision.peak == {"vision": 5e-6, "connector": 0.0, "language": 0.0}
    assert (vision.batch, vision.epochs, vision.max_clips) == (8, 2, 3)
    assert stages.resolve_stage("align", TrainStage(), 10**9).peak == {
        "vision": 0.0,
        "connector": 1e-4,
        "language": 0.0,
    }
    assert stages.resolve_stage("align", TrainStage(), 10**9).max_clips == 25
    assert (Optimizer().warm_up, Optimizer().clip_norm) == (0.03, 1.0)


@given(st.integers(1, 500), st.floats(0, 1))
def test_the_learning_rate_warms_up_and_decays_towards_zero(steps: int, warm_up: float) -> None:
    rates = [stages.rate_factor(step, steps, warm_up) for step in range(steps)]
    warm = math.ceil(steps * warm_up)
    assert all(0 < rate <= 1 for rate in rates)
    assert rates[: warm + 1] == sorted(rates[: warm + 1])
    assert rates[warm:] == sorted(rates[warm:], reverse=True)
    assert max(rates) == 1.0
    for step in range(warm, steps):
        assert rates[step] == pytest.approx(math.cos(math.pi / 2 * (step - warm) / (steps - warm)) ** 2, abs=1e-12)


def test_a_step_is_the_same_however_its_samples_are_distributed(built: VideoLanguageModel) -> None:
    import torch

    samples = [sample(2, 5, 9, 1), sample(0, 3, 20, 2), sample(1, 11, 4, 3)]
    peak = {"vision": 0.0, "connector": 1e-3, "language": 1e-3}
    results = []
    for batches in ([stack_samples(samples)], samples, [stack_samples(samples[:2]), samples[2]]):
        model = copy_model(built)
        metrics = take_step(model, stages.begin(model, peak, Optimizer()), peak, batches)
        results.append((metrics, model))
    for metrics, model in results[1:]:
        assert metrics["tokens"] == results[0][0]["tokens"] == 33
        assert metrics["loss"] == pytest.approx(results[0][0]["loss"], rel=1e-5)
        assert metrics["grad_norm"] == pytest.approx(results[0][0]["grad_norm"], rel=1e-4)
        for component in COMPONENTS:
            for (_, a), (_, b) in zip(model.parameters(component), results[0][1].parameters(component), strict=True):
                torch.testing.assert_close(a, b, rtol=0, atol=3e-4)  # Adam's first step is ±1e-3 for any gradient


def test_gradients_are_of_the_mean_over_labelled_tokens_and_clipped(built: VideoLanguageModel) -> None:
    import torch

    model, peak = copy_model(built), {"vision": 0.0, "connector": 1e-3, "language": 0.0}
    batch = sample(1, 5, 9, 1)
    optimizer = stages.begin(model, peak, Optimizer())
    total, count = model.loss(batch)
    weight = model.modules["connector"]["project"].weight
    parameters = [parameter for _, parameter in model.parameters("connector")]
    expected = torch.autograd.grad(total / count, parameters)
    norm = float(torch.stack([g.norm() for g in expected]).norm())
    seen = {}
    optimizer.register_step_pre_hook(lambda *_: seen.update(gradient=weight.grad.clone()))
    metrics = take_step(model, optimizer, peak, [batch], clip_norm=norm / 4)
    assert metrics["grad_norm"] == pytest.approx(norm, rel=1e-5)
    torch.testing.assert_close(seen["gradient"], expected[0] / 4, rtol=1e-4, atol=1e-8)


def test_text_alone_leaves_a_frozen_language_model_and_its_connector_alone(built: VideoLanguageModel) -> None:
    model, peak = copy_model(built), {"vision": 0.0, "connector": 1e-3, "language": 0.0}
    metrics = take_step(model, stages.begin(model, peak, Optimizer(weight_decay=0.1)), peak, [sample(0, 3, 20, 2)])
    assert metrics["loss"] > 0
    assert not any(changed_weights(built, model).values())


def test_weight_decay_applies_to_matrices_only(built: VideoLanguageModel) -> None:
    model, peak = copy_model(built), {"vision": 1e-3, "connector": 1e-3, "language": 0.0}
    groups = stages.begin(model, peak, Optimizer(weight_decay=0.1)).param_groups
    assert {(group["part"], group["weight_decay"]) for group in groups} == {
        (component, decay) for component in ("vision", "connector") for decay in (0.0, 0.1)
    }
    assert all((p.dim() > 1) == (group["weight_decay"] > 0) for group in groups for p in group["params"])


def test_a_loss_of_nan_stops_before_the_step(built: VideoLanguageModel) -> None:
    model, peak = copy_model(built), {"vision": 0.0, "connector": 1e-3, "language": 0.0}
    optimizer = stages.begin(model, peak, Optimizer())
    with pytest.raises(StageError, match="no longer a number"):
        stages.step(optimizer, peak, 1.0, (math.nan, 3), 1.0)
    assert not any(changed_weights(built, model).values())
