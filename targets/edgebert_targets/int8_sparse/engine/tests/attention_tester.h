// Tests the quantisation of queries, keys and values and the products of one attention head with them.
#pragma once

#include <functional>

#include "linear_tester.h"

namespace edgebert {

class AttentionTester {
  public:
    AttentionTester &channels(uint32_t value) { return channels_ = value, *this; }
    AttentionTester &length(uint32_t value) { return length_ = value, *this; }
    AttentionTester &first_slot(uint32_t value) { return first_slot_ = value, *this; }
    // Number of a token (of the sequence; garbage beyond it) and channel.
    using Input = std::function<float(Random &, uint32_t token, uint32_t channel)>;
    AttentionTester &queries(Input value) { return queries_ = value, *this; }
    AttentionTester &keys(Input value) { return keys_ = value, *this; }
    AttentionTester &values(Input value) { return values_ = value, *this; }
    AttentionTester &factor(float value) { return factor_ = value, *this; }

    // Bits against the scalar table.
    void test(const Kernels &kernels, uint64_t seed) const {
        require(first_slot_ % GROUP == 0 && length_ > 0 && channels_ > 0, "shape of the head");
        const Run got(*this, kernels, seed), wanted(*this, *kernels_scalar(), seed);
        char what[96];
        std::snprintf(what, sizeof(what), "attend %u channels, %u tokens from slot %u, seed %llu", channels_,
                      length_, first_slot_, static_cast<unsigned long long>(seed));
        expect_same(got.query_scale, wanted.query_scale, "scales of queries");
        expect_same(got.key_scale, wanted.key_scale, "scales of keys");
        expect(got.key_sum.same_bits(wanted.key_sum), "%s: sums of keys", what);
        expect_same(got.value_scale, wanted.value_scale, "scales of values");
        const bool no_sums = got.value_sum.same_bits(Aligned<int32_t>(channels_));
        expect(no_sums || got.value_sum.same_bits(wanted.value_sum), "%s: sums of values", what);
        expect_same(got.out, wanted.out, what);
        const uint32_t padded = divide_up(length_, 4) * 4;
        for (uint32_t c = 0; c < channels_; c++)
            for (uint32_t t = 0; t < padded; t++) {
                const size_t at = size_t{c} * got.value_stride + t;
                expect(got.packed_values[at] == wanted.packed_values[at],
                       "%s: value of token %u channel %u is %d", what, t, c, got.packed_values[at]);
                expect(t < length_ || got.packed_values[at] == 0, "%s: token %u is not zero", what, t);
            }
    }

    // softmax(q k^T) v in float64 on the numbers before quantisation, with the largest error that INT8
    // explains.
    void test_softmax(const Kernels &kernels, uint64_t seed, double limit) const {
        const Run run(*this, kernels, seed);
        for (uint32_t t = 0; t < length_; t++) {
            std::vector<double> score(length_);
            double most = -1e300, total = 0.0;
            for (uint32_t u = 0; u < length_; u++) {
                for (uint32_t c = 0; c < channels_; c++)
                    score[u] +=
                        static_cast<double>(run.at(run.q, t, c)) * static_cast<double>(run.at(run.k, u, c));
                score[u] *= static_cast<double>(factor_);
                most = std::fmax(most, score[u]);
            }
            for (double &s : score) total += s = std::exp2(s - most);
            for (uint32_t c = 0; c < channels_; c++) {
                double y = 0.0;
                for (uint32_t u = 0; u < length_; u++)
                    y += score[u] / total * static_cast<double>(run.at(run.v, u, c));
                const double result = static_cast<double>(run.at(run.out, t, c));
                expect(std::fabs(y - result) < limit, "attention of token %u channel %u: %g, not %g", t, c,
                       result, y);
            }
        }
    }

    // One-hot values give back each token's share: shares of 255 against 255 * 2^(score - largest score).
    void test_probabilities(const Kernels &kernels, uint64_t seed) const {
        require(channels_ == length_, "one channel a token");
        const Run run(*this, kernels, seed);
        double most = -1e300;
        std::vector<double> score(length_);
        for (uint32_t u = 0; u < length_; u++) {
            // keys and queries have one channel: their scales are the numbers themselves
            score[u] =
                static_cast<double>(run.at(run.q, 0, 0) * factor_) * static_cast<double>(run.at(run.k, u, 0));
            most = std::fmax(most, score[u]);
        }
        double share = 0.0;
        for (uint32_t u = 0; u < length_; u++)
            if (score[u] == most) share = static_cast<double>(run.at(run.out, 0, u));
        for (uint32_t u = 0; u < length_; u++) {
            const double p = static_cast<double>(run.at(run.out, 0, u)) / share * 255.0;
            const double wanted = 255.0 * std::exp2(score[u] - most);
            expect(std::fabs(p - wanted) < 0.503, "share of 2^%g: %g, not %g", score[u] - most, p, wanted);
        }
    }

  private:
    // One table's way from floats to the output of every tile that the sequence touches.
    struct Run {
        Run(const AttentionTester &tester, const Kernels &kernels, uint64_t seed)
            : channels(tester.channels_),
              first_slot(tester.first_slot_),
              tiles(divide_up(first_slot + tester.length_, TILE)),
              value_stride(divide_up(tester.length_, 4) * 4),
              q(size_t{tiles} * channels * TILE),
              k(q),
              v(q),
              out(q.size(), UNTOUCHED),
              query_scale(size_t{tiles} * TILE),
              key_scale(query_scale),
              value_scale(channels),
              key_sum(query_scale.size()),
              value_sum(channels),
              packed_values(channels * value_stride + GROUP) {
            Random random(seed);
            for (uint32_t slot = 0; slot < tiles * TILE; slot++)
                for (uint32_t c = 0; c < channels; c++) {
                    at(q, slot - first_slot, c) = tester.queries_(random, slot - first_slot, c);
                    at(k, slot - first_slot, c) = tester.keys_(random, slot - first_slot, c);
                    at(v, slot - first_slot, c) = tester.values_(random, slot - first_slot, c);
                }
            attend(kernels, tester.length_, tester.factor_);
        }

        // `token` counts from the sequence's first; slots before it wrap around and come out right.
        template <class Panel>
        static auto &element(Panel &panel, uint32_t slot, uint32_t channel, uint32_t channels) {
            return panel[(size_t{slot / TILE} * channels + channel) * TILE + slot % TILE];
        }
        float &at(Floats &panel, uint32_t token, uint32_t channel) const {
            return element(panel, first_slot + token, channel, channels);
        }
        float at(const Floats &panel, uint32_t token, uint32_t channel) const {
            return element(panel, first_slot + token, channel, channels);
        }

        void attend(const Kernels &kernels, uint32_t length, float factor) {
            const uint32_t blocks = divide_up(channels, 4),
                           lane_end = divide_up(first_slot + length, GROUP) * GROUP;
            const size_t key_stride = size_t{blocks} * TILE * 4, panel = size_t{channels} * TILE;
            Aligned<uint8_t> keys(tiles * key_stride), queries(blocks * kernels.packed_block);
            Aligned<uint8_t> probabilities(divide_up(length, 4) * kernels.packed_block);
            Floats scores(size_t{divide_up(length, 4)} * 4 * TILE);
            for (uint32_t i = 0; i < tiles; i++)
                kernels.quantize_keys(&k[i * panel], channels, TILE, &keys[i * key_stride],
                                      &key_scale[i * TILE], &key_sum[i * TILE]);
            kernels.quantize_values(v.data(), panel, first_slot, length, channels, packed_values.data(),
                                    value_stride, value_scale.data(), value_sum.data());
            for (uint32_t i = first_slot / TILE; i < tiles; i++) {
                kernels.quantize_queries(&q[i * panel], channels, TILE, factor, queries.data(),
                                         &query_scale[i * TILE]);
                const AttentionHead head = {channels,
                                            first_slot,
                                            length,
                                            i == first_slot / TILE ? first_slot % TILE : 0,
                                            std::min(TILE, lane_end - i * TILE),
                                            queries.data(),
                                            &query_scale[i * TILE],
                                            keys.data(),
                                            key_stride,
                                            key_scale.data(),
                                            key_sum.data(),
                                            packed_values.data(),
                                            value_stride,
                                            value_scale.data(),
                                            value_sum.data(),
                                            scores.data(),
                                            probabilities.data(),
                                            &out[i * panel]};
                kernels.attend(head);
            }
        }

        uint32_t channels, first_slot, tiles;
        size_t value_stride;
        Floats q, k, v, out, query_scale, key_scale, value_scale;
        Aligned<int32_t> key_sum, value_sum;
        Aligned<int8_t> packed_values;
    };

    static float normal(Random &random, uint32_t, uint32_t) { return random.normal(); }

    uint32_t channels_ = 64, length_ = 16, first_slot_ = 0;
    float factor_ = 0.18f;  // log2(e) / sqrt(64)
    Input queries_ = normal, keys_ = normal, values_ = normal;
};

}  // namespace edgebert
