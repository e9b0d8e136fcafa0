// What the CPU and the system offer, asked at run time. The conditions repeat the flags that CMakeLists.txt
// compiles each file of arch/ with.
#include "cpu.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "error.h"

#if defined(__x86_64__)
#include <cpuid.h>
#elif defined(__aarch64__) && defined(__linux__)  // Android too
#include <sys/auxv.h>
#elif defined(__aarch64__) && defined(__APPLE__)
#include <sys/sysctl.h>
#endif

namespace edgebert {

namespace {

struct Isa {
    const char *name;
    bool (*runs)();
    const Kernels *(*kernels)();
};

bool always() { return true; }

#if defined(__x86_64__)

struct Registers {
    uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
};

Registers cpuid(uint32_t leaf, uint32_t subleaf) {
    Registers r;
    __get_cpuid_count(leaf, subleaf, &r.eax, &r.ebx, &r.ecx, &r.edx);  // zeros for a leaf that is not there
    return r;
}

bool bit(uint32_t value, int position) { return (value >> position & 1) != 0; }

// The registers that the system saves when it switches tasks: XCR0, 0 where it cannot be read.
uint32_t saved_registers() {
    if (!bit(cpuid(1, 0).ecx, 27)) return 0;  // OSXSAVE
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

constexpr uint32_t YMM = 0x06, ZMM = 0xe6;

bool runs_avx2() {
    bool saved = (saved_registers() & YMM) == YMM;
    return saved && bit(cpuid(1, 0).ecx, 12) /* FMA */ && bit(cpuid(7, 0).ebx, 5) /* AVX2 */;
}

bool runs_avx_vnni() { return runs_avx2() && bit(cpuid(7, 1).eax, 4); }

bool runs_avx512_vnni() {
    Registers r = cpuid(7, 0);
    bool foundation = bit(r.ebx, 16) && bit(r.ebx, 17) && bit(r.ebx, 30) && bit(r.ebx, 31);  // F, DQ, BW, VL
    return runs_avx2() && (saved_registers() & ZMM) == ZMM && foundation && bit(r.ecx, 11) /* VNNI */;
}

#elif defined(__aarch64__)

bool runs_neon_dotprod() {
#if defined(__linux__)
    return (getauxval(AT_HWCAP) >> 20 & 1) != 0;  // HWCAP_ASIMDDP
#elif defined(__APPLE__)
    int has = 0;
    size_t size = sizeof has;
    return sysctlbyname("hw.optional.arm.FEAT_DotProd", &has, &size, nullptr, 0) == 0 && has != 0;
#else
    return false;
#endif
}

#endif

// Best first.
const Isa ISAS[] = {
#if defined(__x86_64__)
    {"avx512-vnni", runs_avx512_vnni, kernels_avx512_vnni},
    {"avx-vnni", runs_avx_vnni, kernels_avx_vnni},
    {"avx2", runs_avx2, kernels_avx2},
#elif defined(__aarch64__)
    {"neon-dotprod", runs_neon_dotprod, kernels_neon_dotprod},
    {"neon", always, kernels_neon},
#endif
    {"scalar", always, kernels_scalar},
};

struct Names {
    char text[96] = "";

    Names() {
        for (const Isa &isa : ISAS) {
            if (!isa.runs()) continue;
            if (text[0] != '\0') std::strcat(text, ",");
            std::strcat(text, isa.name);
        }
    }
};

}  // namespace

const char *available_kernels() {
    static const Names names;
    return names.text;
}

const Kernels *choose_kernels() {
    const char *wanted = std::getenv("EDGEBERT_ISA");
    bool any = wanted == nullptr || *wanted == '\0';
    for (const Isa &isa : ISAS) {
        if (any ? isa.runs() : std::strcmp(wanted, isa.name) == 0) {
            if (isa.runs()) return isa.kernels();
            fail(EB_ERROR_CPU, "EDGEBERT_ISA is '%s', which this CPU lacks; choose one of: %s", isa.name,
                 available_kernels());
            return nullptr;
        }
    }
    fail(EB_ERROR_CPU, "EDGEBERT_ISA is '%.40s', which this library does not know; choose one of: %s", wanted,
         available_kernels());
    return nullptr;
}

}  // namespace edgebert
