from __future__ import annotations

import annotated_types
import pytest
from pydantic import ValidationError

from annotators.fingerprint import Fingerprint
from annotators.minhash import MinHash
from pipelines.decide.duplicates.vectors import FRAME_BITS, MIRRORED


def test_every_number_of_frames_that_the_schema_allows_has_ids() -> None:
    bounds = Fingerprint.settings_class().model_fields["max_frames"].metadata
    most = next(int(bound.le) for bound in bounds if isinstance(bound, annotated_types.Le))  # type: ignore[call-overload]
    assert most <= MIRRORED == 1 << (FRAME_BITS - 1)


def test_a_seed_that_permutations_cannot_take_is_refused() -> None:
    settings = MinHash.settings_class()
    assert settings.model_validate({"seed": 2**64 - 1})
    with pytest.raises(ValidationError, match="seed"):
        settings.model_validate({"seed": 2**64})
