"""The config file: strict, and every mistake names its file, line, key and what was probably meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from filters.resample import ResampleSettings as Resample
from infra import config
from infra.config import Config, ConfigDocument, Strict, read_document, validate
from infra.errors import ConfigError

BASE = """name: a
store: s
out: o
sources:
  - name: films
    path: p
    modality: video
"""


class Inner(Strict):
    size: int = 1
    names: tuple[str, ...] = ()


class Outer(Strict):
    one: Inner | None = None
    many: tuple[Inner, ...] = ()
    either: Inner | float = 0.0
    flag: bool = False
    share: float = Field(default=0.5, ge=0)
    anything: Any = None


def parse_config(text: str) -> Config:
    document = read_document("c.yaml", text)
    return validate(document, Config, document.content)


def catch_config_error(text: str, kind: type[Strict] = Config, path: config.Place = ()) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        document = read_document("c.yaml", text)
        section = document.content
        for key in path:
            section = section[key]  # type: ignore[index]
        validate(document, kind, section, path)
    return caught.value


# -- reading --


def test_a_document_is_what_yaml_says_with_a_line_for_every_key() -> None:
    document = read_document("c.yaml", "a:\n  b: [1,\n    2]\n\n  c: {d: x}\n")
    assert document.content == {"a": {"b": [1, 2], "c": {"d": "x"}}}
    assert document.where(("a",)) == "c.yaml:1"
    assert document.where(("a", "b")) == "c.yaml:2"
    assert document.where(("a", "b", 1)) == "c.yaml:3"
    assert document.where(("a", "c", "d")) == "c.yaml:5"
    assert document.where(("a", "c", "nowhere", 7)) == "c.yaml:5"
    assert document.where(("z",)) == "c.yaml:1"
    assert ConfigDocument("f", {}, {}).where(("a",)) == "f"


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text("ab: é\n'\"#{$", max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text("abc_", min_size=1, max_size=3), inner, max_size=3)
    ),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(mapping=st.dictionaries(st.text("abc_", min_size=1, max_size=3), PLAIN, max_size=4), flow=st.booleans())
def test_reading_is_pyyaml_s_safe_load(mapping: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(mapping, default_flow_style=flow, allow_unicode=True)
    document = read_document("c.yaml", text)
    assert document.content == yaml.safe_load(text)
    lines = text.splitlines()
    for key in mapping:
        number = int(document.where((key,)).rpartition(":")[2])
        assert key in lines[number - 1]


@pytest.mark.parametrize(
    ("text", "where", "word"),
    [
        ("a: [1\nb: 2\n", "c.yaml:2", "not valid YAML"),
        ("a: 1\n\tb: 2\n", "c.yaml:2", "not valid YAML"),
        ("a: \x07\n", "c.yaml", "not valid YAML"),
        ("a: 1\n---\nb: 2\n", "c.yaml:2", "not valid YAML"),
        ("- a\n- b\n", "c.yaml:1", "must be a mapping"),
        ("just words\n", "c.yaml:1", "must be a mapping"),
        ("a: 1\nb:\n  c: 1\n  d: 2\n  c: 3\n", "c.yaml:5", "'c' appears twice"),
        ("a: 1\n2: b\n", "c.yaml:2", "keys must be words"),
        ("a: &x [*x]\n", "c.yaml", "alias"),
        ("a: &x {b: 1}\nc:\n  <<: *x\n", "c.yaml:3", "<<"),
        ("a: !!python/object:os.system {}\nb: !own 1\n", "c.yaml:2", "not a plain value"),
        ("a: 2026-02-31\n", "c.yaml:1", "not a plain value"),
        ("a: " + "[" * 5000, "c.yaml", "nested too deeply"),
    ],
)
def test_unsupported_yaml_is_an_error_with_its_line(text: str, where: str, word: str) -> None:
    with pytest.raises(ConfigError, match=word) as caught:
        read_document("c.yaml", text)
    assert caught.value.where == where
    assert caught.value.exit_code == 2


def test_aliases_that_multiply_are_stopped() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 9)]
    with pytest.raises(ConfigError, match="100,000 values"):
        read_document("c.yaml", "\n".join(lines))
    assert read_document("c.yaml", "a: &x {b: 1}\nc: *x\n").content == {"a": {"b": 1}, "c": {"b": 1}}


def test_an_empty_file_lacks_its_required_keys() -> None:
    error = catch_config_error("# nothing\n")
    assert "name: this key is required" in error.what and error.where == "c.yaml:1"
    assert "(3 more after this one)" in error.hint


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such config file") as caught:
        read_document(tmp_path / "none.yaml")
    assert "reelmill init" in caught.value.hint
    with pytest.raises(ConfigError, match="cannot read"):
        read_document(tmp_path)
    latin = tmp_path / "latin.yaml"
    latin.write_bytes(b"name: \xe9\n")
    with pytest.raises(ConfigError, match="cannot read"):
        read_document(latin)


# -- variables --


def test_variables_are_filled_in_values_once_and_only_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOT", "/data")
    monkeypatch.setenv("TRICKY", "${ROOT}: [x]")
    text = "a: ${ROOT}/films\nb: ['${ROOT}${ROOT}', $ROOT, '$${ROOT}']\nc: ${TRICKY}\n${ROOT}: 1\n# ${UNSET}\n"
    assert read_document("c.yaml", text).content == {
        "a": "/data/films",
        "b": ["/data/data", "$ROOT", "$/data"],
        "c": "${ROOT}: [x]",
        "${ROOT}": 1,
    }


def test_an_unset_variable_is_an_error_with_its_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("REELMILL_NOWHERE", raising=False)
    error = catch_config_error("a: 1\nb:\n  - x\n  - ${REELMILL_NOWHERE}/y\n")
    assert error.where == "c.yaml:4"
    assert "${REELMILL_NOWHERE} is not set" in error.what and "export REELMILL_NOWHERE" in error.hint


def test_a_number_may_come_from_a_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEED", "7")
    assert parse_config(BASE + "seed: ${SEED}\n").seed == 7


# -- checking --


@pytest.mark.parametrize(
    ("more", "where", "what", "hint"),
    [
        ("sede: 3\n", 8, "sede: there is no such key", "did you mean 'seed'?"),
        ("export:\n  ocr:\n    jion: true\n", 10, "export.ocr.jion: there is no such key", "did you mean 'join'?"),
        ("export: {zzz: 1}\n", 8, "export.zzz: there is no such key", "known here: captions_txt, creator"),
        ("  - nmae: x\n", 8, "sources.1.name: this key is required", "more after"),
        ("    licnece: CC0\n", 8, "sources.0.licnece: there is no such key", "did you mean 'licence'?"),
        ("    captions: {fiel: x}\n", 8, "sources.0.captions.fiel: there is no such key", "did you mean 'file'?"),
        ("seed: x\n", 8, "seed: Input should be a valid integer", ""),
        ("seed: -1\n", 8, "seed: Input should be greater than or equal to 0", ""),
        ("seed: on\n", 8, "seed: true is no value", ""),
        ("units:\n  target_rows: .nan\n", 9, "units.target_rows: Input should be a finite", ""),
        ("filters: [motion]\n", 8, "filters: must be a mapping", ""),
        ("export:\n  ocr: {template: '{x}'}\n", 9, "export.ocr.template: only {caption} and {text}", ""),
        ("  - {name: films, path: q, modality: image}\n", 4, "sources: two sources are called 'films'", ""),
        ("    include: [a, {b: 1}]\n", 8, "sources.0.include.1: Input should be a valid string", ""),
    ],
)
def test_a_mistake_names_line_key_and_nearest(more: str, where: int, what: str, hint: str) -> None:
    error = catch_config_error(BASE + more)
    assert error.where == f"c.yaml:{where}"
    assert what in error.what and hint in error.hint


def test_the_same_with_the_message_that_people_see() -> None:
    text = str(catch_config_error(BASE + "export:\n  shard_byts: 5\n"))
    assert text == "c.yaml:9: export.shard_byts: there is no such key\n  did you mean 'shard_bytes'?"


@pytest.mark.parametrize(
    ("text", "where", "what", "hint"),
    [
        ("x:\n  one:\n    szie: 1\n", 3, "x.one.szie: there is no such key", "did you mean 'size'?"),
        ("x:\n  many:\n  - size: 1\n  - szie: 2\n", 4, "x.many.1.szie: there is no such key", "did you mean 'size'?"),
        ("x:\n  many:\n  - names:\n    - a\n    - [b]\n", 5, "x.many.0.names.1: Input should be a valid string", ""),
        ("x:\n  share: yes\n", 2, "x.share: true is no value for this key", ""),
        ("x:\n  either: word\n", 2, "x.either: must be a mapping", "more after"),
    ],
)
def test_errors_inside_tuples_optionals_and_unions_name_the_key(text: str, where: int, what: str, hint: str) -> None:
    error = catch_config_error(text, Outer, ("x",))
    assert error.where == f"c.yaml:{where}"
    assert what in error.what and hint in error.hint
    # Names of types, which pydantic puts into the places of unions, are none of the person's keys.
    assert "Inner" not in error.what and "float" not in error.what.partition(": ")[0]


def test_a_wrong_word_where_a_word_or_number_is_expected() -> None:
    error = catch_config_error("resample:\n  rule: sqrt\n  unmatched: maybe\n", Resample, ("resample",))
    assert error.where == "c.yaml:3" and error.what.startswith("resample.unmatched: ")


def test_booleans_stay_booleans() -> None:
    outer = validate(read_document("c.yaml", "a: 1"), Outer, {"flag": True, "anything": False, "share": "0.25"})
    assert (outer.flag, outer.anything, outer.share) == (True, False, 0.25)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValueError, match="frozen"):
        parse_config(BASE).seed = 3  # type: ignore[misc]


def test_short_forms_of_sources() -> None:
    text = BASE + "    captions: {}\n    include: '*.mp4'\n"
    assert parse_config(text.format("sidecar")).sources[0].captions.file is None
    assert parse_config(text.format("optional")).sources[0].captions.optional
    assert parse_config(text.format("words.jsonl")).sources[0].captions.file == "words.jsonl"
    assert parse_config(text.format("{text_column: t}")).sources[0].include == ("*.mp4",)


def test_sections_left_empty_are_their_defaults() -> None:
    empty = parse_config(BASE + "filters:\nmeasure:\nduplicates:\nresample:\n")
    assert (empty.filters, empty.measure, empty.duplicates, empty.resample) == ({}, {}, {}, None)


def test_the_order_of_filters_is_the_file_s() -> None:
    assert list(parse_config(BASE + "filters: {motion: {}, caption: {}, alignment: {}}\n").filters) == [
        "motion",
        "caption",
        "alignment",
    ]
