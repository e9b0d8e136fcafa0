// The reference: plain loops, one lane at a time, that say what every other instruction set must compute.
//
// Packed activations are bytes q in [0, 255], [block][lane][4 channels].
#include <algorithm>
#include <cmath>
#include <cstring>

#include "../float_steps.h"
#include "../kernels.h"

namespace edgebert {
namespace {

constexpr size_t BLOCK = TILE * 4;

int32_t round_even(float x) { return static_cast<int32_t>(std::nearbyintf(x)); }

float power_of_two(float polynomial, float rounded) {
    uint32_t p, z;
    std::memcpy(&p, &polynomial, 4);
    std::memcpy(&z, &rounded, 4);
    p += z << 23;
    std::memcpy(&polynomial, &p, 4);
    return polynomial;
}

float exp2_of(float x) {
    const float z = x + ROUNDER, f = x - (z - ROUNDER);
    float p = EXP2[6];
    for (int i = 5; i >= 0; i--) p = std::fmaf(p, f, EXP2[i]);
    return power_of_two(p, z);
}

int32_t exp2_byte(float x) {
    x = std::max(x, EXP2_BYTE_LOWEST);
    const float z = x + ROUNDER, f = x - (z - ROUNDER);
    float p = EXP2_BYTE[4];
    for (int i = 3; i >= 0; i--) p = std::fmaf(p, f, EXP2_BYTE[i]);
    return round_even(power_of_two(p, z));
}

float gelu(float x) {
    const float s = std::min(std::fabs(x), GELU_LIMIT);
    const float square = s * s;
    const float high = std::fmaf(GELU[5], s, GELU[4]);
    const float middle = std::fmaf(GELU[3], s, GELU[2]);
    const float low = std::fmaf(GELU[1], s, GELU[0]);
    const float exponent = std::fmaf(std::fmaf(high, square, middle), square, low);
    const float z = exponent + ROUNDER, f = exponent - (z - ROUNDER);
    float p = GELU_EXP2[4];
    for (int i = 3; i >= 0; i--) p = std::fmaf(p, f, GELU_EXP2[i]);
    return std::fmaf(s, power_of_two(p, z), x > 0.0f ? x : 0.0f);  // -0 counts as 0
}

float tanh_of(float x) {
    const float c = std::max(std::min(x, 10.0f), -10.0f);
    return 1.0f - 2.0f / (exp2_of(c * (2.0f * LOG2_E)) + 1.0f);
}

float gelu_tanh(float x) {
    const float inner = 0.7978845608028654f * std::fmaf(0.044715f, x * x * x, x);
    return 0.5f * x * (1.0f + tanh_of(inner));
}

void activate(Activation activation, float *x, uint32_t rows, uint32_t lanes) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t l = 0; l < lanes; l++) {
            float &v = x[size_t{r} * TILE + l];
            switch (activation) {
                case Activation::gelu:
                    v = gelu(v);
                    break;
                case Activation::gelu_tanh:
                    v = gelu_tanh(v);
                    break;
                case Activation::relu:
                    v = v > 0.0f ? v : 0.0f;  // -0 becomes 0
                    break;
                case Activation::tanh:
                    v = tanh_of(v);
                    break;
            }
        }
}

void normalize(float *x, const Norm &norm, uint32_t rows, uint32_t lane_begin, uint32_t lane_end) {
    const float count = static_cast<float>(rows);
    for (uint32_t l = lane_begin; l < lane_end; l++) {
        float sum = 0.0f, square = 0.0f;
        for (uint32_t r = 0; r < rows; r++) sum += x[size_t{r} * TILE + l];
        const float mean = sum / count;
        for (uint32_t r = 0; r < rows; r++) {
            const float d = x[size_t{r} * TILE + l] - mean;
            square = std::fmaf(d, d, square);
        }
        const float inverse = 1.0f / std::sqrt(square / count + norm.eps);
        for (uint32_t r = 0; r < rows; r++) {
            float &v = x[size_t{r} * TILE + l];
            v = std::fmaf((v - mean) * inverse, norm.weight[r], norm.bias[r]);
        }
    }
}

void quantize(const float *x, uint32_t rows, uint32_t lane_begin, uint32_t lane_end, uint8_t *packed,
              TokenScales *scales) {
    for (uint32_t l = lane_begin; l < lane_end; l++) {
        float low = 0.0f, high = 0.0f;
        for (uint32_t r = 0; r < rows; r++) {
            low = std::min(low, x[size_t{r} * TILE + l]);
            high = std::max(high, x[size_t{r} * TILE + l]);
        }
        const float inverse = high == low ? 1.0f : std::min(255.0f / (high - low), LARGEST_INVERSE);
        const float from_low = low * inverse, from_high = high * inverse;
        const float test = (-128.0f + from_low) + (127.0f + from_high);
        const float z = test > 0.0f ? -128.0f - from_low : 127.0f - from_high;
        const int32_t zero = round_even(std::max(std::min(z, 127.0f), -128.0f)) + 128;
        scales->step[l] = 1.0f / inverse;
        scales->zero[l] = zero;
        for (uint32_t r = 0; r < (rows + 3) / 4 * 4; r++) {
            const int32_t q = r < rows ? round_even(x[size_t{r} * TILE + l] * inverse) + zero : 0;
            packed[r / 4 * BLOCK + size_t{l} * 4 + r % 4] = static_cast<uint8_t>(std::clamp(q, 0, 255));
        }
    }
}

void finish(const RowParameters &row, int32_t acc, const TokenScales &scales, uint32_t lane, Finish how,
            float *out) {
    const float sum = static_cast<float>(acc - scales.zero[lane] * row.sum);
    const float y = std::fmaf(sum * scales.step[lane], row.scale, row.bias);
    float &at = out[size_t{row.row} * TILE + lane];
    at = how == Finish::add ? at + y : y;
}

void linear(const Linear &linear, uint32_t chunk_begin, uint32_t chunk_end, const uint8_t *packed,
            const TokenScales &scales, uint32_t lanes, Finish how, float *out, int32_t *partial) {
    const uint32_t begin = chunk_begin * CHUNK_ROWS, end = std::min(chunk_end * CHUNK_ROWS, linear.out);
    if (linear.dense != nullptr) {
        for (uint32_t r = begin; r < end; r++)
            for (uint32_t l = 0; l < lanes; l++) {
                int32_t acc = 0;
                for (uint32_t c = 0; c < linear.in; c++)
                    acc += linear.dense[size_t{r} * linear.in + c] *
                           packed[c / 4 * BLOCK + size_t{l} * 4 + c % 4];
                finish(linear.rows[r], acc, scales, l, how, out);
            }
        return;
    }
    for (size_t s = 0; s < linear.slabs.size(); s++) {
        const SparseSlab &slab = linear.slabs[s];
        const uint8_t *x = packed + s * (SLAB_COLUMNS / 4) * BLOCK;
        size_t block = slab.chunk_start[chunk_begin];
        for (uint32_t visit = begin; visit < end; visit++) {
            const RowParameters &row = slab.rows[visit];
            for (uint32_t l = 0; l < lanes; l++) {
                int32_t &kept = partial[size_t{row.row} * TILE + l];
                int32_t acc = s == 0 ? 0 : kept;
                for (size_t b = block; b < block + slab.count[visit]; b++)
                    for (uint32_t i = 0; i < 4; i++)
                        acc += slab.values[b * 4 + i] * x[slab.index[b] * BLOCK + size_t{l} * 4 + i];
                if (s + 1 == linear.slabs.size())
                    finish(row, acc, scales, l, how, out);
                else
                    kept = acc;
            }
            block += slab.count[visit];
        }
    }
}

float largest(const float *x, uint32_t channels, uint32_t lane) {
    float most = 0.0f;
    for (uint32_t c = 0; c < channels; c++) most = std::max(most, std::fabs(x[size_t{c} * TILE + lane]));
    return most;
}

float inverse_step(float most) { return most == 0.0f ? 0.0f : std::min(127.0f / most, LARGEST_INVERSE); }

int32_t symmetric(float x, float inverse) { return std::clamp(round_even(x * inverse), -127, 127); }

void quantize_queries(const float *x, uint32_t channels, uint32_t lanes, float factor, uint8_t *packed,
                      float *scale) {
    for (uint32_t l = 0; l < lanes; l++) {
        const float most = largest(x, channels, l), inverse = inverse_step(most);
        scale[l] = most / 127.0f * factor;
        for (uint32_t c = 0; c < (channels + 3) / 4 * 4; c++) {
            const int32_t q = c < channels ? symmetric(x[size_t{c} * TILE + l], inverse) : 0;
            packed[c / 4 * BLOCK + size_t{l} * 4 + c % 4] = static_cast<uint8_t>(q + 128);
        }
    }
}

void quantize_keys(const float *x, uint32_t channels, uint32_t lanes, uint8_t *packed, float *scale,
                   int32_t *sum) {
    for (uint32_t l = 0; l < lanes; l++) {
        const float most = largest(x, channels, l), inverse = inverse_step(most);
        scale[l] = most / 127.0f;
        sum[l] = 0;
        for (uint32_t c = 0; c < (channels + 3) / 4 * 4; c++) {
            const int32_t q = c < channels ? symmetric(x[size_t{c} * TILE + l], inverse) : 0;
            sum[l] += q;
            packed[c / 4 * BLOCK + size_t{l} * 4 + c % 4] = static_cast<uint8_t>(q);
        }
    }
}

void quantize_values(const float *x, size_t tile_stride, uint32_t first_slot, uint32_t length,
                     uint32_t channels, int8_t *values, size_t value_stride, float *scale, int32_t *sum) {
    for (uint32_t c = 0; c < channels; c++) {
        auto value = [&](uint32_t t) {
            const uint32_t slot = first_slot + t;
            return x[slot / TILE * tile_stride + size_t{c} * TILE + slot % TILE];
        };
        float most = 0.0f;
        for (uint32_t t = 0; t < length; t++) most = std::max(most, std::fabs(value(t)));
        const float inverse = inverse_step(most);
        scale[c] = most / 127.0f;
        sum[c] = 0;
        for (uint32_t t = 0; t < (length + 3) / 4 * 4; t++) {
            const int32_t q = t < length ? symmetric(value(t), inverse) : 0;
            values[size_t{c} * value_stride + t] = static_cast<int8_t>(q);
            sum[c] += q;
        }
    }
}

void attend(const AttentionHead &head) {
    for (uint32_t l = head.lane_begin; l < head.lane_end; l++) {
        float most = -3.0e38f;
        for (uint32_t u = 0; u < head.length; u++) {
            const uint32_t slot = head.first_slot + u;
            const uint8_t *key = head.keys + slot / TILE * head.key_stride + slot % TILE * 4;
            int32_t acc = -128 * head.key_sum[slot];
            for (uint32_t c = 0; c < (head.channels + 3) / 4 * 4; c++)
                acc += static_cast<int8_t>(key[c / 4 * BLOCK + c % 4]) *
                       head.queries[c / 4 * BLOCK + size_t{l} * 4 + c % 4];
            const float e = static_cast<float>(acc) * head.key_scale[slot];
            most = std::max(most, e);
            head.scores[size_t{u} * TILE + l] = e;
        }
        int32_t total = 0;
        for (uint32_t u = 0; u < head.length; u++) {
            // the difference first: however large the scores, the exponent is never above 0
            const int32_t p = exp2_byte((head.scores[size_t{u} * TILE + l] - most) * head.query_scale[l]);
            total += p;
            head.probabilities[u / 4 * BLOCK + size_t{l} * 4 + u % 4] = static_cast<uint8_t>(p);
        }
        const float inverse = 1.0f / static_cast<float>(total);
        for (uint32_t c = 0; c < head.channels; c++) {
            int32_t acc = 0;
            for (uint32_t u = 0; u < head.length; u++)
                acc += head.values[size_t{c} * head.value_stride + u] *
                       head.probabilities[u / 4 * BLOCK + size_t{l} * 4 + u % 4];
            head.out[size_t{c} * TILE + l] = static_cast<float>(acc) * inverse * head.value_scale[c];
        }
    }
}

void normalize_quantize(float *x, const Norm &norm, uint32_t rows, uint32_t lane_begin, uint32_t lane_end,
                        uint8_t *packed, TokenScales *scales) {
    normalize(x, norm, rows, lane_begin, lane_end);
    quantize(x, rows, lane_begin, lane_end, packed, scales);
}

void gelu_quantize(float *x, uint32_t rows, uint32_t lane_begin, uint32_t lane_end, uint8_t *packed,
                   TokenScales *scales) {
    for (uint32_t r = 0; r < rows; r++)
        for (uint32_t l = lane_begin; l < lane_end; l++)
            x[size_t{r} * TILE + l] = gelu(x[size_t{r} * TILE + l]);
    quantize(x, rows, lane_begin, lane_end, packed, scales);
}

}  // namespace

const Kernels *kernels_scalar() {
    static const Kernels kernels = {"scalar",        BLOCK,    quantize,           linear,
                                    normalize,       activate, quantize_queries,   quantize_keys,
                                    quantize_values, attend,   normalize_quantize, gelu_quantize};
    return &kernels;
}

}  // namespace edgebert
