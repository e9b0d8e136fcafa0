"""Devices over adb: arguments and answers by themselves, everything else against Debian's real adbd."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebert.devices.adb import adb_device, attached_serials, serials
from edgebert.devices.base import open_device
from edgebert.errors import DeviceError
from tests.sdk.device_endpoints import HOSTILE, running_adbd, wait_until_gone

SPEC = "adb:127.0.0.1:5555"


@pytest.fixture(scope="module")
def phone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with running_adbd(tmp_path_factory.mktemp("adbd")) as folder:
        yield folder


@pytest.fixture
def adb(phone: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The phone's folder for programs, with the `adb` that reaches it on the PATH."""
    monkeypatch.setenv("PATH", f"{phone}:{os.environ['PATH']}")
    return phone / "data" / "local" / "tmp"


@pytest.mark.parametrize(
    "spec", ["adb:", "adb:-s", "adb:a b", "adb:$(ls)", "adb:a;b", "adb:a\nb", "adb:" + "x" * 200]
)
def test_what_is_no_serial_is_refused(spec: str) -> None:
    with pytest.raises(DeviceError, match="write adb:SERIAL"):
        adb_device(spec)


def test_the_listing_of_adb_is_read() -> None:
    listing = (
        "* daemon started successfully\nList of devices attached\nR58M123ABC\tdevice\n10.0.0.2:5555\tdevice\n"
        "X1\tunauthorized\nX2\toffline\n-x\tdevice\nadb-X._adb-tls-connect._tcp\tdevice\n\n"
    )
    assert serials(listing) == ["R58M123ABC", "10.0.0.2:5555", "adb-X._adb-tls-connect._tcp"]


def test_without_adb_nothing_is_attached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert attached_serials() == []
    with pytest.raises(DeviceError, match="apt-get install adb"):
        adb_device("adb:X")


@pytest.mark.slow
def test_put_run_get_over_a_real_adbd(adb: Path, tmp_path: Path) -> None:
    program, content = tmp_path / "- program", secrets.token_bytes(2_000_000)
    program.write_text('#!/bin/sh\nprintf \'%s\\0\' "$TOLD" "$@"\nprintf no >&2\nexit 255\n')
    (tmp_path / "data").write_bytes(content)
    assert SPEC.removeprefix("adb:") in attached_serials()
    with open_device(SPEC) as device:
        device.put(program, f"a/{HOSTILE}", executable=True)
        device.put(tmp_path / "data", "data")
        words = ["", HOSTILE, "-x", "$(touch /data/owned)", "'", "\n"]
        done = device.run([f"./a/{HOSTILE}", *words], timeout=30, env={"TOLD": HOSTILE})
        assert (done.returncode, done.stderr) == (255, b"no")
        assert done.stdout == "".join(f"{word}\0" for word in [HOSTILE, *words]).encode()
        device.get("data", tmp_path / "back", len(content))
        assert (tmp_path / "back").read_bytes() == content
        with pytest.raises(DeviceError, match="more than 5 bytes"):
            device.get("data", tmp_path / "back", 5)
        facts = device.facts()
        assert facts.architecture == os.uname().machine
        assert facts.os.startswith("Debian") or facts.os.startswith("Linux")
        assert device.python() is None
        assert len(list(adb.iterdir())) == 1
    assert list(adb.iterdir()) == []
    assert not (adb.parents[1] / "owned").exists()


@pytest.mark.slow
def test_a_run_that_takes_too_long_is_killed_on_the_phone(adb: Path) -> None:
    marker = f"8{secrets.randbelow(10**6):06d}"
    with open_device(SPEC) as device:
        with pytest.raises(DeviceError, match="took longer than 1 s"):
            device.run(["sh", "-c", f"sleep {marker} & sleep {marker}"], timeout=1)
        wait_until_gone(marker)
    assert list(adb.iterdir()) == []


@pytest.mark.slow
def test_a_phone_that_is_not_there_is_told_in_one_line(adb: Path) -> None:
    with (
        pytest.raises(DeviceError, match=r"NOSUCHPHONE.*adb devices") as caught,
        open_device("adb:NOSUCHPHONE"),
    ):
        pass
    assert "\n" not in str(caught.value)
