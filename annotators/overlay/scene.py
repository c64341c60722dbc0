"""Decide which lines of text in a video were burned in, by how they move over time.

Burned-in text stands still (or runs along a stable row, a ticker) while its surroundings move; text of the scene moves
with the scene. Where nothing moves, a rule on position and size decides, as for a single picture. The rules and their
numbers are ours; see docs/overlay.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher
from typing import Any

import numpy as np
from numpy.typing import NDArray

Gray = NDArray[np.float32]
Rect = tuple[int, int, int, int]  # x0, y0, x1, y1 in pixels, x1 and y1 exclusive

LARGE = 0.2  # share of the picture above which a box is rarely one line of text


@dataclass
class Line:
    """A line of text in one of the frames searched. detection_score, score: of the detector and of the recogniser."""

    frame: int
    quad: NDArray[np.float32]
    detection_score: float
    rect: Rect
    text: str = ""
    score: float = 0.0
    overlay: bool = False
    certain: bool = False
    motion: _Motion | None = None

    @property
    def height(self) -> int:
        return self.rect[3] - self.rect[1]

    @property
    def width(self) -> int:
        return self.rect[2] - self.rect[0]

    def is_alone(self) -> bool:
        """Whether its strokes are seen in its own frame only."""
        if self.motion is None:
            return False
        elsewhere = self.motion.still | self.motion.shifted
        return int(elsewhere.sum()) == int(elsewhere[self.frame])


def overlap(a: Rect, b: Rect) -> float:
    """Intersection over union."""
    wide = min(a[2], b[2]) - max(a[0], b[0])
    high = min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    both = wide * high
    return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)


# Motion


@dataclass(frozen=True)
class _Motion:
    """The motion of one line, bool (n,) by frame.

    still: its strokes are at the same position; shifted: they are a few pixels away; parted: still while the picture
    behind or around it changed, which only burned-in text does; calm: the surroundings of the line did not change.
    """

    still: NDArray[np.bool_]
    shifted: NDArray[np.bool_]
    parted: NDArray[np.bool_]
    calm: NDArray[np.bool_]


_REACH = np.mgrid[-2:3, -8:9].reshape(2, -1)  # shifts (y, x) at which a line's strokes are searched
_HERE = _REACH.shape[1] // 2
_CELL = 16  # side in pixels of the cells in which the scene's motion is judged


class Scene:
    """The frames of a video as evidence: gradients for strokes, cells for the motion of the whole picture.

    mean: uint8 (height, width, 3), the mean frame, in which a moving scene blurs and burned-in text stays sharp.
    """

    def __init__(self, pixels: NDArray[np.uint8]) -> None:
        import cv2

        self.count, self.height, self.width = pixels.shape[:3]
        self.mean = pixels.mean(axis=0).round().astype(np.uint8)
        colour = np.stack([cv2.GaussianBlur(picture, (3, 3), 0) for picture in pixels])
        self.gray: Gray = np.stack([cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY) for picture in colour]).astype(np.float32)
        # Per channel, (n, height, width, 3): yellow letters on white show in the blue channel only.
        self.dx = np.stack([cv2.Sobel(picture, cv2.CV_32F, 1, 0) for picture in colour])
        self.dy = np.stack([cv2.Sobel(picture, cv2.CV_32F, 0, 1) for picture in colour])
        self._swept: dict[int, NDArray[np.float64]] = {}
        self.write([])

    def write(self, lines: Sequence[Line]) -> None:
        """Mark the area of all lines known so far as text."""
        self.written = np.zeros((self.count, self.height, self.width), bool)
        for line in lines:
            if line.width * line.height <= LARGE * self.height * self.width:
                x0, y0, x1, y1 = line.rect
                self.written[line.frame, y0:y1, x0:x1] = True
        self._swept.clear()

    def same(self, a: int, b: int) -> bool:
        """Whether no cell of two frames differs by more than codec noise, so that searching one of them is enough."""
        import cv2

        size = max(self.width // 8, 1), max(self.height // 8, 1)
        cells = cv2.resize(cv2.absdiff(self.gray[a], self.gray[b]), size, interpolation=cv2.INTER_AREA)
        return bool(cells.max() < 6)

    def moves(self) -> bool:
        """Whether most of the picture changes between most of the frames."""
        return bool(np.median(np.delete(self.swept(self.count // 2), self.count // 2)) >= 0.6)

    def swept(self, frame: int) -> NDArray[np.float64]:
        """float64 (n,), 0..1: share of the textured cells outside text that differ in each other frame."""
        if frame not in self._swept:
            high, wide = self.height // _CELL * _CELL, self.width // _CELL * _CELL

            def cells(stack: NDArray[Any]) -> NDArray[Any]:
                cut = stack[..., :high, :wide]
                shape = (*cut.shape[:-2], high // _CELL, _CELL, wide // _CELL, _CELL)
                return np.moveaxis(cut.reshape(shape), -3, -2).reshape(*cut.shape[:-2], -1, _CELL * _CELL)

            blocks = cells(self.gray)
            blocks = blocks - blocks.mean(axis=-1, keepdims=True)
            spread = blocks.std(axis=-1)
            free = cells(np.asarray(self.written.any(axis=0))).any(axis=-1) == 0
            textured = free & (spread[frame] >= 6)
            alike = (blocks * blocks[frame]).mean(axis=-1) / np.maximum(spread * spread[frame], 1e-6)
            changed = (alike < 0.7)[:, textured]
            few = changed.shape[1] < 4
            self._swept[frame] = np.zeros(self.count) if few else changed.mean(axis=1)
        return self._swept[frame]

    def follow(self, line: Line) -> _Motion:
        """Locate the strokes of a line in every frame, and check whether its surroundings changed."""
        i, (x0, y0, x1, y1) = line.frame, line.rect
        letters = _mask_letters(line)
        strokes = _extract_strokes(self.dx[i, y0:y1, x0:x1], self.dy[i, y0:y1, x0:x1], letters)
        if strokes is None:
            no_frames = np.zeros(self.count, bool)
            return _Motion(no_frames, no_frames, no_frames, no_frames)
        channel, kinds = strokes
        # Each direction must agree separately: long horizontal edges do not show horizontal motion.
        matches = [self._match_gradients(i, channel, ys + y0, xs + x0) for ys, xs in kinds]
        agree = np.minimum(*(f.mean(axis=-1) for f in matches))
        here, best = agree[:, _HERE], agree.max(axis=1)
        still = (here >= 0.45) & (here >= best - 0.05)
        shifted = (best >= 0.45) & ~still

        # Objects that pass behind the letters leave them visible; objects in front of a sign cover them.
        slices = max(round((x1 - x0) / (0.8 * (y1 - y0))), 1)
        columns = [xs * slices // (x1 - x0) for _, xs in kinds]
        kept = (
            _average_by_slice(np.concatenate([f[:, _HERE] for f in matches], axis=1), np.concatenate(columns), slices)
            >= 0.5
        )
        edge = np.zeros((y1 - y0, x1 - x0), bool)
        for ys, xs in kinds:
            edge[ys, xs] = True
        ground = np.nonzero(letters & ~_dilate(edge, 2))
        changed = self._differs(i, ground[0] + y0, ground[1] + x0)
        share = _average_by_slice(changed, ground[1] * slices // (x1 - x0), slices)
        share *= np.bincount(ground[1] * slices // (x1 - x0), minlength=slices) / letters.sum()
        behind, before = (share * kept).sum(axis=1), (share * ~kept).sum(axis=1)
        passed = (behind >= 0.06) & (behind > 2 * before)

        calm, anchored = self._around(line)
        swept = self.swept(i)
        parted = still & (here >= 0.5) & (passed | ((swept >= 0.6) & ~anchored))
        parted[i] = False
        return _Motion(still, shifted, parted, calm & (swept < 0.3))

    def lasts(self, line: Line) -> _Motion:
        """The motion of a line of the mean frame: still where a frame has the strokes of the mean of all others, by
        regression of the frame's gradients on the mean's. Clutter behind faint letters averages out."""
        x0, y0, x1, y1 = line.rect
        dx, dy = self.dx[:, y0:y1, x0:x1].mean(axis=-1), self.dy[:, y0:y1, x0:x1].mean(axis=-1)
        still = np.ones(self.count, bool)
        for gradient, across in ((dx, dy), (dy, dx)):
            mean = gradient.mean(axis=0)
            strong = abs(mean) >= np.maximum(abs(across.mean(axis=0)), np.quantile(abs(mean), 0.7))
            seen = gradient[:, strong]
            rest = (seen.sum(axis=0) - seen) / max(self.count - 1, 1)
            still &= (seen * rest).sum(axis=1) >= 0.5 * np.maximum((rest * rest).sum(axis=1), 1.0)
        no_frames = np.zeros(self.count, bool)
        return _Motion(still, no_frames, no_frames, no_frames)

    def _match_gradients(
        self, frame: int, channel: int, ys: NDArray[np.intp], xs: NDArray[np.intp]
    ) -> NDArray[np.bool_]:
        """bool (n, shifts, pixels): whether the gradient at these pixels recurs, by frame and shift."""
        gx, gy = self.dx[frame, ys, xs, channel], self.dy[frame, ys, xs, channel]
        rows = np.clip(ys + _REACH[0][:, None], 0, self.height - 1)
        columns = np.clip(xs + _REACH[1][:, None], 0, self.width - 1)
        ox, oy = self.dx[:, rows, columns, channel], self.dy[:, rows, columns, channel]
        again: NDArray[np.bool_] = 2 * (ox * gx + oy * gy) >= 0.7 * (gx * gx + gy * gy + ox * ox + oy * oy)
        return again

    def _differs(self, frame: int, ys: NDArray[np.intp], xs: NDArray[np.intp]) -> NDArray[np.bool_]:
        """bool (n, pixels): pixels that differ from `frame`, apart from a common change of brightness."""
        if not len(ys):
            return np.zeros((self.count, 0), bool)
        seen = self.gray[:, ys, xs]
        difference = seen - seen[frame]
        differs: NDArray[np.bool_] = np.abs(difference - np.median(difference, axis=1, keepdims=True)) > 14
        return differs

    def _around(self, line: Line) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """bool (n,) each: the band around a line did not change; it did not change although it is textured, so that
        a motion of the surface that carries the line would have shown."""
        i, (x0, y0, x1, y1) = line.frame, line.rect
        margin = max(6, round(0.7 * line.height))
        rect = (max(x0 - margin, 0), max(y0 - margin, 0), min(x1 + margin, self.width), min(y1 + margin, self.height))
        band = ~self.written[:, rect[1] : rect[3], rect[0] : rect[2]].any(axis=0)
        if band.sum() < 24:
            return np.zeros(self.count, bool), np.zeros(self.count, bool)
        ys, xs = np.nonzero(band)
        calm = self._differs(i, ys + rect[1], xs + rect[0]).mean(axis=1) < 0.1
        textured = float(self.gray[i, rect[1] : rect[3], rect[0] : rect[2]][band].std()) >= 8
        return calm, calm & textured


_Pixels = tuple[NDArray[np.intp], NDArray[np.intp]]


def _mask_letters(line: Line) -> NDArray[np.bool_]:
    """bool, of the size of the line's rectangle: its quadrilateral without the margin that detectors add above and
    below the letters, where the edge of a sign may be."""
    import cv2

    x0, y0, x1, y1 = line.rect
    top, bottom = line.quad[:2], line.quad[[3, 2]]
    inner = np.concatenate([0.88 * top + 0.12 * bottom, (0.12 * top + 0.88 * bottom)[::-1]]) - (x0, y0)
    mask = np.zeros((y1 - y0, x1 - x0), np.uint8)
    cv2.fillPoly(mask, [np.round(inner).astype(np.int32)], 1)
    letters: NDArray[np.bool_] = mask > 0
    return letters


def _extract_strokes(dx: Gray, dy: Gray, letters: NDArray[np.bool_]) -> tuple[int, tuple[_Pixels, _Pixels]] | None:
    """Return the channel in which the strokes of a line stand out most, and its edge pixels (ys, xs), at most 300 of
    each kind: vertical and horizontal ones. None where there are too few."""
    strength = np.hypot(dx, dy)
    if not letters.any():
        return None
    channel = int(np.quantile(strength[letters], 0.85, axis=0).argmax())
    dx, dy, strength = dx[..., channel], dy[..., channel], strength[..., channel]
    edge = letters & (strength >= max(float(np.quantile(strength[letters], 0.75)), 16.0))
    kinds = []
    for kind in (edge & (abs(dx) >= abs(dy)), edge & (abs(dx) < abs(dy))):
        ys, xs = np.nonzero(kind)
        if len(ys) < 8:
            return None
        step = -(-len(ys) // 300)
        kinds.append((ys[::step], xs[::step]))
    return channel, (kinds[0], kinds[1])


def _average_by_slice(values: NDArray[np.bool_], slice_of: NDArray[np.intp], slices: int) -> NDArray[np.float64]:
    """float64 (n, slices): means of bool (n, pixels) over the pixels of each slice, 0 for empty ones."""
    members = slice_of[:, None] == np.arange(slices)
    return np.asarray(values.astype(np.float64) @ members / np.maximum(members.sum(axis=0), 1))


def _dilate(mask: NDArray[np.bool_], by: int) -> NDArray[np.bool_]:
    import cv2

    grown: NDArray[np.bool_] = cv2.dilate(mask.astype(np.uint8), np.ones((2 * by + 1, 2 * by + 1), np.uint8)) > 0
    return grown


# Burned in or part of the scene


def judge_lines(lines: Sequence[Line], scene: Scene | None, shape: tuple[int, int]) -> None:
    """Set `overlay` and `certain` of each line."""
    unsettled = []
    for line in lines:
        line.overlay = line.certain = False
        if scene is None or line.motion is None:
            line.overlay = _is_placed_like_overlay(line, shape)
            continue
        motion, elsewhere = line.motion, np.arange(scene.count) != line.frame
        parted, shifted = int(motion.parted.sum()), int((motion.shifted & elsewhere).sum())
        if parted > shifted:
            line.overlay, line.certain = True, parted >= 2
        elif shifted or not (motion.still & elsewhere).any():
            unsettled.append(line)
            line.overlay = not shifted and _vanishes(line, lines, scene)
        else:
            line.overlay = _is_placed_like_overlay(line, shape)
    if scene is not None:
        for row in _group_rows(unsettled):
            if _is_ticker(row, scene):
                for line in row:
                    line.overlay = True
    placed = [line for line in lines if is_in_caption_band(line, shape) and not moves_about(line, lines)]
    for line in placed:
        line.overlay = line.overlay or any(takes_turns(line, other) for other in placed)
    # One line in two boxes, or the next subtitle in the row of the previous one.
    sure = [line for line in lines if line.overlay and line.certain]
    for line in lines:
        if line.motion is not None and not line.motion.shifted.any() and any(_same_row(line, s) for s in sure):
            line.overlay = True


def _is_placed_like_overlay(line: Line, shape: tuple[int, int]) -> bool:
    return line.score >= 0.8 and placed_like_overlay(line.quad, shape)


def placed_like_overlay(quad: NDArray[np.float32], shape: tuple[int, int]) -> bool:
    """Judge without motion: horizontal text in the upper or lower fifth of the picture, or centred like a title."""
    height, width = shape
    run, rise = quad[1] - quad[0]
    if abs(np.degrees(np.arctan2(rise, run))) > 3:
        return False
    low, high = quad.min(axis=0), quad.max(axis=0)
    x, y = (low + high) / 2 / (width, height)
    share = (high - low) / (width, height)
    return bool(
        y < 0.2 or y > 0.8 or share[0] >= 0.7 or (abs(x - 0.5) < 0.04 and (share[0] >= 0.4 or share[1] >= 0.12))
    )


def is_in_caption_band(line: Line, shape: tuple[int, int]) -> bool:
    """Whether a line lies where captions stand, in the upper quarter or the lower two fifths, whole in the picture, and
    reads as words."""
    middle = (line.rect[1] + line.rect[3]) / 2 / shape[0]
    is_level = line.width >= 1.5 * line.height and not _is_cut(line, shape[1])
    letters = sum(c.isalpha() for c in line.text)
    return is_level and (middle < 0.25 or middle > 0.6) and line.score >= 0.7 and letters >= 3


def _is_cut(line: Line, width: int) -> bool:
    """Whether a line runs out of the picture at its left or right border, as burned-in text hardly does."""
    return line.rect[0] <= 2 or line.rect[2] >= width - 2


def moves_about(line: Line, lines: Sequence[Line]) -> bool:
    """Whether the words of a line, or a part of them, are read at two places in different frames: a sign that moved.
    A part of a line whose strokes stand still was only cut out in another way."""
    alike = [seen for seen in lines if seen is not line and _reads_alike(seen.text, line.text)]
    return any(_is_displaced(a, b) for a in (line, *alike) for b in alike)


def _is_displaced(a: Line, b: Line) -> bool:
    if a.frame == b.frame or overlap(a.rect, b.rect) >= 0.5:
        return False
    return not any(x.motion is not None and x.motion.still[y.frame] for x, y in ((a, b), (b, a)))


def takes_turns(line: Line, other: Line) -> bool:
    """Whether two lines of the caption band are captions of one place at different times: in another frame another
    text stands in the same row, as high and with the same centre or the same left edge, and the strokes of neither are
    anywhere near in the frame of the other, so neither is one sign read in two ways."""
    if line.frame == other.frame or line.motion is None or other.motion is None:
        return False
    if _remains(line, other.frame) or _remains(other, line.frame):
        return False
    size = max(line.height, other.height)
    if not _same_row(line, other) or min(line.height, other.height) < 0.7 * size:
        return False
    left = abs(line.rect[0] - other.rect[0])
    centre = abs(line.rect[0] + line.rect[2] - other.rect[0] - other.rect[2]) / 2
    is_aligned = centre <= max(0.3 * size, 3) or left <= max(0.2 * size, 2)
    return is_aligned and not _reads_alike(line.text, other.text)


def _remains(line: Line, frame: int) -> bool:
    assert line.motion is not None
    return bool(line.motion.still[frame] or line.motion.shifted[frame])


def _reads_alike(a: str, b: str) -> bool:
    """Whether two readings may be of one text: one of at least three letters is part of the other, or 0.7
    of their letters agree in order."""
    a, b = ("".join(c for c in text.casefold() if c.isalnum()) for text in (a, b))
    if min(len(a), len(b)) < 3:
        return a == b
    if a in b or b in a:
        return True
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    # The upper bounds are cheap, and a screen full of text has thousands of pairs.
    return matcher.real_quick_ratio() >= 0.7 and matcher.quick_ratio() >= 0.7 and matcher.ratio() >= 0.7


def _same_row(a: Line, b: Line) -> bool:
    size = max(a.height, b.height)
    return abs(a.rect[1] - b.rect[1]) < 0.3 * size and abs(a.rect[3] - b.rect[3]) < 0.3 * size


def _group_rows(lines: Sequence[Line]) -> list[list[Line]]:
    rows: list[list[Line]] = []
    for line in lines:
        row = next((row for row in rows if _same_row(row[0], line)), None)
        if row is None:
            rows.append([line])
        else:
            row.append(line)
    return rows


def may_run(line: Line, scene: Scene) -> bool:
    middle = (line.rect[1] + line.rect[3]) / 2 / scene.height
    return not 0.25 < middle < 0.75 and line.width >= 0.3 * scene.width


def _is_ticker(row: Sequence[Line], scene: Scene) -> bool:
    """Whether a row is a ticker: wide lines in a border band, in at least half of the frames searched, that run along
    the row at one speed, by 0.15 of their height from frame to frame or more, while the picture beside the row
    does not run with them."""
    seen = len({line.frame for line in row})
    if not any(may_run(line, scene) for line in row) or 2 * seen < max(scene.count // 2, 3):
        return False
    across = scene.dx.mean(axis=-1)
    speeds, along = [], []
    for line in row:
        for k in (line.frame - 1, line.frame + 1):
            if not 0 <= k < scene.count or line.width < 24:
                continue
            score, speed, rise = _find_run(across, line, k, (line.rect[1], line.rect[3]))
            if score >= 0.3:
                speeds.append(speed if abs(rise) <= 2 else 0)
                score, beyond_speed, _ = _find_run(across, line, k, _rows_beyond(line, scene))
                along.append(score >= 0.3 and abs(beyond_speed - speed) <= max(2, 0.15 * abs(speed)))
    if len(speeds) < 2:
        return False
    usual = float(np.median(speeds))
    steady = abs(np.array(speeds) - usual) <= max(2, 0.15 * abs(usual))
    height = float(np.mean([line.height for line in row]))
    return bool(abs(usual) >= 0.15 * height and steady.mean() >= 0.5 and np.mean(along) < 0.5)


def _find_run(across: Gray, line: Line, frame: int, rows: tuple[int, int]) -> tuple[float, int, int]:
    """Search the middle of a line's columns, in the rows (first, last), in a neighbouring frame, up to a third of the
    line's height higher or lower. Returns the correlation, and the pixels per frame to the right and downwards."""
    import cv2

    top, bottom = rows
    quarter, freedom = line.width // 4, max(line.height // 3, 2)
    first_row, first_column = max(top - freedom, 0), line.rect[0] + quarter
    template = across[line.frame, top:bottom, first_column : line.rect[2] - quarter]
    match = cv2.matchTemplate(across[frame, first_row : bottom + freedom], template, cv2.TM_CCOEFF_NORMED)
    y, x = divmod(int(match.argmax()), match.shape[1])
    step = frame - line.frame
    return float(match.max()), (x - first_column) * step, (y + first_row - top) * step


def _rows_beyond(line: Line, scene: Scene) -> tuple[int, int]:
    """Pixel rows (first, last) beside a line, towards the picture's middle, beyond the bar that it may stand on."""
    _, y0, _, y1 = line.rect
    size = line.height
    if y0 + y1 > scene.height:
        return max(y0 - 2 * size, 0), max(y0 - size // 2, 8)
    return min(y1 + size // 2, scene.height - 8), min(y1 + 2 * size, scene.height)


def _vanishes(line: Line, lines: Sequence[Line], scene: Scene) -> bool:
    """Whether a line appears once only and is absent from a neighbouring frame while its surroundings did not change.
    Text of the scene does so only if it moved, and then it is read at another position or runs out of the picture."""
    assert line.motion is not None
    near = [k for k in (line.frame - 1, line.frame + 1) if 0 <= k < scene.count]
    if not any(line.motion.calm[k] for k in near):
        return False
    return not _is_cut(line, scene.width) and not moves_about(line, lines)
