"""`edgebert report`: what phones measured, as the demo app shares it, side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from edgebert.cli.output import json_option, megabytes, print_json, print_table
from edgebert.device_result import DeviceResult, read_device_result
from edgebert.errors import EXIT_GATE, EXIT_OK


@click.command()
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@json_option
def command(results: tuple[Path, ...], as_json: bool) -> int:
    """Show the RESULTS that the demo app shared; ends with 2 when golden examples did not match."""
    read = [read_device_result(path) for path in results]
    if as_json:
        print_json({"results": [{**asdict(result), "passed": result.passed} for result in read]})
    else:
        for path, result in zip(results, read, strict=True):
            print_table(str(path), ("", ""), rows(result))
    return EXIT_OK if all(result.passed for result in read) else EXIT_GATE


def rows(result: DeviceResult) -> list[tuple[str, str]]:
    """(what, value) of one result."""
    latency = " · ".join(f"{name} {value:.2f}" for name, value in result.latency_ms.items())
    return [
        ("model", f"{result.model}, {megabytes(result.model_bytes)}"),
        ("device", f"{result.device['name']}, {result.device['os']}, {result.device['cpu']}"),
        ("kernels", f"{result.device['kernels']}, engine {result.engine}"),
        ("milliseconds", f"{latency} ({result.tokens} tokens, {result.runs} runs)"),
        ("golden examples", golden_words(result)),
    ]


def golden_words(result: DeviceResult) -> str:
    if result.golden is None:
        return "the app had none"
    return f"{result.golden['equal_bits']} of {result.golden['examples']} bit for bit"
