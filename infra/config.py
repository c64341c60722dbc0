"""The configuration file: strict YAML with places, so that every mistake names its line."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class Strict(BaseModel):
    """Base of every settings class: unknown keys are errors, values are not coerced across kinds, frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
