"""The report's section on the device: what it is, what it computed, how far that is from this machine."""

from __future__ import annotations

from edgebert.figures import DeviceBench, DeviceFigures
from edgebert.report import words


def device_rows(device: DeviceFigures | None, metric: str = "accuracy") -> list[tuple[str, str]]:
    """(name, value) rows; none where the model was run on no device."""
    if device is None:
        return []
    facts = device.facts
    rows = [
        ("Device", f"{facts.name}{' (emulated)' if facts.emulated else ''}"),
        ("CPU", f"{facts.cpu}, {facts.architecture}, {facts.cores} cores"),
        ("INT8 and vector features", ", ".join(facts.features) or "none of interest"),
        ("System", facts.os),
        ("Runtime", f"{device.runtime}, {device.kernels}"),
    ]
    if device.accuracy is not None:
        part = "" if device.examples == device.available else f" of {device.available:,}"
        rows.append(
            (f"{metric.capitalize()} on {device.examples:,}{part} examples", words.percent(device.accuracy))
        )
    right = device.golden_examples - device.golden_wrong
    rows.append(
        ("Golden examples met", f"{right} of {device.golden_examples}, largest logit difference "
         f"{device.golden_max_difference:.3g}")
    )  # fmt: skip
    if device.wrong_tokens is not None:
        total = device.golden_examples + device.examples
        rows.append(
            ("Same ids as the host's tokenizer", f"{total - device.wrong_tokens:,} of {total:,} texts")
        )
    if (host := device.host) is not None:
        rows += [
            ("Same class as on the host", f"{host.same_class:,} of {host.examples:,} examples"),
            ("Logits equal to the bit", f"{host.identical:,} of {host.examples:,} examples"),
            ("Largest difference to the host", f"{host.max_difference:.3g}: {host.explanation}"),
        ]
    rows += [bench_row(bench) for bench in device.bench]
    return rows


def bench_row(bench: DeviceBench) -> tuple[str, str]:
    """A line of figures, with its warnings."""
    threads = f"{bench.threads} thread{'s' if bench.threads != 1 else ''}"
    name = f"Speed there, {bench.length} tokens, {threads}"
    if bench.latency is None:
        count = bench.instructions or 0
        return name, f"{count / 1e6:.2f} million instructions an inference; emulated time means nothing"
    latency = bench.latency
    text = (
        f"median {words.milliseconds(latency.p50_ms)}, p99 {words.milliseconds(latency.p99_ms)}, "
        f"peak memory {words.size(latency.peak_memory_bytes)}, load {words.milliseconds(latency.load_ms)}"
    )
    return name, "; ".join((text, *bench.warnings))
