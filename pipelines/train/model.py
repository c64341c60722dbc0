"""A video-language model as Apollo builds it: two vision encoders, a connector, a causal language model.

Both encoders' patch features of a clip are interpolated to one grid, concatenated over channels, projected to the
language model's width and resampled by a Perceiver to a fixed number of tokens, which replace the ids -200 in the
prompt (arXiv 2412.10360 and its released modelling code). The Perceiver is transformers' own (Idefics2), with the
released heads: 16 of size 96.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from infra.commit import read_json
from infra.errors import ConfigError, MissingExtra, StageError
from infra.hashing import draw_integers
from infra.weights import models
from mixtures.reading import apollo
from mixtures.reading.chatml import IGNORE_INDEX, X_TOKEN_INDEX
from mixtures.reading.contract import Contract
from pipelines.train.settings import Connector

if TYPE_CHECKING:
    from torch import Tensor

#: The components that a stage trains or freezes.
COMPONENTS = ("vision", "connector", "language")


def transformers() -> Any:
    """The transformers module. Raises MissingExtra.

    It imports torchvision where that is installed, which `models.import_torchvision` must import first.
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
    """A vision encoder and the shape of its features.

    video: its input is whole clips, else single frames. side: rows and columns of its input, pixels.
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
        """(n, frames, 3, side, side) to (n, time, rows, columns, width), without class tokens and the like, which come
        before the patches."""
        n, frames = clips.shape[:2]
        name = self.module.main_input_name
        inputs = clips if self.video else clips.flatten(0, 1)
        options = {"skip_predictor": True} if name == "pixel_values_videos" else {}
        features = self.module(**{name: inputs}, **options).last_hidden_state
        time, rows, columns = self.grid(frames)
        patches = rows * columns * (time if self.video else 1)
        if features.shape[1] < patches:
            raise ConfigError(
                f"{type(self.module).__name__} gives {features.shape[1]} features, its config says {patches}",
                hint="this kind of vision encoder is not supported",
            )
        return features[:, features.shape[1] - patches :].reshape(n, time, rows, columns, self.width)


def load_encoder(path: str, frames: int) -> VisionEncoder:
    """Load the vision encoder in a folder of transformers' format (of a two-tower model its vision tower).

    Raises ConfigError when there is none, or its clips are not `frames` long.
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
        raise ConfigError(f"a {config.model_type} is no supported vision encoder", where=path)
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
    """The whole model. `modules` has every weight under the names of COMPONENTS.

    frames, tokens: per clip. grid: see Connector. encode_batch: clips that pass the encoders at once.
    """

    modules: Any
    encoders: tuple[VisionEncoder, ...]
    frames: int
    tokens: int
    grid: tuple[int, int, int]
    encode_batch: int

    def parameters(self, component: str) -> Iterator[tuple[str, Any]]:
        """(name, parameter) of a component; names begin with the component's. Shared parameters come once."""
        for name, parameter in self.modules[component].named_parameters():
            yield f"{component}.{name}", parameter

    def count_weights(self, component: str) -> int:
        """Number of weights of a component."""
        return sum(parameter.numel() for _, parameter in self.parameters(component))

    def resample_clips(self, vision_input: Sequence[Sequence[Tensor]]) -> Any:
        """Visual tokens of all samples, one after another: (sum of clips · tokens, width of the language model).

        vision_input: per sample one tensor per encoder, (clips, C, T, H, W) for one of videos and (clips, T, C, H, W)
        for one of frames; texts have none.
        """
        torch = models.import_torch()
        per_encoder = []
        for i, encoder in enumerate(self.encoders):
            clips = [media[i].transpose(1, 2) if encoder.video else media[i] for media in vision_input if len(media)]
            per_encoder.append(torch.cat(clips).split(self.encode_batch))
        return torch.cat([self._connect(clips) for clips in zip(*per_encoder, strict=True)]).flatten(0, 1)

    def _connect(self, clips: Sequence[Tensor]) -> Any:
        """The same clips for each encoder to (n, tokens, width of the language model)."""
        torch = models.import_torch()
        trains = any(parameter.requires_grad for parameter in self.modules["vision"].parameters())
        with torch.set_grad_enabled(trains):
            pairs = zip(self.encoders, clips, strict=True)
            features = torch.cat([_to_grid(encoder.features(seen), self.grid) for encoder, seen in pairs], dim=-1)
        connector = self.modules["connector"]
        context = connector["project"](features) + connector["time"].weight[:, None, None]
        context = context.flatten(1, 3)
        return connector["resample"](context, torch.ones(context.shape[:2], device=context.device))

    def loss(self, batch: Mapping[str, Any]) -> tuple[Tensor, int]:
        """(sum of the cross-entropies of all labelled tokens, their number).

        batch: input_ids, labels and attention_mask (n, L), vision_input as for `resampled`.
        Raises StageError when the prompt of a sample has another number of visual tokens than its media give.
        """
        torch = models.import_torch()
        language = self.modules["language"]
        ids, labels = batch["input_ids"], batch["labels"][:, 1:]
        is_visual = ids == X_TOKEN_INDEX
        for n, media in zip(is_visual.sum(1).tolist(), batch["vision_input"], strict=True):
            visual_tokens = len(media[0]) * self.tokens if len(media) else 0
            if n != visual_tokens:
                raise StageError(f"a sample's prompt has {n} visual tokens, its media give {visual_tokens}")
        embedded = language.get_input_embeddings()(ids.clamp(min=0))
        if is_visual.any():
            visual = self.resample_clips(batch["vision_input"])
            embedded = embedded.masked_scatter(is_visual[..., None], visual.to(embedded.dtype))
        # Logits of a long context over a large vocabulary are the largest tensor: only labelled positions get any.
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

    frames, tokens: per clip. encode_batch: 25 in the released config.
    Raises ConfigError for a folder without such a model, MissingExtra.
    """
    nn = models.import_torch("training").nn
    language = _load("AutoModelForCausalLM", language_model)
    encoders = tuple(load_encoder(path, frames) for path in vision_encoders)
    grids = [encoder.grid(frames) for encoder in encoders]
    grid = connector.grid or (frames, max(g[1] for g in grids), max(g[2] for g in grids))
    components = {
        "vision": nn.ModuleList(encoder.module for encoder in encoders),
        "connector": make_connector(
            connector, sum(encoder.width for encoder in encoders), language.get_input_embeddings().embedding_dim,
            grid[0], tokens, seed,
        ),
        "language": language,
    }  # fmt: skip
    return VideoLanguageModel(nn.ModuleDict(components), encoders, frames, tokens, grid, encode_batch)


def make_connector(shape: Connector, channels: int, width: int, times: int, tokens: int, seed: int) -> Any:
    """Projection from `channels` to `width`, an embedding of each of `times` steps of the grid, and the Perceiver.

    The embedding of time is ours and starts at zero: an encoder of single frames does not know their order.
    """
    torch = models.import_torch("training")
    transformers()
    idefics2: Any = importlib.import_module("transformers.models.idefics2.modeling_idefics2")
    config = idefics2.Idefics2PerceiverConfig(
        hidden_size=width, resampler_n_latents=tokens, resampler_depth=shape.depth, resampler_n_heads=shape.heads,
        resampler_head_dim=shape.head_size, num_key_value_heads=shape.key_heads,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        # Threads: a training process draws in one.
        torch.manual_seed(int(draw_integers(seed, ["connector"], "train")[0] >> 1))
        connector = torch.nn.ModuleDict(
            {
                "project": torch.nn.Linear(channels, width),
                "time": torch.nn.Embedding(times, width),
                "resample": idefics2.Idefics2PerceiverResampler(config),
            }
        )
        torch.nn.init.zeros_(connector["time"].weight)
        # There all latents start as ones, and equal latents would stay equal.
        torch.nn.init.normal_(connector["resample"].latents, std=config.initializer_range)
    return connector


@dataclass(frozen=True)
class Collate:
    """Make a batch for `VideoLanguageModel.loss` from decoded samples; sent to the reading processes.

    longest: maximum ids of a sample; longer ones lose their end, never their media.
    """

    encoders: tuple[apollo.VisionProcessor, ...]
    tokenizer: Any
    contract: Contract
    longest: int

    @classmethod
    def of(
        cls, model: VideoLanguageModel, language_model: str, vision_encoders: Sequence[str], contract: Contract
    ) -> Collate:
        """With the language model's tokenizer, and the mean and deviation of colours from each encoder's folder.

        Raises ConfigError where a folder has neither.
        """
        processors = []
        for path, encoder in zip(vision_encoders, model.encoders, strict=True):
            candidates = [Path(path) / f"{kind}preprocessor_config.json" for kind in ("", "video_")]
            file = next(filter(Path.is_file, candidates), None)
            if file is None:
                raise ConfigError("there is no preprocessor_config.json beside this vision encoder", where=path)
            preprocessing = read_json(str(file))
            if not {"image_mean", "image_std"} <= set(preprocessing):
                raise ConfigError("image_mean and image_std are missing", where=str(file))
            colours = {name: preprocessing[name] for name in ("image_mean", "image_std")}
            processors.append(apollo.VisionProcessor(SimpleNamespace(**colours, size=encoder.side), encoder.video))
        try:
            tokenizer = transformers().AutoTokenizer.from_pretrained(language_model, local_files_only=True)
        except (OSError, ValueError) as error:
            raise ConfigError(f"cannot load this model's tokenizer: {error}", where=language_model) from None
        longest = getattr(model.modules["language"].config, "max_position_embeddings", None) or contract.context
        return cls(tuple(processors), tokenizer, contract, min(longest, contract.context))

    def __call__(self, samples: Sequence[Any]) -> dict[str, Any]:
        """The result of `to_apollo` and the samples' `keys`; of no samples, only the keys."""
        batch = {"keys": [sample.key for sample in samples]}
        if samples:
            batch |= apollo.to_apollo(
                samples, self.encoders, self.tokenizer, contract=self.contract, max_length=self.longest
            )
        return batch


def to_device(batch: Mapping[str, Any], device: Any) -> dict[str, Any]:
    """`batch` with its tensors on a device."""
    moved = {name: batch[name].to(device) for name in ("input_ids", "labels", "attention_mask")}
    return {**moved, "vision_input": [[clips.to(device) for clips in media] for media in batch["vision_input"]]}


def _load(kind: str, path: str) -> Any:
    """A model from a folder, in float32; nothing is downloaded, and no code in the folder is run."""
    torch = models.import_torch("training")
    if not (Path(path) / "config.json").is_file():
        raise ConfigError("there is no model here", where=path, hint="a folder with config.json and model.safetensors")
    auto = getattr(transformers(), kind)
    try:
        return auto.from_pretrained(path, local_files_only=True, trust_remote_code=False, dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"cannot load this model: {error}", where=path) from None
