import json

import pyarrow as pa

from annotators.interface import FrameAnnotator
from annotators.overlay.overlay import Overlay
from annotators.overlay.settings import OverlaySettings
from infra.media.interface import DecodedMedia
from tests.annotators.overlay.clips import make_clip, nothing, subtitle


def test_rows_stand_alone_and_errors_are_not_scores() -> None:
    annotator = Overlay()
    assert isinstance(annotator, FrameAnnotator)
    assert annotator.plan.count == 2 * annotator.settings.frames and annotator.plan.fit == "long"
    clip, still = (
        DecodedMedia(frames={"overlay": make_clip(subtitle)}),
        DecodedMedia(frames={"overlay": make_clip(nothing)}),
    )
    media = [clip, DecodedMedia(error="codec: broken"), still, DecodedMedia(), clip]
    chunk = pa.table({"key": list("abcde"), "modality": ["video"] * 5, "text": [""] * 5})
    got = annotator.measure(chunk, media)
    assert got.schema == Overlay.schema()
    rows = got.to_pylist()
    assert rows[1]["error"] == "codec: broken" and rows[3]["error"].startswith("no_frames")
    assert all(rows[i][name] is None for i in (1, 3) for name in Overlay.columns)
    assert rows[0] == rows[4] and rows[0]["area"] > 0.01 and rows[2]["area"] == 0 and rows[0]["error"] is None
    alone = annotator.measure(chunk.slice(4), media[4:])
    assert alone.to_pylist() == rows[4:]


def test_fingerprint_inputs_contain_weights_and_settings() -> None:
    maker = Overlay().fingerprint_inputs()
    json.dumps(maker)
    assert maker != Overlay(OverlaySettings(frames=3)).fingerprint_inputs()
    assert set(maker["weights"]) == {"det", "rec"}  # type: ignore[call-overload]
