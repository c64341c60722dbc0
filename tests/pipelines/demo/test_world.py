from __future__ import annotations

import hashlib
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from infra.errors import StageError
from pipelines.demo import captions, documents, footage
from pipelines.demo.burned_in_text import IMAGE_OVERLAYS, VIDEO_OVERLAYS
from pipelines.demo.corpus import SOURCES, TRUTH
from pipelines.demo.film import Film
from pipelines.demo.footage import CODECS, ODD_CODECS, ODD_IMAGES, Change, Photo, RenderJob, Shot
from pipelines.demo.scenes import generator, make_scene
from pipelines.demo.world import COUNTS, make_world, plan_world, read_truth

pytest.importorskip("skimage")
pytest.importorskip("matplotlib")


def _shot(codec: str = "h264-mp4", **more: Any) -> Shot:
    scene = make_scene(3, "demo", "shot", camera="pan left")
    return Shot("n", scene, **{"width": 96, "height": 64, "fps": 10, "seconds": 0.8, "codec": codec, **more})


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world")
    make_world(folder, 3, scale=0.005, workers=1)
    return folder


def test_every_sample_is_at_the_location_in_the_truth(world: Path) -> None:
    for sample in read_truth(world):
        assert set(sample) == set(TRUTH)
        assert SOURCES[sample["source"]] == sample["modality"]
        path = world / "raw" / sample["source"] / sample["container"]
        if sample["source"] == "notes":
            row = json.loads(path.read_text("utf-8").splitlines()[int(sample["position"].removeprefix("row="))])
            assert row["text"] == sample["caption"]
        elif sample["source"] == "library":
            text = pq.read_table(path)["text"][int(sample["position"].removeprefix("row="))].as_py()
            assert text == sample["caption"]
        elif sample["source"] == "clips":
            assert path.with_suffix(".txt").read_text("utf-8") == sample["caption"]
        elif sample["source"] == "photos":
            assert json.loads(path.with_suffix(".json").read_text("utf-8"))["caption"] == sample["caption"]
        else:
            assert path.exists()


def test_the_corpus_has_no_files_that_the_truth_lacks(world: Path) -> None:
    containers = {(sample["source"], sample["container"]) for sample in read_truth(world)}
    for path in (world / "raw").rglob("*"):
        if path.is_file() and path.suffix not in (".txt", ".json", ".jsonl") and "albums" not in path.parts:
            relative = path.relative_to(world / "raw")
            assert (relative.parts[0], "/".join(relative.parts[1:])) in containers


def test_a_world_is_made_once_and_not_mixed(world: Path) -> None:
    before = (world / "truth" / "truth.jsonl").stat().st_mtime_ns
    make_world(world, 3, scale=0.005)
    assert (world / "truth" / "truth.jsonl").stat().st_mtime_ns == before
    with pytest.raises(StageError):
        make_world(world, 4, scale=0.005)


def test_workers_give_the_same_bytes(world: Path, tmp_path: Path) -> None:
    def digests(folder: Path) -> dict[str, str]:
        files = sorted(p for p in folder.rglob("*") if p.is_file())
        return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    make_world(tmp_path / "again", 3, scale=0.005, workers=2)
    assert digests(tmp_path / "again") == digests(world)


def test_the_full_plan_has_forty_of_each_fault_and_forty_hard_negatives() -> None:
    plan = plan_world(3, 1.0, mirrored=False, image_overlays=False)
    media = [p.truth for p in plan.planned.values()]
    truths = media + [truth for _, truth in plan.texts]
    faults = Counter(truth.get("fault", "") for truth in truths)
    hard = Counter(truth.get("hard", "") for truth in truths)
    for kind in ("duplicates", "motion", "overlay", "language", "alignment", "quality", "broken"):
        assert faults[kind] >= 40 and hard[kind] >= 40, kind
    for modality in ("video", "image"):
        of_modality = [p.truth.get("fault") for p in plan.planned.values() if p.modality == modality]
        assert of_modality.count("duplicates") >= 40
    assert not any(truth.get("fault") and truth.get("hard") for truth in truths)
    forms = Counter(p.truth["form"] for p in plan.planned.values())
    assert set(forms) >= {*CODECS, *ODD_CODECS, *ODD_IMAGES}
    for fault in ("motion", "overlay"):
        assert {truth["form"] for truth in media if truth.get("fault") == fault} == set(CODECS)


def test_a_plan_is_a_function_of_its_seed() -> None:
    def captions_of(seed: int) -> list[str]:
        plan = plan_world(seed, 0.01, mirrored=False, image_overlays=False)
        return [p.caption for p in plan.planned.values()]

    assert captions_of(3) == captions_of(3)
    assert captions_of(3) != captions_of(4)


def test_image_overlays_and_mirrors_only_when_asked() -> None:
    plain = plan_world(3, 0.2, mirrored=False, image_overlays=False)
    both = plan_world(3, 0.2, mirrored=True, image_overlays=True)

    def count(plan: Any, word: str) -> int:
        return sum(word in str(p.truth.get("kind")) for p in plan.planned.values() if p.modality == "image")

    assert (count(plain, "meme"), count(plain, "mirrored")) == (0, 0)
    assert count(both, "meme") > 0 and count(both, "mirrored") > 0


@pytest.mark.parametrize("codec", [*CODECS, *ODD_CODECS])
def test_the_same_video_is_the_same_bytes_and_shows_its_scene(codec: str) -> None:
    shot = _shot(codec)
    content = footage.encode(shot.frames(), codec, shot.fps)
    assert content == footage.encode(shot.frames(), codec, shot.fps)
    seen = footage.decode(content)
    assert len(seen) == 8 and seen[0].shape == (64, 96, 3)
    if codec != "h264-grey":
        assert np.abs(seen[4].astype(int) - list(shot.frames())[4]).mean() < 8


@pytest.mark.parametrize("form", sorted({*footage.IMAGES, *ODD_IMAGES}))
def test_every_image_form_can_be_read(form: str) -> None:
    picture = Film(make_scene(3, "demo", "form"), 96, 64).frame(0.0)
    content = footage.write_image(picture, form, 90)
    assert footage.decodes(content, video=False)
    if not form.startswith(("grey", "exif")):
        assert np.abs(footage.read_image(content).astype(int) - picture).mean() < 8


@pytest.mark.parametrize("damage", footage.BREAKS)
@pytest.mark.parametrize("form", ["h264-mp4", "vp9-webm", "mpeg4-avi", "jpg", "webp", "png"])
def test_broken_files_cannot_be_decoded(form: str, damage: str) -> None:
    scene = make_scene(3, "demo", "broken")
    original = _shot(form) if form in CODECS else Photo("n", scene, 96, 64, form)
    [(_, content)] = footage.make(RenderJob(original, damage=damage))
    assert not footage.decodes(content, video=form in CODECS)


def test_static_clips_stand_still_and_slow_ones_do_not() -> None:
    for static in footage.STATICS:
        frames = list(_shot(static=static).frames())
        assert np.abs(frames[0].astype(int) - frames[-1]).max() <= 4
    frames = list(_shot(seconds=2.0).frames())
    assert np.abs(frames[0].astype(int) - frames[-1]).mean() > 2


@pytest.mark.parametrize("kind", [*VIDEO_OVERLAYS, *IMAGE_OVERLAYS])
def test_overlays_cover_a_good_part_of_the_picture(kind: str) -> None:
    plain, burned = _shot(width=240, height=180), _shot(width=240, height=180, overlay=kind)
    changed = [np.abs(a.astype(int) - b).max(axis=2) > 24 for a, b in zip(plain.frames(), burned.frames(), strict=True)]
    assert min(c.mean() for c in changed) > 0.01


def test_copies_are_cut_cropped_scaled_and_mirrored_as_specified() -> None:
    cut = Change("cut", "h264-mp4", cut=(0.3, 0.6))
    files = dict(footage.make(RenderJob(_shot(), (cut, Change("half", "vp9-webm", scale=0.5)))))
    assert len(footage.decode(files["cut"])) == 3
    assert footage.decode(files["half"])[0].shape == (32, 48, 3)
    ramp = np.arange(100 * 80, dtype=np.uint32).reshape(80, 100)
    picture = np.stack([ramp % 251, ramp % 241, ramp % 239], axis=2).astype(np.uint8)
    cropped = Change("c", "png", crop=(0.1, 0.05, 0.06, 0.1), mirror=True).apply(picture)
    np.testing.assert_array_equal(cropped, picture[4:72, 10:94][:, ::-1])


def test_good_captions_describe_the_scene_in_every_style() -> None:
    for i in range(40):
        scene = make_scene(3, "demo", str(i))
        for style in captions.STYLES:
            text = captions.good_caption(scene, style, generator(3, style, str(i))).lower()
            assert all(word in text for s in scene.subjects for word in (s.colour, s.noun))
            assert scene.tint in text
    with pytest.raises(ValueError, match="style"):
        captions.good_caption(scene, "loud")


def test_paragraphs_are_not_alike_and_near_copies_are() -> None:
    def shingles(text: str) -> set[str]:
        words = "".join(c for c in text.lower() if c.isalpha() or c == " ").split()
        return {" ".join(words[i : i + 5]) for i in range(len(words) - 4)}

    def jaccard(a: str, b: str) -> float:
        return len(shingles(a) & shingles(b)) / len(shingles(a) | shingles(b))

    texts = [documents.paragraph(generator(3, "alike", str(i)), 90, 150) for i in range(60)]
    assert max(jaccard(a, b) for i, a in enumerate(texts) for b in texts[:i]) < 0.2
    for i, text in enumerate(texts):
        assert jaccard(text, documents.nearly_same(text, generator(3, "near", str(i)))) > 0.88
        assert jaccard(text, documents.shares_a_sentence(text, generator(3, "quote", str(i)))) < 0.5


def test_counts_are_large_enough_for_the_claims() -> None:
    assert COUNTS["head"] >= 200 and COUNTS["clean_text"] >= 2000
