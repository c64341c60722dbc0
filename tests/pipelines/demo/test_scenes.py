from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from pipelines.demo import scenes
from pipelines.demo.film import Film
from pipelines.demo.scenes import MOVES, PHOTOS, VARIANTS, DemoScene, make_scene, split_of

pytest.importorskip("skimage")


def _many(split: scenes.Split, seed: int, n: int = 150) -> list[DemoScene]:
    return [make_scene(seed, split, str(i)) for i in range(n)]


def test_the_splits_share_no_photograph_and_no_caption() -> None:
    assert not set(PHOTOS["demo"]) & set(PHOTOS["train"])
    captions = {
        split: {s.describe(v, still) for s in _many(split, 1) for v in range(VARIANTS) for still in (False, True)}
        for split in ("demo", "train")
    }
    assert len(captions["demo"]) > 1000
    assert not captions["demo"] & captions["train"]


def test_every_caption_names_what_decides_the_split() -> None:
    for scene in _many("demo", 5, 100):
        assert split_of(scene.attributes) == "demo"
        for variant in range(VARIANTS):
            text = scene.describe(variant)
            assert scene.tint in text
            for subject in scene.subjects:
                assert subject.colour in text and subject.noun in text


def test_a_scene_is_a_function_of_its_seed_and_name() -> None:
    assert make_scene(4, "demo", "a") == make_scene(4, "demo", "a")
    assert make_scene(4, "demo", "a") != make_scene(4, "demo", "b")
    assert make_scene(4, "demo", "a") != make_scene(5, "demo", "a")


def test_fixed_fields_keep_their_values() -> None:
    scene = make_scene(1, "demo", "x", photo="coffee", camera="still", subjects_n=2)
    assert (scene.photo, scene.camera, len(scene.subjects)) == ("coffee", "still", 2)


def test_frames_have_the_size_asked_for_and_repeat() -> None:
    scene = make_scene(1, "demo", "frames")
    first = Film(scene, 161, 120).frame(0.5)
    assert first.shape == (120, 161, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, Film(scene, 161, 120).frame(0.5))


@pytest.mark.parametrize("move", sorted(MOVES))
def test_subjects_move_the_way_the_caption_says(move: str) -> None:
    dx, dy, _ = MOVES[move]
    for scene in _many("demo", 9, 100):
        subject = scene.subjects[0]
        if subject.move == move and move != "spin":
            (x0, y0), (x1, y1) = subject.where(0.0), subject.where(3.0)
            assert (x1 - x0) * dx + (y1 - y0) * dy > 0.2


def test_a_camera_move_shifts_the_photograph_and_a_still_one_does_not() -> None:
    for camera, moves in (("still", False), ("pan left", True), ("zoom in", True)):
        scene = make_scene(2, "demo", "camera", camera=camera, tint="natural", photo="coffee")
        film = Film(replace(scene, subjects=()), 160, 120)
        assert bool(np.abs(film.frame(0.0).astype(int) - film.frame(2.0)).mean() > 2) is moves


def test_an_exact_blend() -> None:
    """A white subject over anything never wraps around, and its middle is its own colour."""
    for i in range(20):
        scene = make_scene(3, "demo", f"blend {i}", subjects_n=1)
        subject = scene.subjects[0]
        picture = Film(scene, 200, 200).frame(scenes.MIDDLE_S)
        bare = Film(replace(scene, subjects=()), 200, 200).frame(scenes.MIDDLE_S)
        changed = np.abs(picture.astype(int) - bare).max(axis=2) > 8
        assert 0.005 < changed.mean() < 0.6, subject
