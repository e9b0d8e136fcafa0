"""The device in a build's report and in its gate."""

from __future__ import annotations

from dataclasses import replace

import pytest

from edgebert.figures import DeviceBench, DeviceFigures, HostComparison
from edgebert.gate import gate_message, judge
from edgebert.report import parse_report, report_json
from edgebert.report.device import device_rows
from edgebert.report.html import report_html
from tests.sdk.device_packages import device_facts
from tests.sdk.sample_report import make_latency, make_report

HOST = HostComparison(104, 29, 103, 0.0145, "XNNPACK for avx2", "rounded <elsewhere>")
DEVICE = DeviceFigures(
    facts=device_facts(name="ssh://pi", cpu="Cortex-A76", architecture="aarch64", features=("asimd",)),
    runtime="LiteRT 2.3.0",
    kernels="XNNPACK for asimd",
    examples=80,
    available=1000,
    accuracy=0.975,
    wrong_tokens=None,
    golden_examples=24,
    golden_wrong=1,
    golden_max_difference=0.002,
    host=HOST,
    bench=(
        DeviceBench(32, 1, make_latency(3.0), None, ("the CPU's clock fell",)),
        DeviceBench(64, 1, None, 1_250_000),
    ),
    seconds=12.5,
)


def test_rows_say_what_was_found() -> None:
    rows = dict(device_rows(DEVICE))
    assert rows["Accuracy on 80 of 1,000 examples"].startswith("97.50")
    assert rows["Golden examples met"] == "23 of 24, largest logit difference 0.002"
    assert rows["Same class as on the host"] == "103 of 104 examples"
    assert rows["Logits equal to the bit"] == "29 of 104 examples"
    assert rows["Largest difference to the host"] == "0.0145: rounded <elsewhere>"
    assert rows["Speed there, 32 tokens, 1 thread"].endswith("; the CPU's clock fell")
    assert "1.25 million instructions" in rows["Speed there, 64 tokens, 1 thread"]
    assert not [name for name in rows if "ids" in name]
    whole = replace(DEVICE, examples=1000, wrong_tokens=2, host=None)
    rows = dict(device_rows(whole))
    assert rows["Same ids as the host's tokenizer"] == "1,022 of 1,024 texts"
    assert "Accuracy on 1,000 examples" in rows and "Same class as on the host" not in rows


def test_both_reports_hold_the_device() -> None:
    report = replace(make_report(), device=DEVICE)
    assert parse_report(report_json(report)) == report
    page = report_html(report)
    assert "On the device" in page and "ssh://pi" in page
    assert "rounded &lt;elsewhere&gt;" in page and "<elsewhere>" not in page


def test_a_report_without_device_has_no_section_and_may_lack_the_field() -> None:
    report = make_report()
    assert "On the device" not in report_html(report)
    older = b"".join(line for line in report_json(report).splitlines(True) if b'"device": null' not in line)
    assert b'"device"' not in older and parse_report(older) == report


@pytest.mark.parametrize("problems", [(), ("3 logits differ",)])
def test_the_message_of_a_failed_gate(problems: tuple[str, ...]) -> None:
    verdict = judge([("teacher", 0.95), ("conversion", 0.95), ("running on qemu:arm64", 0.9)], 0.01)
    said = gate_message("arm64", verdict, "report.html", problems)
    assert "No package was written; see report.html" in said
    assert ("3 logits differ" in said) == bool(problems)
    assert ("'running on qemu:arm64' lost most (5.00 points)" in said) != bool(problems)
