"""What each of Apollo's three stages trains and how fast, and one step of the optimizer over all ranks.

Defaults are Table 7's (arXiv 2412.10360), kept in `mixtures.stages`; what is not published there is said to be ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field, model_validator

from infra import models
from infra.config import Strict
from infra.errors import StageError
from mixtures.stages import STAGES
from pipelines.training.model import PARTS, Model

#: Values of one collective call when gradients are summed; ours.
BUCKET = 2**24


class Rates(Strict):
    """Learning rates of a stage at their peak; 0 freezes the part, null leaves it to the stage's default."""

    vision: float | None = Field(default=None, ge=0)
    connector: float | None = Field(default=None, ge=0)
    language: float | None = Field(default=None, ge=0)


class Stage(Strict):
    """One stage; what is null is Table 7's.

    mixture: another one than the config's. epochs: passes over it. batch: samples in a step, over all ranks together.
    max_clips: the most clips of a video.
    """

    mixture: str | None = None
    lr: Rates = Rates()
    batch: int | None = Field(default=None, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    max_clips: int | None = Field(default=None, ge=1)


class Optimizer(Strict):
    """AdamW. clip_norm: of all trained gradients together; warm_up: share of a stage's steps, after which the rate
    falls along a cosine towards 0 (Table 7). weight_decay (matrices only), betas, eps: ours."""

    warm_up: float = Field(default=STAGES["sft"].warmup, ge=0, le=1)
    clip_norm: float = Field(default=STAGES["sft"].clip_norm, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = Field(default=1e-8, gt=0)

    @model_validator(mode="after")
    def _betas(self) -> Optimizer:
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError("betas: each must be at least 0 and below 1")
        return self


@dataclass(frozen=True)
class Resolved:
    """A stage with nothing left open. peak: the learning rate of each part, 0 where it is frozen."""

    peak: Mapping[str, float]
    batch: int
    epochs: int
    max_clips: int


def resolved(name: str, stage: Stage, parameters: int) -> Resolved:
    """The config's values, else Table 7's for the size that is nearest to the language model's number of parameters."""
    table, size = STAGES[name], parameters / 1e9
    given = {part: rate for part, rate in stage.lr.model_dump().items() if rate is not None}
    clips = stage.max_clips or table.contract(size).max_clips
    assert clips is not None
    return Resolved({**table.rates(size), **given}, stage.batch or table.batch, stage.epochs or table.epochs, clips)


def factor(step: int, steps: int, warm_up: float) -> float:
    """What the peak rate is multiplied by in a step (0, 1, …): a straight line up to 1, then half a cosine.

    No step has the rate 0: the first is 1/warm and the last lies one step before the cosine's end.
    """
    warm = math.ceil(steps * warm_up)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def begin(model: Model, peak: Mapping[str, float], settings: Optimizer) -> Any:
    """Freeze and thaw the parts, and make a fresh AdamW for those that train.

    Frozen parts are in evaluation mode: nothing is dropped out of what does not learn.
    """
    torch = models.torch()
    groups = []
    for part in PARTS:
        trains = peak[part] > 0
        model.modules[part].train(trains).requires_grad_(trains)
        found = [parameter for _, parameter in model.parameters(part)] if trains else []
        for decay, matrix in ((settings.weight_decay, True), (0.0, False)):
            chosen = [parameter for parameter in found if (parameter.dim() > 1) == matrix]
            if chosen:
                groups.append({"params": chosen, "part": part, "weight_decay": decay, "lr": peak[part]})
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps)


def step(
    optimizer: Any, peak: Mapping[str, float], scale: float, sums: tuple[float, int], clip_norm: float
) -> dict[str, Any]:
    """One step over the gradients that all ranks have gathered.

    The loss of a step is the mean over all labelled tokens of its samples, whichever rank and part of the batch they
    were in: gradients come here as sums, are summed over the ranks and divided by all tokens. (torch's own wrapper
    for data parallelism divides by ranks, and stumbles over ranks whose samples are all text and leave the connector
    without gradients.) A parameter that no sample reached is left alone.

    sums: this rank's (sum of losses, labelled tokens). Returns loss, tokens, grad_norm (before clipping).
    """
    torch = models.torch()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = parameters[0].device
    total = torch.tensor([sums[0], float(sums[1])], dtype=torch.float64, device=device)
    reached = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        torch.distributed.all_reduce(reached)
    loss, tokens = total.tolist()
    if not math.isfinite(loss):
        raise StageError("the loss is no longer a number", hint="lower the learning rates; the last checkpoint stands")
    trained = [parameter for parameter, n in zip(parameters, reached.tolist(), strict=True) if n]
    for parameter in trained:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    if torch.distributed.is_initialized():
        _sum_over_ranks([parameter.grad for parameter in trained])
    for parameter in trained:
        parameter.grad /= max(tokens, 1.0)
    norm = torch.nn.utils.clip_grad_norm_(trained, clip_norm) if trained else 0.0
    for group in optimizer.param_groups:
        group["lr"] = peak[group["part"]] * scale
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return {"loss": loss / max(tokens, 1.0), "tokens": int(tokens), "grad_norm": float(norm)}


def _sum_over_ranks(gradients: list[Any]) -> None:
    """Sum gradients over all ranks in place, many in one call."""
    torch = models.torch()
    while gradients:
        size, count = 0, 0
        while count < len(gradients) and (count == 0 or size + gradients[count].numel() <= BUCKET):
            size += gradients[count].numel()
            count += 1
        bucket, gradients = gradients[:count], gradients[count:]
        flat = torch.cat([gradient.flatten() for gradient in bucket])
        torch.distributed.all_reduce(flat)
        for gradient, summed in zip(bucket, flat.split([g.numel() for g in bucket]), strict=True):
            gradient.copy_(summed.view_as(gradient))
