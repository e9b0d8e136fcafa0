"""What the demo app shares after its benchmark: docs/formats.md, "Device result 1"."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from edgebert.errors import PackageError
from edgebert.strict_json import parse_json

FORMAT = "edgebert-device-result 1"
MAX_BYTES = 64 << 10
MAX_TEXT = 200
DEVICE = ("name", "os", "cpu", "kernels")
QUANTILES = ("p50", "p90", "p99")
GOLDEN = ("examples", "equal_ids", "equal_bits")
AGAIN = "share it from the app again"


@dataclass(frozen=True)
class DeviceResult:
    """`latency_ms`: milliseconds by quantile; `golden`: counts of examples, None where the app had none."""

    model: str
    model_bytes: int
    engine: str
    device: dict[str, str]
    tokens: int
    runs: int
    latency_ms: dict[str, float]
    golden: dict[str, int] | None

    @property
    def passed(self) -> bool:
        """Whether there were golden examples and all matched bit for bit."""
        golden = self.golden
        return golden is not None and 0 < golden["examples"] == golden["equal_ids"] == golden["equal_bits"]


def read_device_result(path: Path) -> DeviceResult:
    """Raises PackageError for anything but a device result of this version, OSError if it cannot be read."""
    if path.stat().st_size > MAX_BYTES:
        raise PackageError(f"{path} is larger than {MAX_BYTES} bytes and no device result; {AGAIN}")
    values = parse_json(path.read_bytes(), str(path))
    try:
        if not isinstance(values, dict) or values["format"] != FORMAT:
            raise ValueError(f"'format' is not '{FORMAT}'")
        golden = values.get("golden")
        return DeviceResult(
            model=_text(values["model"]),
            model_bytes=_count(values["model_bytes"]),
            engine=_text(values["engine"]),
            device={key: _text(values["device"][key]) for key in DEVICE},
            tokens=_count(values["tokens"]),
            runs=_count(values["runs"]),
            latency_ms={key: _milliseconds(values["latency_ms"][key]) for key in QUANTILES},
            golden=None if golden is None else {key: _count(golden[key]) for key in GOLDEN},
        )
    except (KeyError, TypeError, ValueError) as error:
        reason = f"'{error.args[0]}' is missing" if isinstance(error, KeyError) else str(error)
        raise PackageError(f"{path} is no device result ({reason}); {AGAIN}") from None


def _text(value: object) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise ValueError(f"{repr(value)[:60]} is no text of up to {MAX_TEXT} characters")
    return "".join(c if c.isprintable() else "\ufffd" for c in value)


def _count(value: object) -> int:
    if type(value) is not int or not 0 <= value < 1 << 48:
        raise ValueError(f"{repr(value)[:60]} is no count")
    return value


def _milliseconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ValueError(f"{repr(value)[:60]} is no time in milliseconds")
    return float(value)
