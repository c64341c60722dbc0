"""Exact tokens of a sample's text: a tokenizer run on the prompt that the loader builds from it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from infra.errors import ConfigError, MissingExtra
from mixtures.reading import chatml
from mixtures.reading.clip_plan import build_image_text, build_video_text, insert_media, plan_clips
from mixtures.reading.contract import Contract
from mixtures.reading.conversations import PLACEHOLDER


def open_tokenizer(path: str) -> Any:
    """Open a Hugging Face tokenizer.json.

    Raises ConfigError where the file is not one, MissingExtra where the package that reads it is absent.
    """
    try:
        from tokenizers import Tokenizer
    except ImportError:
        raise MissingExtra("tokenizers", "train", "counting text by a tokenizer") from None
    try:
        return Tokenizer.from_buffer(Path(path).read_bytes())
    except OSError as error:
        raise ConfigError(f"the tokenizer cannot be read: {error.strerror}", where=path) from None
    except ValueError as error:
        raise ConfigError(f"not a tokenizer.json: {error}", where=path) from None


def count_text_tokens(record: Mapping[str, Any], contract: Contract, tokenizer: Any) -> int:
    """Count the tokens of a record's prompt without its media; turn markers and clip times are included."""
    turns = record["conversations"]
    placeholders = sum(turn["value"].count(PLACEHOLDER) for turn in turns)
    media: list[str] = []
    if record["data_type"] == "video":
        seconds = float(record["duration"])
        times = plan_clips(int(record["n_frames"]), float(record["fps"]), seconds, contract).times
        media = [build_video_text(times, seconds, contract)] * placeholders
    elif record["data_type"] != "text":
        media = [build_image_text(contract)] * placeholders
    ids, _ = chatml.tokenize(insert_media(turns, media, PLACEHOLDER) if media else turns, tokenizer)
    return sum(token >= 0 for token in ids)
