from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import pytest
from numpy.typing import NDArray

from infra import tables
from infra.store import Cells, content_ids
from pipelines.core.resolve import resolve
from pipelines.core.run import Run
from pipelines.decide.duplicates.survivors import TOLERANCES
from pipelines.stages import STAGES
from tests import corpus
from tests.infra.media.clips import write_video
from tests.tiny import rows


def decided(run: Run) -> Run:
    for name in ("ingest", "measure", "decide"):
        STAGES[name](run)
    return run


def test_images_are_grouped_as_by_brute_force(tmp_path: Path, make_run: Callable[..., Run]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    rng = np.random.default_rng(1)
    for number in range(10):
        base = corpus.picture(number)
        for copy in range(1 + number % 3):
            noisy = np.clip(base + rng.integers(-9 * copy, 9 * copy + 1, base.shape), 0, 255).astype(np.uint8)
            (folder / f"{number}-{copy}.jpg").write_bytes(corpus.image_bytes(noisy, quality=95 - 30 * copy))
    sources = [{"name": "a", "path": str(folder), "modality": "image", "captions": "optional"}]
    run = decided(make_run(sources, units={"target_rows": 3}, filters={"facts": {"min_side": 32}},
                           duplicates={"image": {"threshold": 0.8}, "buckets": 3}))  # fmt: skip
    samples = tables_of(run)
    cells = Cells(run.store, "fingerprint", resolve(run).makers["fingerprint"])
    vectors = {}
    for unitset, file_name in cells.parts():
        for row in tables.read(f"{cells.folder}/{unitset}/{file_name}").to_pylist():
            vectors[row["id"]] = np.frombuffer(row["vectors"], np.float16).astype(np.float64)
    keys = [str(row["key"]) for row in samples]
    matrix = np.stack([vectors[row["id"]] for row in samples])
    edges = np.round(matrix @ matrix.T, 6) >= 0.8
    group = list(range(len(keys)))
    for _ in keys:  # labels fall to the smallest that can be reached
        group = [min(group[j] for j in np.flatnonzero(edges[i])) for i in range(len(keys))]
    size = {row["key"]: np.log2((folder / row["container"]).stat().st_size) for row in rows(run, "samples")}
    expected: dict[str, str] = {}
    for key, label in zip(keys, group, strict=True):
        members = [k for k, g in zip(keys, group, strict=True) if g == label]
        largest = max(size[k] for k in members)
        expected[key] = min(k for k in members if largest - size[k] <= TOLERANCES["density"])
    assert len(set(group)) == 10
    duplicate_rows = {row["key"]: row for row in rows(run, "duplicates")}
    assert {key: duplicate_rows[key]["survivor"] if key in duplicate_rows else key for key in keys} == expected
    for verdict in rows(run, "verdicts"):
        survivor = expected[verdict["key"]]
        assert verdict["outcome"] == ("kept" if survivor == verdict["key"] else "duplicate")
        assert verdict["duplicate_of"] == (None if survivor == verdict["key"] else survivor)


@pytest.mark.parametrize("marked", ["a", "b"])
def test_the_copy_with_a_watermark_goes_where_the_config_reads_pictures(
    marked: str, tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    """Text is read of the members of groups only, before the survivor is chosen; and of what is kept, as ever."""
    for name in ("a", "b"):
        (tmp_path / "in" / name).mkdir(parents=True)
        for number in (0, 1):  # the second is no copy of the first
            picture = corpus.picture(number, 320, 240)
            shown = _write_on(picture, "stockphoto.com") if name == marked and not number else picture
            if name == "a" or not number:
                content = corpus.image_bytes(shown, quality=90)
                (tmp_path / "in" / name / f"{number}.jpg").write_bytes(content)
    sources = [{"name": "a", "path": str(tmp_path / "in"), "modality": "image", "captions": "optional"}]
    how = {"filters": {"facts": {"min_side": 32}}, "duplicates": {"image": {}}, "measure": {"late": ["overlay"]}}
    run = decided(make_run(sources, **how))
    container = {row["key"]: row["container"] for row in rows(run, "samples")}
    outcomes = {container[row["key"]]: row["outcome"] for row in rows(run, "verdicts")}
    other = "ab".replace(marked, "")
    assert outcomes == {f"{marked}/0.jpg": "duplicate", f"{other}/0.jpg": "kept", "a/1.jpg": "kept"}
    measured = Cells(run.store, "overlay", resolve(run).makers["overlay"])
    parts = [measured.read_part(*part, []) for part in measured.parts()]
    assert sum(part.num_rows for part in parts if part is not None) == 3
    assert "overlay.text_area" not in rows(run, "signals")[0]


def _write_on(picture: NDArray[np.uint8], words: str) -> NDArray[np.uint8]:
    image = PIL.Image.fromarray(picture)
    font = PIL.ImageFont.load_default(picture.shape[0] // 8)
    centre = (picture.shape[1] // 2, picture.shape[0] // 2)
    PIL.ImageDraw.Draw(image).text(centre, words, "white", font, anchor="mm", stroke_width=1, stroke_fill="black")
    return np.asarray(image)


def tables_of(run: Run) -> list[dict[str, object]]:
    entries = []
    for path in sorted(Path(run.at("samples")).glob("*.parquet")):
        table = tables.read(str(path))
        ids = content_ids(table)["media"].to_pylist()
        entries += [{"key": key, "id": id_} for key, id_ in zip(table["key"].to_pylist(), ids, strict=True)]
    return entries


def test_a_clip_cut_out_of_a_longer_one_is_its_duplicate_with_the_matched_spans(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    scenes = [1, 2, 3, 4, 5, 6]
    _slides(folder / "long.mp4", scenes)
    _slides(folder / "cut.mp4", scenes[2:5])
    _slides(folder / "other.mp4", [7, 8, 9])
    _slides(folder / "shuffled.mp4", [5, 3, 1])
    sources = [{"name": "v", "path": str(folder), "modality": "video", "captions": "optional"}]
    run = decided(make_run(sources, duplicates={"video": {"min_share": 0.6}}))
    by_name = {s["container"]: v for s, v in zip(rows(run, "samples"), rows(run, "verdicts"), strict=True)}
    assert {name: v["outcome"] for name, v in by_name.items()} == {
        "long.mp4": "kept", "cut.mp4": "duplicate", "other.mp4": "kept", "shuffled.mp4": "kept",
    }  # fmt: skip
    cut = by_name["cut.mp4"]
    assert cut["duplicate_of"] == by_name["long.mp4"]["key"] and cut["value"] >= 0.99 and cut["threshold"] == 0.6
    (row,) = (row for row in rows(run, "duplicates") if row["key"] == cut["key"])
    assert row["match"] == by_name["long.mp4"]["key"]
    assert row["match_start_s"] - row["start_s"] == pytest.approx(2.0, abs=0.6)
    assert row["match_end_s"] == pytest.approx(5.0, abs=1.1)  # frames are a second apart


def _slides(path: Path, numbers: list[int]) -> None:
    """One picture a second."""
    from fractions import Fraction

    import av

    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=8, options={"threads": "1"})
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for i in range(8 * len(numbers)):
            frame = av.VideoFrame.from_ndarray(corpus.picture(numbers[i // 8]), format="rgb24").reformat(
                format="yuv420p"
            )
            frame.pts, frame.time_base = i, Fraction(1, 8)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))


def test_media_of_equal_bytes_are_duplicates_without_a_fingerprint(
    tmp_path: Path, make_run: Callable[..., Run]
) -> None:
    """Plain pictures and dark videos cannot be compared by their looks: only equal bytes are copies."""
    for modality in ("image", "video"):
        (tmp_path / modality).mkdir()
    for name, shade in (("a", 0), ("b", 0), ("c", 3)):
        plain = np.full((64, 64, 3), shade, np.uint8)
        (tmp_path / "image" / f"{name}.png").write_bytes(corpus.image_bytes(plain, "PNG"))
    dark = write_video(tmp_path / "video" / "a.mp4", step=0, count=10)
    (tmp_path / "video" / "b.mp4").write_bytes(dark.read_bytes())
    sources = [{"name": m, "path": str(tmp_path / m), "modality": m, "captions": "optional"}
               for m in ("image", "video")]  # fmt: skip
    run = decided(make_run(sources, units={"target_rows": 2}, filters={"facts": {"min_side": 32}},
                           duplicates={"image": {}, "video": {}, "buckets": 2}))  # fmt: skip
    containers = {row["key"]: row["container"] for row in rows(run, "samples")}
    groups: dict[str, list[str]] = {}
    for row in rows(run, "duplicates"):
        groups.setdefault(row["survivor"], []).append(containers[row["key"]])
        assert row["similarity"] in (None, 1.0)
    assert sorted(map(sorted, groups.values())) == [["a.mp4", "b.mp4"], ["a.png", "b.png"]]
