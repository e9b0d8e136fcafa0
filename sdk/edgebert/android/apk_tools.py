"""Tools that make an APK without Google's SDK: Debian's, two of them of an older release, in the cache."""

from __future__ import annotations

import hashlib
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from edgebert.android.tools import need
from edgebert.devices.cache import building, cache_folder
from edgebert.devices.debian import apt_options, step
from edgebert.errors import AndroidError, MissingExtraError

INSTALL = "apt-get install aapt apksigner android-framework-res openjdk-17-jdk-headless"
FRAMEWORK = Path("/usr/share/android-framework-res/framework-res.apk")
# Debian 11's: the last with dx, which turns classes into the form that Android runs. Package -> SHA-256.
SUITE = "bullseye"
PACKAGES = {
    "dalvik-exchange": "8fc128db7c27253d963eb9b33de79b197162a4749d2ba69019b2fd0664cbd7fe",
    "libandroid-23-java": "8af1b6df556971dda0a6da3536ea526a838e0c363afcdd454213d8bce94793e3",
}
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")


@dataclass(frozen=True)
class ApkTools:
    """Programs and archives; `dx` and `android_jar` are jars, `framework` holds Android's resources."""

    aapt2: Path
    apksigner: Path
    java: Path
    javac: Path
    keytool: Path
    dx: Path
    android_jar: Path
    framework: Path


def apk_tools() -> ApkTools:
    """Raises MissingExtraError with what installs the missing one, AndroidError, DeviceError."""
    if not FRAMEWORK.is_file():
        raise MissingExtraError(f"{FRAMEWORK} is needed to build an APK; run: {INSTALL}")
    programs = {name: need([name], INSTALL) for name in ("aapt2", "apksigner", "java", "javac", "keytool")}
    old = _old_packages()
    return ApkTools(
        **programs,
        dx=old / "usr" / "share" / "java" / "com.android.dx.jar",
        android_jar=old / "usr" / "share" / "java" / "com.android.android-23.jar",
        framework=FRAMEWORK,
    )


def _old_packages() -> Path:
    """The unpacked packages, downloaded once and checked by hash."""
    key = hashlib.sha256("".join(PACKAGES.values()).encode()).hexdigest()
    folder = cache_folder().parent / "android" / f"apk-tools-{key[:20]}"
    if not folder.is_dir():
        with building(folder) as made:
            if made is not None:
                _download(made)
    return folder


def _download(made: Path) -> None:
    need(["apt-get"], "a Debian or Ubuntu system")
    state, packages = made / ".apt", made / ".packages"
    for name in ("state/lists/partial", "cache/archives/partial"):
        (state / name).mkdir(parents=True)
    (state / "status").touch()
    packages.mkdir()
    sources = state / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {_mirror()} {SUITE} main\n")
    apt = [
        "apt-get", "-qq", *apt_options(state, "amd64"),
        "-o", f"Dir::Etc::sourcelist={sources}", "-o", "Dir::Etc::sourceparts=-",
    ]  # fmt: skip
    step([*apt, "update"], f"apt-get update for {SUITE}")
    for name, expected in PACKAGES.items():
        archives = packages / name
        archives.mkdir()
        step(["env", "-C", str(archives), *apt, "download", name], f"apt-get download {name}")
        (archive,) = archives.iterdir()
        found = hashlib.sha256(archive.read_bytes()).hexdigest()
        if found != expected:
            raise AndroidError(f"{archive.name} has the SHA-256 {found}, known is {expected}; not used")
        step(["dpkg", "-x", str(archive), str(made)], f"unpacking {archive.name}")
    shutil.rmtree(state)
    shutil.rmtree(packages)


def _mirror() -> str:
    """Where the host's own packages come from. Raises AndroidError."""
    texts = [
        path.read_text(errors="replace") for path in sorted(Path("/etc/apt").glob("sources.list*/*.sources"))
    ]
    texts += (
        [Path("/etc/apt/sources.list").read_text(errors="replace")]
        if Path("/etc/apt/sources.list").is_file()
        else []
    )
    for text in texts:
        if found := re.search(r"^(?:URIs:|deb (?:\[[^]]*\] )?)\s*(\S+)", text, re.MULTILINE):
            return found[1]
    raise AndroidError("apt has no sources here; the APK's tools come from Debian's packages")
