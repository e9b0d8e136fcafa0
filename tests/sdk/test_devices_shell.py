"""A device behind a shell: everything but the network, with a shell of this machine at the other end."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebert.devices.base import Device
from edgebert.devices.shell import ShellDevice
from edgebert.errors import DeviceError
from tests.sdk.device_endpoints import HOSTILE, LocalShell, has_process, wait_until_gone

# mksh is the shell of Android, busybox that of small boards
SHELLS = [shell for shell in ("dash", "bash", "busybox sh", "mksh") if shutil.which(shell.split()[0])]
ECHO = "#!/bin/sh\nprintf '%s\\0' \"$@\"\nprintf 'told' >&2\nexit 3\n"


@pytest.fixture(params=SHELLS)
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> LocalShell:
    (tmp_path / "device").mkdir()
    return LocalShell(request.param, f"'{tmp_path}/device'")


def left(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "device").iterdir())


def written(tmp_path: Path, content: bytes | str) -> Path:
    path = tmp_path / f"local-{secrets.token_hex(4)}"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def test_put_run_get_and_nothing_left(connection: LocalShell, tmp_path: Path) -> None:
    with ShellDevice(connection) as device:
        assert isinstance(device, Device)
        device.put(written(tmp_path, ECHO), f"sub/{HOSTILE}", executable=True)
        words = ["", "a b", HOSTILE, "-n", "--", "'", '"', "\\", "$HOME", "*"]
        done = device.run([f"./sub/{HOSTILE}", *words], timeout=20)
        assert (done.returncode, done.stderr) == (3, b"told")
        assert done.stdout == "".join(f"{word}\0" for word in words).encode()
        device.get(f"sub/{HOSTILE}", tmp_path / "back", 1000)
        assert (tmp_path / "back").read_text() == ECHO
        assert not (tmp_path / "device" / "owned").exists()
    assert left(tmp_path) == []


def test_binary_files_and_output_come_through(connection: LocalShell, tmp_path: Path) -> None:
    content = secrets.token_bytes(300_000) + bytes(range(256))
    with ShellDevice(connection) as device:
        device.put(written(tmp_path, content), "data")
        device.get("data", tmp_path / "back", len(content))
        assert (tmp_path / "back").read_bytes() == content
        assert device.run(["cat", "data"], timeout=20).stdout == content
        device.put(written(tmp_path, b""), "empty")
        device.get("empty", tmp_path / "back", 0)
        assert (tmp_path / "back").read_bytes() == b""


def test_variables_and_folder_of_a_run(connection: LocalShell, tmp_path: Path) -> None:
    with ShellDevice(connection) as device:
        script = written(tmp_path, '#!/bin/sh\nprintf %s "$TOLD"\npwd\nread -r line || echo empty')
        device.put(script, "script", True)
        out = device.run(["./script"], timeout=20, env={"TOLD": HOSTILE}).stdout.decode()
        assert out.startswith(HOSTILE)
        assert out[len(HOSTILE) :].split("\n")[0].startswith(f"{tmp_path}/device/edgebert-device-")
        assert out.endswith("empty\n")


@settings(max_examples=15, deadline=None)
@given(words=st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])), max_size=4))
def test_arguments_arrive_as_they_are(words: list[str], tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("device")
    with ShellDevice(LocalShell("sh", f"'{folder}'")) as device:
        done = device.run(["printf", "%s\\0", "first", *words], timeout=20)
    assert done.stdout == "".join(f"{word}\0" for word in ["first", *words]).encode()


@pytest.mark.parametrize(
    "name", ["../out", "/etc/passwd", "", ".", "a/../../b", ".edgebert/keeper", "a\0b", "\ud800", "x" * 2000]
)
def test_names_outside_of_the_work_folder_are_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    with ShellDevice(LocalShell("sh", f"'{tmp_path}/device'")) as device:
        with pytest.raises(DeviceError):
            device.put(written(tmp_path, "x"), name)
        with pytest.raises(DeviceError):
            device.get(name, tmp_path / "back", 10)
    assert not (tmp_path / "out").exists()


def test_what_cannot_be_copied(connection: LocalShell, tmp_path: Path) -> None:
    with ShellDevice(connection) as device:
        device.put(written(tmp_path, b"12345"), "five")
        (tmp_path / "back").write_text("old")
        with pytest.raises(DeviceError, match="more than 4 bytes"):
            device.get("five", tmp_path / "back", 4)
        with pytest.raises(DeviceError, match="no such file"):
            device.get("none", tmp_path / "back", 4)
        with pytest.raises(DeviceError, match="not there or no plain file"):
            device.put(tmp_path / "missing", "x")
    assert (tmp_path / "back").read_text() == "old"
    assert not list(tmp_path.glob(".*.part"))


def test_without_sha256sum_what_arrived_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, base = tmp_path / "tools", tmp_path / "device"
    tools.mkdir()
    base.mkdir()
    for tool in ("sh", "mkdir", "cat", "sleep", "rm", "mv", "chmod", "wc", "setsid"):
        (tools / tool).symlink_to(shutil.which(tool) or tool)
    connection = LocalShell(str(tools / "sh"), f"'{base}'")
    local = written(tmp_path, secrets.token_bytes(5000))
    monkeypatch.setenv("PATH", str(tools))
    with ShellDevice(connection) as device:
        device.put(local, "data")
        device.get("data", tmp_path / "back", 5000)
    assert (tmp_path / "back").read_bytes() == local.read_bytes()
    assert left(tmp_path) == []


@pytest.mark.parametrize("damage", ["put", "get"])
def test_a_damaged_transfer_is_noticed(damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `cat` on the device that changes one byte."""
    tools, base = tmp_path / "tools", tmp_path / "device"
    tools.mkdir()
    base.mkdir()
    (tools / "cat").write_text(f'#!/bin/sh\nexec {shutil.which("cat")} "$@" | tr x y\n')
    (tools / "cat").chmod(0o755)
    with ShellDevice(LocalShell("sh", f"'{base}'")) as device:
        if damage == "get":
            device.put(written(tmp_path, "xx"), "data")
        monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
        with pytest.raises(DeviceError, match="damaged"):
            if damage == "put":
                device.put(written(tmp_path, "xx"), "data")
            else:
                device.get("data", tmp_path / "back", 10)
        monkeypatch.undo()
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_broken_connection_is_tried_once_more(how: str, tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    connection = LocalShell("sh", f"'{tmp_path}/device'")
    with ShellDevice(connection) as device:
        connection.breaks = [how]
        device.put(written(tmp_path, ECHO), "echo", True)
        connection.breaks = [how]
        assert device.run(["./echo", "a"], timeout=20).stdout == b"a\0"
        connection.breaks = [how]
        device.get("echo", tmp_path / "back", 1000)
        connection.breaks = [how]
        assert device.facts().cores >= 1
        connection.breaks = [how, how]
        with pytest.raises(DeviceError, match="broke twice") as caught:
            device.run(["./echo"], timeout=20)
        assert "\n" not in str(caught.value)
    assert left(tmp_path) == []


def test_a_lost_keeper_is_replaced_before_the_folder_goes(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    connection = LocalShell("sh", f"'{tmp_path}/device'")
    with ShellDevice(connection) as device:
        device.put(written(tmp_path, "x"), "data")
        assert device._keeper is not None
        os.killpg(device._keeper._process.pid, signal.SIGKILL)
        device._keeper._process.wait()
        connection.breaks = ["before"]
        device.get("data", tmp_path / "back", 10)
        assert device._keeper.alive
    assert left(tmp_path) == []


def test_a_folder_that_went_with_the_connection_is_told(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    connection = LocalShell("sh", f"'{tmp_path}/device'")
    with pytest.raises(DeviceError, match="the work folder is gone"), ShellDevice(connection) as device:
        assert device._keeper is not None
        os.killpg(device._keeper._process.pid, signal.SIGKILL)
        device._keeper._process.wait()
        shutil.rmtree(device._keeper.work)
        connection.breaks = ["before"]
        device.run(["true"], timeout=20)
    assert left(tmp_path) == []


def test_without_a_keeper_the_folder_goes_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    with ShellDevice(LocalShell("sh", f"'{tmp_path}/device'")) as device:
        assert device._keeper is not None
        os.killpg(device._keeper._process.pid, signal.SIGKILL)
    assert left(tmp_path) == []


def test_a_folder_that_stays_is_told_but_hides_no_error(tmp_path: Path) -> None:
    (tmp_path / "device").mkdir()
    connection = LocalShell("sh", f"'{tmp_path}/device'")

    def cut_off(device: ShellDevice) -> None:
        assert device._keeper is not None
        os.killpg(device._keeper._process.pid, signal.SIGKILL)
        connection.breaks = ["before", "before"]

    with (
        pytest.raises(DeviceError, match=r"remove the work folder .*broke twice"),
        ShellDevice(connection) as device,
    ):
        cut_off(device)
    with pytest.raises(KeyError), ShellDevice(connection) as device:
        cut_off(device)
        raise KeyError


def test_a_run_that_takes_too_long_is_killed_there(connection: LocalShell, tmp_path: Path) -> None:
    marker = f"8{secrets.randbelow(10**6):06d}"
    with ShellDevice(connection) as device:
        start = time.monotonic()
        with pytest.raises(DeviceError, match=r"'sh' took longer than 0\.5 s"):
            device.run(["sh", "-c", f"sleep {marker} & sleep {marker}"], timeout=0.5)
        assert time.monotonic() - start < 10
        wait_until_gone(marker)
        assert device.run(["echo", "still here"], timeout=20).stdout == b"still here\n"
    assert left(tmp_path) == []


def test_children_of_a_run_end_with_it(connection: LocalShell, tmp_path: Path) -> None:
    marker = f"8{secrets.randbelow(10**6):06d}"
    with ShellDevice(connection) as device:
        device.run(["sh", "-c", f"sleep {marker} & exit 0"], timeout=20)
        wait_until_gone(marker)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL, signal.SIGHUP])
def test_an_interrupted_run_leaves_nothing(
    number: signal.Signals, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a process of its own, which gets the signal in the middle of a run."""
    (tmp_path / "device").mkdir()
    marker = f"8{secrets.randbelow(10**6):06d}"
    code = (
        "import signal, edgebert.devices.shell_scripts as s; s.GRACE = 0\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"  # nohup, if these tests run under it, ignores it
        "from edgebert.devices.shell import ShellDevice\n"
        "from tests.sdk.device_endpoints import LocalShell\n"
        f"with ShellDevice(LocalShell('sh', {str(tmp_path / 'device')!r})) as device:\n"
        f"    device.run(['sleep', '{marker}'], timeout=100)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        stderr=subprocess.DEVNULL,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )
    try:
        deadline = time.monotonic() + 20
        while not has_process(f"sleep\0{marker}"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        child.send_signal(number)
        assert child.wait(20) != 0
    finally:
        child.kill()
    wait_until_gone(f"sleep\0{marker}")
    while left(tmp_path):
        assert time.monotonic() < deadline + 20
        time.sleep(0.05)


def test_cleaning_up_removes_only_its_own(connection: LocalShell, tmp_path: Path) -> None:
    other = tmp_path / "device" / "edgebert-device-of-somebody"
    other.mkdir(parents=True)
    with ShellDevice(connection) as first, ShellDevice(connection) as second:
        first.put(written(tmp_path, "1"), "same")
        second.put(written(tmp_path, "2"), "same")
        first.get("same", tmp_path / "back", 1)
        assert (tmp_path / "back").read_text() == "1"
    assert left(tmp_path) == [other]


def test_one_line_when_there_is_no_device(tmp_path: Path) -> None:
    for connection in (LocalShell("/bin/false", "/tmp"), LocalShell("/no/such/client", "/tmp"),
                       LocalShell("sh", f"{tmp_path}/a-file/x")):  # fmt: skip
        (tmp_path / "a-file").touch()
        with pytest.raises(DeviceError) as caught, ShellDevice(connection):
            pass
        assert "\n" not in str(caught.value)
        assert "shell:test" in str(caught.value)


def test_a_folder_that_is_not_ours_is_never_removed(tmp_path: Path) -> None:
    """A device that answers with another folder than the one it was told to make."""
    liar = tmp_path / "liar"
    token = "$(printf %s \"$2\" | grep -o '[0-9a-f]\\{24\\}' | head -n 1)"
    liar.write_text(f"#!/bin/sh\nprintf '%s /home\\n' \"{token}\"\n")
    liar.chmod(0o755)
    with pytest.raises(DeviceError, match="cannot reach"), ShellDevice(LocalShell(str(liar), "/tmp")):
        pass


def test_use_outside_of_the_with_block_is_told(tmp_path: Path) -> None:
    device = ShellDevice(LocalShell("sh", str(tmp_path)))
    with pytest.raises(DeviceError, match="'with' block"):
        device.run(["true"], timeout=1)
