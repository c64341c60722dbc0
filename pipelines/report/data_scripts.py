"""Write data as script files: a page opened from disk may load scripts, and nothing else.

Texts of samples are hostile. They are written as JSON inside a string, so that no quote, tag, line separator or key
such as __proto__ has a meaning to the browser.
"""

from __future__ import annotations

import base64
import json
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Scores are stored with six decimals, so a million times a score is a whole number.
SCALE = 1_000_000

_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def build_script(name: str, content: Any) -> bytes:
    """Build a script that sets REELMILL[name] to a JSON value. Equal values give equal bytes.

    Raises ValueError for NaN and infinities.
    """
    document = json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    body = json.dumps(document, ensure_ascii=False).translate(_ESCAPES)
    text = f"(window.REELMILL=window.REELMILL||{{}})[{json.dumps(name)}]=JSON.parse({body});\n"
    return text.encode("utf-8", "backslashreplace")  # a lone surrogate becomes its JSON escape


def pack_codes(values: NDArray[Any]) -> dict[str, Any]:
    """Pack whole numbers >= 0 as uint8, uint16 or uint32."""
    top = int(values.max(initial=0))
    kind = "u8" if top < 2**8 else "u16" if top < 2**16 else "u32"
    return {"kind": kind, "data": _encode(values, kind), "scale": 1, "null": None}


def pack_numbers(values: NDArray[np.float64]) -> dict[str, Any]:
    """Pack float64 (n,), NaN for null, so that JavaScript restores exactly the same doubles.

    kind u8, u16 or i32: value = stored / scale, and the stored value `null` stands for NaN; f64: unchanged.
    """
    finite = np.isfinite(values)
    for scale in (1, SCALE):
        with np.errstate(over="ignore"):  # an overflow is not a whole number of millionths, and is rejected below
            whole = np.rint(np.where(finite, values, 0.0) * scale)
        if not (whole / scale == np.where(finite, values, 0.0)).all():
            continue
        low, high = whole.min(initial=0), whole.max(initial=0)
        for kind, least, most, null in (
            ("u8", 0, 254, 255),
            ("u16", 0, 65534, 65535),
            ("i32", -(2**31) + 1, 2**31 - 1, -(2**31)),
        ):
            if least <= low and high <= most and not np.isinf(values).any():
                return {
                    "kind": kind,
                    "data": _encode(np.where(finite, whole, null), kind),
                    "scale": scale,
                    "null": null,
                }
    return {"kind": "f64", "data": _encode(values, "f64"), "scale": 1, "null": None}


_TYPES = {"u8": "u1", "u16": "<u2", "u32": "<u4", "i32": "<i4", "f64": "<f8"}


def _encode(values: NDArray[Any], kind: str) -> str:
    return base64.b64encode(np.ascontiguousarray(values).astype(_TYPES[kind]).tobytes()).decode()
