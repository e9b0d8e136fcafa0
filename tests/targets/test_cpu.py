"""Reading /proc/cpuinfo."""

from __future__ import annotations

from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from edgebert_targets.cpu import Cpu, parse_cpuinfo, running_cpu

X86 = "processor\t: 0\nmodel name\t: Some CPU\nflags\t\t: fpu avx2 avx_vnni\nbugs\t\t: spectre\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd asimddp\nCPU part\t: 0xd0b\n"


def test_flags_and_features() -> None:
    assert parse_cpuinfo(X86) == {"fpu", "avx2", "avx_vnni"}
    assert parse_cpuinfo(ARM) == {"fp", "asimd", "asimddp"}


def test_only_what_every_processor_has_counts() -> None:
    # big.LITTLE: a thread may be moved to a core without the feature.
    assert parse_cpuinfo(ARM + "\n" + ARM.replace(" asimddp", "")) == {"fp", "asimd"}


@given(st.text())
def test_any_text_parses(text: str) -> None:
    assert all(isinstance(feature, str) for feature in parse_cpuinfo(text))


def test_running_cpu_reads_the_file(tmp_path: Path) -> None:
    path = tmp_path / "cpuinfo"
    path.write_text(X86)
    assert running_cpu(path).features == {"fpu", "avx2", "avx_vnni"}
    assert running_cpu(tmp_path / "absent").features is None


def test_has_any() -> None:
    assert Cpu("x86_64", frozenset({"avx_vnni"})).has_any(("avx512_vnni", "avx_vnni"))
    assert not Cpu("x86_64", frozenset({"avx2"})).has_any(("avx512_vnni", "avx_vnni"))
    assert not Cpu("x86_64", None).has_any(("avx2",))
