"""Series of shards: samples of one modality with the same member suffixes, which can share a tar."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Series:
    """A modality and its member suffixes, in the order of the tar. In tables and files: "image:jpg,json,txt"."""

    modality: str
    suffixes: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.modality}:{','.join(self.suffixes)}"

    @classmethod
    def parse(cls, text: str) -> Series:
        """The inverse of `str`."""
        modality, _, suffixes = text.partition(":")
        return cls(modality, tuple(suffixes.split(",")))

    @classmethod
    def of_card(cls, card: Mapping[str, Any]) -> Series:
        """The series of a shard, from its card."""
        return cls(card["modality"], tuple(card["suffixes"]))

    @classmethod
    def of_sample(cls, modality: str, media: Sequence[str], *, has_caption: bool) -> Series:
        """The series of a sample. media: suffixes of its media; has_caption: it has a member KEY.txt."""
        return cls(modality, (*number_media(modality, media), "json", *(["txt"] if has_caption else [])))


def number_media(modality: str, media: Sequence[str]) -> list[str]:
    """Suffixes of a sample's media members: "jpg"; of several images "0.jpg", "1.jpg", …"""
    return [f"{i}.{suffix}" if modality == "multi_image" else suffix for i, suffix in enumerate(media)]
