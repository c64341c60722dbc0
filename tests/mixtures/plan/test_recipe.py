from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from infra.errors import ConfigError
from mixtures.plan import recipe
from mixtures.plan.recipe import Recipe, parse_ratio, read_ratio, read_recipe


def write(folder: Path, text: str) -> str:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return str(path)


def test_a_ratio_names_modalities_once_and_sums_to_one() -> None:
    assert parse_ratio("text=0.12, image=0.30,multi_image=0.18,video=0.40") == {
        "video": 0.40, "image": 0.30, "multi_image": 0.18, "text": 0.12}  # fmt: skip
    assert parse_ratio("video=1")["text"] == 0.0  # what is not named is not wanted


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("text=0.5,video=0.6", "sum to 1.1"),
        ("text=0.5", "sum to 0.5"),
        ("", "sum to 0"),
        ("text=-0.5,video=1.5", "between 0 and 1"),
        ("txt=1", "did you mean 'text'"),
        ("text=0.5,text=0.5", "appears twice"),
        ("text=half,video=0.5", "'half' is not a number"),
        ("text", "'' is not a number"),
        ("text=nan,video=0.5", "between 0 and 1"),
    ],
)
def test_a_wrong_ratio_says_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        parse_ratio(text)
    assert caught.value.where == "--ratio" and caught.value.exit_code == 2


def test_built_in_recipes_are_valid_and_apollo_is_the_default() -> None:
    for path in recipe.RECIPES.glob("*.yaml"):
        assert read_recipe(path.stem).name == path.stem
    apollo = read_recipe(recipe.DEFAULT)
    assert apollo.shares["modality"] == {"text": (0.10, 0.14), "multi_image": (0.0, 0.20)}
    assert [(r.of, r.to, r.between) for r in apollo.ratios] == [("video", "image", (1.05, 1.6))]


def test_options_of_the_command_line_replace_keys_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path, "unit: tokens\nsize: 5\nseed: 3\ntokenizer: tok.json\n")
    read = read_recipe(path, unit="bytes", size="1.5k", seed=None)
    assert (read.unit, read.size, read.seed) == ("bytes", 1500, 3)
    assert read.tokenizer == str(tmp_path / "tok.json")  # beside the recipe that names it
    assert read_recipe(path, tokenizer="own.json").tokenizer == "own.json"


@pytest.mark.parametrize(
    ("text", "words", "line"),
    [
        ("name: a\nshares:\n  modality: {text: [0.3, 0.2]}\n", "is not a range: low comes first", 2),
        ("shares:\n  modality: {text: 0.7, video: 0.7}\n", "sum to 1.4", 1),
        ("shares:\n  modality: {text: 0.1, video: 0.2, image: 0.1, multi_image: 0.1}\n", "sum to 0.5, less than 1", 1),
        ("shares:\n  modalty: {text: 0.7}\n", "no column 'modalty' .did you mean 'modality'", 1),
        ("shares:\n  modality: {txt: 0.7}\n", "no modality 'txt'", 1),
        ("seed: 1\nshares:\n  seconds: {'0..3': 0.5, '2..': 0.2}\n", "ranges '0..3' and '2..' overlap", 2),
        ("shares:\n  seconds: {short: 0.5}\n", "'short' is not a range", 1),
        ("shares:\n  seconds: {'3..3': 0.5}\n", "is empty", 1),
        ("shares:\n  modality: {text: 0.1, text: 0.2}\n", "appears twice", 2),
        ("shares:\n  modality:\n    text: 1.5\n", "less than or equal to 1", 3),
        ("size: 0\n", "size 0 is empty", 1),
        ("unit: hours\n", "samples", 1),
        ("sise: 3\n", "did you mean 'size'", 1),
        ("repeats: 0\n", "greater than or equal to 1", 1),
        ("ratios:\n- {of: video, to: video, between: [1, 2]}\n", "is on both sides", 1),
        ("ratios:\n- {of: video, to: image, between: [2, 1]}\n", "is not a range", 2),
    ],
)
def test_a_wrong_recipe_names_the_line(tmp_path: Path, text: str, words: str, line: int) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_recipe(path)
    message = f"{caught.value.what} {caught.value.hint}"
    assert re.search(words, message), message
    assert caught.value.where == f"{path}:{line}"


def test_a_wrong_option_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        read_recipe(write(tmp_path, "seed: 1\n"), size="0")
    assert caught.value.where == "command line"
    with pytest.raises(ConfigError, match="no such recipe"):
        read_recipe("nowhere.yaml")


def test_columns_and_values_that_constraints_name() -> None:
    constrained = Recipe(
        shares={"source": {"x": (0.0, 0.1)}, "seconds": {"..5": 0.3}},  # type: ignore[dict-item]
        ratios=({"of": "video", "to": "image", "between": 2.0},),  # type: ignore[arg-type]
        max_source=0.5,
    )
    assert constrained.columns == ("modality", "source", "seconds")
    assert constrained.values("modality") == ["video", "image"] and constrained.values("source") == ["x"]
    assert constrained.ratios[0].between == (2.0, 2.0)


@pytest.mark.parametrize(
    ("share", "warnings"),
    [
        ({"text": 0.12, "image": 0.36, "video": 0.45}, []),
        ({"text": 0.15, "image": 0.25, "multi_image": 0.20, "video": 0.40}, []),
        ({"text": 0.05, "image": 0.40, "video": 0.55}, ["less than 7 % text"]),
        ({"text": 0.25, "image": 0.25, "multi_image": 0.25, "video": 0.25}, ["25 % text hurts", "tilt towards video"]),
        ({"text": 0.12, "image": 0.48, "video": 0.40}, ["tilt towards video"]),
        ({"text": 0.10, "image": 0.10, "video": 0.80}, ["much more video than images"]),
        ({"text": 0.10, "video": 0.90}, ["much more video than images"]),
    ],
)
def test_deviations_from_apollo_are_warned_of_with_the_figures(share: dict[str, float], warnings: list[str]) -> None:
    lines = recipe.warn_about_shares(share)
    assert len(lines) == len(warnings)
    for line, words in zip(lines, warnings, strict=True):
        assert words in line and "59.0" in line


def test_a_stored_recipe_identifies_a_tokenizer_by_content_only() -> None:
    manifest_recipe: dict[str, Any] = recipe.to_manifest(
        read_ratio("video=1", tokenizer="/home/me/tok.json"), "ab" * 32
    )
    assert manifest_recipe["tokenizer"] == {"sha256": "ab" * 32} and "/home/me" not in str(manifest_recipe)


def test_the_recipe_in_the_documents_is_valid(tmp_path: Path) -> None:
    text = (Path(__file__).parents[3] / "docs" / "mixtures.md").read_text("utf-8")
    (body,) = re.findall(r"^```recipe\n(.*?)^```", text, re.M | re.S)
    documented = read_recipe(write(tmp_path, body))
    assert documented.size == 200_000_000 and documented.columns == ("modality", "source", "licence", "kind", "seconds")
