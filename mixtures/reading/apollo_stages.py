"""Apollo's three training stages: trained modules, data and learning rates (arXiv 2412.10360, Table 7).

The paper's text recommends only video wherever the language model is frozen; its table gives the align stage half
images. This module follows the table.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from mixtures.reading.contract import RELEASED, Contract

#: Sizes of the language models in the table, in billions of parameters.
LLM_SIZES = (1.5, 3.0, 7.0)


@dataclass(frozen=True)
class ApolloStage:
    """A training stage.

    shares: of modalities among its samples, as (low, high). captions_only: whether it takes captions and no dialogues.
    samples: how many the paper used. vision_rate, connector_rate: learning rates, 0 means frozen. language_rates,
    max_clips: by LLM_SIZES. batch, epochs, warmup (share of steps), clip_norm, schedule: for all sizes.
    tokens_per_frame: at 2 frames per second.
    """

    name: str
    shares: Mapping[str, tuple[float, float]]
    captions_only: bool
    samples: int
    vision_rate: float
    connector_rate: float
    language_rates: tuple[float, float, float]
    max_clips: tuple[int, int, int]
    tokens_per_frame: int = 16
    batch: int = 256
    epochs: int = 1
    warmup: float = 0.03
    clip_norm: float = 1.0
    schedule: str = "cosine"

    @property
    def trains(self) -> tuple[str, ...]:
        """The trained modules among vision, connector, language."""
        rates = {"vision": self.vision_rate, "connector": self.connector_rate, "language": max(self.language_rates)}
        return tuple(module for module, rate in rates.items() if rate > 0)

    def rates(self, billions: float = 3.0) -> dict[str, float]:
        """Learning rate of each module, for the nearest size of language model in the table."""
        language = self.language_rates[_nearest(billions)]
        return {"vision": self.vision_rate, "connector": self.connector_rate, "language": language}

    def contract(self, billions: float = 3.0, base: Contract = RELEASED) -> Contract:
        """`base` with this stage's tokens per frame and clips per video."""
        clips = self.max_clips[_nearest(billions)]
        return replace(base, tokens_per_frame=self.tokens_per_frame, max_clips=clips)


def _nearest(billions: float) -> int:
    return min(range(len(LLM_SIZES)), key=lambda i: abs(LLM_SIZES[i] - billions))


STAGES: Mapping[str, ApolloStage] = {
    stage.name: stage
    for stage in (
        ApolloStage(
            name="align",
            shares={"image": (0.5, 0.5), "video": (0.5, 0.5)},
            captions_only=True,
            samples=198_000,
            vision_rate=0.0,
            connector_rate=1e-4,
            language_rates=(0.0, 0.0, 0.0),
            max_clips=(25, 25, 25),
        ),
        ApolloStage(
            name="vision",
            shares={"video": (1.0, 1.0)},
            captions_only=True,
            samples=396_000,
            vision_rate=5e-6,
            connector_rate=1e-4,
            language_rates=(0.0, 0.0, 0.0),
            max_clips=(25, 25, 25),
        ),
        ApolloStage(
            name="sft",
            # Text 10 to 14 % and slightly more video than images (section 6); at most 20 % multi-image (Table 13).
            shares={"text": (0.10, 0.14), "image": (0.0, 1.0), "multi_image": (0.0, 0.20), "video": (0.0, 1.0)},
            captions_only=False,
            samples=3_200_000,
            vision_rate=0.0,
            connector_rate=1e-4,
            language_rates=(5e-5, 2e-5, 1e-5),
            max_clips=(200, 200, 150),
        ),
    )
}
