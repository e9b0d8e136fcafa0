"""The emulator: CPU models, static programs, instruction counts, and the ARM64 root where it was built."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from edgebert.devices import qemu, qemu_root
from edgebert.devices.base import CountingDevice, Device, PreparableDevice, open_device
from edgebert.devices.cache import building, cache_folder
from edgebert.devices.counting import counting_plugin, read_count
from edgebert.devices.debian import apt_options
from edgebert.devices.qemu_cpu import PROBE, features, static_program
from edgebert.errors import DeviceError
from tests.sdk.device_endpoints import EXIT_7

HINT_42, HINT_43 = 0xD503255F, 0xD503257F
NOP, FOREVER = 0xD503201F, 0x14000000
# movz x0, #16, lsl #16 | 1: subs x0, x0, #1 | b.ne 1b
LOOP, LOOP_COUNT = (0xD2A00200, 0xF1000400, 0x54FFFFE1), 1 + 2 * (16 << 16)
PROBE_SOURCE = """
    ldr x1, [sp]
    add x1, sp, x1, lsl #3
    add x1, x1, #16
1:  ldr x2, [x1], #8
    cbnz x2, 1b
    mov x3, x1
2:  ldp x4, x5, [x3], #16
    cbnz x4, 2b
    sub x2, x3, x1
    mov x0, #1
    mov x8, #64
    svc #0
    mov x0, #0
    mov x8, #93
    svc #0
"""

needs_qemu = pytest.mark.skipif(qemu.find_qemu() is None, reason="no qemu-aarch64: apt-get install qemu-user")


@pytest.fixture
def no_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "find_root", lambda: None)


@pytest.fixture
def device(no_root: None) -> Iterator[Device]:
    with open_device("qemu:arm64") as opened:
        yield opened


def program(tmp_path: Path, *code: int) -> Path:
    path = tmp_path / "program"
    path.write_bytes(static_program(code))
    return path


def test_the_probe_is_what_its_source_says(tmp_path: Path) -> None:
    if shutil.which("aarch64-linux-gnu-as") is None:
        pytest.skip("no assembler: apt-get install binutils-aarch64-linux-gnu")
    (tmp_path / "probe.s").write_text(PROBE_SOURCE)
    subprocess.run(["aarch64-linux-gnu-as", "probe.s", "-o", "probe.o"], cwd=tmp_path, check=True)
    subprocess.run(
        ["aarch64-linux-gnu-objcopy", "-O", "binary", "-j", ".text", "probe.o", "probe"],
        cwd=tmp_path,
        check=True,
    )
    code = b"".join(word.to_bytes(4, "little") for word in PROBE)
    assert (tmp_path / "probe").read_bytes() == code


@needs_qemu
@pytest.mark.parametrize(
    ("spec", "expected"),
    [("qemu:arm64", ("asimd", "asimddp")), ("qemu:arm64,cpu=cortex-a53", ("asimd",)),
     ("qemu:arm64,cpu=max", ("asimd", "asimddp", "i8mm"))],
)  # fmt: skip
def test_cpu_models_have_their_features(spec: str, expected: tuple[str, ...], no_root: None) -> None:
    device = open_device(spec)
    assert isinstance(device, Device)
    assert isinstance(device, CountingDevice)
    assert isinstance(device, PreparableDevice)
    facts = device.facts()
    assert (facts.name, facts.architecture, facts.emulated) == (spec, "aarch64", True)
    assert facts.features == expected
    assert facts.cpu == (spec.partition("=")[2] or "cortex-a76")
    assert (facts.governor, facts.temperature_c, facts.frequency_mhz) == (None, None, None)
    assert facts.os.startswith("qemu ")


@needs_qemu
def test_a_static_program_needs_no_root(device: Device, tmp_path: Path) -> None:
    device.put(program(tmp_path, *EXIT_7), "sub/exit 7", executable=True)
    assert device.run(["./sub/exit 7"], timeout=30).returncode == 7
    with pytest.raises(DeviceError, match=qemu_root.COMMAND):
        device.run(["python3"], timeout=30)
    assert device.python() is None


@needs_qemu
def test_counts_are_exact_and_the_same_each_time(device: CountingDevice, tmp_path: Path) -> None:
    """Of a loop whose instructions are known: within its region, twice, and of the whole program."""
    device.put(program(tmp_path, NOP, HINT_42, *LOOP, HINT_43, NOP, *EXIT_7), "region", True)
    device.put(program(tmp_path, HINT_42, *LOOP, HINT_43, NOP, HINT_42, *LOOP, HINT_43, *EXIT_7), "two", True)
    device.put(program(tmp_path, HINT_42, *LOOP, *EXIT_7), "open", True)
    device.put(program(tmp_path, NOP, *LOOP, *EXIT_7), "whole", True)
    expected = {"region": LOOP_COUNT, "two": 2 * LOOP_COUNT, "open": LOOP_COUNT + 3, "whole": LOOP_COUNT + 4}
    for name, count in expected.items():
        for _ in range(2):
            done, counted = device.run_counted([f"./{name}"], timeout=60)
            assert (done.returncode, counted) == (7, count), name


@needs_qemu
def test_a_program_that_crashes_gives_no_count(device: CountingDevice, tmp_path: Path) -> None:
    device.put(program(tmp_path, 0x00000000), "crash", True)
    with pytest.raises(DeviceError, match="no instruction count") as caught:
        device.run_counted(["./crash"], timeout=30)
    assert "\n" not in str(caught.value)


@needs_qemu
def test_an_endless_program_is_killed(device: Device, tmp_path: Path) -> None:
    device.put(program(tmp_path, FOREVER), "forever", True)
    with pytest.raises(DeviceError, match="took longer"):
        device.run(["./forever"], timeout=0.5)


@needs_qemu
def test_the_host_s_variables_do_not_reach_the_guest(
    device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A guest that writes its stack from argc on shows all its variables."""
    monkeypatch.setenv("EDGEBERT_SECRET", "of the host")
    # mov x1, sp | mov x0, #1 | mov x2, #1024 | mov x8, #64 | svc #0 | exit(7)
    write_stack = (0x910003E1, 0xD2800020, 0xD2808002, 0xD2800808, 0xD4000001)
    device.put(program(tmp_path, *write_stack, *EXIT_7), "stack", True)
    out = device.run(["./stack", "an argument"], timeout=30, env={"TOLD": "x,y=z"}).stdout
    assert b"TOLD=x,y=z\0" in out
    assert b"an argument\0" in out
    assert b"EDGEBERT_SECRET" not in out


@pytest.mark.parametrize(
    "spec",
    [
        "qemu:",
        "qemu:arm64,",
        "qemu:arm64,cpu=",
        "qemu:arm64,cpu=a,b",
        "qemu:arm64,ram=1",
        "qemu:arm64,cpu=-x",
    ],
)
def test_what_is_no_emulator_is_refused(spec: str) -> None:
    with pytest.raises(DeviceError, match="write qemu:arm64"):
        open_device(spec)


@needs_qemu
def test_an_unknown_cpu_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(DeviceError, match=r"cortex-a99.*cpu help"), open_device("qemu:arm64,cpu=cortex-a99"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_without_qemu_the_message_is_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBERT_QEMU", "no-such-emulator")
    with pytest.raises(DeviceError, match="apt-get install qemu-user"), open_device("qemu:arm64"):
        pass


def test_without_a_compiler_the_message_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEBERT_CACHE", str(tmp_path))
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(DeviceError, match="install gcc"):
        counting_plugin()


@pytest.mark.parametrize(
    "text", ["", "class all x\n", "class all -1\n", "symbol all 5\n", "class all 5 5\n", "\0"]
)
def test_a_damaged_count_is_none(text: str, tmp_path: Path) -> None:
    (tmp_path / "counts").write_text(text)
    assert read_count(tmp_path / "counts") is None
    assert read_count(tmp_path / "missing") is None


def test_the_root_is_named_by_what_is_in_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("EDGEBERT_CACHE", str(tmp_path))
    first = qemu_root.root_folder()
    assert first.parent == tmp_path / "devices"
    assert qemu_root.find_root() is None
    assert f"numpy=={metadata.version('numpy')}" in qemu_root.requirements()
    monkeypatch.setattr(qemu_root, "PACKAGES", (*qemu_root.PACKAGES, "busybox"))
    assert qemu_root.root_folder() != first


def test_a_library_that_is_not_installed_keeps_its_declared_range(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu_root, "WHEELS", ("onnxscript", "no-such-library"))

    def version(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(qemu_root.metadata, "version", version)
    declared, unknown = qemu_root.requirements()
    assert declared.startswith("onnxscript") and "<1" in declared and ";" not in declared
    assert unknown == "no-such-library"


def test_a_failed_build_leaves_nothing_and_a_second_builder_finds_the_first_s(tmp_path: Path) -> None:
    target = tmp_path / "cache" / "thing"
    with pytest.raises(RuntimeError), building(target) as part:
        assert part is not None
        (part / "half").touch()
        raise RuntimeError
    assert [path.name for path in target.parent.iterdir()] == ["thing.lock"]
    (target.parent / "thing.of-a-killed-builder.part").mkdir()
    with building(target) as part:
        assert part is not None
        (part / "whole").touch()
    assert sorted(path.name for path in target.parent.iterdir()) == ["thing", "thing.lock"]
    with building(target) as part:
        assert part is None
    assert [path.name for path in target.iterdir()] == ["whole"]


def test_a_cache_that_cannot_be_written_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("EDGEBERT_CACHE", str(tmp_path / "file"))
    with pytest.raises(DeviceError, match="EDGEBERT_CACHE"), building(cache_folder() / "x"):
        pass


def test_apt_is_kept_away_from_the_host_s_state(tmp_path: Path) -> None:
    options = apt_options(tmp_path, "arm64")
    for name in ("Dir::State", "Dir::State::status", "Dir::Cache"):
        assert any(word.startswith(f"{name}={tmp_path}") for word in options)
    assert "APT::Architectures=arm64" in options


def test_an_auxiliary_vector_is_read() -> None:
    def words(*pairs: tuple[int, int]) -> bytes:
        return b"".join(key.to_bytes(8, "little") + value.to_bytes(8, "little") for key, value in pairs)

    assert features(words((16, 1 << 1 | 1 << 22), (26, 1 << 13), (0, 0))) == ("asimd", "sve", "i8mm")
    assert features(words((16, 0))) == ()
    for wrong in (b"", b"x", words((6, 4096)), words((16, 1)) * 300):
        assert features(wrong) is None


@needs_qemu
@pytest.mark.slow
def test_the_root_s_python_computes_and_counts_the_same(tmp_path: Path) -> None:
    if qemu_root.find_root() is None:
        pytest.skip(f"the ARM64 root was not built: {qemu_root.COMMAND}")
    script = "import platform, sys, zlib; print(platform.machine(), zlib.crc32(bytes(range(256)) * 1000))"
    with open_device("qemu:arm64,cpu=cortex-a53") as device:
        python = device.python()
        assert python is not None
        assert isinstance(device, CountingDevice)
        counts = set()
        for _ in range(2):
            done, count = device.run_counted([*python, "-c", script], timeout=60)
            assert done.stdout.split()[0] == b"aarch64"
            counts.add(count)
        assert max(counts) - min(counts) <= 0.001 * max(counts)
        done = device.run(
            [*python, "-c", "import numpy; print(numpy.arange(5) @ numpy.arange(5))"], timeout=60
        )
        assert done.stdout == b"30\n"


@needs_qemu
@pytest.mark.slow
def test_preparing_again_checks_that_the_root_works(tmp_path: Path) -> None:
    if qemu_root.find_root() is None:
        pytest.skip(f"the ARM64 root was not built: {qemu_root.COMMAND}")

    class Notes:
        said: list[str] = []  # noqa: RUF012

        def note(self, text: str) -> None:
            self.said.append(text)

        def warn(self, text: str) -> None:
            raise AssertionError(text)

        def progress(self, phase: str, done: int, total: int, **figures: float) -> None:
            pass

    device = open_device("qemu:arm64")
    assert isinstance(device, PreparableDevice)
    device.prepare(Notes())
    assert Notes.said == [f"the ARM64 root is in {qemu_root.root_folder()}"]
