#include "load_weights.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "error.h"
#include "rice.h"

namespace edgebert {

namespace {

constexpr uint32_t BLOCK = 4;
constexpr uint32_t SLAB_BLOCKS = SLAB_COLUMNS / BLOCK;
constexpr uint64_t SLAB_HEADER = 8;  // u32 bytes of codes, u8 k, three zeros

float half_to_float(uint16_t half) {
    uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
    uint32_t exponent = half >> 10 & 31, fraction = half & 1023;
    if (exponent == 0) {  // zero or subnormal: fraction * 2^-24, exact
        float value = static_cast<float>(fraction) * 0x1p-24f;
        return sign ? -value : value;
    }
    uint32_t bits =
        exponent == 31 ? sign | 0x7f800000 | fraction << 13 : sign | (exponent + 112) << 23 | fraction << 13;
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

eb_status wrong(const std::string &name, const char *what) {
    return fail(EB_ERROR_FORMAT, "tensor '%s': %s; convert the model again", name.c_str(), what);
}

bool has_shape(const GgufTensor &tensor, uint64_t rows, uint64_t columns) {
    if (rows == 0) return tensor.dimensions == 1 && tensor.shape[0] == columns;
    return tensor.dimensions == 2 && tensor.shape[0] == rows && tensor.shape[1] == columns;
}

// F32 or F16, finite; the shape has been checked.
eb_status read_floats(const std::string &name, const GgufTensor &tensor, std::vector<float> *out) {
    if (tensor.type == TensorType::f32) {
        out->resize(tensor.bytes / sizeof(float));
        std::memcpy(out->data(), tensor.data, tensor.bytes);
    } else if (tensor.type == TensorType::f16) {
        out->resize(tensor.bytes / sizeof(uint16_t));
        for (size_t i = 0; i < out->size(); ++i) {
            uint16_t half;
            std::memcpy(&half, tensor.data + i * sizeof half, sizeof half);
            (*out)[i] = half_to_float(half);
        }
    } else {
        return wrong(name, "not F32 or F16");
    }
    for (float value : *out)
        if (!std::isfinite(value)) return wrong(name, "holds NaN or infinity");
    return EB_OK;
}

eb_status read_scale(Gguf *gguf, const std::string &name, uint64_t rows, std::vector<float> *out) {
    const GgufTensor *tensor = nullptr;
    if (eb_status status = find_tensor(gguf, name, TensorType::f32, 0, rows, &tensor)) return status;
    if (eb_status status = read_floats(name, *tensor, out)) return status;
    for (float value : *out)
        if (!(value > 0)) return wrong(name, "holds a scale that is not positive");
    return EB_OK;
}

// Adds the sum of `count` weights to *sum; false when one of them is -128. Eight at a time in one integer, as
// every compiler makes it fast.
bool add_weights(const int8_t *weights, size_t count, int32_t *sum) {
    constexpr uint64_t ONES = 0x0101010101010101, SIGNS = 0x8080808080808080, EVEN = 0x00ff00ff00ff00ff;
    constexpr size_t ROUNDS = 128;  // 128 * 2 * 255 fits in a lane of 16 bits
    size_t done = 0;
    uint64_t lowest = 0;  // has a bit where a weight was -128
    int64_t total = 0;
    while (count - done >= 8) {
        size_t end = done + 8 * std::min(ROUNDS, (count - done) / 8);
        uint64_t lanes = 0;
        total -= 128 * static_cast<int64_t>(end - done);
        for (; done < end; done += 8) {
            uint64_t raised;  // each weight + 128
            std::memcpy(&raised, weights + done, sizeof raised);
            raised ^= SIGNS;
            lowest |= (raised - ONES) & ~raised & SIGNS;
            lanes += (raised & EVEN) + (raised >> 8 & EVEN);
        }
        for (; lanes != 0; lanes >>= 16) total += lanes & 0xffff;
    }
    for (; done < count; ++done) {
        total += weights[done];
        if (weights[done] == -128) lowest = 1;
    }
    *sum += static_cast<int32_t>(total);
    return lowest == 0;
}

const int8_t *signed_bytes(const uint8_t *data) { return reinterpret_cast<const int8_t *>(data); }

// The rows of a slab in the order of the visits: by chunk, then falling count, then rising row.
std::vector<uint32_t> visiting_order(const uint8_t *counts, uint32_t rows) {
    std::vector<uint32_t> order(rows);
    for (uint32_t first = 0; first < rows; first += CHUNK_ROWS) {
        uint32_t end = std::min(rows, first + CHUNK_ROWS);
        uint32_t begin[257] = {};
        for (uint32_t row = first; row < end; ++row) ++begin[256 - counts[row]];
        for (uint32_t i = 1; i <= 256; ++i) begin[i] += begin[i - 1];
        // begin[255 - c] is now where count c starts
        for (uint32_t row = first; row < end; ++row) order[first + begin[255 - counts[row]]++] = row;
    }
    return order;
}

// What is left of `.values` and `.gaps` as slabs are taken from them.
struct Streams {
    const int8_t *values;
    uint64_t blocks;
    const uint8_t *gaps;
    uint64_t gap_bytes;
};

// One slab of `slab_blocks` block columns. Fills all of `slab` but the rows' scale, bias and sum; adds to
// `sums`.
eb_status read_slab(const std::string &name, const uint8_t *counts, uint32_t rows, uint32_t slab_blocks,
                    Streams *streams, SparseSlab *slab, std::vector<int32_t> *sums) {
    uint64_t blocks = 0;
    for (uint32_t row = 0; row < rows; ++row) {
        if (counts[row] > slab_blocks) return wrong(name, "a row has more blocks than its slab");
        blocks += counts[row];
    }
    if (blocks > streams->blocks) return wrong(name, "the counts say more blocks than there are values");
    if (streams->gap_bytes < SLAB_HEADER) return wrong(name, "the gaps end before the last slab");
    uint32_t code_bytes = 0;
    std::memcpy(&code_bytes, streams->gaps, sizeof code_bytes);
    uint32_t k = streams->gaps[4];
    if (k > 7 || streams->gaps[5] || streams->gaps[6] || streams->gaps[7])
        return wrong(name, "a slab's Rice parameter is not 0 to 7 with three zero bytes");
    if (code_bytes > streams->gap_bytes - SLAB_HEADER) return wrong(name, "a slab's codes pass the end");

    RiceReader reader(streams->gaps + SLAB_HEADER, code_bytes, k);
    const int8_t *values = streams->values;
    slab->values = values;
    slab->index.resize(blocks + INDEX_PADDING);
    slab->count.resize(rows);
    slab->rows.resize(rows);
    std::vector<uint32_t> order = visiting_order(counts, rows);
    uint8_t *index = slab->index.data();
    slab->chunk_start.reserve(rows / CHUNK_ROWS + 2);
    for (uint32_t visit = 0; visit < rows; ++visit) {
        uint32_t row = order[visit], count = counts[row], block = 0;
        if (visit % CHUNK_ROWS == 0)
            slab->chunk_start.push_back(static_cast<uint32_t>(index - slab->index.data()));
        slab->count[visit] = static_cast<uint8_t>(count);
        slab->rows[visit].row = row;
        for (uint32_t i = 0; i < count; ++i) {
            block += reader.next(SLAB_BLOCKS);
            if (block >= slab_blocks) return wrong(name, "a block lies beyond its slab");
            *index++ = static_cast<uint8_t>(block++);
        }
        if (!add_weights(values, size_t{BLOCK} * count, &(*sums)[row]))
            return wrong(name, "holds -128, outside [-127, 127]");
        values += size_t{BLOCK} * count;
    }
    slab->chunk_start.push_back(static_cast<uint32_t>(blocks));
    if (!reader.at_end()) return wrong(name, "a slab's codes do not end where its bytes do");
    streams->values = values;
    streams->blocks -= blocks;
    streams->gaps += SLAB_HEADER + code_bytes;
    streams->gap_bytes -= SLAB_HEADER + code_bytes;
    return EB_OK;
}

eb_status read_sparse(Gguf *gguf, const std::string &name, Linear *linear, std::vector<int32_t> *sums) {
    if (linear->in % BLOCK != 0) return wrong(name, "sparse, but its inputs are no multiple of 4");
    uint32_t slabs = (linear->in + SLAB_COLUMNS - 1) / SLAB_COLUMNS;
    const GgufTensor *counts = nullptr, *values = gguf->tensor(name + ".values");
    const GgufTensor *gaps = gguf->tensor(name + ".gaps");
    if (eb_status status = find_tensor(gguf, name + ".counts", TensorType::i8, slabs, linear->out, &counts))
        return status;
    if (values == nullptr || values->type != TensorType::i8 || values->dimensions != 1)
        return wrong(name + ".values", "missing, or not one dimension of I8");
    if (values->bytes % BLOCK != 0) return wrong(name + ".values", "no multiple of 4 bytes");
    if (gaps == nullptr || gaps->type != TensorType::i8 || gaps->dimensions != 1)
        return wrong(name + ".gaps", "missing, or not one dimension of I8");
    Streams streams{signed_bytes(values->data), values->bytes / BLOCK, gaps->data, gaps->bytes};
    linear->slabs.resize(slabs);
    for (uint32_t i = 0; i < slabs; ++i) {
        uint32_t columns = std::min(SLAB_COLUMNS, linear->in - i * SLAB_COLUMNS);
        if (eb_status status = read_slab(name, counts->data + uint64_t{i} * linear->out, linear->out,
                                         columns / BLOCK, &streams, &linear->slabs[i], sums))
            return status;
    }
    if (streams.blocks != 0 || streams.gap_bytes != 0)
        return wrong(name, "values or gaps are left over after the last slab");
    return EB_OK;
}

}  // namespace

eb_status find_tensor(Gguf *gguf, const std::string &name, TensorType type, uint64_t rows, uint64_t columns,
                      const GgufTensor **out) {
    *out = gguf->tensor(name);
    if (*out == nullptr)
        return fail(EB_ERROR_FORMAT, "no tensor '%s'; convert the model again", name.c_str());
    if ((*out)->type != type) return wrong(name, "of another type than format 1 says");
    if (!has_shape(**out, rows, columns)) return wrong(name, "of another shape than the keys say");
    return EB_OK;
}

eb_status read_vector(Gguf *gguf, const std::string &name, uint64_t size, std::vector<float> *out) {
    const GgufTensor *tensor = gguf->tensor(name);
    if (tensor == nullptr)
        return fail(EB_ERROR_FORMAT, "no tensor '%s'; convert the model again", name.c_str());
    if (!has_shape(*tensor, 0, size)) return wrong(name, "of another shape than the keys say");
    return read_floats(name, *tensor, out);
}

eb_status read_table(Gguf *gguf, const std::string &name, uint32_t rows, uint32_t width, Table *out) {
    out->rows = rows;
    out->width = width;
    if (const GgufTensor *floats = gguf->tensor(name + ".floats")) {
        if (!has_shape(*floats, rows, width)) return wrong(name, "of another shape than the keys say");
        return read_floats(name, *floats, &out->floats);
    }
    const GgufTensor *values = nullptr;
    if (eb_status status = find_tensor(gguf, name + ".values", TensorType::i8, rows, width, &values))
        return status;
    out->values = signed_bytes(values->data);
    return read_scale(gguf, name + ".scale", rows, &out->scale);
}

eb_status read_linear(Gguf *gguf, const std::string &name, uint32_t out, uint32_t in, Linear *linear) {
    linear->out = out;
    linear->in = in;
    std::vector<float> scale, bias;
    if (eb_status status = read_scale(gguf, name + ".scale", out, &scale)) return status;
    if (eb_status status = read_vector(gguf, name + ".bias", out, &bias)) return status;
    std::vector<int32_t> sums(out, 0);
    if (gguf->has_tensor(name + ".counts")) {
        if (eb_status status = read_sparse(gguf, name, linear, &sums)) return status;
        for (SparseSlab &slab : linear->slabs)
            for (RowParameters &row : slab.rows)
                row = {scale[row.row], bias[row.row], sums[row.row], row.row};
        return EB_OK;
    }
    const GgufTensor *values = nullptr;
    if (eb_status status = find_tensor(gguf, name + ".values", TensorType::i8, out, in, &values))
        return status;
    linear->dense = signed_bytes(values->data);
    linear->rows.resize(out);
    for (uint32_t row = 0; row < out; ++row) {
        if (!add_weights(linear->dense + uint64_t{row} * in, in, &sums[row]))
            return wrong(name, "holds -128, outside [-127, 127]");
        linear->rows[row] = {scale[row], bias[row], sums[row], row};
    }
    return EB_OK;
}

}  // namespace edgebert
