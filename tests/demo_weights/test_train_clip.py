from __future__ import annotations

import numpy as np
import pytest

from demo_weights.train_clip import alter, make_batch, make_plates, targets
from pipelines.demo import scenes

pytest.importorskip("skimage")


def test_training_shows_nothing_of_the_demo_and_is_a_function_of_its_seed() -> None:
    plates = make_plates(5, 4)
    assert plates.shape[0] == 4 and np.array_equal(plates, make_plates(5, 4))
    batch, again, next_batch = (make_batch(5, number, 24, plates) for number in (7, 7, 8))
    assert np.array_equal(batch.pixels, again.pixels) and batch.scenes == again.scenes
    assert not np.array_equal(batch.pixels, next_batch.pixels)
    assert {scenes.split_of(scene.attributes) for scene in batch.scenes} == {"train"}
    assert not {scene.photo for scene in batch.scenes} & set(scenes.PHOTOS["demo"])


def test_a_caption_made_wrong_is_of_the_train_split_too_and_names_something_else() -> None:
    rng = np.random.default_rng(1)
    for i in range(40):
        scene = scenes.make_scene(9, "train", str(i))
        wrong = alter(scene, rng)
        assert scenes.split_of(wrong.attributes) == "train" and wrong.attributes != scene.attributes
        assert not np.array_equal(targets(scene), targets(wrong))


def test_backgrounds_have_colour() -> None:
    # "natural" has to be true of them where no tint is laid over.
    assert np.ptp(make_plates(6, 12), axis=3).mean(axis=(1, 2)).min() > 5
