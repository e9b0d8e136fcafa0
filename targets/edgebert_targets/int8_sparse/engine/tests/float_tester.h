// Tests the kernels that turn floats into floats, and the quantisation of a linear layer's input.
#pragma once

#include <functional>

#include "linear_tester.h"

namespace edgebert {

// What two tables wrote for lanes [begin, end) stands for the same numbers, and other lanes' scales are left
// alone. Zero points differ by one shift for all lanes.
inline void expect_same_packed(const Kernels &kernels, const Packed &got, const Packed &wanted, uint32_t rows,
                               uint32_t begin, uint32_t end, const char *what) {
    expect(std::memcmp(got.scales.step, wanted.scales.step, sizeof(got.scales.step)) == 0, "%s: steps differ",
           what);
    const int32_t shift = got.scales.zero[begin] - wanted.scales.zero[begin];
    expect(shift == 0 || shift == -128, "%s: zero points are shifted by %d", what, shift);
    const Floats q = decoded(kernels, got), scalar = decoded(*kernels_scalar(), wanted);
    for (uint32_t l = 0; l < TILE; l++) {
        const bool inside = l >= begin && l < end;
        expect(got.scales.zero[l] - wanted.scales.zero[l] == (inside ? shift : 0),
               "%s: zero point of lane %u", what, l);
        for (uint32_t r = 0; inside && r < rows; r++) {
            const size_t at = size_t{r} * TILE + l;
            expect(q[at] == scalar[at], "%s: row %u lane %u: %g, the scalar kernel says %g", what, r, l,
                   static_cast<double>(q[at]), static_cast<double>(scalar[at]));
        }
    }
}

class QuantizeTester {
  public:
    QuantizeTester &rows(uint32_t value) { return rows_ = value, *this; }
    QuantizeTester &lanes(uint32_t value) { return lanes_ = value, *this; }
    // The number of a lane and row.
    QuantizeTester &input(std::function<float(Random &, uint32_t lane)> value) {
        return input_ = value, *this;
    }

    void test(const Kernels &kernels, uint64_t seed) const {
        require(lanes_ % GROUP == 0 && lanes_ > 0 && lanes_ <= TILE, "lanes come in groups");
        Random random(seed);
        Floats x(size_t{rows_} * TILE);
        for (size_t i = 0; i < x.size(); i++) x[i] = input_(random, static_cast<uint32_t>(i % TILE));
        const Packed got(kernels, x, lanes_), wanted(*kernels_scalar(), x, lanes_);
        char what[64];
        std::snprintf(what, sizeof(what), "quantize %u rows, %u lanes", rows_, lanes_);
        expect_same_packed(kernels, got, wanted, rows_, 0, lanes_, what);
        const Floats q = decoded(kernels, got);
        for (uint32_t l = 0; l < lanes_; l++)
            for (uint32_t r = 0; r < rows_; r++) against_doubles(x, q, got.scales, r, l);
        in_groups(kernels, x, got);
    }

  private:
    void against_doubles(const Floats &x, const Floats &q, const TokenScales &scales, uint32_t row,
                         uint32_t lane) const {
        const size_t at = size_t{row} * TILE + lane;
        const double v = static_cast<double>(x[at]), step = static_cast<double>(scales.step[lane]);
        // The rounded zero point costs the ends of the range half a step more.
        const double error = std::fabs(v - static_cast<double>(q[at]) * step);
        expect(error <= 1.01 * step + 1e-37, "quantize: %a became %g steps of %a", v,
               static_cast<double>(q[at]), step);
        expect(v != 0.0 || q[at] == 0.0f, "quantize: 0 became %g", static_cast<double>(q[at]));
    }

    // Groups of lanes by themselves give what they give together.
    void in_groups(const Kernels &kernels, const Floats &x, const Packed &together) const {
        Packed packed(kernels, rows_);
        for (uint32_t l = 0; l < lanes_; l += GROUP)
            kernels.quantize(x.data(), rows_, l, l + GROUP, packed.bytes.data(), &packed.scales);
        expect(packed.bytes.same_bits(together.bytes) &&
                   std::memcmp(&packed.scales, &together.scales, sizeof(TokenScales)) == 0,
               "quantize %u rows: groups of lanes differ from all %u together", rows_, lanes_);
    }

    uint32_t rows_ = 4, lanes_ = TILE;
    std::function<float(Random &, uint32_t)> input_ = [](Random &random, uint32_t) {
        return random.normal();
    };
};

inline Norm random_norm(uint32_t rows, Random &random) {
    Norm norm;
    norm.eps = 1e-12f;
    for (uint32_t r = 0; r < rows; r++) {
        norm.weight.push_back(random.uniform(0.2f, 2.0f));
        norm.bias.push_back(random.normal());
    }
    return norm;
}

class NormalizeTester {
  public:
    NormalizeTester &rows(uint32_t value) { return rows_ = value, *this; }
    NormalizeTester &lanes(uint32_t begin, uint32_t end) { return begin_ = begin, end_ = end, *this; }
    NormalizeTester &mean(float value) { return mean_ = value, *this; }
    NormalizeTester &deviation(float value) { return deviation_ = value, *this; }

    void test(const Kernels &kernels, uint64_t seed) const {
        require(begin_ % GROUP == 0 && end_ % GROUP == 0 && begin_ < end_ && end_ <= TILE, "groups of lanes");
        Random random(seed);
        const Norm norm = random_norm(rows_, random);
        Floats x(size_t{rows_} * TILE);
        for (size_t i = 0; i < x.size(); i++) x[i] = mean_ + deviation_ * random.normal();
        Floats got(x), wanted(x);
        kernels.normalize(got.data(), norm, rows_, begin_, end_);
        kernels_scalar()->normalize(wanted.data(), norm, rows_, begin_, end_);
        expect_same(got, wanted, "normalize");
        for (uint32_t l = begin_; l < end_; l++) against_doubles(x, norm, got, l);
    }

  private:
    void against_doubles(const Floats &x, const Norm &norm, const Floats &got, uint32_t lane) const {
        auto value = [&](uint32_t r) { return static_cast<double>(x[size_t{r} * TILE + lane]); };
        double mean = 0.0, variance = 0.0;
        for (uint32_t r = 0; r < rows_; r++) mean += value(r) / rows_;
        for (uint32_t r = 0; r < rows_; r++) variance += (value(r) - mean) * (value(r) - mean) / rows_;
        const double inverse = 1.0 / std::sqrt(variance + static_cast<double>(norm.eps));
        // A sum of n float32 numbers is off by up to n/2 roundings of the largest partial sum.
        const double limit = 1e-5 + 2e-8 * rows_ * std::fabs(mean) * inverse;
        for (uint32_t r = 0; r < rows_; r++) {
            const double weight = static_cast<double>(norm.weight[r]),
                         bias = static_cast<double>(norm.bias[r]);
            const double y = (value(r) - mean) * inverse * weight + bias;
            const double result = static_cast<double>(got[size_t{r} * TILE + lane]);
            expect(std::fabs(y - result) < limit * (1.0 + weight), "normalize %u rows: %g, not %g", rows_,
                   result, y);
        }
    }

    uint32_t rows_ = 4, begin_ = 0, end_ = TILE;
    float mean_ = 0.0f, deviation_ = 1.0f;
};

// The kernels that quantise what they compute, bit by bit: against the scalar table, and against their two
// steps one after the other.
class FusedTester {
  public:
    FusedTester &rows(uint32_t value) { return rows_ = value, *this; }
    FusedTester &lanes(uint32_t begin, uint32_t end) { return begin_ = begin, end_ = end, *this; }
    // The number of a lane and row.
    FusedTester &input(std::function<float(Random &, uint32_t lane)> value) { return input_ = value, *this; }

    void test_normalize(const Kernels &kernels, uint64_t seed) const {
        Random random(seed);
        const Norm norm = random_norm(rows_, random);
        test(
            "normalize_quantize", kernels, random,
            [&](const Kernels &k, float *x) { k.normalize(x, norm, rows_, begin_, end_); },
            [&](const Kernels &k, float *x, Packed &packed) {
                k.normalize_quantize(x, norm, rows_, begin_, end_, packed.bytes.data(), &packed.scales);
            });
    }

    void test_gelu(const Kernels &kernels, uint64_t seed) const {
        Random random(seed);
        test(
            "gelu_quantize", kernels, random,
            [&](const Kernels &k, float *x) {
                k.activate(Activation::gelu, x + begin_, rows_, end_ - begin_);
            },
            [&](const Kernels &k, float *x, Packed &packed) {
                k.gelu_quantize(x, rows_, begin_, end_, packed.bytes.data(), &packed.scales);
            });
    }

  private:
    template <class First, class Fused>
    void test(const char *name, const Kernels &kernels, Random &random, First first, Fused fused) const {
        require(begin_ % GROUP == 0 && end_ % GROUP == 0 && begin_ < end_ && end_ <= TILE, "groups of lanes");
        char what[64];
        std::snprintf(what, sizeof(what), "%s %u rows, lanes %u to %u", name, rows_, begin_, end_);
        Floats x(size_t{rows_} * TILE);
        for (size_t i = 0; i < x.size(); i++) x[i] = input_(random, static_cast<uint32_t>(i % TILE));

        Floats got(x), wanted(x), stepwise(x);
        Packed packed(kernels, rows_), scalar(*kernels_scalar(), rows_), single(kernels, rows_);
        fused(kernels, got.data(), packed);
        fused(*kernels_scalar(), wanted.data(), scalar);
        expect_same(got, wanted, what);
        expect_same_packed(kernels, packed, scalar, rows_, begin_, end_, what);

        first(kernels, stepwise.data());
        kernels.quantize(stepwise.data(), rows_, begin_, end_, single.bytes.data(), &single.scales);
        expect(got.same_bits(stepwise) && packed.bytes.same_bits(single.bytes) &&
                   std::memcmp(&packed.scales, &single.scales, sizeof(TokenScales)) == 0,
               "%s: differs from its two steps", what);
    }

    uint32_t rows_ = 4, begin_ = 0, end_ = TILE;
    std::function<float(Random &, uint32_t)> input_ = [](Random &random, uint32_t) {
        return 3.0f * random.normal();
    };
};

class ActivateTester {
  public:
    ActivateTester &activation(Activation value) { return activation_ = value, *this; }
    ActivateTester &lanes(uint32_t value) { return lanes_ = value, *this; }
    // In float64; the kernel may be off by `absolute` plus `relative` times the number.
    ActivateTester &oracle(double (*function)(double), double absolute, double relative = 0.0) {
        return oracle_ = function, absolute_ = absolute, relative_ = relative, *this;
    }

    void test(const Kernels &kernels, uint64_t seed) const {
        require(lanes_ % GROUP == 0 && lanes_ > 0 && lanes_ <= TILE && oracle_ != nullptr,
                "lanes and oracle");
        Random random(seed);
        const float special[][GROUP] = {
            {0.0f, -0.0f, 1e-45f, -1e-38f, 1e-8f, 4.25f, -4.25f, 5.0f, -10.0f, 10.0f, 90.0f, -90.0f, 1e10f,
             -1e10f, 1e30f, -1e30f},
            {4.5f, -4.5f, 0x1.1ffffep2f, -0x1.1ffffep2f, 0x1.200002p2f, -0x1.200002p2f, 128.0f, -128.0f,
             255.5f, -255.5f, 256.0f, -256.0f, 1000.0f, -1000.0f, 3e38f, -3e38f}};
        const uint32_t rows = 401;
        Floats x(size_t{rows} * TILE);
        for (size_t i = 0; i < x.size(); i++) {
            const size_t row = i / TILE, lane = i % TILE;
            const float widest = row % 8 == 7 ? 1000.0f : 12.0f;
            x[i] = row < 2 && lane < GROUP ? special[row][lane] : random.uniform(-widest, widest);
        }
        Floats got(x), wanted(x);
        kernels.activate(activation_, got.data(), rows, lanes_);
        kernels_scalar()->activate(activation_, wanted.data(), rows, lanes_);
        char what[32];
        std::snprintf(what, sizeof(what), "activation %u", static_cast<unsigned>(activation_));
        expect_same(got, wanted, what);
        for (size_t i = 0; i < x.size(); i++) {
            if (i % TILE >= lanes_) continue;
            const double v = static_cast<double>(x[i]), y = oracle_(v), result = static_cast<double>(got[i]);
            const double limit = absolute_ + relative_ * std::fabs(y);
            expect(std::fabs(y - result) <= limit, "%s of %a: %a, not %a", what, v, result, y);
        }
    }

  private:
    Activation activation_ = Activation::gelu;
    uint32_t lanes_ = TILE;
    double (*oracle_)(double) = nullptr;
    double absolute_ = 0.0, relative_ = 0.0;
};

}  // namespace edgebert
