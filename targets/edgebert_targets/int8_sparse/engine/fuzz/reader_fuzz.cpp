// libFuzzer over the model reader: any bytes give an error or a model whose every part can be read.
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <random>

#include "load.h"

using namespace edgebert;

namespace {

volatile uint64_t sink;  // keeps the reads

void touch(const void *data, size_t size) {
    uint64_t sum = 0;
    for (size_t i = 0; i < size; ++i) sum += static_cast<const uint8_t *>(data)[i];
    sink = sum;
}

void check(bool holds) {
    if (!holds) std::abort();
}

void touch_rows(const std::vector<RowParameters> &rows, uint32_t out) {
    check(rows.size() == out);
    for (const RowParameters &row : rows) check(row.row < out && row.scale > 0);
}

void touch_linear(const Linear &linear) {
    if (linear.out == 0) return;
    if (linear.dense != nullptr) {
        touch(linear.dense, size_t{linear.out} * linear.in);
        touch_rows(linear.rows, linear.out);
        return;
    }
    check(linear.slabs.size() == (linear.in + SLAB_COLUMNS - 1) / SLAB_COLUMNS);
    for (size_t s = 0; s < linear.slabs.size(); ++s) {
        const SparseSlab &slab = linear.slabs[s];
        touch_rows(slab.rows, linear.out);
        check(slab.count.size() == linear.out);
        check(slab.chunk_start.size() == (linear.out + CHUNK_ROWS - 1) / CHUNK_ROWS + 1);
        size_t next = 0;
        for (size_t visit = 0; visit < linear.out; ++visit) {
            if (visit % CHUNK_ROWS == 0)
                check(slab.chunk_start[visit / CHUNK_ROWS] == next);
            else
                check(slab.count[visit] <= slab.count[visit - 1]);
            for (uint32_t i = 0; i < slab.count[visit]; ++i, ++next) {
                check(i == 0 || slab.index[next] > slab.index[next - 1]);
                check(s * SLAB_COLUMNS + size_t{4} * slab.index[next] + 4 <= linear.in);
            }
        }
        check(next + INDEX_PADDING == slab.index.size() && slab.chunk_start.back() == next);
        touch(slab.values, 4 * next);
    }
}

void touch_table(const Table &table) {
    size_t size = size_t{table.rows} * table.width;
    if (table.values != nullptr) {
        touch(table.values, size);
        check(table.scale.size() == table.rows);
    } else {
        check(table.floats.size() == size);
    }
}

}  // namespace

extern "C" size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

// Mostly changes numbers in place: a file of another length is refused before anything else is looked at.
extern "C" size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned seed) {
    std::minstd_rand random(seed);
    if (size == 0 || random() % 8 == 0) return LLVMFuzzerMutate(data, size, max_size);
    for (unsigned edits = 1 + random() % 3; edits > 0; --edits) {
        const uint8_t values[] = {0, 1, 2, 3, 4, 8, 0x7f, 0x80, 0xff, static_cast<uint8_t>(random() >> 8)};
        size_t place = random() % size, width = size_t{1} << random() % 4;
        uint8_t value = values[random() % sizeof values];
        for (size_t i = place; i < size && i < place + width; ++i)
            data[i] = i == place ? value : value & 0x80 ? 0xff : 0;
    }
    return size;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t size) {
    void *data = nullptr;
    if (posix_memalign(&data, 64, size != 0 ? size : 1) != 0) return 0;
    if (size != 0) std::memcpy(data, bytes, size);
    Model model;
    TokenizerSettings tokenizer;
    bool has_tokenizer = false;
    if (load_model(static_cast<const uint8_t *>(data), size, &model, &tokenizer, &has_tokenizer) == EB_OK) {
        touch_table(model.word);
        touch_table(model.position);
        touch_table(model.token_type);
        touch_linear(model.projection);
        touch_linear(model.head_dense);
        touch_linear(model.head_out);
        for (const Layer &layer : model.layers)
            for (const Linear *linear : {&layer.query, &layer.key, &layer.value, &layer.attention_output,
                                         &layer.intermediate, &layer.output})
                touch_linear(*linear);
    }
    std::free(data);
    return 0;
}
