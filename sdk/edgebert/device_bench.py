"""Speed of a package on a device: time on a real one, instructions on an emulated one."""

from __future__ import annotations

from collections.abc import Sequence

from edgebert.bench import BenchPlan, summarize
from edgebert.device_session import DeviceModel
from edgebert.devices.base import Device, DeviceFacts
from edgebert.errors import DeviceError, UsageError
from edgebert.figures import DeviceBench
from edgebert.progress import Reporter

EMULATED = "Emulated time means nothing: instructions of one inference were counted instead."
# A clock that fell to this share of what it was before is one that throttled.
SLOWED = 0.9
TRIP = "/sys/class/thermal/thermal_zone0/trip_point_0_temp"
TRIP_TIMEOUT_S = 20.0
PLAUSIBLE_TRIP_C = (30.0, 150.0)


def bench_on_device(
    device: Device,
    model: DeviceModel,
    lengths: Sequence[int],
    plans: Sequence[BenchPlan],
    reporter: Reporter | None = None,
) -> list[DeviceBench]:
    """Figures for every length and plan; a plan's rounds are one after the other there.

    Raises DeviceError, and UsageError for a length that the model does not take or, on an emulator, for more
    threads than one: their waiting would be counted too.
    """
    emulated = device.facts().emulated
    for length in lengths:
        if length > model.max_length:
            raise UsageError(
                f"length {length} is over the longest that the model takes; "
                f"use --length {model.max_length} or less"
            )
    for plan in plans:
        if emulated and plan.threads > 1:
            raise UsageError(
                f"--threads {plan.threads} on '{device.name}': instructions are counted with one thread, "
                "because several would count their waiting too; leave out --threads"
            )
    found = []
    for length in lengths:
        for plan in plans:
            found.append(
                DeviceBench(length, 1, None, model.count(length))
                if emulated
                else time_on_device(device, model, length, plan)
            )
            if reporter:
                reporter.progress(f"{device.name}: measure", len(found), len(lengths) * len(plans))
    return found


def time_on_device(device: Device, model: DeviceModel, length: int, plan: BenchPlan) -> DeviceBench:
    """Latency at one length, with a warning where the device throttled meanwhile. Raises DeviceError."""
    before = device.facts()
    runs = plan.rounds * plan.runs_per_round
    timing = model.time(length, plan.threads, runs, plan.warmup)
    after = device.facts()
    latency = summarize(
        [ns / 1e6 for ns in timing.ns],
        plan,
        length=length,
        peak_memory_bytes=timing.peak_bytes,
        load_ms=timing.load_ns / 1e6,
    )
    warnings = throttling(before, after, trip_temperature(device))
    return DeviceBench(length, plan.threads, latency, None, warnings)


def throttling(before: DeviceFacts, after: DeviceFacts, trip_c: float | None) -> tuple[str, ...]:
    """A line for each sign that the CPU was slowed down between the two readings."""
    found = []
    fast, slow = before.frequency_mhz, after.frequency_mhz
    if fast and slow and slow < SLOWED * fast:
        found.append(
            f"the CPU's clock fell from {fast:.0f} to {slow:.0f} MHz: it throttled; cool it and measure again"
        )
    if trip_c is not None and after.temperature_c is not None and after.temperature_c >= trip_c:
        found.append(
            f"the CPU is at {after.temperature_c:.0f} °C, its limit is {trip_c:.0f} °C: it throttles; "
            "cool it and measure again"
        )
    return tuple(found)


def trip_temperature(device: Device) -> float | None:
    """Where the first thermal zone begins to throttle, in degrees Celsius; None where that cannot be read."""
    try:
        done = device.run(["cat", TRIP], timeout=TRIP_TIMEOUT_S)
        degrees = int(done.stdout.strip()[:12]) / 1000
    except (DeviceError, ValueError):
        return None
    return degrees if PLAUSIBLE_TRIP_C[0] <= degrees <= PLAUSIBLE_TRIP_C[1] else None
