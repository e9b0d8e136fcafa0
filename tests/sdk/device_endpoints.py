"""Endpoints for the tests of devices: a local shell in place of a network, a real sshd, a real adbd."""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from edgebert.devices.cache import building, cache_folder
from edgebert.devices.debian import unpack_packages
from edgebert.devices.qemu import DEFAULT_CPU, find_qemu
from edgebert.devices.qemu_root import find_root
from edgebert.errors import DeviceError

SSHD = "/usr/sbin/sshd"
# A name that a shell, an option parser or a line reader would take for something else.
HOSTILE = "- a;b 'c' \"d\" $(touch owned) `touch owned`\n\\n*?~é\N{SNOWMAN}"
# movz x0, #7 | movz x8, #93 | svc #0: exit(7)
EXIT_7 = (0xD28000E0, 0xD2800BA8, 0xD4000001)


@dataclass
class LocalShell:
    """A connection whose device is a POSIX shell here; the first commands in `breaks` are cut off."""

    shell: str
    base: str
    name: str = "shell:test"
    advice: str = "try again"
    breaks: list[str] = field(default_factory=list)

    def command(self, script: str, shared: Path | None = None, first: bool = False) -> list[str]:
        how = self.breaks.pop(0) if self.breaks and not first else ""
        if how == "before":
            script = "echo lost >&2; exit 255"
        elif how == "after":  # all was done, but nobody was told
            script = f"({script}) 2> /dev/null"
        return [*self.shell.split(), "-c", script]

    def push(self, local: Path, remote: str) -> list[str] | None:
        return None


def has_process(marker: str) -> bool:
    """Is a program running whose command line holds `marker`?"""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if marker.encode() in (folder / "cmdline").read_bytes() and int(folder.name) != os.getpid():
                return True
    return False


def wait_until_gone(marker: str, seconds: float = 10) -> None:
    deadline = time.monotonic() + seconds
    while has_process(marker):
        assert time.monotonic() < deadline, f"{marker} still runs"
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass(frozen=True)
class Sshd:
    """`spec`: of the device; `config`: for $EDGEBERT_SSH_CONFIG; `home`: of the user there."""

    spec: str
    config: Path
    home: Path


@contextmanager
def running_sshd(folder: Path, force_command: str | None = None) -> Iterator[Sshd]:
    """A real sshd on loopback with a key of its own; skips where it cannot run."""
    for tool in (SSHD, "ssh", "ssh-keygen"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed: apt-get install openssh-server openssh-client")
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True)
    port, home = free_port(), folder / "home"
    home.mkdir()
    # What login scripts print must not get into results.
    (home / ".bashrc").write_text("printf 'noise of a login script'\n")
    forced = [f"ForceCommand {force_command}"] if force_command else []
    lines = [f"Port {port}", "ListenAddress 127.0.0.1", f"HostKey {folder}/host", "UsePAM no",
             "StrictModes no", f"AuthorizedKeysFile {folder}/user.pub", f"PidFile {folder}/pid",
             "PermitRootLogin yes", f"SetEnv HOME={home}", *forced]  # fmt: skip
    (folder / "sshd_config").write_text("\n".join(lines) + "\n")
    config = folder / "config"
    config.write_text(
        f"Host *\n  IdentityFile {folder}/user\n  IdentitiesOnly yes\n"
        f"  UserKnownHostsFile {folder}/known\n  StrictHostKeyChecking accept-new\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # sshd wants it for the separation of privileges
    with (folder / "log").open("w") as log:
        server = subprocess.Popen([SSHD, "-D", "-e", "-f", folder / "sshd_config"], stderr=log)
        try:
            _wait_for_port(server, port, folder / "log")
            user = subprocess.run(["id", "-un"], capture_output=True, text=True, check=True).stdout.strip()
            yield Sshd(f"ssh://{user}@127.0.0.1:{port}", config, home)
        finally:
            server.terminate()
            server.wait()


def emulating_command(folder: Path) -> str:
    """A program for ForceCommand that runs what ssh asked for as AArch64 code; skips where it cannot."""
    root, qemu = find_root(), find_qemu()
    if root is None or qemu is None:
        pytest.skip("no emulator: apt-get install qemu-user, then edgebert devices --prepare qemu:arm64")
    if shutil.which("proot") is None:
        pytest.skip("proot is not installed: apt-get install proot")
    (folder / "tmp").mkdir()
    script = folder / "emulate"
    script.write_text(
        "#!/bin/sh\n"
        "export PATH=/usr/bin:/bin TMPDIR=/tmp HOME=/ PROOT_NO_SECCOMP=1\n"
        f'exec proot -q "{qemu} -cpu {DEFAULT_CPU}" -r "{root}" -b /proc -b /dev -b /sys'
        f' -b "{folder}/tmp:/tmp" -w / /bin/sh -c "$SSH_ORIGINAL_COMMAND"\n'
    )
    script.chmod(0o755)
    return str(script)


@contextmanager
def running_adbd(folder: Path) -> Iterator[Path]:
    """Debian's adbd in a root and a network of its own, as adb:127.0.0.1:5555; yields the phone's root.

    Puts an `adb` into `folder` that talks to it. Skips where it cannot be made.
    """
    for tool in ("adb", "unshare", "nsenter", "ip"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    if os.geteuid() != 0:
        pytest.skip("adbd needs root rights for a root folder and a network of its own")
    root = _adbd_root()
    start = folder / "start"
    start.write_text(
        "#!/bin/sh\nset -e\nip link set lo up\n"
        f'for name in dev proc sys; do mount --rbind /$name "{root}/$name"; done\n'
        f'mount --bind "{folder}/data" "{root}/data"\n'
        f'exec chroot "{root}" /usr/lib/android-sdk/platform-tools/adbd\n'
    )
    (folder / "data" / "local" / "tmp").mkdir(parents=True)
    variables = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "HOME": "/", "ADBD_PORT": "5555"}
    with (folder / "log").open("w") as log:
        phone = subprocess.Popen(
            ["unshare", "-n", "-m", "--fork", "--pid", "--mount-proc", "--kill-child", "sh", start],
            env=variables, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        adb = folder / "adb"
        adb.write_text(
            f'#!/bin/sh\nexport HOME="{folder}"\nexec nsenter -n -t {phone.pid} {shutil.which("adb")} "$@"\n'
        )
        adb.chmod(0o755)
        try:
            _connect_adb(adb, folder / "log")
            yield folder
        finally:
            subprocess.run([adb, "kill-server"], capture_output=True, check=False)
            with suppress(ProcessLookupError):
                os.killpg(phone.pid, signal.SIGKILL)
            phone.wait()


def _wait_for_port(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if server.poll() is not None:
            break
        time.sleep(0.05)
    pytest.skip(f"sshd does not start here: {log.read_text()[-300:]}")


def _connect_adb(adb: Path, log: Path) -> None:
    said = ""
    for _ in range(40):
        said = subprocess.run(
            [adb, "connect", "127.0.0.1:5555"], capture_output=True, text=True, check=False
        ).stdout
        if "connected to" in said and "failed" not in said:
            return
        time.sleep(0.25)
    pytest.skip(f"adbd does not answer here: {said} {log.read_text()[-300:]}")


def _adbd_root() -> Path:
    """An unpacked root with adbd, which Debian has from version 13 on; kept in the cache."""
    sources = Path("/etc/apt/sources.list.d/debian.sources")
    keys = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
    mirror = re.search(r"^URIs: *(\S+)$", sources.read_text(), re.M) if sources.is_file() else None
    if mirror is None or not keys.is_file():
        pytest.skip("no Debian here to take adbd from")
    target = cache_folder() / "test-adbd-1"
    try:
        with building(target) as folder:
            if folder is not None:
                listing = folder / "trixie.list"
                listing.write_text(f"deb [signed-by={keys}] {mirror[1]} trixie main\n")
                options = ["-o", f"Dir::Etc::sourcelist={listing}", "-o", "Dir::Etc::sourceparts=-"]
                host = subprocess.run(
                    ["dpkg", "--print-architecture"], capture_output=True, text=True, check=True
                )
                packages = ["adbd", "dash", "coreutils", "util-linux"]
                unpack_packages(folder, packages, host.stdout.strip(), options)
                for name in ("dev", "proc", "sys", "tmp", "data"):
                    (folder / name).mkdir(exist_ok=True)
    except DeviceError as error:
        pytest.skip(f"adbd cannot be had: {error}")
    return target
