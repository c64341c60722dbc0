"""A decoder, whose child process the tests of a module share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from infra.media.decoder import Decoder


@pytest.fixture(scope="module")
def decoder() -> Iterator[Decoder]:
    with Decoder() as decoder:
        yield decoder
