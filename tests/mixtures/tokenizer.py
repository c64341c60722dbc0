"""A small byte-level tokenizer of the kind that ChatML models have."""

from __future__ import annotations

from typing import Any


def tokenizer() -> Any:
    """Of `tokenizers`, trained on a few sentences."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    built = Tokenizer(models.BPE())
    # Blank lines are one token with the space before them, as in the tokenizers of Qwen: where pieces could merge.
    newlines = pre_tokenizers.Split(Regex(r"\s*[\r\n]+"), "isolated")
    built.pre_tokenizer = pre_tokenizers.Sequence([newlines, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    built.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    text = (
        "You are a helpful vision-language assistant. system user seconds: What does the red house do in the video?\n\n"
    )
    built.train_from_iterator([text] * 4, trainer)
    return built


def fast() -> Any:
    """The same as Transformers wraps it."""
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizer(), eos_token="<|endoftext|>", pad_token="<|endoftext|>")
