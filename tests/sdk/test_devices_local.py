"""Devices on this machine's disk, processes with a deadline, and how devices are found."""

from __future__ import annotations

import os
import secrets
import signal
import sys
import tempfile
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from edgebert.devices import base, process
from edgebert.devices.base import CountingDevice, Device, PreparableDevice, open_device
from edgebert.devices.interrupts import catch_termination, restore_termination
from edgebert.devices.process import ProcessTimeoutError, TooMuchOutputError, run_process
from edgebert.errors import DeviceError
from edgebert.machine import machine_facts
from tests.sdk.device_endpoints import HOSTILE, wait_until_gone


@pytest.fixture(autouse=True)
def own_temporary_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def test_put_run_get_and_nothing_left(own_temporary_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "script").write_text('#!/bin/sh\nprintf \'%s|\' "$TOLD" "$@"\npwd >&2\nexit 255\n')
    with open_device("local") as device:
        assert isinstance(device, Device)
        assert not isinstance(device, CountingDevice | PreparableDevice)
        device.put(tmp_path / "script", f"a/{HOSTILE}", executable=True)
        done = device.run([f"./a/{HOSTILE}", HOSTILE, ""], timeout=20, env={"TOLD": "x y"})
        assert (done.returncode, done.stdout) == (255, f"x y|{HOSTILE}||".encode())
        assert Path(done.stderr.decode().strip()).is_relative_to(own_temporary_folder)
        assert done.seconds > 0
        device.get(f"a/{HOSTILE}", tmp_path / "back", 1000)
        assert (tmp_path / "back").read_bytes() == (tmp_path / "script").read_bytes()
        assert device.run(["sh", "-c", "kill -TERM $$"], timeout=20).returncode == 128 + signal.SIGTERM
    assert list(own_temporary_folder.iterdir()) == []


def test_its_facts_are_those_of_this_machine() -> None:
    facts, here = open_device("local").facts(), machine_facts()
    assert (facts.name, facts.architecture, facts.emulated) == ("local", here.architecture, False)
    assert (facts.cpu, facts.features, facts.cores) == (here.cpu, here.features, here.cores)
    assert facts.os == here.os
    assert facts.memory_bytes == pytest.approx(here.memory_bytes, rel=0.01)


def test_its_python_has_the_libraries(tmp_path: Path) -> None:
    with open_device("local") as device:
        python = device.python()
        assert python == (sys.executable,)
        assert device.run([*python, "-c", "import numpy"], timeout=60).returncode == 0


@pytest.mark.parametrize("name", ["../x", "/x", "a/../../x", "", ".hidden/x"])
def test_names_outside_of_the_work_folder_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "x").touch()
    with open_device("local") as device:
        with pytest.raises(DeviceError, match="relative path"):
            device.put(tmp_path / "x", name)
        with pytest.raises(DeviceError, match="relative path"):
            device.get(name, tmp_path / "back", 10)


def test_links_out_of_the_work_folder_hold_no_surprise(tmp_path: Path) -> None:
    """A program may make links there; getting one gives a file of this user and no more than the limit."""
    with open_device("local") as device:
        device.run(["ln", "-s", "/dev/zero", "zero"], timeout=20)
        with pytest.raises(DeviceError, match="no plain file"):
            device.get("zero", tmp_path / "back", 10)


@pytest.mark.parametrize("args", [[], [""], ["-x"], ["a\0"], ["a", "b\0"], ["../x"], ["a", "\ud800"]])
def test_words_that_are_no_command_are_refused(args: list[str]) -> None:
    with open_device("local") as device, pytest.raises(DeviceError):
        device.run(args, timeout=1)


@pytest.mark.parametrize("env", [{"": "x"}, {"A=B": "x"}, {"A B": "x"}, {"A": "\0"}, {"1": "x"}])
def test_variables_that_a_shell_would_not_take_are_refused(env: dict[str, str]) -> None:
    with open_device("local") as device, pytest.raises(DeviceError, match="environment variable"):
        device.run(["true"], timeout=1, env=env)


def test_a_missing_program_is_told_in_one_line() -> None:
    with open_device("local") as device, pytest.raises(DeviceError, match=r"cannot run '\./nothing'"):
        device.run(["./nothing"], timeout=1)


def test_a_deadline_kills_children_too() -> None:
    marker = f"8{secrets.randbelow(10**6):06d}"
    script = f"echo hm >&2; sleep {marker} & sleep {marker}"
    told = r"took longer than 0\.3 s on 'local' and was killed; it last said: hm"
    with open_device("local") as device, pytest.raises(DeviceError, match=told):
        device.run(["sh", "-c", script], timeout=0.3)
    wait_until_gone(marker)


def test_a_deadline_holds_for_a_process_that_closes_its_output() -> None:
    with pytest.raises(ProcessTimeoutError):
        run_process(["sh", "-c", "exec > /dev/null 2>&1; sleep 60"], timeout=0.3)


def test_endless_output_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(process, "OUTPUT_LIMIT", 100_000)
    with pytest.raises(TooMuchOutputError):
        run_process(["yes"], timeout=60)


def test_signals_that_end_a_process_become_interrupts() -> None:
    changed = catch_termination()
    try:
        assert signal.SIGTERM in changed
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(5)
        assert catch_termination() == []
    finally:
        restore_termination(changed)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_an_interrupt_leaves_nothing(own_temporary_folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt), open_device("local") as device:
        device.run(["sh", "-c", f"kill -TERM {os.getpid()}; sleep 60"], timeout=90)
    assert list(own_temporary_folder.iterdir()) == []
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("spec", ["", "nothing", "Local", "local:x", "qemu", "qemu:x86", "tcp://x"])
def test_unknown_devices_are_told_with_what_there_is(spec: str) -> None:
    with pytest.raises(DeviceError, match=r"qemu:arm64|write 'local'") as caught:
        open_device(spec)
    assert "\n" not in str(caught.value)


def test_a_device_can_come_from_another_distribution(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = EntryPoint("other", "edgebert.devices.local:LocalDevice", base.ENTRY_POINT_GROUP)
    monkeypatch.setattr(entry.__class__, "load", lambda self: lambda spec: f"made of {spec}")
    monkeypatch.setattr(base, "entry_points", lambda group: [entry])
    assert str(open_device("other:thing")) == "made of other:thing"
    assert base.device_schemes() == ("other",)
