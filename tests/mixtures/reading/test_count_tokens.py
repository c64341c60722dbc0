from __future__ import annotations

from pathlib import Path

import pytest

from infra.errors import ConfigError
from mixtures.reading import chatml
from mixtures.reading.clip_plan import clip_plan, image_text, put_media, video_text
from mixtures.reading.count_tokens import open_tokenizer, text_tokens
from mixtures.reading.tokens import Contract
from tests.mixtures.runs import Row, sample
from tests.mixtures.tokenizer import tokenizer


@pytest.mark.parametrize("per_frame", [8, 32])
@pytest.mark.parametrize(
    "row", [Row(1, "video", seconds=7.5), Row(2, "image"), Row(3, "multi_image"), Row(4, "text", words=40)]
)
def test_what_is_counted_is_the_loaders_prompt_without_the_tokens_of_media(row: Row, per_frame: int) -> None:
    contract = Contract(tokens_per_frame=per_frame)
    _, record = sample(row)
    media = {
        "video": lambda: [video_text(clip_plan(60, 8.0, 7.5, contract).times, 7.5, contract)],
        "image": lambda: [image_text(contract)],
        "multi_image": lambda: [image_text(contract)] * 2,
        "text": list,
    }[row.modality]()
    reader = tokenizer()
    prompt = chatml.prompt(put_media(record["conversations"], media, "<image>"))
    ids = chatml.encode(prompt, reader)
    seen = ids.count(chatml.X_TOKEN_INDEX)
    assert seen == {"video": 4, "image": 1, "multi_image": 2, "text": 0}[row.modality] * contract.clip_tokens
    # Pieces are encoded one by one, as the loader does; at their seams a tokenizer may join what stands apart there.
    assert text_tokens(record, contract, reader) == pytest.approx(len(ids) - seen, abs=2 * len(record["conversations"]))
    exact, _ = chatml.tokens(put_media(record["conversations"], media, "<image>"), reader)
    assert text_tokens(record, contract, reader) == len(exact) - seen


def test_a_file_that_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    tokenizer().save(str(tmp_path / "tok.json"))
    assert open_tokenizer(str(tmp_path / "tok.json")).encode("the red house").ids
    (tmp_path / "other.json").write_text('{"model": 1}')
    for name, words in (("other.json", "no tokenizer.json"), ("absent.json", "cannot be read")):
        with pytest.raises(ConfigError, match=words) as caught:
            open_tokenizer(str(tmp_path / name))
        assert caught.value.where.endswith(name)
