"""What the emulated CPU can do, asked of itself: a program of 15 instructions prints its auxiliary vector.

Nothing has to be installed or compiled for that, so it is also the test whether the emulator works.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence

# ldr x1, [sp] | add x1, sp, x1, lsl #3 | add x1, x1, #16: the environment, after argc, argv and its null
# 1: ldr x2, [x1], #8 | cbnz x2, 1b: the auxiliary vector, after the environment's null
# mov x3, x1 | 2: ldp x4, x5, [x3], #16 | cbnz x4, 2b: its end
# sub x2, x3, x1 | mov x0, #1 | mov x8, #64 | svc #0: write(1, x1, x2)
# mov x0, #0 | mov x8, #93 | svc #0: exit(0)
PROBE = (
    0xF94003E1, 0x8B216FE1, 0x91004021, 0xF8408422, 0xB5FFFFE2, 0xAA0103E3, 0xA8C11464, 0xB5FFFFE4,
    0xCB010062, 0xD2800020, 0xD2800808, 0xD4000001, 0xD2800000, 0xD2800BA8, 0xD4000001,
)  # fmt: skip
LOAD_ADDRESS = 0x400000
EM_AARCH64 = 183
# Linux, arch/arm64/include/uapi/asm/hwcap.h: (entry of the auxiliary vector, bit) of a feature
AT_HWCAP, AT_HWCAP2 = 16, 26
FEATURE_BITS = {
    "asimd": (AT_HWCAP, 1),
    "asimddp": (AT_HWCAP, 20),
    "sve": (AT_HWCAP, 22),
    "i8mm": (AT_HWCAP2, 13),
}


def static_program(code: Sequence[int]) -> bytes:
    """A static AArch64 ELF file of one segment whose instructions are `code`; it starts at the first."""
    header_size, entry_size = 64, 56
    start = header_size + entry_size
    size = start + 4 * len(code)
    identity = b"\x7fELF" + bytes([2, 1, 1]) + bytes(9)  # 64-bit, little-endian, version 1
    header = struct.pack(
        "<16sHHIQQQIHHHHHH", identity, 2, EM_AARCH64, 1, LOAD_ADDRESS + start, header_size, 0, 0,
        header_size, entry_size, 1, 0, 0, 0,
    )  # fmt: skip
    segment = struct.pack("<IIQQQQQQ", 1, 5, 0, LOAD_ADDRESS, LOAD_ADDRESS, size, size, 0x1000)
    return header + segment + struct.pack(f"<{len(code)}I", *code)


def features(auxiliary: bytes) -> tuple[str, ...] | None:
    """Features by an auxiliary vector, as pairs of 64-bit words; None where it is not one."""
    if not auxiliary or len(auxiliary) % 16 or len(auxiliary) > 4096:
        return None
    entries = dict(struct.iter_unpack("<QQ", auxiliary))
    if AT_HWCAP not in entries:
        return None
    return tuple(name for name, (entry, bit) in FEATURE_BITS.items() if entries.get(entry, 0) >> bit & 1)


# Arm's numbers for the models of the emulator: what a program finds in /proc/cpuinfo.
PARTS = {
    "cortex-a35": 0xD04,
    "cortex-a53": 0xD03,
    "cortex-a55": 0xD05,
    "cortex-a57": 0xD07,
    "cortex-a72": 0xD08,
    "cortex-a76": 0xD0B,
    "neoverse-n1": 0xD0C,
    "cortex-a710": 0xD47,
    "neoverse-v1": 0xD40,
    "neoverse-n2": 0xD49,
}
GENERIC_PART = 0xD49  # "max" and others: a core with all that the features may name


def cpuinfo_text(cpu: str, found: Sequence[str]) -> str:
    """/proc/cpuinfo of the emulated CPU `cpu` with the features `found`, one core.

    The emulator before version 8 hands the host's own to its programs, and libraries that read it crash.
    """
    words = ["fp", *found, "cpuid"]
    rows = {
        "processor": "0",
        "BogoMIPS": "100.00",
        "Features": " ".join(words),
        "CPU implementer": "0x41",
        "CPU architecture": "8",
        "CPU variant": "0x1",
        "CPU part": f"{PARTS.get(cpu, GENERIC_PART):#05x}",
        "CPU revision": "0",
    }
    return "".join(f"{name}\t: {value}\n" for name, value in rows.items()) + "\n"
