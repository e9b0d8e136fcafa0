"""Devices over SSH: a real sshd on loopback; in one test its commands run as AArch64 code."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from edgebert.devices.base import open_device
from edgebert.devices.qemu_cpu import static_program
from edgebert.devices.ssh import parse_spec
from edgebert.errors import DeviceError
from tests.sdk.device_endpoints import (
    EXIT_7,
    HOSTILE,
    Sshd,
    emulating_command,
    free_port,
    has_process,
    running_sshd,
    wait_until_gone,
)

needs_client = pytest.mark.skipif(shutil.which("ssh") is None, reason="ssh is not installed")


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    with running_sshd(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(autouse=True)
def no_config_of_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEBERT_SSH_CONFIG", raising=False)


def left(sshd: Sshd) -> list[Path]:
    return [path for path in Path("/tmp").glob("edgebert-device-*") if (path / ".edgebert").is_dir()]


@needs_client
@pytest.mark.parametrize(
    ("spec", "port", "destination"),
    [("ssh://board", None, "board"), ("ssh://pi@board.local:2222", "2222", "pi@board.local"),
     ("ssh://[::1]:22", "22", "::1"), ("ssh://a_b.c+d@10.0.0.7/", None, "a_b.c+d@10.0.0.7")],
)  # fmt: skip
def test_the_client_s_arguments(spec: str, port: str | None, destination: str) -> None:
    words = parse_spec(spec).command("true")
    assert words[0] == "ssh"
    assert words[words.index("--") + 1 :] == [destination, "exec sh -c true"]
    assert ("-p" in words) == (port is not None)
    assert port is None or words[words.index("-p") + 1] == port
    assert "BatchMode=yes" in words
    assert not any("StrictHostKeyChecking" in word or "UserKnownHostsFile" in word for word in words)


@pytest.mark.parametrize(
    "spec",
    ["ssh:", "ssh://", "ssh://-oProxyCommand=x", "ssh://a b", "ssh://host:99999", "ssh://host:", "ssh://u:p@host",
     "ssh://host/path", "ssh://-u@host", "ssh://host;ls", "ssh://$(ls)@host", "ssh://ho\nst", "ssh://host?x=y"],
)  # fmt: skip
def test_what_is_no_destination_is_refused(spec: str) -> None:
    with pytest.raises(DeviceError, match="write ssh://"):
        open_device(spec)


@needs_client
def test_nobody_listens_there() -> None:
    spec = f"ssh://127.0.0.1:{free_port()}"
    with pytest.raises(DeviceError, match=r"refused.*try: ssh -p") as caught, open_device(spec):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_put_run_get_over_a_real_sshd(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBERT_SSH_CONFIG", str(sshd.config))
    before = left(sshd)
    program, content = tmp_path / "program", secrets.token_bytes(3_000_000)
    program.write_text('#!/bin/sh\nprintf \'%s\\0\' "$TOLD" "$@"\nprintf no >&2\nexit 255\n')
    (tmp_path / "data").write_bytes(content)
    with open_device(sshd.spec) as device:
        device.put(program, f"a/{HOSTILE}", executable=True)
        device.put(tmp_path / "data", "data")
        words = ["", HOSTILE, "-x", "$(touch /tmp/owned)", "'", "\n"]
        done = device.run([f"./a/{HOSTILE}", *words], timeout=30, env={"TOLD": HOSTILE})
        # 255 is what ssh itself gives for a lost connection
        assert (done.returncode, done.stderr) == (255, b"no")
        assert done.stdout == "".join(f"{word}\0" for word in [HOSTILE, *words]).encode()
        device.get("data", tmp_path / "back", len(content))
        assert (tmp_path / "back").read_bytes() == content
        assert device.run(["cat", "data"], timeout=30).stdout == content
        facts = device.facts()
        assert facts.name == sshd.spec
        assert facts.architecture == os.uname().machine
        assert not facts.emulated
        assert facts.cores == len(os.sched_getaffinity(0))
        assert facts.memory_bytes
    assert left(sshd) == before
    assert not list(sshd.home.glob("owned"))


@pytest.mark.slow
def test_a_killed_connection_is_made_again(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's processes of the connection are killed, as a lost network does."""
    monkeypatch.setenv("EDGEBERT_SSH_CONFIG", str(sshd.config))
    before = left(sshd)
    (tmp_path / "data").write_text("kept")
    with open_device(sshd.spec) as device:
        device.put(tmp_path / "data", "data")
        port = re.search(r":(\d+)$", sshd.spec)
        assert port
        kill_connections(int(port[1]))
        device.get("data", tmp_path / "back", 10)
        assert (tmp_path / "back").read_text() == "kept"
    assert left(sshd) == before


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_host_leaves_nothing(
    number: signal.Signals, sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBERT_SSH_CONFIG", str(sshd.config))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # where a killed host leaves its end of the connection
    before, marker = left(sshd), f"8{secrets.randbelow(10**6):06d}"
    code = (
        "import edgebert.devices.shell_scripts as s; s.GRACE = 1\n"
        "from edgebert.devices.base import open_device\n"
        f"with open_device({sshd.spec!r}) as device:\n    device.run(['sleep', '{marker}'], timeout=100)\n"
    )
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 30
    while not has_process(f"sleep\0{marker}"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    child.send_signal(number)
    child.wait(20)
    wait_until_gone(f"sleep\0{marker}", 20)
    while left(sshd) != before:
        assert time.monotonic() < deadline + 20
        time.sleep(0.1)


@pytest.mark.slow
def test_a_wrong_key_is_told_in_one_line(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "other"], check=True)
    config = tmp_path / "config"
    config.write_text(sshd.config.read_text().replace(f"{sshd.config.parent}/user", f"{tmp_path}/other"))
    monkeypatch.setenv("EDGEBERT_SSH_CONFIG", str(config))
    with pytest.raises(DeviceError, match=r"Permission denied.*try: ssh") as caught, open_device(sshd.spec):
        pass
    assert "\n" not in str(caught.value)


@pytest.mark.slow
def test_an_unknown_host_is_not_trusted(sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config"
    text = sshd.config.read_text().replace(f"{sshd.config.parent}/known", f"{tmp_path}/none")
    config.write_text(text.replace("  StrictHostKeyChecking accept-new\n", ""))
    monkeypatch.setenv("EDGEBERT_SSH_CONFIG", str(config))
    with pytest.raises(DeviceError, match="Host key verification failed"), open_device(sshd.spec):
        pass


@pytest.mark.slow
def test_aarch64_code_over_ssh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exit7").write_bytes(static_program(EXIT_7))
    with running_sshd(tmp_path, emulating_command(tmp_path)) as server:
        monkeypatch.setenv("EDGEBERT_SSH_CONFIG", str(server.config))
        with open_device(server.spec) as device:
            assert device.facts().architecture == "aarch64"
            device.put(tmp_path / "exit7", "exit7", executable=True)
            assert device.run(["./exit7"], timeout=60).returncode == 7
            assert device.python() == ("python3",)
            done = device.run(
                [*(device.python() or ()), "-c", "import os; print(os.uname().machine)"], timeout=60
            )
            assert done.stdout == b"aarch64\n"
            (tmp_path / "text").write_text("text")
            device.put(tmp_path / "text", HOSTILE)
            device.get(HOSTILE, tmp_path / "back", 10)
            assert (tmp_path / "back").read_text() == "text"
        assert list((tmp_path / "tmp").iterdir()) == []


def kill_connections(port: int) -> None:
    """Kill the server's processes that hold connections to `port`, but not the one that listens."""
    listing = subprocess.run(["ss", "-tnpH", f"sport = :{port}"], capture_output=True, text=True, check=True)
    numbers = {int(number) for number in re.findall(r"pid=(\d+)", listing.stdout)}
    assert numbers
    for number in numbers:
        os.kill(number, signal.SIGKILL)
