// Times the linear kernels of one or more instruction sets on the shapes of BERT; see engine_kernels.py.
//
//     engine_kernels ROUNDS ISA…
//
// Prints one line of tab-separated values for each case: "peak", instruction set, multiply-adds, seconds;
// then "linear", instruction set, out, in, 1 if sparse, percentage of zeros, weights that are not zero,
// seconds.
#include <time.h>

#include <memory>

#include "cpu.h"
#include "error.h"
#include "linear_tester.h"

namespace edgebert {
namespace {

constexpr uint32_t SHAPES[][2] = {{768, 768}, {3072, 768}, {768, 3072}, {384, 384}, {1536, 384}, {384, 1536}};
constexpr uint32_t ZEROS[] = {0, 50, 60, 70, 80, 90, 95};  // per cent; 0 is the dense kernel
constexpr uint32_t TILES = 2;                              // 128 tokens
constexpr uint32_t WARM = 3;                               // runs in a row; the fastest counts
constexpr uint64_t PEAK_LOOPS = 20000;

// Of this thread alone: other processes share the machine.
double seconds() {
    timespec now;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + 1e-9 * static_cast<double>(now.tv_nsec);
}

// The products of an instruction set in registers: 12 independent sums. Returns multiply-adds a loop.
using Peak = uint64_t (*)(uint64_t loops);

#if defined(__x86_64__)

#define TWELVE(LINE) \
    LINE("0")        \
    LINE("1")        \
    LINE("2") LINE("3") LINE("4") LINE("5") LINE("6") LINE("7") LINE("8") LINE("9") LINE("10") LINE("11")
#define ZMM_DOT(n) "vpdpbusd %%zmm15, %%zmm14, %%zmm" n "\n"
#define YMM_DOT(n) "%{vex%} vpdpbusd %%ymm15, %%ymm14, %%ymm" n "\n"
#define YMM_WORDS(n) "vpmaddwd %%ymm15, %%ymm14, %%ymm13\nvpaddd %%ymm13, %%ymm" n ", %%ymm" n "\n"
#define PEAK(NAME, INSTRUCTION, PRODUCTS)                                                                \
    uint64_t NAME(uint64_t loops) {                                                                      \
        __asm__ volatile("1:\n" TWELVE(INSTRUCTION) "dec %0\njnz 1b\nvzeroupper"                         \
                         : "+r"(loops)                                                                   \
                         :                                                                               \
                         : "cc", "xmm0", "xmm1", "xmm2", "xmm3", "xmm4", "xmm5", "xmm6", "xmm7", "xmm8", \
                           "xmm9", "xmm10", "xmm11", "xmm12", "xmm13", "xmm14", "xmm15");                \
        return uint64_t{12} * PRODUCTS;                                                                  \
    }

PEAK(peak_avx512_vnni, ZMM_DOT, 64)
PEAK(peak_avx_vnni, YMM_DOT, 32)
PEAK(peak_avx2, YMM_WORDS, 16)

#endif

Peak peak_of(const char *isa) {
#if defined(__x86_64__)
    if (std::strcmp(isa, "avx512-vnni") == 0) return peak_avx512_vnni;
    if (std::strcmp(isa, "avx-vnni") == 0) return peak_avx_vnni;
    if (std::strcmp(isa, "avx2") == 0) return peak_avx2;
#endif
    (void)isa;
    return nullptr;
}

struct Layer {
    std::unique_ptr<LinearLayer> weights;
    uint32_t zeros;
    uint64_t kept;
};

std::vector<Layer> make_layers() {
    Random random(1);
    std::vector<Layer> layers;
    for (const auto &shape : SHAPES)
        for (uint32_t zeros : ZEROS) {
            const float density = 1.0f - static_cast<float>(zeros) * 0.01f;
            Layer layer{std::make_unique<LinearLayer>(shape[0], shape[1], zeros != 0, density, false, random),
                        zeros, 0};
            for (int8_t w : layer.weights->weights) layer.kept += w != 0;
            layers.push_back(std::move(layer));
        }
    return layers;
}

// One instruction set's buffers and best times.
struct Contest {
    Contest(const Kernels &kernels, const std::vector<Layer> &layers)
        : kernels(kernels),
          out(size_t{TILES} * 3072 * TILE),
          partial(size_t{3072} * TILE),
          best(layers.size(), 1e9) {
        Random random(2);
        for (uint32_t t = 0; t < TILES; t++) {
            Floats x(size_t{3072} * TILE);
            for (size_t i = 0; i < x.size(); i++) x[i] = random.normal();
            packed.emplace_back(kernels, x, TILE);
        }
    }

    void run(const LinearLayer &layer) {
        for (uint32_t t = 0; t < TILES; t++)
            kernels.linear(layer.linear, 0, layer.chunks(), packed[t].bytes.data(), packed[t].scales, TILE,
                           Finish::store, &out[size_t{t} * layer.linear.out * TILE], partial.data());
    }

    const Kernels &kernels;
    std::vector<Packed> packed;
    Floats out;
    Aligned<int32_t> partial;
    std::vector<double> best;
    double best_peak = 1e9;
};

void contest(const std::vector<Layer> &layers, std::vector<std::unique_ptr<Contest>> &all, uint32_t rounds) {
    for (uint32_t round = 0; round < rounds; round++) {
        for (size_t i = 0; i < layers.size(); i++)
            for (auto &one : all)
                for (uint32_t warm = 0; warm < WARM; warm++) {
                    const double start = seconds();
                    one->run(*layers[i].weights);
                    one->best[i] = std::min(one->best[i], seconds() - start);
                }
        for (auto &one : all) {
            const Peak peak = peak_of(one->kernels.name);
            const double start = seconds();
            if (peak != nullptr) peak(PEAK_LOOPS);
            one->best_peak = std::min(one->best_peak, seconds() - start);
        }
    }
}

int run(int count, char **arguments) {
    const uint32_t rounds = count > 2 ? static_cast<uint32_t>(std::atoi(arguments[1])) : 0;
    if (rounds == 0) {
        std::fprintf(stderr, "usage: engine_kernels ROUNDS ISA...\n");
        return 2;
    }
    const std::vector<Layer> layers = make_layers();
    std::vector<std::unique_ptr<Contest>> all;
    for (int i = 2; i < count; i++) {
        setenv("EDGEBERT_ISA", arguments[i], 1);
        const Kernels *kernels = choose_kernels();
        if (kernels == nullptr) {
            std::fprintf(stderr, "%s\n", last_error());
            return 1;
        }
        all.push_back(std::make_unique<Contest>(*kernels, layers));
    }
    contest(layers, all, rounds);
    for (const auto &one : all) {
        const char *isa = one->kernels.name;
        const Peak peak = peak_of(isa);
        if (peak != nullptr)
            std::printf("peak\t%s\t%llu\t%.9g\n", isa, static_cast<unsigned long long>(peak(1) * PEAK_LOOPS),
                        one->best_peak);
        for (size_t i = 0; i < layers.size(); i++) {
            const Linear &linear = layers[i].weights->linear;
            std::printf("linear\t%s\t%u\t%u\t%d\t%u\t%llu\t%.9g\n", isa, linear.out, linear.in,
                        linear.dense == nullptr, layers[i].zeros,
                        static_cast<unsigned long long>(layers[i].kept), one->best[i]);
        }
    }
    return 0;
}

}  // namespace
}  // namespace edgebert

int main(int count, char **arguments) { return edgebert::run(count, arguments); }
