"""Reading /proc/cpuinfo and deciding whether an artifact may run."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert_targets.cpu import Cpu, parse_cpuinfo, require_any, running_cpu
from edgebert_targets.errors import WrongCpuError

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


@pytest.mark.parametrize("features", [None, frozenset(), frozenset({"avx2"})])
def test_require_any_refuses(features: frozenset[str] | None) -> None:
    with pytest.raises(WrongCpuError) as caught:
        require_any(Cpu("x86_64", features), ("avx512_vnni", "avx_vnni"))
    assert "\n" not in str(caught.value)


def test_require_any_passes() -> None:
    require_any(Cpu("x86_64", frozenset({"avx_vnni"})), ("avx512_vnni", "avx_vnni"))
    require_any(Cpu("x86_64", frozenset()), ())
    require_any(Cpu("aarch64", None), ("avx512_vnni", "avx_vnni"))
