"""What a mixture shall be: shares and bands, the unit that binds, caps, size and seed."""

from __future__ import annotations

import difflib
import itertools
import math
import re
from collections.abc import Mapping
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

#: Columns that a share can be stated of: those of the members table, and the name of the run that a sample is from.
COLUMNS = (*(field.name for field in tables.MEMBERS if field.name not in ("key", "members", "offset", "size")), "run")

#: Columns of numbers, whose values are ranges: "0..30" is 0 up to, not including, 30; either end may be left out.
NUMBERS = ("tokens", "text_tokens", "images", "seconds", "bytes")

#: Shares are sums of decimals: this much is rounding, not a mistake.
ROUNDING = 1e-6

RECIPES = Path(__file__).parent / "recipes"
DEFAULT = "apollo"

_RANGE = re.compile(r"^\s*(\d+(?:\.\d+)?)?\s*\.\.\s*(\d+(?:\.\d+)?)?\s*$")
_AMOUNT = re.compile(r"^\s*(\d+(?:\.\d+)?)\s*([kMG]?)\s*$")


def _band(value: Any) -> Any:
    return (value, value) if isinstance(value, (int, float)) and not isinstance(value, bool) else value


def _amount(value: Any) -> Any:
    found = _AMOUNT.match(value) if isinstance(value, str) else None
    return round(float(found[1]) * {"": 1, "k": 10**3, "M": 10**6, "G": 10**9}[found[2]]) if found else value


Share = Annotated[float, Field(ge=0.0, le=1.0)]
#: (low, high), a plain number standing for both.
Band = Annotated[tuple[Share, Share], BeforeValidator(_band)]


class Ratio(Strict):
    """`of` : `to`, two values of a column, lies within `between` (a number stands for both ends)."""

    column: str = "modality"
    of: str
    to: str
    between: Annotated[tuple[float, float], BeforeValidator(_band)]

    @field_validator("between")
    @classmethod
    def _between(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 <= value[0] <= value[1]:
            raise ValueError(f"{value[0]:g} to {value[1]:g} is no band: low comes first, and neither is negative")
        return value


class ContractSettings(Strict):
    """What the trainer's loader makes of media: see `mixtures.reading.contract.Contract`, whose defaults these are."""

    clip_seconds: int = Field(default=2, gt=0)
    clip_frames: int = Field(default=4, gt=0)
    tokens_per_frame: int = Field(default=32, gt=0)
    context: int = Field(default=16_384, gt=0)
    clip_share: float = Field(default=0.65, gt=0, le=1)
    max_clips: int | None = Field(default=None, gt=0)

    def contract(self) -> Contract:
        return Contract(**self.model_dump())


class VirtualShardSettings(Strict):
    """How large a virtual shard is at most on average: `samples` or `bytes`, whichever comes first (ours)."""

    samples: int = Field(default=1_000, gt=0)
    bytes: int = Field(default=10**9, gt=0)


class Recipe(Strict):
    """A mixture's recipe.

    shares: by column and value a share of the mixture (0..1) or a band [low, high]; values not named are free.
    ratios: of one value to another. max_source: no source has more than this share.
    unit: what shares and `size` are counted in. size: so much of it; "max": as much as the cap on repeats permits;
        by default as much as fits with every sample standing once at most.
    repeats: how often a sample may stand in the mixture.
    tokenizer: a tokenizer.json that counts text exactly; by default the estimate in the runs is taken.
    """

    name: str = Field(default="mixture", pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$")
    unit: Unit = "samples"
    size: Annotated[int | Literal["max"] | None, BeforeValidator(_amount)] = None
    seed: int = Field(default=0, ge=0)
    shares: Mapping[str, Mapping[str, Band]] = Field(default_factory=dict)
    ratios: tuple[Ratio, ...] = ()
    max_source: float | None = Field(default=None, gt=0, le=1)
    repeats: int = Field(default=1, ge=1)
    contract: ContractSettings = ContractSettings()
    tokenizer: str | None = None
    virtual: VirtualShardSettings = VirtualShardSettings()

    @field_validator("size")
    @classmethod
    def _size(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, int) and value <= 0:
            raise ValueError("a mixture of size 0 holds nothing; leave size out to take all that fits")
        return value

    @field_validator("shares")
    @classmethod
    def _shares(cls, value: Mapping[str, Mapping[str, Any]]) -> Mapping[str, Mapping[str, Any]]:
        for column, bands in value.items():
            _known(column)
            for name, (low, high) in bands.items():
                if low > high:
                    raise ValueError(f"{column}.{name}: {low:g} to {high:g} is no band: low comes first")
                if column == "modality" and name not in MODALITIES:
                    raise ValueError(f"there is no modality {name!r}{_near(name, MODALITIES)}")
            least = sum(low for low, _ in bands.values())
            if least > 1 + ROUNDING:
                raise ValueError(f"{column}: the least shares sum to {least:g}, more than 1")
            if column == "modality" and set(bands) == set(MODALITIES):
                most = sum(high for _, high in bands.values())
                if most < 1 - ROUNDING:
                    raise ValueError(f"{column}: the largest shares sum to {most:g}, less than 1")
            if column in NUMBERS:
                parse_ranges(column, bands)
        return value

    @model_validator(mode="after")
    def _ratios(self) -> Recipe:
        for ratio in self.ratios:
            _known(ratio.column)
            if ratio.of == ratio.to:
                raise ValueError(f"ratios: {ratio.of!r} stands on both sides")
            for name in (ratio.of, ratio.to):
                if ratio.column == "modality" and name not in MODALITIES:
                    raise ValueError(f"ratios: there is no modality {name!r}{_near(name, MODALITIES)}")
        return self

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that its constraints name, modality first."""
        named = {*self.shares, *(ratio.column for ratio in self.ratios), *(("source",) if self.max_source else ())}
        return ("modality", *(column for column in COLUMNS if column in named and column != "modality"))

    def values(self, column: str) -> list[str]:
        """Values of a column that its constraints name, in order."""
        found = dict.fromkeys(self.shares.get(column, {}))
        found.update(dict.fromkeys(n for ratio in self.ratios if ratio.column == column for n in (ratio.of, ratio.to)))
        return list(found)


def _known(column: str) -> None:
    if column not in COLUMNS:
        raise ValueError(f"there is no column {column!r}{_near(column, COLUMNS)}; known: {', '.join(COLUMNS)}")


def _near(word: str, known: Any) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {found[0]!r}?)" if found else ""


def parse_range(text: str) -> tuple[float, float]:
    """The ends of a range such as "0..30", "30..", "..10".

    Raises ValueError where it is none.
    """
    found = _RANGE.match(text)
    if found is None or not (found[1] or found[2]):
        raise ValueError(f"{text!r} is no range of numbers; write for example '0..30' or '30..'")
    low, high = float(found[1] or 0), float(found[2]) if found[2] else math.inf
    if low >= high:
        raise ValueError(f"the range {text!r} is empty")
    return low, high


def parse_ranges(column: str, names: Any) -> list[tuple[float, float, str]]:
    """(low, high, name) of a column's ranges, ascending.

    Raises ValueError where two of them overlap.
    """
    found = sorted((*parse_range(name), name) for name in names)
    for before, after in itertools.pairwise(found):
        if after[0] < before[1]:
            raise ValueError(f"{column}: the ranges {before[2]!r} and {after[2]!r} overlap")
    return found


def parse_ratio(text: str) -> dict[str, float]:
    """Shares of modalities from "text=0.12,image=0.30,…"; those not named get 0.

    Raises ConfigError unless the names are modalities, each stands once, and the shares sum to 1.
    """
    found: dict[str, float] = {}
    example = "for example --ratio text=0.12,image=0.30,multi_image=0.18,video=0.40"
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = (piece.strip() for piece in part.partition("="))
        if name not in MODALITIES:
            raise ConfigError(f"there is no modality {name!r}{_near(name, MODALITIES)}", where="--ratio", hint=example)
        if name in found:
            raise ConfigError(f"{name} stands here twice", where="--ratio")
        try:
            share = float(number)
        except ValueError:
            raise ConfigError(f"{name}: {number!r} is no number", where="--ratio", hint=example) from None
        if not 0 <= share <= 1:
            raise ConfigError(f"{name}: a share lies between 0 and 1, not at {number}", where="--ratio", hint=example)
        found[name] = share
    total = math.fsum(found.values())
    if not found or abs(total - 1) > ROUNDING:
        raise ConfigError(f"the shares sum to {total:g}, not 1", where="--ratio", hint=example)
    return {name: found.get(name, 0.0) for name in MODALITIES}


def read_ratio(text: str, **settings: Any) -> Recipe:
    """The recipe of a command line's --ratio; `settings` are further keys of a recipe, None where not given."""
    data = {"name": "ratio", "shares": {"modality": parse_ratio(text)}, **_given(settings)}
    return validate(ConfigDocument("command line", data, {}), Recipe, data)


def read_recipe(name: str, **settings: Any) -> Recipe:
    """A recipe from a YAML file, or one of those that come with Reelmill by name; `settings` replace keys of it.

    Raises ConfigError with file and line for any mistake.
    """
    own = RECIPES / f"{name}.yaml"
    path = own if "/" not in name and own.is_file() else Path(name)
    if not path.is_file():
        known = ", ".join(sorted(found.stem for found in RECIPES.glob("*.yaml")))
        raise ConfigError("no such recipe", where=name, hint=f"a YAML file, or one of {known}")
    document = read_document(path)
    given = _given(settings)
    validate(ConfigDocument("command line", given, {}), Recipe, given)  # so that the file is not blamed for these
    data = {**document.content, **given}
    recipe = validate(document, Recipe, data)
    if recipe.tokenizer is not None and "tokenizer" not in given:
        recipe = recipe.model_copy(update={"tokenizer": str(path.parent / recipe.tokenizer)})
    return recipe


def _given(settings: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in settings.items() if value is not None}


def to_manifest(recipe: Recipe, tokenizer_sha256: str | None) -> dict[str, Any]:
    """A recipe as mixture.json holds it: a tokenizer by its content, not by where it lies on this machine."""
    value = recipe.model_dump(mode="json")
    value["tokenizer"] = None if tokenizer_sha256 is None else {"sha256": tokenizer_sha256}
    return value


def warn_about_shares(share: Mapping[str, float]) -> list[str]:
    """What Apollo's ablation (Table 13, overall scores) says against these shares of modalities.

    share: by modality, in the unit that binds. Where text is called too much or too little follows the paper's text;
    what counts as much more video than images (4 to 1) is ours.
    """
    found = []
    text, image, video = (share.get(name, 0.0) for name in ("text", "image", "video"))
    best = "15 % text, 25 % images, 20 % multi-image, 40 % video scored 59.0"
    if text < 0.07:
        found.append(
            f"text is {text:.1%}: Apollo found that less than 7 % text hurts (0 % scored 47.5, 2 % 48.7; {best})"
        )
    if text > 0.25 - ROUNDING:
        found.append(f"text is {text:.1%}: Apollo found that 25 % text hurts (a quarter of each scored 54.1; {best})")
    if video <= image:
        found.append(
            f"video is {video:.1%} and images are {image:.1%}: Apollo found a slight tilt towards video to be best "
            f"(15/40/20/25 scored 56.2, 15/32.5/20/32.5 57.1; {best})"
        )
    elif video > 4 * image:
        found.append(
            f"video is {video:.1%} and images are {image:.1%}: Apollo found much more video than images to hurt "
            f"(7/0/0/93 scored 41.8, 7/14/18/61 51.2; {best})"
        )
    return found
