"""`edgebert doctor`: what this machine can run, what is missing, and the command that installs it."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import metadata
from urllib.parse import unquote, urlsplit

import click

from edgebert.cli.output import json_option, print_json, print_table
from edgebert.errors import EXIT_MISSING_EXTRA, EXIT_OK
from edgebert.machine import MachineFacts, library_versions, machine_facts
from edgebert_targets.base import Kernels, Target, get_target, target_names

DISTRIBUTION = "edgebert"
# "dev" and "all" only gather others.
EXTRAS = ("x86", "arm64", "convert-x86", "convert-arm64", "convert-int8-sparse", "build")
PURPOSE = {
    "x86": "run x86 packages",
    "arm64": "run arm64 packages",
    "convert-x86": "write x86 packages",
    "convert-arm64": "write arm64 packages",
    "convert-int8-sparse": "write int8-sparse packages",
    "build": "compress models",
}
COMPILERS = ("c++", "g++", "clang++")


@dataclass(frozen=True)
class ExtraState:
    """An extra of the distribution; `missing`: its libraries that are not installed."""

    name: str
    purpose: str
    missing: tuple[str, ...]
    install: str


@dataclass(frozen=True)
class TargetState:
    """`runs`: this machine can execute the target's artifacts; `native`: they are meant for its CPU.

    `kernels`: what the runtime computes with here, where it says so.
    """

    name: str
    backend: str
    version: str | None
    runs: bool
    native: bool
    note: str
    kernels: Kernels | None = None


@click.command()
@json_option
def command(as_json: bool) -> int:
    """Show this machine's CPU features, the versions in use, what is missing and what can run."""
    machine, versions = machine_facts(), library_versions()
    extras = extra_states(metadata.requires(DISTRIBUTION) or [])
    targets = [target_state(name, machine) for name in target_names()]
    compiler = find_compiler()
    if as_json:
        print_json(
            {
                "machine": machine,
                "versions": versions,
                "compiler": compiler,
                "extras": extras,
                "targets": targets,
                "can_run": any(target.runs for target in targets),
            }
        )
    else:
        print_table("Machine", ("", ""), machine_rows(machine, compiler))
        print_table("Versions", ("library", "version"), list(versions.items()))
        print_table("Extras", ("extra", "for", "state"), [extra_row(extra) for extra in extras])
        print_table("Targets", ("target", "backend", "state"), [target_row(target) for target in targets])
    if any(target.runs for target in targets):
        return EXIT_OK
    click.echo(f"edgebert: no target can run here; try: {install_command('x86')}", err=True)
    return EXIT_MISSING_EXTRA


def extra_states(requirements: Sequence[str]) -> list[ExtraState]:
    """State of every extra, from the requirement lines of the installed distribution's metadata."""
    return [
        ExtraState(name, PURPOSE[name], missing_of(needed_by(name, requirements)), install_command(name))
        for name in EXTRAS
    ]


def needed_by(extra: str, requirements: Sequence[str]) -> tuple[str, ...]:
    """Names of the libraries that `extra` asks for; an extra that names another one has its libraries too."""
    names: list[str] = []
    for line in requirements:
        name = re.match(r"[A-Za-z0-9._-]+", line)
        if name is None or f"extra == '{extra}'" not in line.replace('"', "'"):
            continue
        if name[0] != DISTRIBUTION:
            names.append(name[0])
        elif inner := re.search(r"\[([^\]]+)\]", line):
            for other in inner[1].split(","):
                names.extend(needed_by(other.strip(), requirements))
    return tuple(dict.fromkeys(names))


def missing_of(names: Iterable[str]) -> tuple[str, ...]:
    """Those of `names` that are not installed, whatever their version."""
    wanted = list(names)
    present = library_versions(wanted)
    return tuple(name for name in wanted if name not in present)


def install_command(extra: str) -> str:
    """The pip command that installs `extra` for this Python, from the checkout where that is installed."""
    where = [f"{DISTRIBUTION}[{extra}]"]
    if (checkout := checkout_path()) is not None:
        where = ["-e", f"{checkout}[{extra}]"]
    return shlex.join([sys.executable or "python3", "-m", "pip", "install", *where])


def checkout_path() -> str | None:
    """Folder of an editable installation (PEP 610, direct_url.json), None for any other."""
    text = metadata.distribution(DISTRIBUTION).read_text("direct_url.json")
    if text is None:
        return None
    facts = json.loads(text)
    if not facts.get("dir_info", {}).get("editable"):
        return None
    return unquote(urlsplit(facts["url"]).path)


def target_state(name: str, machine: MachineFacts) -> TargetState:
    """What `name` can do here. A target that fails to load is reported, not raised."""
    try:
        target = get_target(name)
    except Exception as error:
        return TargetState(name, "", None, False, False, f"cannot be loaded: {one_line(error)}")
    native = machine.architecture in target.cpu_architectures
    if machine.architecture not in target.host_architectures:
        note = f"{target.backend} does not run on {machine.architecture}"
        return TargetState(target.name, target.backend, None, False, native, note)
    try:
        version, kernels = target.backend_version(), target.kernels()
    except Exception as error:
        return TargetState(target.name, target.backend, None, False, native, one_line(error))
    note = running_note(target, native)
    return TargetState(target.name, target.backend, version, True, native, note, kernels)


def running_note(target: Target, native: bool) -> str:
    if native:
        return "runs here"
    return f"runs here to validate; its speed counts on {' or '.join(target.cpu_architectures)}"


def one_line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


def find_compiler() -> str | None:
    """Path of a C++ compiler: $CXX, else the usual names."""
    names = [*shlex.split(os.environ.get("CXX", ""))[:1], *COMPILERS]
    return next((found for name in names if (found := shutil.which(name))), None)


def machine_rows(machine: MachineFacts, compiler: str | None) -> list[tuple[str, str]]:
    return [
        ("CPU", machine.cpu),
        ("architecture", machine.architecture),
        ("cores", str(machine.cores)),
        ("features", ", ".join(machine.features) or "none of those that matter for INT8"),
        ("memory", f"{machine.memory_bytes / 1e9:.1f} GB"),
        ("system", machine.os),
        ("Python", machine.python),
        ("C++ compiler", compiler or "none found; needed only to build native code: install g++ or clang"),
    ]


def extra_row(extra: ExtraState) -> tuple[str, str, str]:
    if not extra.missing:
        return extra.name, extra.purpose, "installed"
    return extra.name, extra.purpose, f"missing {', '.join(extra.missing)}: {extra.install}"


def target_row(target: TargetState) -> tuple[str, str, str]:
    version = f" {target.version}" if target.version else ""
    note = target.note
    if target.kernels:
        others = [name for name in target.kernels.available if name != target.kernels.used]
        note += (
            f" with {target.kernels.used} kernels; EDGEBERT_ISA can choose {', '.join(others) or 'no others'}"
        )
    return target.name, f"{target.backend}{version}", note
