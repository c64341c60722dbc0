"""Learning rates of Apollo's three stages, the processes that train together, and one step of the optimizer.

Rates and sizes that the config does not set are Table 7's (arXiv 2412.10360), kept in `mixtures.reading.apollo_stages`.
"""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from infra.errors import StageError
from infra.weights import models
from mixtures.reading.apollo_stages import STAGES
from pipelines.train.model import COMPONENTS, VideoLanguageModel
from pipelines.train.settings import Optimizer, TrainStage

#: Maximum numbers in one collective call when gradients are summed (ours).
BUCKET = 2**24


@dataclass(frozen=True)
class Ranks:
    """The rank of this process among those that train together (`world`)."""

    rank: int
    world: int
    device: Any

    def gather(self, items: list[Any]) -> list[Any]:
        """Every rank's list, concatenated in the order of ranks; [] on ranks other than 0."""
        if self.world == 1:
            return items
        distributed = models.import_torch().distributed
        lists: list[Any] | None = [None] * self.world if self.rank == 0 else None
        distributed.gather_object(items, lists)
        return [item for items_of_rank in lists or [] for item in items_of_rank]


@contextlib.contextmanager
def join_ranks(device: str) -> Iterator[Ranks]:
    """Join the other processes where torchrun has started several."""
    torch = models.import_torch("training")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    torch_device = models.check_device("cuda" if device == "cuda" else "cpu")
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if device == "cuda":
        torch_device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(torch_device)
    if world == 1:
        yield Ranks(0, 1, torch_device)
        return
    torch.distributed.init_process_group("nccl" if device == "cuda" else "gloo")
    try:
        yield Ranks(torch.distributed.get_rank(), world, torch_device)
    finally:
        torch.distributed.destroy_process_group()


@dataclass(frozen=True)
class ResolvedStage:
    """A stage with all settings. peak: the learning rate of each component, 0 where it is frozen."""

    peak: Mapping[str, float]
    batch: int
    epochs: int
    max_clips: int


def resolve_stage(name: str, stage: TrainStage, parameters: int) -> ResolvedStage:
    """The config's settings, else Table 7's for the size nearest to the language model's number of parameters."""
    table, size = STAGES[name], parameters / 1e9
    rates = {component: rate for component, rate in stage.lr.model_dump().items() if rate is not None}
    clips = stage.max_clips or table.contract(size).max_clips
    assert clips is not None
    return ResolvedStage(
        {**table.rates(size), **rates}, stage.batch or table.batch, stage.epochs or table.epochs, clips
    )


def rate_factor(step: int, steps: int, warm_up: float) -> float:
    """The factor of the peak rate in a step (0, 1, …): a straight line up to 1, then half a cosine.

    No step has the rate 0: the first is 1/warm and the last is one step before the end of the cosine.
    """
    warm = math.ceil(steps * warm_up)
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1 + math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def begin(model: VideoLanguageModel, peak: Mapping[str, float], settings: Optimizer) -> Any:
    """Freeze and unfreeze the components, and make a new AdamW for those that train.

    Frozen components are in evaluation mode, without dropout.
    """
    torch = models.import_torch()
    groups = []
    for component in COMPONENTS:
        trains = peak[component] > 0
        model.modules[component].train(trains).requires_grad_(trains)
        parameters = [parameter for _, parameter in model.parameters(component)] if trains else []
        for decay, matrix in ((settings.weight_decay, True), (0.0, False)):
            group = [parameter for parameter in parameters if (parameter.dim() > 1) == matrix]
            if group:
                groups.append({"params": group, "part": component, "weight_decay": decay, "lr": peak[component]})
    return torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps)


def step(
    optimizer: Any, peak: Mapping[str, float], scale: float, sums: tuple[float, int], clip_norm: float
) -> dict[str, Any]:
    """Take one step with the gradients that all ranks have accumulated.

    The loss of a step is the mean over all labelled tokens of its samples, whichever rank and micro-batch
    they were in: gradients are sums, are summed over the ranks and divided by the number of all tokens. (torch's own
    wrapper for data parallelism divides by ranks, and fails on ranks whose samples are all text and leave the connector
    without gradients.) A parameter that no sample reached is not changed.

    sums: this rank's (sum of losses, labelled tokens). Returns loss, tokens, grad_norm (before clipping).
    """
    torch = models.import_torch()
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    device = parameters[0].device
    total = torch.tensor([sums[0], float(sums[1])], dtype=torch.float64, device=device)
    reached = torch.tensor([float(parameter.grad is not None) for parameter in parameters], device=device)
    if torch.distributed.is_initialized():
        torch.distributed.all_reduce(total)
        torch.distributed.all_reduce(reached)
    loss, tokens = total.tolist()
    if not math.isfinite(loss):
        hint = "lower the learning rates and train into a new folder with --out NEW"
        raise StageError("the loss is no longer a number", hint=hint)
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
    torch = models.import_torch()
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
