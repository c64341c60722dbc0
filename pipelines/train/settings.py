"""The config of `reelmill train`: every key with its default and the source of the default.

Defaults of the stages are those of Apollo's Table 7 (arXiv 2412.10360), kept in `mixtures.reading.apollo_stages`;
unpublished defaults are marked as ours.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from infra.config import Strict
from mixtures.reading.apollo_stages import STAGES


class Connector(Strict):
    """The Perceiver's shape; depth, heads and their size as released. Key heads are not published: 4 give the sizes of
    the paper's connectors (38.4, 63.6 and 177 million parameters).

    grid: (frames, rows, columns) that both encoders' features are interpolated to; by default the clip's frames and the
        larger of both encoders' grids.
    """

    depth: int = Field(default=1, ge=1)
    heads: int = Field(default=16, ge=1)
    head_size: int = Field(default=96, ge=1)
    key_heads: int = Field(default=4, ge=1)
    grid: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None

    @model_validator(mode="after")
    def _heads(self) -> Connector:
        if self.heads % self.key_heads:
            raise ValueError(f"heads: {self.heads} cannot share {self.key_heads} key_heads evenly")
        return self


class LearningRates(Strict):
    """Learning rates of a stage at their peak; 0 freezes the component, null is the stage's default."""

    vision: float | None = Field(default=None, ge=0)
    connector: float | None = Field(default=None, ge=0)
    language: float | None = Field(default=None, ge=0)


class TrainStage(Strict):
    """One stage; defaults of null keys are Table 7's.

    mixture: instead of the config's. epochs: passes over it. batch: samples in a step, over all ranks together.
    max_clips: maximum clips of a video.
    """

    mixture: str | None = None
    lr: LearningRates = LearningRates()
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


class TrainStages(Strict):
    """The stages; null skips one."""

    align: TrainStage | None = TrainStage()
    vision: TrainStage | None = TrainStage()
    sft: TrainStage | None = TrainStage()


class Training(Strict):
    """The whole config of `reelmill train`.

    mixture: folder of the mixture, unless a stage names its own. language_model, vision_encoders: folders in the format
    of transformers. out: folder of checkpoints, log and curve.
    tokens_per_frame: by default the mixture's, which its shares in tokens were planned with (Table 7: 16; released
    checkpoints: 32). precision: bfloat16 computes in it, weights stay float32. micro_batch: samples that pass the model
    at once in one process. encode_batch: clips that pass the vision encoders at once. checkpoint_every: steps.
    workers: processes that read ahead, per rank. on_error: "skip" leaves out samples whose media cannot be decoded.
    weights: a STAGE.safetensors of an earlier training with the same models, to start from.
    """

    mixture: str | None = None
    language_model: str
    vision_encoders: tuple[str, ...] = Field(min_length=1)
    out: str
    weights: str | None = None
    seed: int = Field(default=0, ge=0)
    tokens_per_frame: int | None = Field(default=None, ge=1)
    connector: Connector = Connector()
    optimizer: Optimizer = Optimizer()
    stages: TrainStages = TrainStages()
    precision: Literal["float32", "bfloat16"] = "float32"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    micro_batch: int = Field(default=1, ge=1)
    encode_batch: int = Field(default=25, ge=1)
    activation_checkpoints: bool = False
    checkpoint_every: int = Field(default=100, ge=1)
    workers: int = Field(default=0, ge=0)
    on_error: Literal["raise", "skip"] = "raise"


#: Keys that may change while a training is interrupted: none of them changes the result.
FREE = {"out", "device", "micro_batch", "encode_batch", "activation_checkpoints", "checkpoint_every", "workers"}
#: Keys that are paths: their content is compared, not the path.
PATHS = {"mixture", "language_model", "vision_encoders", "weights"}


def identity(config: Training) -> dict[str, Any]:
    """The settings that must not change while a training is interrupted."""
    stages = {name: {"mixture"} for name in STAGES}
    return config.model_dump(mode="json", exclude={**dict.fromkeys(FREE | PATHS, True), "stages": stages})
