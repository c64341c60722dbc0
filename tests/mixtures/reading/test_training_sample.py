from __future__ import annotations

import os
import pickle
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from infra.errors import BadSample
from mixtures.reading.clip_plan import plan_clips
from mixtures.reading.contract import Contract
from mixtures.reading.training_sample import SampleDecoder
from tests.infra.media.clips import arrow, encoded, levels, write_video
from tests.mixtures import small

CONTRACT = Contract(tokens_per_frame=8)


@pytest.fixture(scope="module")
def decoder() -> Iterator[SampleDecoder]:
    sample_decoder = SampleDecoder(CONTRACT, frame_size=96)
    yield sample_decoder
    sample_decoder.close()


def raw(modality: str, media: list[bytes], **more: Any) -> dict[str, Any]:
    key, parts = small.sample(1, modality, media)
    record = small.record(1, modality, media, **more)
    return {"__key__": key, "json": record} | {
        member.suffix: member.content for member in parts if member.suffix != "json"
    }


def video(folder: Path, *, count: int = 50, fps: int = 10) -> bytes:
    """Frame i is grey at 20 + 4·i."""
    return write_video(folder / "a.mp4", count=count, fps=fps, step=4, width=128, height=64).read_bytes()


@pytest.mark.parametrize("measured", [True, False])
def test_a_video_gives_the_planned_frames(decoder: SampleDecoder, tmp_path: Path, measured: bool) -> None:
    facts = {"n_frames": 50, "fps": 10.0, "duration": 5.0} if measured else {}
    sample = decoder.decode(raw("video", [video(tmp_path)], **facts))
    plan = plan_clips(50, 10.0, 5.0, CONTRACT)
    assert sample.frames.tolist() == plan.frames.tolist() and sample.times.tolist() == plan.times.tolist()
    assert [levels(clip, 4) for clip in sample.clips] == plan.frames.tolist()
    assert all(clip.shape == (4, 48, 96, 3) and clip.dtype == np.uint8 for clip in sample.clips)
    assert (sample.data_type, sample.modality, len(sample.clips)) == ("video", "video", 3)
    text = sample.conversations[0]["value"]
    assert text.startswith(
        "You are provided the following series of three, 2 second clips from a 0:00:05 [H:MM:SS] video."
    )
    assert text.count("<|video_token|>") == 3 * 32 and text.endswith("<|video_token|>\n\nWhat is 1?")


def test_a_video_of_fewer_frames_than_were_measured_ends_with_its_last(decoder: SampleDecoder, tmp_path: Path) -> None:
    sample = decoder.decode(raw("video", [video(tmp_path, count=30)], n_frames=50, fps=10.0, duration=5.0))
    assert sample.frames.max() > 29
    assert [levels(clip, 4) for clip in sample.clips] == np.minimum(sample.frames, 29).tolist()


def test_threads_that_share_a_decoder_get_their_own_samples(decoder: SampleDecoder) -> None:
    greys = [10 * number for number in range(24)]
    pictures = [encoded(Image.fromarray(np.full((30, 20, 3), grey, dtype=np.uint8)), "PNG") for grey in greys]
    samples = [raw("image", [picture]) for picture in pictures]
    with ThreadPoolExecutor(8) as threads:
        decoded = list(threads.map(decoder.decode, samples))
    assert [int(sample.clips[0][0, 0, 0, 0]) for sample in decoded] == greys


def test_images_are_clips_of_equal_frames(decoder: SampleDecoder) -> None:
    first = encoded(Image.fromarray(arrow()), "PNG")
    second = encoded(Image.fromarray(np.full((200, 100, 3), 77, dtype=np.uint8)), "PNG")
    sample = decoder.decode(raw("image", [first]))
    assert sample.data_type == "image" and len(sample.clips) == 1
    assert all(np.array_equal(frame, arrow()) for frame in sample.clips[0]) and len(sample.clips[0]) == 4
    assert sample.conversations[0]["value"] == "<|image_token|>" * 32 + "\n\nWhat is 1?"
    two = decoder.decode(raw("multi_image", [first, second]))
    assert (two.data_type, two.modality) == ("image", "multi_image")
    assert [clip.shape for clip in two.clips] == [(4, 24, 40, 3), (4, 96, 48, 3)]
    assert two.conversations[0]["value"].count("<|image_token|>") == 64
    assert two.frames.shape == (0, 4) and two.times.shape == (0, 2)


def test_texts_are_read_without_opening_a_decoder(decoder: SampleDecoder) -> None:
    sample = decoder.decode(raw("text", []))
    assert sample.clips == [] and sample.data_type == "text" and sample.conversations[0]["value"] == "The story of 1."


def test_bad_media_are_bad_samples_and_the_next_is_fine(decoder: SampleDecoder, tmp_path: Path) -> None:
    good = video(tmp_path)
    for modality, media, kind in (
        ("video", b"", "empty"),
        ("video", b"nothing at all" * 99, "decode"),
        ("video", good[: len(good) // 2], "decode|truncated"),
        ("image", b"GIF89a", "decode"),
    ):
        with pytest.raises(BadSample, match=kind):
            decoder.decode(raw(modality, [media], n_frames=50, fps=10.0, duration=5.0))
    assert len(decoder.decode(raw("video", [good])).clips) == 3


def test_placeholders_must_be_as_many_as_media(decoder: SampleDecoder) -> None:
    sample = raw("image", [encoded(Image.fromarray(arrow()), "PNG")])
    sample["json"]["conversations"][0]["value"] = "What?"
    with pytest.raises(BadSample, match="placeholders: 0 for 1 media"):
        decoder.decode(sample)


def test_copies_and_forks_have_a_child_of_their_own(decoder: SampleDecoder) -> None:
    sample = raw("image", [encoded(Image.fromarray(arrow()), "PNG")])
    decoder.decode(sample)
    copy = pickle.loads(pickle.dumps(decoder))
    assert copy.contract == CONTRACT and copy.frame_size == 96
    assert np.array_equal(copy.decode(sample).clips[0], decoder.decode(sample).clips[0])
    copy.close()
    pid = os.fork()
    if pid == 0:
        fine = np.array_equal(decoder.decode(sample).clips[0][0], arrow())
        decoder.close()
        os._exit(0 if fine else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert np.array_equal(decoder.decode(sample).clips[0][0], arrow())
