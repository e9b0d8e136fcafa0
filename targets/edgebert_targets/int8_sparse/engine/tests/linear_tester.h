// Tests quantize and linear together: packed activations differ between instruction sets, results do not.
#pragma once

#include <algorithm>
#include <cmath>

#include "kernel_testing.h"

namespace edgebert {

inline uint32_t divide_up(uint32_t a, uint32_t b) { return (a + b - 1) / b; }

// A linear layer that owns its weights, [out][in], and the same layer as the kernels take it.
class LinearLayer {
  public:
    // Uneven: some rows keep no block, others up to 1.5 times their share.
    LinearLayer(uint32_t out, uint32_t in, bool sparse, float density, bool uneven, Random &random)
        : weights(size_t{out} * in), values_(sparse ? divide_up(in, SLAB_COLUMNS) : 0) {
        require(!sparse || in % 4 == 0, "sparse layers have a multiple of 4 inputs");
        linear.out = out;
        linear.in = in;
        for (uint32_t r = 0; r < out; r++) {
            const float share = random.chance(0.1f) ? 0.0f : density * random.uniform(0.5f, 1.5f);
            fill_row(r, uneven ? share : density, random);
        }
        std::vector<RowParameters> rows(out);
        for (uint32_t r = 0; r < out; r++) {
            int32_t sum = 0;
            for (uint32_t c = 0; c < in; c++) sum += weights[size_t{r} * in + c];
            rows[r] = {random.uniform(1e-4f, 1e-2f), random.uniform(-1.0f, 1.0f), sum, r};
        }
        if (!sparse) {
            linear.dense = weights.data();
            linear.rows = rows;
            return;
        }
        linear.slabs.resize(values_.size());
        for (uint32_t s = 0; s < values_.size(); s++) fill_slab(s, rows);
    }

    uint32_t chunks() const { return divide_up(linear.out, CHUNK_ROWS); }
    const RowParameters &row(uint32_t r) const {
        if (linear.dense != nullptr) return linear.rows[r];
        for (const RowParameters &at : linear.slabs[0].rows)
            if (at.row == r) return at;
        std::abort();
    }

    Linear linear;
    std::vector<int8_t> weights;

  private:
    // Whole blocks of 4 are kept or zero.
    void fill_row(uint32_t r, float kept, Random &random) {
        for (uint32_t c = 0; c < linear.in; c += 4) {
            if (!random.chance(kept)) continue;
            for (uint32_t i = c; i < std::min(c + 4, linear.in); i++) {
                const bool extreme = random.chance(0.1f);
                const int32_t w = extreme ? (random.chance(0.5f) ? 127 : -127)
                                          : static_cast<int32_t>(random.integer(0, 254)) - 127;
                weights[size_t{r} * linear.in + i] = static_cast<int8_t>(w);
            }
        }
    }

    void fill_slab(uint32_t s, const std::vector<RowParameters> &rows) {
        const uint32_t begin = s * SLAB_COLUMNS, end = std::min(linear.in, begin + SLAB_COLUMNS);
        auto block = [&](uint32_t r, uint32_t b) { return &weights[size_t{r} * linear.in + begin + b * 4]; };
        auto kept = [&](uint32_t r, uint32_t b) {
            return std::any_of(block(r, b), block(r, b) + 4, [](int8_t w) { return w != 0; });
        };
        const uint32_t blocks = (end - begin) / 4;
        std::vector<uint8_t> count(linear.out);
        std::vector<uint32_t> order(linear.out);
        for (uint32_t r = 0; r < linear.out; r++) {
            order[r] = r;
            for (uint32_t b = 0; b < blocks; b++) count[r] = static_cast<uint8_t>(count[r] + kept(r, b));
        }
        SparseSlab &slab = linear.slabs[s];
        for (uint32_t first = 0; first < linear.out; first += CHUNK_ROWS) {
            const uint32_t last = std::min(linear.out, first + CHUNK_ROWS);
            std::stable_sort(order.begin() + first, order.begin() + last,
                             [&](uint32_t a, uint32_t b) { return count[a] > count[b]; });
            slab.chunk_start.push_back(static_cast<uint32_t>(slab.index.size()));
            for (uint32_t visit = first; visit < last; visit++) {
                const uint32_t r = order[visit];
                slab.rows.push_back(rows[r]);
                slab.count.push_back(count[r]);
                for (uint32_t b = 0; b < blocks; b++) {
                    if (!kept(r, b)) continue;
                    slab.index.push_back(static_cast<uint8_t>(b));
                    values_[s].insert(values_[s].end(), block(r, b), block(r, b) + 4);
                }
            }
        }
        slab.chunk_start.push_back(static_cast<uint32_t>(slab.index.size()));
        slab.index.resize(slab.index.size() + INDEX_PADDING, 255);
        values_[s].shrink_to_fit();
        slab.values = values_[s].data();
    }

    std::vector<std::vector<int8_t>> values_;  // of each slab
};

// Activations of one tile, [rows][TILE], quantised by one table.
struct Packed {
    Packed(const Kernels &kernels, const Floats &x, uint32_t lanes) : Packed(kernels, x.size() / TILE) {
        kernels.quantize(x.data(), static_cast<uint32_t>(x.size() / TILE), 0, lanes, bytes.data(), &scales);
    }
    Packed(const Kernels &kernels, size_t rows) : bytes((rows + 3) / 4 * kernels.packed_block, 0xcd) {
        std::fill(scales.step, scales.step + TILE, UNTOUCHED);
        std::fill(scales.zero, scales.zero + TILE, 77);
    }

    Aligned<uint8_t> bytes;
    TokenScales scales;
};

// What the packed form stands for, q - z of [rows][TILE], read through the products of an identity matrix.
inline Floats decoded(const Kernels &kernels, const Packed &packed) {
    const int8_t identity[16] = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1};
    Linear linear;
    linear.out = linear.in = 4;
    linear.dense = identity;
    for (uint32_t r = 0; r < 4; r++) linear.rows.push_back({1.0f, 0.0f, 1, r});
    TokenScales scales = packed.scales;
    std::fill(scales.step, scales.step + TILE, 1.0f);
    const size_t blocks = packed.bytes.size() / kernels.packed_block;
    Floats out(blocks * 4 * TILE);
    for (size_t b = 0; b < blocks; b++)
        kernels.linear(linear, 0, 1, packed.bytes.data() + b * kernels.packed_block, scales, TILE,
                       Finish::store, out.data() + b * 4 * TILE, nullptr);
    return out;
}

class LinearTester {
  public:
    LinearTester &out(uint32_t value) { return out_ = value, *this; }
    LinearTester &in(uint32_t value) { return in_ = value, *this; }
    LinearTester &lanes(uint32_t value) { return lanes_ = value, *this; }
    LinearTester &sparse(bool value) { return sparse_ = value, *this; }
    LinearTester &density(float value) { return density_ = value, *this; }
    LinearTester &finish(Finish value) { return finish_ = value, *this; }
    // Chunks a call, as when threads share a layer; 0: all in one call.
    LinearTester &piece(uint32_t value) { return piece_ = value, *this; }

    void test(const Kernels &kernels, uint64_t seed) const {
        require(lanes_ % GROUP == 0 && lanes_ > 0 && lanes_ <= TILE, "lanes come in groups");
        Random random(seed);
        const LinearLayer layer(out_, in_, sparse_, density_, true, random);
        Floats x(size_t{in_} * TILE), before(size_t{out_} * TILE, UNTOUCHED);
        for (size_t i = 0; i < x.size(); i++) x[i] = random.normal();
        if (finish_ == Finish::add)
            for (size_t i = 0; i < before.size(); i++) before[i] = random.normal();
        const Floats got = run(kernels, layer, x, before), wanted = run(*kernels_scalar(), layer, x, before);
        char what[96];
        std::snprintf(what, sizeof(what), "linear %s %ux%u lanes %u finish %d piece %u seed %llu",
                      sparse_ ? "sparse" : "dense", out_, in_, lanes_, static_cast<int>(finish_), piece_,
                      static_cast<unsigned long long>(seed));
        expect_same(got, wanted, what);
        against_doubles(kernels, layer, x, before, got, what);
    }

  private:
    Floats run(const Kernels &kernels, const LinearLayer &layer, const Floats &x,
               const Floats &before) const {
        const Packed packed(kernels, x, lanes_);
        Floats out(before);
        Aligned<int32_t> partial(layer.linear.slabs.size() > 1 ? before.size() : 0, 99);
        const uint32_t step = piece_ == 0 ? layer.chunks() : piece_;
        for (uint32_t c = 0; c < layer.chunks(); c += step)
            kernels.linear(layer.linear, c, std::min(c + step, layer.chunks()), packed.bytes.data(),
                           packed.scales, lanes_, finish_, out.data(), partial.data());
        return out;
    }

    // W x + b in float64 from the quantised input.
    void against_doubles(const Kernels &kernels, const LinearLayer &layer, const Floats &x,
                         const Floats &before, const Floats &got, const char *what) const {
        const Packed packed(kernels, x, lanes_);
        const Floats q = decoded(kernels, packed);
        for (uint32_t r = 0; r < out_; r++)
            for (uint32_t l = 0; l < lanes_; l++) {
                double sum = 0.0;
                for (uint32_t c = 0; c < in_; c++)
                    sum += static_cast<double>(layer.weights[size_t{r} * in_ + c] * q[size_t{c} * TILE + l]);
                const RowParameters &row = layer.row(r);
                const size_t at = size_t{r} * TILE + l;
                double y = sum * static_cast<double>(packed.scales.step[l] * row.scale);
                const double limit = (std::fabs(y) + 1.0) * 1e-6;
                y += static_cast<double>(row.bias);
                if (finish_ == Finish::add) y += static_cast<double>(before[at]);
                expect(std::fabs(y - static_cast<double>(got[at])) < limit,
                       "%s: row %u lane %u is %g, not %g", what, r, l, static_cast<double>(got[at]), y);
            }
    }

    uint32_t out_ = 1, in_ = 4, lanes_ = TILE, piece_ = 0;
    bool sparse_ = false;
    float density_ = 0.2f;
    Finish finish_ = Finish::store;
};

}  // namespace edgebert
