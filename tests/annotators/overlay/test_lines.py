from hypothesis import given
from hypothesis import strategies as st

from annotators.overlay.lines import clean


@given(st.text())
def test_clean_text_has_no_control_characters(text: str) -> None:
    got = clean(text)
    assert got == clean(got) == got.strip()
    assert got.isprintable() or all(c.isprintable() or c.isspace() for c in got)
    assert not any(ord(c) < 32 or ord(c) == 127 for c in got)
