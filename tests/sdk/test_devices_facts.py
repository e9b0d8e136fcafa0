"""Facts: what boards, phones and x86 say of themselves, and what nobody should."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebert.devices.base import DeviceFacts
from edgebert.devices.facts import COMMANDS, FILES, LONGEST, device_facts, last_line, plain

CORE = (
    "processor\t: {}\nBogoMIPS\t: 108.00\nFeatures\t: fp asimd aes asimddp {}\n"
    "CPU implementer\t: 0x41\nCPU part\t: {}\n\n"
)
BOARD = {
    "cpuinfo": "".join(CORE.format(n, "i8mm" if n else "", "0xd05" if n < 2 else "0xd0b") for n in range(4)),
    "meminfo": "MemTotal:        3884332 kB\nMemFree: 1 kB\n",
    "os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
    "governor": "schedutil\nschedutil\n\nperformance\n",
    "frequency": "1800000\n\n2400000\n",
    "zones": "gpu-thermal\ncpu-thermal\nbattery\n",
    "temperature": "71000\n48300\n30000\n",
    "architecture": "aarch64\n",
    "kernel": "Linux 6.1",
    "cores": "4\n",
}


def facts(**changes: str | bytes) -> DeviceFacts:
    told = {**BOARD, **{name.replace("_", "-"): value for name, value in changes.items()}}
    return device_facts("d", {k: v if isinstance(v, bytes) else v.encode() for k, v in told.items()})


def test_a_board() -> None:
    board = facts()
    assert board.architecture == "aarch64"
    assert board.cpu == "Cortex-A55 + Cortex-A76"
    assert board.features == ("asimd", "asimddp")  # i8mm: not on every core
    assert board.cores == 4
    assert board.memory_bytes == 3884332 * 1024
    assert board.os == "Debian GNU/Linux 12 (bookworm)"
    assert board.governor == "schedutil + performance"
    assert board.temperature_c == 48.3
    assert board.frequency_mhz == 2400
    assert not board.emulated


def test_a_phone() -> None:
    phone = facts(android="14\n", model="Pixel 7\n", os_release="")
    assert phone.os == "Android 14"
    assert phone.cpu == "Pixel 7: Cortex-A55 + Cortex-A76"


def test_without_a_zone_of_the_cpu_the_hottest_counts_and_whole_degrees_are_read() -> None:
    assert facts(zones="a\nb\n", temperature="31000\n52500\n").temperature_c == 52.5
    assert facts(zones="cpu\n", temperature="47\n").temperature_c == 47.0
    assert facts(zones="cpu\nx\n", temperature="50000\n").temperature_c == 50.0


@pytest.mark.parametrize("temperature", ["", "x", "999999999", "-273150", "1e3", "0x10", "4 5"])
def test_no_temperature_is_better_than_a_wrong_one(temperature: str) -> None:
    assert facts(temperature=temperature).temperature_c is None


@pytest.mark.parametrize("cores", ["", "0", "-1", "99999", "1e9", "4 4", "9" * 50])
def test_wrong_cores_are_counted_instead(cores: str) -> None:
    assert facts(cores=cores).cores == 4


def test_nothing_said_is_nothing_known() -> None:
    silent = device_facts("d", {})
    assert (silent.architecture, silent.cpu, silent.features, silent.cores) == ("unknown", "unknown", (), 1)
    assert (silent.memory_bytes, silent.governor, silent.temperature_c, silent.frequency_mhz) == (None,) * 4
    assert silent.os == "unknown"


NAMES = [*FILES, *COMMANDS, "other"]
ANY = st.one_of(
    st.binary(max_size=300),
    st.text(max_size=300).map(lambda text: text.encode(errors="replace")),
    st.sampled_from([value.encode() for value in BOARD.values()]),
    st.just(b"PRETTY_NAME=\x1b[31m" + b"x" * 500),
    st.just(b"MemTotal: 999999999999999 kB"),
)


@given(readings=st.dictionaries(st.sampled_from(NAMES), ANY))
def test_whatever_is_said_gives_facts_that_can_be_shown(readings: dict[str, bytes]) -> None:
    check(device_facts("d", readings))


@pytest.mark.parametrize("piece", [b"9", b"\n", b"processor: 1\n", b"\xff\0", b"a b\n", b"Features: x\n"])
def test_huge_answers_are_cut(piece: bytes) -> None:
    check(device_facts("d", dict.fromkeys(NAMES, piece * 300_000)))


def check(found: DeviceFacts) -> None:
    for text in (found.cpu, found.architecture, found.os, found.governor or ""):
        assert text.isprintable()
        assert len(text) <= LONGEST
    assert 1 <= found.cores <= 4096
    assert found.memory_bytes is None or 0 < found.memory_bytes <= 1 << 50
    assert found.temperature_c is None or -40 <= found.temperature_c <= 150
    assert found.frequency_mhz is None or 1 <= found.frequency_mhz <= 20_000


@given(text=st.text())
def test_plain_is_one_short_printable_line(text: str) -> None:
    assert plain(text).isprintable()
    assert len(plain(text)) <= LONGEST


def test_the_last_line_is_the_last_with_anything_in_it() -> None:
    assert last_line(b"first\n\x1b[1msecond\xff\n \n") == "[1msecond\N{REPLACEMENT CHARACTER}"
    assert last_line(b"\n\n") == "no reason given"
