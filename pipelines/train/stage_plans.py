"""Plan the stages of a training: each with its mixture, loader, rates and number of steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.config import ConfigDocument
from infra.errors import ConfigError
from mixtures.loader import Loader
from mixtures.reading.apollo_stages import STAGES
from mixtures.reading.contract import Contract
from mixtures.shards.manifest import Mixture, open_mixture
from pipelines.train.model import VideoLanguageModel
from pipelines.train.settings import Training
from pipelines.train.stages import Ranks, ResolvedStage, resolve_stage


@dataclass(frozen=True)
class PlannedStage:
    """A stage with everything that it needs. steps_per_epoch: of the optimizer; reads: steps of the loader per step of
    the optimizer."""

    name: str
    settings: ResolvedStage
    loader: Loader
    steps_per_epoch: int
    reads: int

    @property
    def peak(self) -> Mapping[str, float]:
        return self.settings.peak

    @property
    def steps(self) -> int:
        return self.steps_per_epoch * self.settings.epochs

    @property
    def samples(self) -> int:
        return self.loader.order.total * self.settings.epochs

    def count_samples(self, steps: int) -> int:
        """Samples in the first `steps` steps; the last step of an epoch may have fewer."""
        epochs, within = divmod(steps, self.steps_per_epoch)
        return epochs * self.loader.order.total + within * self.settings.batch

    def warnings(self, log: Sequence[Mapping[str, Any]]) -> list[str]:
        """Where the mixture does not suit the stage, and how many samples of it were skipped."""
        mixture, warnings = self.loader.mixture, []
        shares = mixture.manifest["achieved"]["samples"]
        if not self.peak["language"] and shares.get("text"):
            warnings.append(
                f"{self.name}: text ({shares['text']:.0%}) teaches nothing while the language model is frozen"
            )
        if self.name == "vision" and shares.get("video", 0) < 1:
            warnings.append(
                f"vision: {shares.get('video', 0):.0%} of the mixture is video; Apollo trains this on video alone"
            )
        planned, used = mixture.contract.tokens_per_frame, self.loader.contract.tokens_per_frame
        if planned != used:
            warnings.append(f"{used} tokens per frame here; the shares of {mixture.uri} were planned with {planned}")
        trained = sum(line["samples"] for line in log if line["stage"] == self.name)
        if trained < self.samples:
            warnings.append(
                f"{self.name}: {self.samples - trained:,} samples were skipped because their media cannot be decoded"
            )
        return warnings


def open_mixtures(settings: Training, document: ConfigDocument) -> dict[str, Mixture]:
    """The mixture of each stage that runs, in order. Raises ConfigError where one or all are missing."""
    mixtures = {}
    for name in STAGES:
        stage = getattr(settings.stages, name)
        if stage is None:
            continue
        uri = stage.mixture or settings.mixture
        if uri is None:
            raise ConfigError(
                f"stages.{name} has no mixture",
                where=document.where(("stages", name)),
                hint="give `mixture:` for all stages, or one under each",
            )
        mixtures[name] = open_mixture(uri)
    if not mixtures:
        raise ConfigError("every stage is null, so there is nothing to run", where=document.where(("stages",)))
    return mixtures


def shared_contract(settings: Training, document: ConfigDocument, mixtures: Mapping[str, Mixture]) -> Contract:
    """The contract on clips that all stages share, since they share the connector. Raises ConfigError where they
    differ."""
    override = settings.tokens_per_frame
    clips = {
        (c.clip_seconds, c.clip_frames, override or c.tokens_per_frame)
        for c in (mixture.contract for mixture in mixtures.values())
    }
    if len(clips) > 1:
        raise ConfigError(
            f"the stages' mixtures have different clips: (seconds, frames, tokens per frame) are {sorted(clips)}",
            where=document.where(("stages",)),
            hint="make them with one contract; `tokens_per_frame:` here overrides the last of the three",
        )
    first = next(iter(mixtures.values())).contract
    return dataclasses.replace(first, tokens_per_frame=override or first.tokens_per_frame)


def plan_stage(
    name: str, mixture: Mixture, contract: Contract, *,
    settings: Training, document: ConfigDocument, ranks: Ranks, model: VideoLanguageModel,
) -> PlannedStage:  # fmt: skip
    """Resolve a stage and open its loader. Raises ConfigError where its batch or rates make no sense."""
    stage = resolve_stage(name, getattr(settings.stages, name), model.count_weights("language"))
    per_read = ranks.world * settings.micro_batch
    if stage.batch % per_read:
        raise ConfigError(
            f"stages.{name}.batch is {stage.batch}, which {ranks.world} processes with micro_batch "
            f"{settings.micro_batch} cannot share evenly",
            where=document.where(("stages", name, "batch")),
            hint=f"make it a multiple of {per_read}, or lower micro_batch",
        )
    if not any(stage.peak.values()):
        raise ConfigError(f"stages.{name} trains nothing: every rate is 0", where=document.where(("stages", name)))
    loader = Loader(
        mixture, rank=ranks.rank, world=ranks.world, batch=settings.micro_batch, decode=True,
        contract=dataclasses.replace(contract, max_clips=stage.max_clips),
        frame_size=max(encoder.side for encoder in model.encoders), on_error=settings.on_error,
    )  # fmt: skip
    return PlannedStage(name, stage, loader, -(-loader.order.total // stage.batch), stage.batch // per_read)
