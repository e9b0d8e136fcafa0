"""Facts about CPUs, from the text that Linux gives for them."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from edgebert.machine import (
    MachineFacts,
    features_of_interest,
    library_versions,
    machine_facts,
    parse_cpuinfo,
)

X86 = """processor\t: 0
model name\t: AMD EPYC 9575F
flags\t\t: fpu sse2 avx2 avx512f avx512_vnni

processor\t: 1
model name\t: AMD EPYC 9575F
flags\t\t: fpu sse2 avx2 avx512f
"""
ARM = """processor\t: 0
Features\t: fp asimd crc32
CPU implementer\t: 0x41
CPU part\t: 0xd03

processor\t: 4
Features\t: fp asimd crc32 asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b

processor\t: 5
Features\t: fp asimd asimddp
CPU implementer\t: 0x51
CPU part\t: 0x801
"""


def test_x86_features_are_those_of_every_core() -> None:
    name, flags = parse_cpuinfo(X86)
    assert name == "AMD EPYC 9575F"
    assert features_of_interest(flags, "x86_64") == ("avx2", "avx512f")


def test_arm_parts_are_named_once_each() -> None:
    name, flags = parse_cpuinfo(ARM)
    assert name == "Cortex-A53 + Cortex-A76 + ARM 0x51 part 0x801"
    assert features_of_interest(flags, "aarch64") == ("asimd",)
    assert features_of_interest(flags, "riscv64") == ()


def test_nothing_known() -> None:
    assert parse_cpuinfo("") == ("", frozenset())
    facts = machine_facts(Path("/nonexistent/cpuinfo"))
    assert facts.features == () and facts.cpu and facts.cores >= 1 and facts.memory_bytes > 0


def test_summary() -> None:
    facts = MachineFacts("AMD EPYC", "x86_64", 2, 1, "Linux", "3.11", ())
    assert facts.summary() == "AMD EPYC, 2 cores, x86_64"


def test_versions_are_read_without_importing() -> None:
    assert library_versions(["numpy", "no-such-library-here"]) == {"numpy": metadata.version("numpy")}
