"""The model against transformers' own losses and features, and against the sizes in the paper."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from infra.errors import ConfigError, MissingExtra, StageError
from mixtures.reading.contract import Contract
from pipelines.train.model import Collate, VideoLanguageModel, build, load_encoder, make_connector, transformers
from pipelines.train.settings import Connector
from tests import tiny_models as tiny

TOKENS = 6
SMALL = Connector(heads=2, head_size=8, key_heads=1)


@pytest.fixture(scope="module")
def model(tiny_models: dict[str, Any]) -> VideoLanguageModel:
    tiny_model = build(**tiny_models, connector=SMALL, frames=tiny.FRAMES, tokens=TOKENS, seed=3)
    tiny_model.modules.eval()
    return tiny_model


def media(clips: int, seed: int) -> list[Any]:
    """A sample's tensors for an encoder of frames and one of clips."""
    import torch

    seen = torch.from_numpy(np.random.default_rng(seed).normal(size=(clips, 4, 3, 32, 32)).astype(np.float32))
    return [seen, seen.transpose(1, 2)]


def sample(clips: int, before: int, after: int, seed: int) -> dict[str, Any]:
    """One sample as a batch of its own; its last `after` ids are learnt."""
    import torch

    ids = np.random.default_rng(seed).integers(0, 256, before + clips * TOKENS + after)
    ids[before : before + clips * TOKENS] = -200
    labels = np.where(np.arange(len(ids)) >= len(ids) - after, ids, -100)
    return {
        "input_ids": torch.from_numpy(ids)[None],
        "labels": torch.from_numpy(labels)[None],
        "attention_mask": torch.ones((1, len(ids)), dtype=torch.bool),
        "vision_input": [media(clips, seed) if clips else []],
    }


def stack_samples(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Samples in one batch, padded on the right."""
    import torch

    length = max(batch["input_ids"].shape[1] for batch in samples)

    def rows(name: str, fill: Any) -> Any:
        return torch.cat(
            [torch.nn.functional.pad(s[name], (0, length - s[name].shape[1]), value=fill) for s in samples]
        )

    return {
        "input_ids": rows("input_ids", 7),
        "labels": rows("labels", -100),
        "attention_mask": rows("attention_mask", False),
        "vision_input": [s["vision_input"][0] for s in samples],
    }


def by_transformers(model: VideoLanguageModel, batch: dict[str, Any]) -> float:
    """The same loss by the language model's own hand, over all logits of an unpadded sample."""
    import torch

    language = model.modules["language"]
    ids = batch["input_ids"][0]
    rows = list(language.get_input_embeddings()(ids.clamp(min=0)))
    if len(batch["vision_input"][0]):
        visual = iter(model.resample_clips(batch["vision_input"]))
        rows = [next(visual) if i == -200 else row for i, row in zip(ids.tolist(), rows, strict=True)]
    output = language(inputs_embeds=torch.stack(rows)[None], labels=batch["labels"])
    return float(output.loss.detach()) * int((batch["labels"][:, 1:] != -100).sum())


def test_loss_of_a_padded_batch_is_that_of_its_samples_by_transformers(model: VideoLanguageModel) -> None:
    samples = [sample(2, 5, 9, 1), sample(0, 3, 20, 2), sample(1, 11, 4, 3), sample(0, 0, 6, 4)]
    total, count = model.loss(stack_samples(samples))
    assert count == 9 + 20 + 4 + 5  # the first id of all has nothing before it to be predicted from
    assert float(total.detach()) == pytest.approx(sum(by_transformers(model, batch) for batch in samples), rel=1e-5)


def test_the_picture_changes_the_loss_and_text_alone_needs_none(model: VideoLanguageModel) -> None:
    batch = sample(1, 5, 9, 1)
    seen = float(model.loss(batch)[0])
    assert float(model.loss({**batch, "vision_input": [media(1, 99)]})[0]) != seen
    assert model.loss(sample(0, 0, 6, 4))[1] == 5


@pytest.mark.parametrize("clips", [0, 2])
def test_a_mismatch_of_placeholders_and_clips_is_an_error(model: VideoLanguageModel, clips: int) -> None:
    with pytest.raises(StageError, match=f"prompt has {TOKENS} visual tokens, its media give {clips * TOKENS}"):
        model.loss({**sample(1, 5, 9, 1), "vision_input": [media(clips, 1) if clips else []]})


def test_encoding_clips_in_batches_gives_the_same_tokens(model: VideoLanguageModel) -> None:
    import torch

    clips = [media(3, 1), [], media(2, 2)]
    whole = model.resample_clips(clips)
    split = VideoLanguageModel(model.modules, model.encoders, model.frames, model.tokens, model.grid, encode_batch=2)
    assert whole.shape == (5 * TOKENS, 32)
    torch.testing.assert_close(split.resample_clips(clips), whole)
    torch.testing.assert_close(model.resample_clips([clips[2]]), whole[3 * TOKENS :])


@pytest.mark.parametrize(("make", "extra"), [(tiny.siglip, 0), (tiny.clip, 1)])
def test_features_of_frames_are_the_patches_in_rows(make: Any, extra: int, tmp_path: Path) -> None:
    import torch

    encoder = load_encoder(make(tmp_path, side=24), 4)
    clips = torch.rand(2, 4, 3, 24, 24)
    features = encoder.features(clips)
    assert (encoder.video, encoder.grid(4)) == (False, (4, 3, 3))
    for n, t, row, column in [(0, 0, 0, 0), (1, 2, 1, 2), (1, 3, 2, 0)]:
        alone = encoder.module(pixel_values=clips[n, t][None]).last_hidden_state[0]
        assert len(alone) == 9 + extra  # CLIP puts a class token before them
        torch.testing.assert_close(features[n, t, row, column], alone[extra + 3 * row + column])


def test_features_of_clips_have_one_time_for_two_frames(tmp_path: Path) -> None:
    import torch

    encoder = load_encoder(tiny.videomae(tmp_path), 4)
    clips = torch.rand(2, 4, 3, 32, 32)
    assert (encoder.video, encoder.grid(4)) == (True, (2, 4, 4))
    alone = encoder.module(pixel_values=clips).last_hidden_state
    torch.testing.assert_close(encoder.features(clips)[1, 1, 2, 3], alone[1, 16 + 2 * 4 + 3])


def test_other_encoders_of_clips(tmp_path: Path) -> None:
    import torch

    t = transformers()
    tower = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    predictor = {"pred_hidden_size": 16, "pred_num_hidden_layers": 1, "pred_num_attention_heads": 2}
    jepa = t.VJEPA2Model(t.VJEPA2Config(**tower, **predictor, crop_size=32, patch_size=8, frames_per_clip=64))
    vivit = t.VivitModel(
        t.VivitConfig(**tower, intermediate_size=16, image_size=32, tubelet_size=[2, 8, 8], num_frames=4)
    )
    for name, encoder_model in (("jepa", jepa), ("vivit", vivit)):
        encoder_model.save_pretrained(tmp_path / name)
        encoder = load_encoder(str(tmp_path / name), 4)
        assert (encoder.video, encoder.grid(4)) == (True, (2, 4, 4))
        assert encoder.features(torch.rand(2, 4, 3, 32, 32)).shape == (2, 2, 4, 4, 16)
    with pytest.raises(ConfigError, match="a multiple of 2 frames, the mixture's have 5"):
        load_encoder(str(tmp_path / "jepa"), 5)


def test_a_two_tower_model_gives_its_vision_tower(tmp_path: Path) -> None:
    t = transformers()
    tower = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    both = t.SiglipConfig(
        vision_config={**tower, "image_size": 16, "patch_size": 8}, text_config={**tower, "vocab_size": 50}
    )
    t.SiglipModel(both).save_pretrained(tmp_path)
    encoder = load_encoder(str(tmp_path), 4)
    assert (encoder.video, encoder.width, encoder.grid(4)) == (False, 16, (4, 2, 2))


def test_both_encoders_are_resampled_to_the_larger_or_the_configured_grid(
    tmp_path: Path, tiny_models: dict[str, Any]
) -> None:
    import torch

    pair = [tiny_models["vision_encoders"][1], tiny.clip(tmp_path, side=48)]
    for grid, expected in ((None, (4, 6, 6)), ((2, 3, 3), (2, 3, 3))):
        shape = SMALL.model_copy(update={"grid": grid})
        model = build(tiny_models["language_model"], pair, shape, frames=4, tokens=TOKENS, seed=1)
        assert model.grid == expected
        clips, frames = torch.rand(2, 3, 4, 32, 32), torch.rand(2, 4, 3, 48, 48)
        assert model.resample_clips([[clips, frames]]).shape == (2 * TOKENS, 32)


def test_the_order_of_frames_matters_to_encoders_of_single_frames(tmp_path: Path, tiny_models: dict[str, Any]) -> None:
    import torch

    pair = [tiny.siglip(tmp_path / "a"), tiny.clip(tmp_path / "b")]
    model = build(tiny_models["language_model"], pair, SMALL, frames=4, tokens=TOKENS, seed=1)
    seen = torch.rand(1, 4, 3, 32, 32)
    forth, back = [[seen, seen]], [[seen.flip(1), seen.flip(1)]]
    torch.testing.assert_close(
        model.resample_clips(forth), model.resample_clips(back)
    )  # the embedding of time begins at zero
    torch.nn.init.normal_(model.modules["connector"]["time"].weight)
    assert not torch.allclose(model.resample_clips(forth), model.resample_clips(back))


@pytest.mark.parametrize(("width", "tokens", "published"), [(1536, 64, 38.4e6), (2048, 64, 63.6e6), (3584, 64, 177e6)])
def test_connectors_are_as_large_as_the_papers(width: int, tokens: int, published: float) -> None:
    import torch

    with torch.device("meta"):  # shapes without numbers
        connector = make_connector(Connector(), 1152 + 1408, width, 4, tokens, seed=0)
    assert sum(parameter.numel() for parameter in connector.parameters()) == pytest.approx(published, rel=0.005)


def test_the_same_seed_makes_the_same_connector_and_keeps_the_global_random_state(tiny_models: dict[str, Any]) -> None:
    import torch

    before = torch.get_rng_state()
    first, same, another = (make_connector(SMALL, 8, 16, 4, TOKENS, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), same.parameters(), strict=True))
    assert not torch.equal(first["project"].weight, another["project"].weight)
    latents = first["resample"].latents
    assert not torch.allclose(latents[0], latents[1])


def test_folders_without_a_model_that_fits_are_named(tmp_path: Path, tiny_models: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="there is no model here"):
        load_encoder(str(tmp_path), 4)
    with pytest.raises(ConfigError, match="takes clips of 8 frames, the mixture's have 4"):
        load_encoder(tiny.videomae(tmp_path / "eight", frames=8), 4)
    with pytest.raises(ConfigError, match="is no supported vision encoder"):
        load_encoder(tiny_models["language_model"], 4)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ConfigError, match="cannot load this model"):
        load_encoder(str(tmp_path), 4)


def test_normalisation_comes_from_the_encoders_folder(
    tmp_path: Path, tiny_models: dict[str, Any], model: VideoLanguageModel
) -> None:
    language, pair = tiny_models["language_model"], tiny_models["vision_encoders"]
    collate = Collate.of(model, language, pair, Contract())
    assert [encoder.video for encoder in collate.encoders] == [False, True]
    assert collate([]) == {"keys": []}
    assert collate.longest == 16_384
    assert Collate.of(model, language, pair, Contract(context=100)).longest == 100
    bare = tiny.siglip(tmp_path)
    (tmp_path / "preprocessor_config.json").write_text('{"image_mean": [0.5, 0.5, 0.5]}')
    with pytest.raises(ConfigError, match="image_mean and image_std are missing"):
        Collate.of(model, language, [bare, pair[1]], Contract())
    (tmp_path / "preprocessor_config.json").unlink()
    with pytest.raises(ConfigError, match=r"no preprocessor_config\.json"):
        Collate.of(model, language, [bare, pair[1]], Contract())


def test_what_is_not_installed_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *a: None if name == "transformers" else find(name, *a)
    )
    with pytest.raises(MissingExtra, match=r"training needs the package transformers(.|\n)*\[train\]"):
        transformers()
