"""A video-language model as Apollo builds it: two vision encoders, a connector, a causal language model.

Both encoders' patch features of a clip are interpolated to one grid, put side by side over channels, projected to the
language model's width and resampled by a Perceiver to a fixed number of tokens, which take the places of id -200 in
the prompt (arXiv 2412.10360 and its released modelling code). The Perceiver is transformers' own (Idefics2), which has
the released heads: 16 of 96.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from infra import models
from infra.commit import read_json
from infra.errors import ConfigError, MissingExtra, StageError
from infra.hashing import draw_integers
from mixtures.reading import apollo
from mixtures.reading.chatml import IGNORE_INDEX, X_TOKEN_INDEX
from mixtures.reading.contract import Contract
from pipelines.train.settings import Connector

if TYPE_CHECKING:
    from torch import Tensor

#: The parts that a stage trains or freezes.
PARTS = ("vision", "connector", "language")


def transformers() -> Any:
    """The transformers module. Raises MissingExtra.

    It imports torchvision where that is installed, so that has to come in by the door that mends it.
    """
    models.import_torch("training")
    for name in ("transformers", "safetensors"):
        if importlib.util.find_spec(name) is None:
            raise MissingExtra(name, "train", "training")
    if importlib.util.find_spec("torchvision") is not None:
        models.import_torchvision()
    module = importlib.import_module("transformers")
    module.utils.logging.disable_progress_bar()
    return module


@dataclass(frozen=True)
class VisionEncoder:
    """A vision encoder and what it makes of a clip.

    video: it takes whole clips, else single frames. side: rows and columns of pixels that it takes.
    patch, tubelet: pixels and frames in one patch. width: channels of its features.
    """

    module: Any
    video: bool
    side: int
    patch: int
    tubelet: int
    width: int

    def grid(self, frames: int) -> tuple[int, int, int]:
        """(time, rows, columns) of the features of a clip."""
        return frames // self.tubelet, self.side // self.patch, self.side // self.patch

    def features(self, clips: Tensor) -> Any:
        """(n, frames, 3, side, side) to (n, time, rows, columns, width); what the encoder puts before its patches,
        such as a class token, is left out."""
        n, frames = clips.shape[:2]
        name = self.module.main_input_name
        given = clips if self.video else clips.flatten(0, 1)
        options = {"skip_predictor": True} if name == "pixel_values_videos" else {}
        found = self.module(**{name: given}, **options).last_hidden_state
        time, rows, columns = self.grid(frames)
        wanted = rows * columns * (time if self.video else 1)
        if found.shape[1] < wanted:
            raise ConfigError(
                f"{type(self.module).__name__} gives {found.shape[1]} features where its config tells {wanted}",
                hint="this kind of vision encoder is not known here",
            )
        return found[:, found.shape[1] - wanted :].reshape(n, time, rows, columns, self.width)


def load_encoder(path: str, frames: int) -> VisionEncoder:
    """The vision encoder in a folder of transformers' form (of a two-tower model its vision tower).

    Raises ConfigError when there is none, or it takes clips of other lengths than `frames`.
    """
    module = _load("AutoModel", path)
    if hasattr(module.config, "vision_config"):
        module = module.vision_model
    config = module.config
    tubelet = getattr(config, "tubelet_size", 1)
    patch = getattr(config, "patch_size", None)
    if isinstance(tubelet, (list, tuple)):  # ViViT: frames, rows, columns
        tubelet, patch = tubelet[0], tubelet[1]
    side = getattr(config, "image_size", None) or getattr(config, "crop_size", None)
    if not (isinstance(patch, int) and isinstance(side, int) and hasattr(config, "hidden_size")):
        raise ConfigError(f"a {config.model_type} is no vision encoder that is known here", where=path)
    length = getattr(config, "num_frames", None)
    video = length is not None or hasattr(config, "tubelet_size")
    if video and (length not in (None, frames) or frames % tubelet):
        raise ConfigError(
            f"this encoder takes clips of {length or f'a multiple of {tubelet}'} frames, the mixture's have {frames}",
            where=path,
            hint="take another encoder, or a mixture whose contract has its clip_frames",
        )
    return VisionEncoder(module, video, side, patch, tubelet, config.hidden_size)


@dataclass(frozen=True)
class VideoLanguageModel:
    """The whole model. `modules` holds every weight under the names of PARTS.

    frames: of a clip. tokens: that a clip becomes. grid: see Connector. encode_batch: clips that pass the encoders at
    once.
    """

    modules: Any
    encoders: tuple[VisionEncoder, ...]
    frames: int
    tokens: int
    grid: tuple[int, int, int]
    encode_batch: int

    def parameters(self, part: str) -> Iterator[tuple[str, Any]]:
        """(name, parameter) of a part; names begin with the part's. Shared ones come once."""
        for name, parameter in self.modules[part].named_parameters():
            yield f"{part}.{name}", parameter

    def resampled(self, vision_input: Sequence[Sequence[Tensor]]) -> Any:
        """Visual tokens of all samples, one after another: (sum of clips · tokens, width of the language model).

        vision_input: per sample one tensor an encoder, (clips, C, T, H, W) for one of videos and (clips, T, C, H, W)
        for one of frames; texts have none.
        """
        torch = models.import_torch()
        pieces = []
        for i, encoder in enumerate(self.encoders):
            seen = [given[i].transpose(1, 2) if encoder.video else given[i] for given in vision_input if len(given)]
            pieces.append(torch.cat(seen).split(self.encode_batch))
        return torch.cat([self._connect(clips) for clips in zip(*pieces, strict=True)]).flatten(0, 1)

    def _connect(self, clips: Sequence[Tensor]) -> Any:
        """The same clips for each encoder to (n, tokens, width of the language model)."""
        torch = models.import_torch()
        trains = any(parameter.requires_grad for parameter in self.modules["vision"].parameters())
        with torch.set_grad_enabled(trains):
            pairs = zip(self.encoders, clips, strict=True)
            found = torch.cat([_to_grid(encoder.features(seen), self.grid) for encoder, seen in pairs], dim=-1)
        connector = self.modules["connector"]
        context = connector["project"](found) + connector["time"].weight[:, None, None]
        context = context.flatten(1, 3)
        return connector["resample"](context, torch.ones(context.shape[:2], device=context.device))

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """(sum of the cross-entropies of all labelled tokens, how many these are).

        batch: input_ids, labels and attention_mask (n, L), vision_input as for `resampled`.
        Raises StageError when a sample has not as many places for visual tokens as its media make.
        """
        torch = models.import_torch()
        language = self.modules["language"]
        ids, labels = batch["input_ids"], batch["labels"][:, 1:]
        places = ids == X_TOKEN_INDEX
        for n, given in zip(places.sum(1).tolist(), batch["vision_input"], strict=True):
            made = len(given[0]) * self.tokens if len(given) else 0
            if n != made:
                raise StageError(f"a sample has {n} places for visual tokens, and its media make {made}")
        embedded = language.get_input_embeddings()(ids.clamp(min=0))
        if places.any():
            visual = self.resampled(batch["vision_input"])
            embedded = embedded.masked_scatter(places[..., None], visual.to(embedded.dtype))
        # Logits of a long context over a large vocabulary are the largest tensor of all: only labelled places get any.
        kept = (labels != IGNORE_INDEX).any(0).nonzero()[:, 0]
        logits = language(
            inputs_embeds=embedded, attention_mask=batch["attention_mask"], logits_to_keep=kept, use_cache=False
        ).logits
        labels = labels[:, kept]
        total = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORE_INDEX, reduction="sum"
        )
        return total, int((labels != IGNORE_INDEX).sum())


def _to_grid(features: Any, grid: tuple[int, int, int]) -> Any:
    """(n, time, rows, columns, width) to (n, *grid, width), linearly in all three."""
    if tuple(features.shape[1:4]) == grid:
        return features
    functional = models.import_torch().nn.functional
    moved = functional.interpolate(features.movedim(-1, 1), size=grid, mode="trilinear", align_corners=False)
    return moved.movedim(1, -1)


def build(
    language_model: str, vision_encoders: Sequence[str], connector: Connector, *, frames: int, tokens: int, seed: int,
    encode_batch: int = 25,
) -> VideoLanguageModel:  # fmt: skip
    """Load the encoders and the language model and make the connector, the same for the same seed.

    frames: of a clip. tokens: that a clip becomes. encode_batch: 25 in the released config.
    Raises ConfigError for a folder that holds no such model, MissingExtra.
    """
    nn = models.import_torch("training").nn
    language = _load("AutoModelForCausalLM", language_model)
    encoders = tuple(load_encoder(path, frames) for path in vision_encoders)
    grids = [encoder.grid(frames) for encoder in encoders]
    grid = connector.grid or (frames, max(g[1] for g in grids), max(g[2] for g in grids))
    parts = {
        "vision": nn.ModuleList(encoder.module for encoder in encoders),
        "connector": make_connector(
            connector, sum(encoder.width for encoder in encoders), language.get_input_embeddings().embedding_dim,
            grid[0], tokens, seed,
        ),
        "language": language,
    }  # fmt: skip
    return VideoLanguageModel(nn.ModuleDict(parts), encoders, frames, tokens, grid, encode_batch)


def make_connector(shape: Connector, channels: int, width: int, times: int, tokens: int, seed: int) -> Any:
    """Projection from `channels` to `width`, an embedding of each of `times` steps of the grid, and the Perceiver.

    The embedding of time is ours and begins at zero: an encoder of single frames does not know their order.
    """
    torch = models.import_torch("training")
    transformers()
    idefics2: Any = importlib.import_module("transformers.models.idefics2.modeling_idefics2")
    config = idefics2.Idefics2PerceiverConfig(
        hidden_size=width, resampler_n_latents=tokens, resampler_depth=shape.depth, resampler_n_heads=shape.heads,
        resampler_head_dim=shape.head_size, num_key_value_heads=shape.key_heads,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(int(draw_integers(seed, ["connector"], "train")[0] >> 1))
        made = torch.nn.ModuleDict(
            {
                "project": torch.nn.Linear(channels, width),
                "time": torch.nn.Embedding(times, width),
                "resample": idefics2.Idefics2PerceiverResampler(config),
            }
        )
        torch.nn.init.zeros_(made["time"].weight)
        # All latents begin as ones there, and equal latents ask the same question.
        torch.nn.init.normal_(made["resample"].latents, std=config.initializer_range)
    return made


@dataclass(frozen=True)
class Collate:
    """Makes a batch for `Model.loss` of decoded samples; travels to the processes that read ahead.

    longest: ids of a sample; longer ones lose their end, never their media.
    """

    encoders: tuple[apollo.VisionProcessor, ...]
    tokenizer: Any
    contract: Contract
    longest: int

    @classmethod
    def of(
        cls, model: VideoLanguageModel, language_model: str, vision_encoders: Sequence[str], contract: Contract
    ) -> Collate:
        """With the language model's tokenizer, and the mean and deviation of colours that each encoder's folder tells.

        Raises ConfigError where a folder tells neither.
        """
        found = []
        for path, encoder in zip(vision_encoders, model.encoders, strict=True):
            places = [Path(path) / f"{kind}preprocessor_config.json" for kind in ("", "video_")]
            place = next((place for place in places if place.is_file()), None)
            if place is None:
                raise ConfigError("there is no preprocessor_config.json beside this vision encoder", where=path)
            told = read_json(str(place))
            if not {"image_mean", "image_std"} <= set(told):
                raise ConfigError("image_mean and image_std are missing", where=str(place))
            colours = SimpleNamespace(image_mean=told["image_mean"], image_std=told["image_std"], size=encoder.side)
            found.append(apollo.VisionProcessor(colours, encoder.video))
        try:
            tokenizer = transformers().AutoTokenizer.from_pretrained(language_model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load this model's tokenizer: {error}", where=language_model) from None
        longest = getattr(model.modules["language"].config, "max_position_embeddings", None) or contract.context
        return cls(tuple(found), tokenizer, contract, min(longest, contract.context))

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """What `to_apollo` makes of the samples, and their `keys`; of no samples, only that."""
        made = {"keys": [sample.key for sample in samples]}
        if samples:
            made |= apollo.to_apollo(
                samples, self.encoders, self.tokenizer, contract=self.contract, max_length=self.longest
            )
        return made


def to_device(batch: Mapping[str, Any], device: Any) -> dict[str, Any]:
    """`batch` with its tensors on a device."""
    moved = {name: batch[name].to(device) for name in ("input_ids", "labels", "attention_mask")}
    return {**moved, "vision_input": [[clips.to(device) for clips in given] for given in batch["vision_input"]]}


def _load(kind: str, path: str) -> Any:
    """A model from a folder, in float32; nothing is fetched, and no code in the folder is run."""
    torch = models.import_torch("training")
    if not (Path(path) / "config.json").is_file():
        raise ConfigError("there is no model here", where=path, hint="a folder with config.json and model.safetensors")
    auto = getattr(transformers(), kind)
    try:
        return auto.from_pretrained(path, local_files_only=True, trust_remote_code=False, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load this model: {error}", where=path) from None
