from __future__ import annotations

import pickle

import pytest

from infra.errors import BadSample, ConfigError, MissingExtra, ReelmillError, StageError


@pytest.mark.parametrize(
    "error",
    [
        ReelmillError("what"),
        ConfigError("what", where="file:3", hint="do this"),
        StageError("what", hint="do this"),
        MissingExtra("torch", "models", "alignment"),
        BadSample("decode", "frame 3"),
        BadSample("empty"),
    ],
)
def test_errors_survive_the_way_from_a_worker(error: Exception) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert str(again) == str(error)
    assert again.__dict__ == error.__dict__


def test_the_message_that_people_see() -> None:
    assert str(ConfigError("no", where="c.yaml:3", hint="yes")) == "c.yaml:3: no\n  yes"
    assert str(ConfigError("no")) == "no"
    assert 'pip install -c constraints.txt -e ".[models]"' in str(MissingExtra("torch", "models", "alignment"))
    assert str(BadSample("decode", "frame 3")) == "decode: frame 3"
    assert str(BadSample("empty")) == "empty"


def test_exit_codes_are_a_contract() -> None:
    codes = [kind.exit_code for kind in (ReelmillError, StageError, ConfigError, MissingExtra)]
    assert codes == [1, 1, 2, 2]
