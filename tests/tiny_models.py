"""Makes tiny models in the form in which transformers saves them: vision encoders, and a language model over bytes.

python -m tests.tiny_models OUT        OUT/siglip, OUT/videomae, OUT/language, to try `reelmill train` on a laptop
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from pipelines.train.model import transformers

#: Pixels a side and a patch of every encoder made here.
SIDE, PATCH = 32, 8
FRAMES = 4


def _save(model: Any, folder: Path) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    return str(folder)


def _seeded(make: Any, config: Any, seed: int) -> Any:
    import torch

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return make(config)


def _processor(folder: str, side: int) -> str:
    preprocessor = {
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "size": {"height": side, "width": side},
    }
    (Path(folder) / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def siglip(folder: Path, *, side: int = SIDE, width: int = 24, seed: int = 1) -> str:
    """An encoder of single frames."""
    t = transformers()
    config = t.SiglipVisionConfig(
        hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=side,
        patch_size=PATCH,
    )  # fmt: skip
    return _processor(_save(_seeded(t.SiglipVisionModel, config, seed), folder), side)


def clip(folder: Path, *, side: int = SIDE, width: int = 16, seed: int = 2) -> str:
    """An encoder of single frames with a class token."""
    t = transformers()
    config = t.CLIPVisionConfig(
        hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=side,
        patch_size=PATCH,
    )  # fmt: skip
    return _processor(_save(_seeded(t.CLIPVisionModel, config, seed), folder), side)


def videomae(folder: Path, *, side: int = SIDE, width: int = 16, frames: int = FRAMES, seed: int = 3) -> str:
    """An encoder of whole clips; two frames make one patch."""
    t = transformers()
    config = t.VideoMAEConfig(
        hidden_size=width, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=side,
        patch_size=PATCH, num_frames=frames, tubelet_size=2,
    )  # fmt: skip
    return _processor(_save(_seeded(t.VideoMAEModel, config, seed), folder), side)


def language(folder: Path, *, width: int = 32, seed: int = 4, dropout: float = 0.0) -> str:
    """Qwen2's architecture with a tokenizer whose ids are bytes, and after them ChatML's control tokens."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    t = transformers()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in control])
    fast = t.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=control[2], pad_token=control[0])
    folder.mkdir(parents=True, exist_ok=True)
    fast.save_pretrained(folder)
    config = t.Qwen2Config(
        vocab_size=len(fast), hidden_size=width, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, max_position_embeddings=16_384, tie_word_embeddings=True, eos_token_id=len(alphabet) + 2,
        pad_token_id=len(alphabet), bos_token_id=None, attention_dropout=dropout,
    )  # fmt: skip
    return _save(_seeded(t.Qwen2ForCausalLM, config, seed), folder)


if __name__ == "__main__":
    out = Path(sys.argv[1])
    siglip(out / "siglip", side=64)
    videomae(out / "videomae", side=64)
    language(out / "language", width=64)
