"""`edgebert devices`: what it shows, its exit codes, and that preparing is asked for by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from edgebert.cli import devices as verb
from edgebert.cli.devices import DeviceState, row
from edgebert.cli.dispatch import run
from edgebert.devices import adb, qemu
from edgebert.devices.base import DeviceFacts
from edgebert.errors import EXIT_DEVICE, EXIT_OK
from edgebert.machine import machine_facts
from edgebert.progress import Reporter

BOARD = DeviceFacts("ssh://pi", "aarch64", "Cortex-A76", ("asimd", "asimddp"), 4, 8_000_000_000, "Debian 12",
                    "ondemand", 48.3, 2400.0, False)  # fmt: skip


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A machine without an emulator and without adb."""
    monkeypatch.setenv("EDGEBERT_QEMU", "no-such-emulator")
    monkeypatch.setattr(adb.shutil, "which", lambda name: None)


def test_json_has_this_machine(alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices", "--json"]) == EXIT_OK
    (state,) = json.loads(capsys.readouterr().out)["devices"]
    assert (state["device"], state["error"], state["python"]) == ("local", None, True)
    assert state["facts"]["cpu"] == machine_facts().cpu
    assert state["facts"]["emulated"] is False


def test_the_table_names_what_there_is(alone: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["devices"]) == EXIT_OK
    out = capsys.readouterr().out
    assert "local" in out
    assert "qemu" not in out


def test_phones_and_the_emulator_are_listed_where_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "find_qemu", lambda: "/usr/bin/qemu-aarch64")
    monkeypatch.setattr(adb, "attached_serials", lambda: ["R58M"])
    assert verb.found_devices() == ["local", "qemu:arm64", "adb:R58M"]


def test_a_device_that_cannot_be_used_is_an_exit_code(
    alone: None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["devices", "local", "qemu:arm64", "--json"]) == EXIT_DEVICE
    states = json.loads(capsys.readouterr().out)["devices"]
    assert [state["error"] is None for state in states] == [True, False]
    assert "apt-get install qemu-user" in states[1]["error"]
    assert run(["devices", "nothing:x"]) == EXIT_DEVICE
    assert "unknown device" in capsys.readouterr().out


def test_a_row_leaves_out_what_is_not_known() -> None:
    assert row(DeviceState("ssh://pi", BOARD, True, None))[1] == (
        "Cortex-A76, aarch64, 4 cores; features asimd, asimddp; 8.0 GB; Debian 12; governor ondemand; 48 °C; "
        "2400 MHz; Python with LiteRT"
    )
    silent = DeviceFacts("d", "unknown", "unknown", (), 1, None, "Linux", None, None, None, True)
    assert row(DeviceState("qemu:arm64", silent, False, None))[1] == (
        "unknown, unknown, 1 core; no features that matter for INT8; Linux; "
        "emulated: its times mean nothing; no Python with LiteRT; "
        "for that, run once: edgebert devices --prepare qemu:arm64"
    )


@pytest.mark.parametrize(("args", "said"), [([], "needs a device"), (["local"], "nothing to prepare")])
def test_preparing_needs_a_device_that_can_be_prepared(
    args: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["devices", "--prepare", *args]) == EXIT_DEVICE
    assert said in capsys.readouterr().err


def test_preparing_the_emulator_builds_its_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked: list[Callable[[Path], None]] = []

    def build(check: Callable[[Path], None], reporter: Reporter) -> Path:
        asked.append(check)
        return tmp_path

    monkeypatch.setattr(qemu, "emulator", lambda: "qemu")
    monkeypatch.setattr(qemu, "build_root", build)
    verb.prepare_devices(["qemu:arm64"])
    assert len(asked) == 1
