"""Debian's packages of any architecture, downloaded and unpacked: nothing is installed, no root is needed.

apt works on a private state with the host's own sources, so the host's packages stay as they are.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

from edgebert.devices.facts import last_line
from edgebert.devices.process import ProcessTimeoutError, TooMuchOutputError, run_process
from edgebert.errors import DeviceError

STEP_TIMEOUT = 900.0  # seconds for one download or unpacking on a slow line
# Newer suites have everything under /usr; programs ask for their loader in /lib.
MERGED = ("bin", "lib", "lib64", "sbin")


def unpack_packages(
    folder: Path, packages: Sequence[str], architecture: str, options: Sequence[str] = ()
) -> None:
    """Unpack `packages` and what they depend on into `folder`; `options`: more for apt-get.

    apt checks the archive's signature and every package's hash. Raises DeviceError.
    """
    for tool in ("apt-get", "dpkg"):
        if shutil.which(tool) is None:
            raise DeviceError(f"{tool} is not installed; the root of a device is made of Debian's packages")
    state = folder / ".apt"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    apt = ["apt-get", "-qq", *apt_options(state, architecture), *options]
    step([*apt, "update"], f"apt-get update for {architecture}")
    download = ["-y", "--no-install-recommends", "--download-only", "install", *packages]
    step([*apt, *download], f"apt-get download for {architecture}")
    for archive in sorted((state / "cache" / "archives").glob("*.deb")):
        step(["dpkg", "-x", str(archive), str(folder)], f"unpacking {archive.name}")
    shutil.rmtree(state)
    for name in MERGED:
        if not (folder / name).exists() and (folder / "usr" / name).is_dir():
            (folder / name).symlink_to(f"usr/{name}")


def apt_options(state: Path, architecture: str) -> list[str]:
    """Options that point apt at a private state for another architecture."""
    settings = {
        "Dir::State": state / "state",
        "Dir::State::status": state / "status",
        "Dir::Cache": state / "cache",
        "APT::Architecture": architecture,
        "APT::Architectures": architecture,
        "APT::Sandbox::User": "",
        "Acquire::Languages": "none",
        "Acquire::Retries": "2",
    }
    return [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]


def step(words: Sequence[str], what: str) -> None:
    """Run one step of building a root. Raises DeviceError with the last line that it said."""
    try:
        done = run_process(words, timeout=STEP_TIMEOUT)
    except (ProcessTimeoutError, TooMuchOutputError) as error:
        raise DeviceError(f"{what} took longer than {STEP_TIMEOUT:g} s; look at the network") from error
    if done.returncode:
        raise DeviceError(f"{what} failed: {last_line(done.stderr)}")
