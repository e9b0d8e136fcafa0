"""A board over OpenSSH's client, with the user's own configuration, keys and known hosts."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from shlex import quote

from edgebert.devices.shell import ShellDevice
from edgebert.errors import DeviceError

# No questions, no forwarding, a lost network noticed within a minute. Keys and known hosts are the user's.
OPTIONS = (
    "BatchMode=yes", "ConnectTimeout=15", "ServerAliveInterval=15", "ServerAliveCountMax=3",
    "LogLevel=ERROR", "ForwardAgent=no", "ForwardX11=no", "ClearAllForwardings=yes",
    "PermitLocalCommand=no", "RemoteCommand=none",
)  # fmt: skip
LONGEST_SOCKET = 80  # bytes: Unix sockets have names of at most 104, and ssh adds 17 while it makes one
# ssh hands these to programs of the user's configuration (ProxyCommand): no more than names need.
SPEC = re.compile(
    r"ssh://(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.+-]{0,63})@)?"
    r"(?P<host>[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,252})|\[[0-9A-Fa-f:.]{2,45}\])(?::(?P<port>\d{1,5}))?/?"
)


@dataclass(frozen=True)
class SshConnection:
    """`port` 0: as configured. `config`: a file in place of ~/.ssh/config."""

    name: str
    user: str | None
    host: str
    port: int
    config: Path | None
    base: str = '"${TMPDIR:-/tmp}"'

    @property
    def advice(self) -> str:
        return "try: ssh " + (f"-p {self.port} " if self.port else "") + self._destination()

    def command(self, script: str, shared: Path | None = None, first: bool = False) -> list[str]:
        words = ["ssh", "-T", *(["-F", str(self.config)] if self.config else [])]
        options = [*OPTIONS]
        socket = shared / "ssh" if shared is not None else None
        if socket is not None and len(str(socket)) <= LONGEST_SOCKET:
            if first:  # of a connection that broke
                socket.unlink(missing_ok=True)
            options += [
                f"ControlPath={socket}",
                f"ControlMaster={'yes' if first else 'no'}",
                "ControlPersist=no",
            ]
        for option in options:
            words += ["-o", option]
        if self.port:
            words += ["-p", str(self.port)]
        # `sh -c`, because the login shell may be one that reads another language
        return [*words, "--", self._destination(), f"exec sh -c {quote(script)}"]

    def push(self, local: Path, remote: str) -> list[str] | None:
        return None

    def _destination(self) -> str:
        return f"{self.user}@{self.host}" if self.user else self.host


def ssh_device(spec: str) -> ShellDevice:
    """The factory of the scheme "ssh"; `$EDGEBERT_SSH_CONFIG` replaces ~/.ssh/config. Raises DeviceError."""
    return ShellDevice(parse_spec(spec))


def parse_spec(spec: str) -> SshConnection:
    """Raises DeviceError for what is no ssh://[user@]host[:port], and without an ssh client."""
    found = SPEC.fullmatch(spec)
    if not found or not 0 <= int(found["port"] or 0) <= 65535:
        raise DeviceError(f"{spec[:100]!r} is no SSH device; write ssh://user@host or ssh://user@host:port")
    if shutil.which("ssh") is None:
        raise DeviceError("ssh is not installed; run: apt-get install openssh-client")
    config = os.environ.get("EDGEBERT_SSH_CONFIG")
    return SshConnection(
        spec,
        found["user"],
        found["host"].strip("[]"),
        int(found["port"] or 0),
        Path(config) if config else None,
    )
