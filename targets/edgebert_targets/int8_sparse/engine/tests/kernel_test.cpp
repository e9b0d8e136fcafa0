// Compares the kernels of one instruction set with the scalar kernels bit by bit, and both with float64.
//
//     kernel_test           all instruction sets that this CPU can run
//     kernel_test avx2      one of them; exit status 77 when the library or the CPU lacks it
//     kernel_test avx2 7    with other random numbers
#include <string>

#include "attention_tester.h"
#include "cpu.h"
#include "error.h"
#include "float_tester.h"

namespace edgebert {
namespace {

// Another kind of number in each of twelve lanes.
float lane_kind(Random &r, uint32_t lane) {
    switch (lane % 12) {
        case 0:
            return 0.0f;
        case 1:
            return -0.0f;
        case 2:
            return 3.25f;  // constant
        case 3:
            return -1e-3f;
        case 4:
            return 1e37f * r.normal();
        case 5:
            return 1e-30f * r.normal();
        case 6:
            return 1e-38f * r.normal();  // at the edge of denormals
        case 7:
            return 1e-45f * static_cast<float>(r.integer(0, 9));
        case 8:
            return r.uniform();  // one sign
        case 9:
            return -r.uniform();
        case 10:
            return r.chance(0.5f) ? 0.0f : -0.0f;
        default:
            return static_cast<float>(r.integer(0, 510)) - 255.0f;  // ties
    }
}

void test_quantize(const Kernels &kernels, uint64_t seed) {
    Random random(seed);
    for (uint32_t lanes : LANE_COUNTS)
        for (uint32_t rows : {1u, 2u, 3u, 4u, 5u, 17u, 64u, 257u})
            QuantizeTester().lanes(lanes).rows(rows).test(kernels, random.next());
    for (uint32_t rows : {1u, 6u, 48u})
        for (int i = 0; i < 4; i++) QuantizeTester().rows(rows).input(lane_kind).test(kernels, random.next());
}

void test_linear(const Kernels &kernels, uint64_t seed, bool sparse) {
    Random random(seed);
    const Finish finishes[] = {Finish::store, Finish::add};
    for (uint32_t lanes : LANE_COUNTS)
        for (Finish finish : finishes)
            for (uint32_t out : {1u, 2u, 3u, 5u, 7u, 13u, 129u}) {
                const uint32_t in = sparse ? random.integer(1, 40) * 4 : random.integer(1, 150);
                LinearTester tester;
                tester.out(out).in(in).lanes(lanes).finish(finish).sparse(sparse);
                tester.density(sparse ? random.uniform(0.0f, 0.6f) : 1.0f).test(kernels, random.next());
            }
    for (uint32_t in = 1; in <= 24; in++)
        if (!sparse || in % 4 == 0)
            LinearTester().out(9).in(in).sparse(sparse).density(1.0f).test(kernels, random.next());
}

void test_dense(const Kernels &kernels, uint64_t seed) {
    test_linear(kernels, seed, false);
    LinearTester().out(260).in(70).density(1.0f).piece(2).test(kernels, seed);
    LinearTester().out(6).in(3073).density(1.0f).test(kernels, seed);
}

void test_sparse(const Kernels &kernels, uint64_t seed) {
    test_linear(kernels, seed, true);
    Random random(seed);
    for (uint32_t in : {772u, 1536u, 1540u, 3072u})
        for (Finish finish : {Finish::store, Finish::add})
            for (uint32_t lanes : LANE_COUNTS)
                LinearTester().sparse(true).out(11).in(in).lanes(lanes).finish(finish).test(kernels,
                                                                                            random.next());
    for (uint32_t piece : {1u, 2u, 3u})
        LinearTester().sparse(true).out(400).in(800).density(0.05f).piece(piece).test(kernels, random.next());
    LinearTester().sparse(true).out(20).in(1600).density(0.0f).test(kernels, seed);
}

void test_normalize(const Kernels &kernels, uint64_t seed) {
    Random random(seed);
    for (uint32_t rows : {1u, 2u, 31u, 384u, 768u})
        for (uint32_t begin = 0; begin < TILE; begin += GROUP)
            for (uint32_t end = begin + GROUP; end <= TILE; end += GROUP)
                NormalizeTester().rows(rows).lanes(begin, end).test(kernels, random.next());
    NormalizeTester().rows(768).mean(50.0f).test(kernels, seed);
    NormalizeTester().rows(768).mean(-3.0f).deviation(0.01f).test(kernels, seed);
    NormalizeTester().rows(100).deviation(1e4f).test(kernels, seed);
}

void test_fused(const Kernels &kernels, uint64_t seed) {
    Random random(seed);
    for (uint32_t rows : {1u, 2u, 3u, 5u, 7u, 31u, 64u, 257u})
        for (uint32_t begin = 0; begin < TILE; begin += GROUP)
            for (uint32_t end = begin + GROUP; end <= TILE; end += GROUP) {
                FusedTester tester;
                tester.rows(rows).lanes(begin, end);
                tester.test_normalize(kernels, random.next());
                tester.test_gelu(kernels, random.next());
                tester.input(lane_kind).test_gelu(kernels, random.next());
            }
    auto constant = [](Random &, uint32_t lane) { return 0.1f * static_cast<float>(lane); };
    FusedTester().rows(769).input(constant).test_normalize(kernels, seed);
}

double gelu(double x) { return 0.5 * x * std::erfc(-x * std::sqrt(0.5)); }
double gelu_tanh(double x) {
    return 0.5 * x * (1.0 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
}
double relu(double x) { return std::fmax(x, 0.0); }
double tanh_of(double x) { return std::tanh(x); }

void test_activate(const Kernels &kernels, uint64_t seed) {
    for (uint32_t lanes : LANE_COUNTS) {
        ActivateTester()
            .activation(Activation::gelu)
            .oracle(gelu, 1.2e-6, 2e-7)
            .lanes(lanes)
            .test(kernels, seed);
        ActivateTester()
            .activation(Activation::gelu_tanh)
            .oracle(gelu_tanh, 2e-6, 2e-7)
            .lanes(lanes)
            .test(kernels, seed);
        ActivateTester().activation(Activation::relu).oracle(relu, 0.0).lanes(lanes).test(kernels, seed);
        ActivateTester().activation(Activation::tanh).oracle(tanh_of, 1e-6).lanes(lanes).test(kernels, seed);
    }
}

void test_attention(const Kernels &kernels, uint64_t seed) {
    Random random(seed);
    for (uint32_t channels : {4u, 5u, 6u, 7u, 8u, 12u, 31u, 32u, 64u, 66u, 96u, 128u}) {
        AttentionTester tester;
        tester.channels(channels).length(random.integer(1, 200)).first_slot(random.integer(0, 7) * GROUP);
        tester.test(kernels, random.next());
    }
    for (uint32_t length = 1; length <= 70; length++)
        AttentionTester()
            .channels(8)
            .length(length)
            .first_slot(random.integer(0, 5) * GROUP)
            .test(kernels, random.next());
    for (uint32_t length : {127u, 128u, 129u, 191u, 192u, 200u})
        AttentionTester().channels(16).length(length).first_slot(48).test(kernels, random.next());
    for (float size : {0.0f, 1e-38f, 1e-20f, 1e-3f, 30.0f, 1e4f, 1e9f}) {
        auto input = [size](Random &r, uint32_t, uint32_t channel) {
            return channel % 5 == 3 ? -0.0f : size * r.normal();
        };
        AttentionTester()
            .channels(24)
            .length(37)
            .first_slot(16)
            .queries(input)
            .keys(input)
            .values(input)
            .test(kernels, random.next());
    }
}

void test_softmax(const Kernels &kernels, uint64_t seed) {
    // keys and queries of step max/127 move a score by some 1 %, probabilities are rounded to 1/255 of the
    // largest
    AttentionTester().channels(64).length(100).first_slot(16).test_softmax(kernels, seed, 0.06);
    AttentionTester().channels(32).length(30).factor(0.25f).test_softmax(kernels, seed, 0.06);
    auto constant = [](Random &, uint32_t, uint32_t) { return 1.0f; };
    AttentionTester().length(50).queries(constant).keys(constant).test_softmax(kernels, seed, 0.03);
}

void test_probabilities(const Kernels &kernels, uint64_t seed) {
    auto first = [](Random &, uint32_t, uint32_t channel) { return channel == 0 ? 1.0f : 0.0f; };
    auto one_hot = [](Random &, uint32_t token, uint32_t channel) { return token == channel ? 1.0f : 0.0f; };
    for (float spread : {1.0f, 9.0f, 100.0f}) {
        auto score = [spread](Random &r, uint32_t, uint32_t channel) {
            return channel == 0 ? r.uniform(-spread, spread) : 0.0f;
        };
        AttentionTester()
            .channels(128)
            .length(128)
            .factor(1.0f)
            .queries(first)
            .keys(score)
            .values(one_hot)
            .test_probabilities(kernels, seed);
    }
}

struct Test {
    const char *name;
    void (*run)(const Kernels &, uint64_t seed);
};

constexpr Test TESTS[] = {
    {"quantize", test_quantize},   {"dense", test_dense},     {"sparse", test_sparse},
    {"normalize", test_normalize}, {"fused", test_fused},     {"activate", test_activate},
    {"attention", test_attention}, {"softmax", test_softmax}, {"probabilities", test_probabilities}};

constexpr int SKIPPED = 77;

int test_all(const char *isa, uint64_t seed) {
    setenv("EDGEBERT_ISA", isa, 1);
    const Kernels *kernels = choose_kernels();
    if (kernels == nullptr) {
        std::printf("%s\n", last_error());
        return SKIPPED;
    }
    int status = 0;
    for (const Test &test : TESTS) {
        failures() = 0;
        test.run(*kernels, seed);
        if (failures() == 0) std::printf("ok   %s: %s\n", kernels->name, test.name);
        if (failures() != 0) std::printf("FAIL %s: %s, %d times\n", kernels->name, test.name, failures());
        status |= failures() != 0;
    }
    return status;
}

}  // namespace
}  // namespace edgebert

int main(int count, char **arguments) {
    const uint64_t seed = count > 2 ? std::strtoull(arguments[2], nullptr, 10) : 1;
    if (count > 1) return edgebert::test_all(arguments[1], seed);
    std::string names = edgebert::available_kernels();
    int status = 0;
    for (size_t begin = 0, end; begin < names.size(); begin = end + 1) {
        end = std::min(names.find(',', begin), names.size());
        status |= edgebert::test_all(names.substr(begin, end - begin).c_str(), seed);
    }
    return status;
}
