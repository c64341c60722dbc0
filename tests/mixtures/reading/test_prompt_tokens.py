from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from mixtures.reading import chatml
from mixtures.reading.clip_plan import build_image_text, build_video_text, insert_media, plan_clips
from mixtures.reading.contract import Contract
from mixtures.reading.prompt_tokens import count_text_tokens, open_tokenizer
from tests.mixtures.runs import Row, sample
from tests.mixtures.tokenizer import tokenizer


@pytest.mark.parametrize("per_frame", [8, 32])
@pytest.mark.parametrize(
    "row", [Row(1, "video", seconds=7.5), Row(2, "image"), Row(3, "multi_image"), Row(4, "text", words=40)]
)
def test_token_counts_are_those_of_the_loaders_prompt_without_media(row: Row, per_frame: int) -> None:
    contract = Contract(tokens_per_frame=per_frame)
    _, record = sample(row)
    media = {
        "video": lambda: [build_video_text(plan_clips(60, 8.0, 7.5, contract).times, 7.5, contract)],
        "image": lambda: [build_image_text(contract)],
        "multi_image": lambda: [build_image_text(contract)] * 2,
        "text": list,
    }[row.modality]()
    reader = tokenizer()
    prompt = "".join(text for text, _ in chatml.split_prompt(insert_media(record["conversations"], media, "<image>")))
    ids = chatml.encode(prompt, reader)
    seen = ids.count(chatml.X_TOKEN_INDEX)
    assert seen == {"video": 4, "image": 1, "multi_image": 2, "text": 0}[row.modality] * contract.clip_tokens
    # Pieces are encoded one by one, as the loader does; at their seams a tokenizer may join what stands apart there.
    assert count_text_tokens(record, contract, reader) == pytest.approx(
        len(ids) - seen, abs=2 * len(record["conversations"])
    )
    exact, _ = chatml.tokenize(insert_media(record["conversations"], media, "<image>"), reader)
    assert count_text_tokens(record, contract, reader) == len(exact) - seen


def test_a_file_that_is_no_tokenizer_is_an_error(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tok.json"))
    assert open_tokenizer(str(tmp_path / "tok.json")).encode("the red house").ids
    (tmp_path / "other.json").write_text('{"model": 1}')
    for name, words in (("other.json", "not a tokenizer.json"), ("absent.json", "cannot be read")):
        with pytest.raises(ConfigError, match=words) as caught:
            open_tokenizer(str(tmp_path / name))
        assert caught.value.where.endswith(name)
