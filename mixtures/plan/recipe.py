"""Mixture recipes: target shares or ranges, the unit they are measured in, caps, size and seed."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator, Field, field_validator, model_validator

from infra import tables
from infra.config import ConfigDocument, Strict, read_document, validate
from infra.errors import ConfigError
from infra.media.interface import MODALITIES
from mixtures.reading.contract import Contract

Unit = Literal["samples", "tokens", "seconds", "bytes"]
UNITS: tuple[Unit, ...] = get_args(Unit)

#: Columns that a share can refer to: those of the members table, and the name of the run that a sample comes from.
COLUMNS = (*(field.name for field in tables.MEMBERS if field.name not in ("key", "members", "offset", "size")), "run")

#: Numeric columns. Their values are ranges: "0..30" is 0 inclusive to 30 exclusive; either end may be omitted.
NUMBERS = ("tokens", "text_tokens", "images", "seconds", "bytes")

#: Tolerance for sums of decimal shares (ours): ten shares of six decimals each.
ROUNDING = 5e-6

RECIPES = Path(__file__).parent / "recipes"
DEFAULT = "apollo"

_RANGE = re.compile(r"^\s*(\d+(?:\.\d+)?)?\s*\.\.\s*(\d+(?:\.\d+)?)?\s*$")
_SIZE = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kMG]?)\s*$")
_FACTORS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}


def _to_pair(number: Any) -> Any:
    return (number, number) if isinstance(number, (int, float)) and not isinstance(number, bool) else number


def _parse_size(size: Any) -> Any:
    match = _SIZE.match(size) if isinstance(size, str) else None
    return round(float(match[1]) * _FACTORS[match[2]]) if match else size


Share = Annotated[float, Field(ge=0.0, le=1.0)]
#: (low, high); a plain number is both.
ShareRange = Annotated[tuple[Share, Share], BeforeValidator(_to_pair)]


class Ratio(Strict):
    """The ratio `of` : `to` of two values of a column lies in the range `between`; a plain number is both ends."""

    column: str = "modality"
    of: str
    to: str
    between: Annotated[tuple[float, float], BeforeValidator(_to_pair)]

    @field_validator("between")
    @classmethod
    def _check_between(cls, between: tuple[float, float]) -> tuple[float, float]:
        low, high = between
        if not 0 <= low <= high:
            raise ValueError(f"{low:g} to {high:g} is not a range: write [low, high], neither negative")
        return between


class ContractSettings(Strict):
    """How the trainer's loader samples media: see `mixtures.reading.contract.Contract`, which has the same defaults."""

    clip_seconds: int = Field(default=2, gt=0, le=86_400)
    clip_frames: int = Field(default=4, gt=0, le=4096)
    tokens_per_frame: int = Field(default=32, gt=0, le=65_536)
    context: int = Field(default=16_384, gt=0, lt=2**31)
    clip_share: float = Field(default=0.65, gt=0, le=1)
    max_clips: int | None = Field(default=None, gt=0, lt=2**31)

    def contract(self) -> Contract:
        return Contract(**self.model_dump())


class VirtualShardSettings(Strict):
    """Maximum average size of a virtual shard: `samples` or `bytes`, whichever is reached first (ours)."""

    samples: int = Field(default=1_000, gt=0)
    bytes: int = Field(default=10**9, gt=0)


class Recipe(Strict):
    """A mixture recipe.

    shares: by column and value, the target share of the mixture (0..1) or a range [low, high]; others are free.
    ratios: of one value to another. max_source: maximum share of any one source.
    unit: the unit of shares and `size`. size: the amount; "max" takes as much as `repeats` permits; the default takes
        as much as fits without repeats.
    repeats: maximum number of times a sample may be repeated.
    tokenizer: a tokenizer.json that counts text exactly; by default the runs' estimates are used.
    """

    name: str = Field(default="mixture", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    unit: Unit = "samples"
    size: Annotated[int | Literal["max"] | None, BeforeValidator(_parse_size)] = None
    seed: int = Field(default=0, ge=0)
    shares: Mapping[str, Mapping[str, ShareRange]] = Field(default_factory=dict)
    ratios: tuple[Ratio, ...] = ()
    max_source: float | None = Field(default=None, gt=0, le=1)
    repeats: int = Field(default=1, ge=1)
    contract: ContractSettings = ContractSettings()
    tokenizer: str | None = None
    virtual: VirtualShardSettings = VirtualShardSettings()

    @field_validator("size")
    @classmethod
    def _check_size(cls, size: int | str | None) -> int | str | None:
        if isinstance(size, int) and size <= 0:
            raise ValueError("a mixture of size 0 is empty; omit size to take all that fits")
        return size

    @field_validator("shares")
    @classmethod
    def _check_shares(cls, shares: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        for column, ranges in shares.items():
            _check_column(column)
            _check_ranges(column, ranges)
        return shares

    @model_validator(mode="after")
    def _check_ratios(self) -> Recipe:
        for ratio in self.ratios:
            _check_column(ratio.column)
            if ratio.of == ratio.to:
                raise ValueError(f"ratios: {ratio.of!r} is on both sides")
            for name in (ratio.of, ratio.to):
                if ratio.column == "modality" and name not in MODALITIES:
                    raise ValueError(f"ratios: there is no modality {name!r}{_suggest(name, MODALITIES)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that its constraints name, modality first."""
        named = {*self.shares, *(ratio.column for ratio in self.ratios), *(("source",) if self.max_source else ())}
        return ("modality", *(column for column in COLUMNS if column in named and column != "modality"))

    def values(self, column: str) -> list[str]:
        """Values of a column that its constraints name, in order."""
        in_ratios = (name for ratio in self.ratios if ratio.column == column for name in (ratio.of, ratio.to))
        return list(dict.fromkeys([*self.shares.get(column, {}), *in_ratios]))


def _check_column(column: str) -> None:
    if column not in COLUMNS:
        raise ValueError(f"there is no column {column!r}{_suggest(column, COLUMNS)}; columns: {', '.join(COLUMNS)}")


def _check_ranges(column: str, ranges: Mapping[str, tuple[float, float]]) -> None:
    for name, (low, high) in ranges.items():
        if low > high:
            raise ValueError(f"{column}.{name}: {low:g} to {high:g} is not a range: low comes first")
        if column == "modality" and name not in MODALITIES:
            raise ValueError(f"there is no modality {name!r}{_suggest(name, MODALITIES)}")
    lowest = sum(low for low, _ in ranges.values())
    if lowest > 1 + ROUNDING:
        raise ValueError(f"{column}: the minimum shares sum to {lowest:g}, more than 1")
    highest = sum(high for _, high in ranges.values())
    if column == "modality" and set(ranges) == set(MODALITIES) and highest < 1 - ROUNDING:
        raise ValueError(f"{column}: the maximum shares sum to {highest:g}, less than 1")
    if column in NUMBERS:
        parse_ranges(column, ranges)


def _suggest(word: str, candidates: Collection[str]) -> str:
    matches = difflib.get_close_matches(word, candidates, n=1)
    return f" (did you mean {matches[0]!r}?)" if matches else ""


def parse_range(text: str) -> tuple[float, float]:
    """Parse a range such as "0..30", "30..", "..10" into its ends. Raises ValueError where it is not a range."""
    match = _RANGE.match(text)
    if match is None or not (match[1] or match[2]):
        raise ValueError(f"{text!r} is not a range of numbers; write for example '0..30' or '30..'")
    low, high = float(match[1] or 0), float(match[2]) if match[2] else math.inf
    if low >= high:
        raise ValueError(f"the range {text!r} is empty")
    return low, high


def parse_ranges(column: str, names: Iterable[str]) -> list[tuple[float, float, str]]:
    """Parse a column's ranges into (low, high, name), ascending. Raises ValueError where two of them overlap."""
    ranges = sorted((*parse_range(name), name) for name in names)
    for (_, end, first), (start, _, second) in itertools.pairwise(ranges):
        if start < end:
            raise ValueError(f"{column}: the ranges {first!r} and {second!r} overlap")
    return ranges


def parse_ratio(text: str) -> dict[str, float]:
    """Parse target shares of modalities from "text=0.12,image=0.30,…"; modalities not named get 0.

    Raises ConfigError unless the names are modalities, each appears once, and the shares sum to 1.
    """
    shares: dict[str, float] = {}
    example = "for example --ratio text=0.12,image=0.30,multi_image=0.18,video=0.40"
    for item in filter(None, map(str.strip, text.split(","))):
        name, _, number = map(str.strip, item.partition("="))
        if name not in MODALITIES:
            raise ConfigError(
                f"there is no modality {name!r}{_suggest(name, MODALITIES)}", where="--ratio", hint=example
            )
        if name in shares:
            raise ConfigError(f"{name} appears twice", where="--ratio")
        try:
            share = float(number)
        except ValueError:
            raise ConfigError(f"{name}: {number!r} is not a number", where="--ratio", hint=example) from None
        if not 0 <= share <= 1:
            raise ConfigError(f"{name}: a share is between 0 and 1, not {number}", where="--ratio", hint=example)
        shares[name] = share
    total = math.fsum(shares.values())
    if not shares or abs(total - 1) > ROUNDING:
        raise ConfigError(f"the shares sum to {total:g}, not 1", where="--ratio", hint=example)
    return {name: shares.get(name, 0.0) for name in MODALITIES}


def read_ratio(text: str, **settings: Any) -> Recipe:
    """Build the recipe of the command line's --ratio; `settings` are further keys of a recipe, None where not set."""
    keys = {"name": "ratio", "shares": {"modality": parse_ratio(text)}, **_drop_unset(settings)}
    return validate(ConfigDocument("command line", keys, {}), Recipe, keys)


def read_recipe(name: str, **settings: Any) -> Recipe:
    """Read a recipe from a YAML file, or by name one that comes with Reelmill; `settings` replace its keys.

    Raises ConfigError with file and line for any mistake.
    """
    bundled = RECIPES / f"{name}.yaml"
    path = bundled if "/" not in name and bundled.is_file() else Path(name)
    if not path.is_file():
        names = ", ".join(sorted(recipe.stem for recipe in RECIPES.glob("*.yaml")))
        raise ConfigError("no such recipe", where=name, hint=f"a YAML file, or one of {names}")
    document = read_document(path)
    overrides = _drop_unset(settings)
    validate(ConfigDocument("command line", overrides, {}), Recipe, overrides)  # else the file is blamed
    recipe = validate(document, Recipe, {**document.content, **overrides})
    if recipe.tokenizer is not None and "tokenizer" not in overrides:
        recipe = recipe.model_copy(update={"tokenizer": str(path.parent / recipe.tokenizer)})
    return recipe


def _drop_unset(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: setting for key, setting in settings.items() if setting is not None}


def to_manifest(recipe: Recipe, tokenizer_sha256: str | None) -> dict[str, Any]:
    """Serialise a recipe for mixture.json: a tokenizer by its sha256, not by its path on this machine."""
    tokenizer = None if tokenizer_sha256 is None else {"sha256": tokenizer_sha256}
    return {**recipe.model_dump(mode="json"), "tokenizer": tokenizer}


def warn_about_shares(share: Mapping[str, float]) -> list[str]:
    """List what Apollo's ablation (Table 13, overall scores) says against these shares of modalities.

    share: by modality, in the recipe's unit. The limits for text follow the paper's text; the limit for much more
    video than images (4 to 1) is ours.
    """
    warnings = []
    text, image, video = (share.get(name, 0.0) for name in ("text", "image", "video"))
    best = "15 % text, 25 % images, 20 % multi-image, 40 % video scored 59.0"
    if text < 0.07:
        warnings.append(
            f"text is {text:.1%}: Apollo found that less than 7 % text hurts (0 % scored 47.5, 2 % 48.7; {best})"
        )
    if text > 0.25 - ROUNDING:
        warnings.append(
            f"text is {text:.1%}: Apollo found that 25 % text hurts (a quarter of each scored 54.1; {best})"
        )
    if video <= image:
        warnings.append(
            f"video is {video:.1%} and images are {image:.1%}: Apollo found a slight tilt towards video to be best "
            f"(15/40/20/25 scored 56.2, 15/32.5/20/32.5 57.1; {best})"
        )
    elif video > 4 * image:
        warnings.append(
            f"video is {video:.1%} and images are {image:.1%}: Apollo found much more video than images to hurt "
            f"(7/0/0/93 scored 41.8, 7/14/18/61 51.2; {best})"
        )
    return warnings
