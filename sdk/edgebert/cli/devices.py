"""`edgebert devices`: what can be reached, what each device is, and what has to be built first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import click

from edgebert.cli.console import console_reporter
from edgebert.cli.output import json_option, print_json, print_table
from edgebert.devices.base import DeviceFacts, PreparableDevice, open_device
from edgebert.errors import EXIT_DEVICE, EXIT_OK, DeviceError


@dataclass(frozen=True)
class DeviceState:
    """A device and its facts, or why it cannot be used. `python`: LiteRT packages run there too."""

    device: str
    facts: DeviceFacts | None
    python: bool
    error: str | None


@click.command()
@click.argument("specs", nargs=-1, metavar="[DEVICE]...")
@click.option("--prepare", is_flag=True, help="First build what the given devices need on this machine.")
@json_option
def command(specs: tuple[str, ...], prepare: bool, as_json: bool) -> int:
    """Show devices and what each is: CPU, features, cores, memory, system, governor, temperature.

    DEVICE is local, qemu:arm64[,cpu=MODEL], ssh://[user@]host[:port] or adb:SERIAL. Without one, everything
    that can be found is shown: this machine, the emulator, and phones that adb knows.
    """
    if prepare:
        if not specs:
            raise DeviceError("--prepare needs a device; try: edgebert devices --prepare qemu:arm64")
        prepare_devices(specs)
    states = [device_state(spec) for spec in specs or found_devices()]
    if as_json:
        print_json({"devices": [asdict(state) for state in states]})
    else:
        print_table(None, ("device", "what it is"), [row(state) for state in states])
    return EXIT_DEVICE if specs and any(state.error for state in states) else EXIT_OK


def prepare_devices(specs: Sequence[str]) -> None:
    """Raises DeviceError for a device that has nothing to prepare."""
    for spec in specs:
        device = open_device(spec)
        if not isinstance(device, PreparableDevice):
            raise DeviceError(f"device {spec!r} has nothing to prepare; leave out --prepare")
        with console_reporter() as reporter:
            device.prepare(reporter)


def found_devices() -> list[str]:
    """Specifications of what can be found without being told: a host must be named."""
    from edgebert.devices.adb import attached_serials
    from edgebert.devices.qemu import find_qemu

    emulators = ["qemu:arm64"] if find_qemu() else []
    return ["local", *emulators, *(f"adb:{serial}" for serial in attached_serials())]


def device_state(spec: str) -> DeviceState:
    try:
        with open_device(spec) as device:
            return DeviceState(spec, device.facts(), device.python() is not None, None)
    except DeviceError as error:
        return DeviceState(spec, None, False, " ".join(str(error).split()))


def row(state: DeviceState) -> tuple[str, str]:
    facts = state.facts
    if facts is None:
        return state.device, f"cannot be used: {state.error}"
    parts = [
        f"{facts.cpu}, {facts.architecture}, {facts.cores} core{'s' if facts.cores != 1 else ''}",
        f"features {', '.join(facts.features)}" if facts.features else "no features that matter for INT8",
        f"{facts.memory_bytes / 1e9:.1f} GB" if facts.memory_bytes else "",
        facts.os,
        f"governor {facts.governor}" if facts.governor else "",
        f"{facts.temperature_c:.0f} °C" if facts.temperature_c is not None else "",
        f"{facts.frequency_mhz:.0f} MHz" if facts.frequency_mhz is not None else "",
        "emulated: its times mean nothing" if facts.emulated else "",
        "Python with LiteRT" if state.python else "no Python with LiteRT",
    ]
    if facts.emulated and not state.python:
        parts[-1] += f"; for that, run once: edgebert devices --prepare {state.device}"
    return state.device, "; ".join(part for part in parts if part)
