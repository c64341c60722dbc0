"""The faults and hard negatives that are planted in a demo world's videos and pictures, kind by kind.

Each function adds one kind to the plan. A hard negative resembles a fault and has nothing wrong.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from infra.errors import StageError
from pipelines.demo import captions, footage
from pipelines.demo.burned_in_text import IMAGE_OVERLAYS, VIDEO_OVERLAYS
from pipelines.demo.footage import BREAKS, CODECS, ODD_CODECS, ODD_IMAGES, Change, RenderJob
from pipelines.demo.planner import Planner
from pipelines.demo.scenes import COLOURS, PHOTOS, SHAPES, TINTS, DemoScene, Sign, Subject, split_of

_SIGNS = ("CAFE", "EXIT 12", "BAKERY", "MUSEUM", "TAXI", "OPEN", "HOTEL", "LIBRARY", "PARK 7", "STATION", "MARKET")
_BOARDS = (((248, 244, 228), (30, 30, 34)), ((20, 92, 60), (250, 250, 250)), ((24, 50, 120), (250, 250, 250)))
_SMALLEST = 128  # no side of any sound medium is shorter
_VISUAL = (("video", True), ("image", False))


def plan_clean(planner: Planner) -> None:
    for modality, video in _VISUAL:
        for i in range(planner.counts[f"clean_{modality}"]):
            name = (f"clean {modality}", str(i))
            scene = planner.scene(*name, video=video)
            style = ("plain", "plain", "named", "placed")[i % 4]
            planner.add(i, scene, planner.caption(scene, style, *name, still=not video), video=video)


def plan_static(planner: Planner) -> None:
    """Videos in which nothing moves; hard: those in which something moves slowly."""
    for i in range(planner.counts["static"]):
        scene = planner.scene("static", str(i), video=False)
        kind = footage.STATICS[i % 3]
        caption = planner.caption(scene, "plain", "static", str(i), still=True)
        planner.add_medium(planner.shot(i, scene, static=kind), caption, fault="motion", kind=kind)
    for i in range(planner.counts["slow"]):
        rng = planner.rng("slow", str(i))
        scene = planner.scene("slow", str(i), video=True, subjects_n=1)
        if i % 3 < 2:
            camera = ("pan left", "tilt up", "pan right", "tilt down")[i % 4]
            scene = replace(scene, camera=camera, camera_speed=float(rng.uniform(0.018, 0.026)))
            kind = "slow camera"
        else:
            subject = replace(scene.subjects[0], size="large", count=1, radius=0.3, move="left", speed=0.075)
            scene = replace(scene, camera="still", subjects=(subject,))
            kind = "slow subject"
        caption = planner.caption(scene, "plain", "slow", str(i), still=False)
        planner.add(i, scene, caption, video=True, hard="motion", kind=kind)


def plan_overlays(planner: Planner) -> None:
    """Burned-in text; hard: lettering that belongs to the scene."""
    for i in range(planner.counts["burned"]):
        scene = planner.scene("burned", str(i), video=True)
        kind = VIDEO_OVERLAYS[i % len(VIDEO_OVERLAYS)]
        caption = planner.caption(scene, "plain", "burned", str(i), still=False)
        length: dict[str, float] = {}
        if i % (3 * len(VIDEO_OVERLAYS)) == 0:  # every third with subtitles is as long as clips in the wild
            scene, length = replace(scene, camera_speed=scene.camera_speed / 8), {"fps": 8, "seconds": 30.0}
        planner.add_medium(planner.shot(i, scene, overlay=kind, **length), caption, fault="overlay", kind=kind)
    for i in range(planner.counts["signs"]):
        labelled = i % 4 == 3
        scene = _with_lettering(planner, "signs", str(i), labelled=labelled)
        caption = planner.caption(scene, "plain", "signs", str(i), still=False)
        planner.add(i, scene, caption, video=True, hard="overlay", kind="label" if labelled else "sign")
    for i in range(planner.counts["image_overlay"]):
        scene = planner.scene("image burned", str(i), video=False)
        kind = IMAGE_OVERLAYS[i % len(IMAGE_OVERLAYS)]
        caption = planner.caption(scene, "plain", "image burned", str(i), still=True)
        planner.add_medium(planner.photo(i, scene, overlay=kind), caption, fault="overlay", kind=kind)
        scene = _with_lettering(planner, "image signs", str(i), labelled=False)
        caption = planner.caption(scene, "plain", "image signs", str(i), still=True)
        planner.add(i, scene, caption, video=False, hard="overlay", kind="sign")


def _with_lettering(planner: Planner, *name: str, labelled: bool) -> DemoScene:
    """A scene with lettering of its own: on the subject that moves, or on a board in the photograph."""
    rng = planner.rng("sign", *name)
    text = _SIGNS[int(rng.integers(len(_SIGNS)))]
    scene = planner.scene(*name, video=True, subjects_n=1)
    if labelled and (with_label := _label_subject(rng, scene, text)) is not None:
        return with_label
    camera = ("pan left", "pan right", "tilt up", "tilt down")[int(rng.integers(4))]
    on_left = bool(rng.integers(2))
    board, ink = _BOARDS[int(rng.integers(len(_BOARDS)))]
    sign = Sign(
        text, 0.4 if on_left else 0.6, float(rng.uniform(0.44, 0.56)), float(rng.uniform(0.17, 0.22)),
        float(rng.uniform(0.2, 0.7)), (board, ink), float(rng.uniform(-0.14, 0.14)),
    )  # fmt: skip
    aside = replace(scene.subjects[0], x=0.72 if on_left else 0.28, size="small", radius=0.15, count=1)
    speed = float(rng.uniform(0.06, 0.085))
    return replace(scene, subjects=(aside,), signs=(sign,), camera=camera, camera_speed=speed)


def _label_subject(rng: np.random.Generator, scene: DemoScene, text: str) -> DemoScene | None:
    """The scene with a label on its subject, in the first colour that belongs to the demo's split."""
    move = ("left", "right", "up", "down")[int(rng.integers(4))]
    shape = ("ball", "house", "car", "balloon")[int(rng.integers(4))]
    for colour in COLOURS:
        subject = replace(
            scene.subjects[0], colour=colour, shape=shape, texture="plain", size="large", count=1, radius=0.3, x=0.5,
            y=0.5, move=move, speed=0.16, label=text.split(" ")[0][:6],
        )  # fmt: skip
        labelled = replace(scene, subjects=(subject,))
        if split_of(labelled.attributes) == "demo":
            return labelled
    return None


def plan_copied_videos(planner: Planner) -> None:
    remaining, i = planner.counts["copied_video"], 0
    while remaining > 0:
        rng = planner.rng("copied video", str(i))
        scene = planner.scene("copied video", str(i), video=True)
        is_long = i % 4 == 1
        width, height = ((320, 240), (256, 192), (320, 180), (192, 256))[i % 4]
        length = {"fps": 12, "seconds": 5.0} if is_long else {}
        shot = planner.shot(i, scene, width=width, height=height, **length)
        copies = []
        for k in range(min(2 if i % 3 == 0 else 1, remaining)):
            change = Change(planner.new_name(), list(CODECS)[(i + 1 + 3 * k) % len(CODECS)])
            if is_long and k == 0:
                start = float(rng.choice([1.0, 1.5, 2.0]))
                change = replace(change, cut=(start, start + 2.5))
            elif (i + k) % 4 == 2:
                change = replace(change, scale=_scale(rng, width, height))
            elif (i + k) % 4 == 3:
                change = replace(change, crop=_crop(rng))
            copies.append(replace(change, mirror=planner.mirrored and i % 5 == 4))
        remaining -= len(copies)
        caption = planner.caption(scene, "plain", "copied video", str(i), still=False)
        planner.add_medium(shot, caption, copies=tuple(copies), group=f"video-{i}", kind="original")
        i += 1


def plan_copied_images(planner: Planner) -> None:
    remaining, i = planner.counts["copied_image"], 0
    while remaining > 0:
        rng = planner.rng("copied image", str(i))
        scene = planner.scene("copied image", str(i), video=False)
        photo = planner.photo(i, scene)
        copies = []
        for k in range(min(1 + (i % 4 == 0), remaining)):
            form = ("jpg", "webp", "jpg", "png")[(i + k) % 4]
            change = Change(planner.new_name(), form, quality=int(rng.integers(45, 80)))
            if (i + k) % 3 != 1:
                change = replace(change, scale=_scale(rng, photo.width, photo.height))
            if (i + k) % 3 != 0:
                change = replace(change, crop=_crop(rng))
            copies.append(replace(change, mirror=planner.mirrored and i % 5 == 4))
        remaining -= len(copies)
        caption = planner.caption(scene, "plain", "copied image", str(i), still=True)
        planner.add_medium(photo, caption, copies=tuple(copies), group=f"image-{i}", kind="original")
        i += 1


def _scale(rng: np.random.Generator, width: int, height: int) -> float:
    """Smaller or a little larger, with every side at least `_SMALLEST` even after a crop of 20 %."""
    least = _SMALLEST / (0.8 * min(width, height))
    scale = 1.3 if rng.random() < 0.2 else float(rng.uniform(0.55, 0.85))
    return max(scale, least)


def _crop(rng: np.random.Generator) -> tuple[float, float, float, float]:
    """3 to 10 % off every side."""
    cut_left, cut_top, cut_right, cut_bottom = (float(share) for share in rng.uniform(0.03, 0.10, 4))
    return cut_left, cut_top, cut_right, cut_bottom


def plan_same_photograph(planner: Planner) -> None:
    """Hard: no copies, but other windows of one photograph, or stereo pairs, with other subjects and paths."""
    pool = [p for p in PHOTOS["demo"] if p not in ("brick", "motorcycle_right")]
    for modality, video in _VISUAL:
        for i in range(planner.counts[f"other_{modality}"] // 2):
            name = (f"other {modality}", str(i))
            rng = planner.rng(*name)
            stereo = i % 3 == 0
            tint = TINTS[int(rng.integers(len(TINTS)))]
            photo = "motorcycle_left" if stereo else pool[int(rng.integers(len(pool)))]
            fixed = {"tint": tint, "subjects_n": 1}
            first = planner.scene(*name, "a", video=video, photo=photo, **fixed)
            fixed["photo"] = "motorcycle_right" if stereo else photo
            second = _unlike(planner, first, *name, "b", video=video, **fixed)
            second = replace(second, crop_x=1 - first.crop_x, crop_y=1 - first.crop_y, crop=min(first.crop, 0.8))
            for k, scene in enumerate((first, second)):
                caption = planner.caption(scene, "plain", *name, str(k), still=not video)
                kind = "stereo pair" if stereo else "same photograph"
                planner.add(2 * i + k, scene, caption, video=video, hard="duplicates", kind=kind)


def _unlike(planner: Planner, scene: DemoScene, *name: str, video: bool, **fixed: Any) -> DemoScene:
    """A scene that shares no colour and no shape with `scene` (and no tint, unless it is fixed)."""
    words = {word for s in scene.subjects for word in (s.colour, s.shape)}
    for attempt in range(200):
        candidate = planner.scene(*name, "unlike", str(attempt), video=video, **fixed)
        shared = words & {word for s in candidate.subjects for word in (s.colour, s.shape)}
        if not shared and ("tint" in fixed or scene.tint != candidate.tint):
            return candidate
    raise StageError("no scene is different enough")


def plan_languages(planner: Planner) -> None:
    """Captions in other languages; hard: English ones with foreign names and phrases."""
    for i, video in _both(planner, "language"):
        scene = planner.scene("language", str(i), video=video)
        language = captions.LANGUAGES[i % len(captions.LANGUAGES)]
        caption = captions.other_language(scene, language, planner.rng("language", str(i)))
        planner.add(i, scene, caption, video=video, fault="language", kind=language)
    for i, video in _both(planner, "names"):
        scene = planner.scene("names", str(i), video=video)
        style = ("named", "foreign_words")[i % 2]
        caption = planner.caption(scene, style, "names", str(i), still=not video)
        planner.add(i, scene, caption, video=video, hard="language", kind=style)


def _both(planner: Planner, kind: str) -> list[tuple[int, bool]]:
    """(number, is a video) of a kind's videos and then of its pictures."""
    videos = planner.counts[f"{kind}_video"]
    return [(i, i < videos) for i in range(videos + planner.counts[f"{kind}_image"])]


def plan_swapped(planner: Planner) -> None:
    """Pairs of media with each other's captions."""
    for modality, video in _VISUAL:
        for i in range(planner.counts[f"swapped_{modality}"] // 2):
            name = (f"swapped {modality}", str(i))
            first = planner.scene(*name, "a", video=video)
            second = _unlike(planner, first, *name, "b", video=video)
            for k, (scene, described) in enumerate(((first, second), (second, first))):
                caption = planner.caption(described, "plain", *name, described.tint, still=not video)
                planner.add(2 * i + k, scene, caption, video=video, fault="alignment", kind="swapped")


def plan_alike(planner: Planner) -> None:
    """Hard: scenes whose captions differ by one word, each with its own caption."""
    for modality, video in _VISUAL:
        for i in range(planner.counts[f"alike_{modality}"] // 2):
            name = (f"alike {modality}", str(i))
            first = planner.scene(*name, video=video, subjects_n=1)
            changed, second = _one_word_off(planner, first, *name, video=video)
            for k, scene in enumerate((first, second)):
                caption = planner.caption(scene, "plain", *name, still=not video)
                planner.add(2 * i + k, scene, caption, video=video, hard="alignment", kind=f"another {changed}")


def _one_word_off(planner: Planner, first: DemoScene, *name: str, video: bool) -> tuple[str, DemoScene]:
    subject: Subject = first.subjects[0]
    options = [("colour", replace(subject, colour=c)) for c in COLOURS if c != subject.colour]
    options += [("shape", replace(subject, shape=s)) for s in SHAPES if s != subject.shape]
    for index in planner.rng("one word", *name).permutation(len(options)):
        word, changed = options[int(index)]
        if split_of((first.tint, f"{changed.colour} {changed.shape}")) == "demo":
            elsewhere = planner.scene(*name, "elsewhere", video=video, tint=first.tint, subjects_n=1)
            return word, replace(elsewhere, subjects=(changed,), camera=first.camera)
    raise StageError("no caption of the demo's split differs by one word")


def plan_caption_quality(planner: Planner) -> None:
    """Captions with most words in capitals and captions of a word or two; hard: brief ones, ones with acronyms and
    ones in capitals throughout, which are repaired."""
    for i, video in _both(planner, "quality"):
        scene = planner.scene("quality", str(i), video=video)
        rng = planner.rng("quality", str(i))
        if i % 2 == 0:
            kind, good = "shouted", planner.caption(scene, "plain", "quality", str(i), still=not video)
            caption = captions.shouted(good, rng)
        else:
            kind, caption = "too short", captions.too_short(scene, rng)
        planner.add(i, scene, caption, video=video, fault="quality", kind=kind)
    for i, video in _both(planner, "brief"):
        scene = planner.scene("brief", str(i), video=video)
        style = ("brief", "capitals", "repaired")[i % 3]
        wording = "plain" if style == "repaired" else style
        caption = planner.caption(scene, wording, "brief", str(i), still=not video)
        if style == "repaired":
            caption = captions.in_capitals(caption, planner.rng("brief", str(i)))
        planner.add(i, scene, caption, video=video, hard="quality", kind=style)


def plan_broken(planner: Planner) -> None:
    for modality, video in _VISUAL:
        for i in range(planner.counts[f"broken_{modality}"]):
            scene = planner.scene("broken", modality, str(i), video=True)
            caption = planner.caption(scene, "plain", "broken", modality, str(i), still=not video)
            damage = BREAKS[i % len(BREAKS)]
            j = i // len(BREAKS) + i  # so that each kind of damage meets each format
            medium = planner.shot(j, scene, seconds=2.0) if video else planner.photo(j, scene)
            planner.add_medium(medium, caption, damage, fault="broken", kind=damage)


def plan_odd_formats(planner: Planner) -> None:
    """Hard: sound files in rare formats."""
    for i in range(planner.counts["odd_video"]):
        codec = list(ODD_CODECS)[i % len(ODD_CODECS)]
        scene = _odd_scene(planner, "odd video", str(i), video=True, grey=codec == "h264-grey")
        size = {"width": 191, "height": 143} if codec == "h264-444" else {}
        caption = planner.caption(scene, "plain", "odd video", str(i), still=False)
        planner.add_medium(planner.shot(i, scene, codec=codec, **size), caption, hard="broken", kind=codec)
    for i in range(planner.counts["odd_image"]):
        form = ODD_IMAGES[i % len(ODD_IMAGES)]
        scene = _odd_scene(planner, "odd image", str(i), video=False, grey=form.startswith("grey"))
        caption = planner.caption(scene, "plain", "odd image", str(i), still=True)
        planner.add_medium(planner.photo(i, scene, form=form), caption, hard="broken", kind=form)


def _odd_scene(planner: Planner, *name: str, video: bool, grey: bool) -> DemoScene:
    """A scene; if grey a black or white subject on a grey photograph, whose caption stays true without colour."""
    if not grey:
        return planner.scene(*name, video=video)
    for attempt in range(500):
        scene = planner.scene(*name, str(attempt), video=video, tint="grey", subjects_n=1)
        if scene.subjects[0].colour in ("black", "white"):
            return scene
    raise StageError("no scene without colour")


def plan_frequent(planner: Planner) -> None:
    """For resampling: many pictures of a few subjects ("head"), some of them with the name of a rare place ("tail")."""
    rng = planner.rng("heads")
    colours, shapes = rng.permutation(list(COLOURS)), rng.permutation(SHAPES)
    heads = [(str(colours[k]), str(shapes[k])) for k in range(6)]
    shares = np.cumsum([0.32, 0.24, 0.17, 0.12, 0.09, 0.06])
    for i in range(planner.counts["head"] + planner.counts["tail"]):
        is_tail = i >= planner.counts["head"]
        rng = planner.rng("head", str(i))
        colour, shape = heads[int(np.searchsorted(shares, rng.random() * 0.999))]
        scene = _of_subject(planner, colour, shape, "head", str(i))
        caption = captions.good_caption(
            scene, "placed" if is_tail else "plain", planner.rng("caption", "head", str(i)), still=True,
            town=captions.PLACES[i % len(captions.PLACES)],
        )  # fmt: skip
        truth = {"resample": "tail" if is_tail else "head", "kind": f"{colour} {shape}"}
        planner.add(i, scene, caption, video=False, **truth)


def _of_subject(planner: Planner, colour: str, shape: str, *name: str) -> DemoScene:
    for attempt in range(200):
        scene = planner.scene(*name, str(attempt), video=False, subjects_n=1)
        scene = replace(scene, subjects=(replace(scene.subjects[0], colour=colour, shape=shape),))
        if split_of(scene.attributes) == "demo":
            return scene
    raise StageError(f"no scene of a {colour} {shape}")


def plan_albums(planner: Planner) -> None:
    for i in range(planner.counts["albums"]):
        names, texts = [], []
        for k in range(2 + i % 2):
            scene = planner.scene("albums", str(i), str(k), video=False)
            photo = planner.photo(i + k, scene, form=("jpg", "png", "webp")[k])
            planner.plan.jobs.append(RenderJob(photo))
            names.append(f"{photo.name}.{photo.suffix}")
            texts.append(planner.caption(scene, "plain", "albums", str(i), str(k), still=True))
        order = ("The first", "The second", "The third")
        answer = " ".join(f"{order[k]}: {text[0].lower()}{text[1:]}" for k, text in enumerate(texts))
        planner.plan.albums.append((names, answer))
