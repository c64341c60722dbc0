from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pipelines.ingest.sources.storable import to_storable_text


@given(st.text(alphabet=st.characters(categories=["L", "N", "Cs", "Cc", "So"])))
def test_what_is_stored_is_unicode_and_unicode_is_left_alone(text: str) -> None:
    stored = to_storable_text(text)
    stored.encode()
    if not any("\ud800" <= c <= "\udfff" for c in text):
        assert stored == text
    assert to_storable_text(stored) == stored
