"""Measure the cost and the accuracy of the motion score on H.264. Prints one JSON object as its last line.

    python -m benchmarks.motion [--quick] [--clips DIR]        REELMILL_CORPUS=DIR adds the real clips

Generated clips: 3 s of a photograph from scikit-image's wheel (512 to 741 pixels wide, enlarged to the frame and
mirrored beyond its edges), moved by sub-pixel warps and encoded by x264 (medium, CRF 23, 3 B-frames with pyramid, its
defaults), 320x240 to 1280x720, 24 to 60 fps. Known speeds, from 0.2 % to 120 % of the width per second: pans along
either axis and the diagonal, zooms, turns, a patch of another photograph (5 to 20 % of the area) crossing a still
background. Hard ones: perfectly still, still under sensor noise, under flicker, hand-held shake, every frame shown
twice, a slow pan under noise, a fade out of black, a subject in flat colour before a plain wall.

over_decode: CPU time with the observer over that of decoding alone, minus 1; one decoder thread, sum over all clips.
speedup: CPU time of Farneback at full size on 2 frames per second, including its own decode, over Reelmill's
    (generated clips); speedup_320: the same with the frames first shrunk to a long side of 320 pixels.
spearman: rank correlation with Farneback between adjacent frames, long side 320, at two positions per second that move
    by the golden ratio (regular positions alias with repeated frames), over all generated clips; spearman_real: over
    all H.264 clips of the corpus of a second or more. spearman_ceiling: two settings of Farneback against each other on
    the latter (on the generated ones without a corpus); *_dis: the same against DIS. spearman_known: against the
    requested speed, for generated clips of known speed.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from scipy.stats import spearmanr

from annotators.motion import Gray8, MotionObserver

PHOTOS = ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg", "motorcycle_left.png")
SIZES = ((320, 240), (480, 360), (640, 360), (854, 480), (1280, 720))
RATES = (24, 25, 30, 50, 60)
SECONDS = 3.0
GOLDEN = (math.sqrt(5) - 1) / 2
Picture = NDArray[np.uint8]


def photo(name: str, height: int) -> Picture:
    import skimage

    picture = cv2.imread(str(Path(skimage.__file__).parent / "data" / name))
    scale = height / picture.shape[0]
    return cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


def warp(picture: Picture, matrix: Any, width: int, height: int) -> Picture:
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    return cv2.warpAffine(picture, np.float32(matrix), (width, height), flags=flags, borderMode=cv2.BORDER_REFLECT_101)


def clip(kind: str, speed: float, seed: int, width: int, height: int, rate: int, seconds: float) -> Iterator[Picture]:
    """Yield BGR frames. speed: share of the width per second (pan, subject) or of the size per second (zoom)."""
    chance = np.random.default_rng(seed)
    back, front = photo(PHOTOS[seed % 5], height), photo(PHOTOS[(seed + 2) % 5], height)
    for index in range(round(seconds * rate)):
        shown = index // 2 * 2 if kind == "twice" else index
        way = speed * width * shown / rate
        x, y, scale, turn = 0.0, 0.0, 1.0, 0.0
        if kind in ("pan", "twice", "noisy_pan"):
            x = way
        elif kind == "tilt":
            y = way
        elif kind == "diagonal":
            x = y = way / math.sqrt(2)
        elif kind == "zoom":
            scale = math.exp(-speed * shown / rate)
        elif kind == "turn":
            turn = speed * shown / rate
        elif kind == "shake":
            x, y = chance.normal(0, speed * width / rate, 2)
        cos, sin = math.cos(turn) * scale, math.sin(turn) * scale
        cx, cy = width / 2, height / 2
        matrix = [[cos, -sin, x + cx - cos * cx + sin * cy], [sin, cos, y + cy - sin * cx - cos * cy]]
        frame = np.full((height, width, 3), (176, 190, 198), np.uint8) if kind == "plain" else back
        if kind != "plain":
            frame = warp(frame, matrix, width, height)
        if kind in ("subject", "plain"):
            side = round(math.sqrt((0.05, 0.1, 0.2)[seed % 3] * width * height))
            patch = front[:side, :side] if kind == "subject" else np.full((side, side, 3), (60, 60, 150), np.uint8)
            x_patch = (0.1 * width + way) % (width + side) - side
            moved = warp(patch, [[1, 0, -x_patch], [0, 1, -(height - side) / 2]], width, height)
            inside = np.zeros((height, width), bool)
            x0, x1 = max(0, round(x_patch)), max(0, round(x_patch) + side)
            inside[(height - side) // 2 : (height + side) // 2, x0:x1] = True
            frame = np.where(inside[..., None], moved, frame)
        if kind in ("noise", "noisy_pan"):
            frame = np.clip(frame + chance.normal(0, 3, frame.shape), 0, 255).astype(np.uint8)
        if kind == "noisy_pan":
            frame = frame.copy()
        if kind == "flicker":
            frame = np.clip(frame * (1 + 0.02 * math.sin(index * 2.1)), 0, 255).astype(np.uint8)
        if kind == "fade":
            frame = (frame * min(1.0, 2 * index / (seconds * rate))).astype(np.uint8)
        yield frame


def write(path: Path, frames: Iterator[Picture], width: int, height: int, rate: int) -> None:
    temporary = path.with_suffix(".part")
    with av.open(str(temporary), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": "23", "bf": "3"})
        stream.width, stream.height, stream.pix_fmt, stream.thread_count = width, height, "yuv420p", 1
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="bgr24")))
        container.mux(stream.encode())
    temporary.rename(path)


def generate(folder: Path, quick: bool) -> list[tuple[Path, float | None]]:
    """Write the clips that are missing; returns (file, known speed in diagonals per second or None) of all."""
    speeds = (0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.15, 0.3, 0.6, 1.2)
    specs = [(kind, speed) for kind in ("pan", "subject") for speed in speeds]
    specs += [(kind, speed) for kind in ("tilt", "diagonal", "zoom", "turn") for speed in speeds[1:9:2] + speeds[2:3]]
    specs += [(kind, 0.0) for kind in ("still", "noise", "flicker", "fade") for _ in range(3)]
    specs += [("shake", 0.05), ("shake", 0.3), ("twice", 0.02), ("twice", 0.3), ("noisy_pan", 0.02)]
    specs += [("noisy_pan", 0.1), ("plain", 0.02), ("plain", 0.2)]
    clips = []
    for seed, (kind, speed) in list(enumerate(specs))[:: 4 if quick else 1]:
        width, height = SIZES[(seed * 2) % 5]
        rate = RATES[(seed * 3 + seed // 5) % 5]
        known_speed = None
        if kind in ("pan", "tilt", "diagonal", "twice", "noisy_pan"):
            known_speed = speed * width / math.hypot(width, height)
        path = folder / f"{seed:03d}-{kind}-{speed}.mp4"
        if not path.exists():
            write(path, clip(kind, speed, seed, width, height, rate, SECONDS), width, height, rate)
        clips.append((path, known_speed))
    return clips


def decode(path: Path, vectors: bool = False) -> Iterator[tuple[Any, Any]]:
    """Yield (stream, frame). Damage in mid-stream ends the frames: those decoded so far can be scored."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        stream.thread_type, stream.codec_context.thread_count = "NONE", 1
        if vectors:
            stream.codec_context.flags2 |= av.codec.context.Flags2.export_mvs
        frames = container.decode(stream)
        while True:
            try:
                frame = next(frames)
            except (StopIteration, av.FFmpegError):
                return
            yield stream, frame


def decode_only(path: Path) -> tuple[float, int]:
    start, frames = time.process_time(), 0
    for _ in decode(path):
        frames += 1
    return time.process_time() - start, frames


def facts(path: Path) -> dict[str, Any]:
    times, codec = [], ""
    for stream, frame in decode(path):
        codec = stream.codec_context.codec.canonical_name
        times.append(frame.time)
        rate = float(stream.average_rate or 0)
    if len(times) > 1 and None not in times and max(times) > min(times):
        rate = (len(times) - 1) / (max(times) - min(times))
    return {"codec": codec, "frames": len(times), "fps": rate if times else 0.0}


def observe_motion(path: Path, header: dict[str, Any]) -> tuple[float, dict[str, Any]]:
    start = time.process_time()
    observer = MotionObserver()
    observer.start(header)
    for _, frame in decode(path, vectors=True):
        observer.frame(frame)
    signals = dict(observer.finish())
    return time.process_time() - start, signals


FARNEBACK = ((0.5, 3, 15, 3, 5, 1.2, 0), (0.5, 4, 21, 3, 7, 1.5, 0))


def farneback(path: Path, header: dict[str, Any], long_side: int) -> float:
    """CPU seconds of flow between frames at 2 per second, including the decode."""
    start, gray, before, next_frame = time.process_time(), Gray8(), None, 0.0
    for index, (_, frame) in enumerate(decode(path)):
        if index >= next_frame:
            next_frame += header["fps"] / 2
            picture = gray.within(frame, long_side)
            if before is not None:
                np.hypot(*np.moveaxis(cv2.calcOpticalFlowFarneback(before, picture, None, *FARNEBACK[0]), 2, 0)).mean()
            before = picture
    return time.process_time() - start


def reference(path: Path, header: dict[str, Any]) -> tuple[float, float, float]:
    """Motion in diagonals per second by two settings of Farneback and by DIS."""
    gray, before, pair, speeds = Gray8(), None, 0, []
    dis = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_FAST)
    for index, (_, frame) in enumerate(decode(path)):
        picture = None
        if before is not None:
            picture = gray.within(frame, 320)
            if picture.shape == before.shape:
                flows = [cv2.calcOpticalFlowFarneback(before, picture, None, *settings) for settings in FARNEBACK]
                flows.append(dis.calc(before, picture, None))
                diagonal = math.hypot(*picture.shape)
                speeds.append([float(np.hypot(flow[..., 0], flow[..., 1]).mean()) / diagonal for flow in flows])
            before = None
        if index >= int((pair + (pair * GOLDEN + 0.5) % 1) * header["fps"] / 2):
            before, pair = gray.within(frame, 320) if picture is None else picture, pair + 1
    first, second, third = np.mean(speeds, axis=0) * header["fps"] if speeds else (math.nan,) * 3
    return float(first), float(second), float(third)


def rank(a: list[float], b: list[float]) -> float:
    return round(float(spearmanr(a, b).statistic), 4)


@dataclass
class Costs:
    """CPU seconds summed over clips; the last three over generated clips only. ratios: observer over decode, less 1."""

    decode: float = 0.0
    observed: float = 0.0
    observed_generated: float = 0.0
    flow: float = 0.0
    flow_small: float = 0.0
    ratios: list[float] = field(default_factory=list)


@dataclass(frozen=True)
class Score:
    """score: Reelmill's, -1 where it has none. flows: diagonals per second as `reference` measures them."""

    path: Path
    score: float
    flows: tuple[float, float, float]


def measure_clip(path: Path, costs: Costs, is_generated: bool) -> Score | None:
    """Add the clip to `costs`; returns its score, or None if it is too short to have one or cannot be measured."""
    try:
        header = facts(path)
    except av.FFmpegError as error:
        print(f"{path.name}: not opened: {error}")
        return None
    if header["codec"] != "h264" or not header["frames"]:
        return None
    # A B B A: other load on the machine falls on both sides alike. Very long clips run once.
    decode_times = [decode_only(path)[0]]
    observed = [observe_motion(path, header)]
    if header["frames"] < 2000:
        observed.append(observe_motion(path, header))
        decode_times.append(decode_only(path)[0])
    cost, decode_time = min(seconds for seconds, _ in observed), min(decode_times)
    costs.decode, costs.observed = costs.decode + decode_time, costs.observed + cost
    costs.ratios.append(cost / decode_time - 1)
    if is_generated:
        costs.observed_generated += cost
        costs.flow += farneback(path, header, 10**6)
        costs.flow_small += farneback(path, header, 320)
    if header["frames"] < header["fps"] or header["frames"] <= 1:
        return None
    score, flows = observed[0][1].get("score", -1.0), reference(path, header)
    print(f"{score:.6f} flow {flows[0]:.6f} {flows[1]:.6f} {flows[2]:.6f} {costs.ratios[-1]:6.3f} {path.name}")
    return Score(path, score, flows)


def correlate(generated: list[Score], corpus: list[Score], speeds: dict[Path, float | None]) -> dict[str, Any]:
    """Rank correlations; `speeds` are the known speeds of the generated clips."""
    scores = [row.score for row in generated]
    first, second, dis = map(list, zip(*(row.flows for row in generated), strict=True))
    panned = [(row.score, speed) for row in generated if (speed := speeds[row.path]) is not None]
    ranks = {
        "spearman": rank(scores, first),
        "spearman_dis": rank(scores, dis),
        "spearman_known": rank(*map(list, zip(*panned, strict=True))),
        "spearman_ceiling": rank(first, second),
    }
    if not corpus:
        return ranks | {"spearman_real": None}
    scores = [row.score for row in corpus]
    first, second, dis = map(list, zip(*(row.flows for row in corpus), strict=True))
    return ranks | {
        "real_clips": len(corpus),
        "spearman_real": rank(scores, first),
        "spearman_real_dis": rank(scores, dis),
        "spearman_ceiling": rank(first, second),
        "spearman_ceiling_dis": rank(first, dis),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a quarter of the clips; corpus: 1 in 6")
    parser.add_argument("--clips", type=Path, help="folder that keeps the generated clips for the next run")
    arguments = parser.parse_args()
    quick = arguments.quick
    cv2.setNumThreads(1)
    costs = Costs()
    with tempfile.TemporaryDirectory() as folder:
        clips = arguments.clips or Path(folder)
        clips.mkdir(parents=True, exist_ok=True)
        speeds = dict(generate(clips, quick))
        corpus_paths: list[Path] = []
        if root := os.environ.get("REELMILL_CORPUS"):
            corpus_paths = sorted((Path(root) / "videos").iterdir())[:: 6 if quick else 1]
        else:
            print("corpus: skipped, REELMILL_CORPUS is not set")
        generated = [score for path in speeds if (score := measure_clip(path, costs, is_generated=True))]
        corpus = [score for path in corpus_paths if (score := measure_clip(path, costs, is_generated=False))]
    figures = {
        "quick": quick,
        "clips": len(costs.ratios),
        "decode_s": round(costs.decode, 2),
        "over_decode": round(costs.observed / costs.decode - 1, 4),
        "over_decode_10_50_90": [round(float(q), 3) for q in np.quantile(costs.ratios, (0.1, 0.5, 0.9))],
        "speedup": round(costs.flow / costs.observed_generated, 2),
        "speedup_320": round(costs.flow_small / costs.observed_generated, 2),
        **correlate(generated, corpus, speeds),
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
