#include "forward.h"

#include <algorithm>
#include <cmath>
#include <cstring>

#include "float_steps.h"

namespace edgebert {

namespace {

// Slots of a pass: larger batches are run in parts, so that memory stays bounded and the caches useful.
constexpr uint32_t PASS_SLOTS = 512;

uint32_t round_up(uint32_t n, uint32_t multiple) { return (n + multiple - 1) / multiple * multiple; }

uint32_t chunks(const Linear &linear) { return (linear.out + CHUNK_ROWS - 1) / CHUNK_ROWS; }

struct Range {
    uint32_t begin, end;
};

// Part `index` of `count` of `total`.
Range share(uint32_t total, uint32_t index, uint32_t count) {
    return {static_cast<uint32_t>(uint64_t{total} * index / count),
            static_cast<uint32_t>(uint64_t{total} * (index + 1) / count)};
}

// out[c] = or += row `row` of a table.
template <bool ADD>
void table_row(const Table &table, uint32_t row, float *out) {
    const size_t first = size_t{row} * table.width;
    if (table.values != nullptr) {
        const int8_t *values = table.values + first;
        const float scale = table.scale[row];
        for (uint32_t c = 0; c < table.width; c++) {
            const float v = static_cast<float>(values[c]) * scale;
            out[c] = ADD ? out[c] + v : v;
        }
    } else {
        const float *values = table.floats.data() + first;
        for (uint32_t c = 0; c < table.width; c++) out[c] = ADD ? out[c] + values[c] : values[c];
    }
}

}  // namespace

Forward::Forward(const Model &model, const Kernels &kernels, std::unique_ptr<Team> team)
    : model_(model),
      kernels_(kernels),
      team_(std::move(team)),
      head_size_(model.hidden / model.heads),
      head_blocks_((model.hidden / model.heads + 3) / 4) {
    for (uint32_t i = 0; i < team_->threads(); i++) scratch_.emplace_back(new Scratch);
}

eb_status Forward::create(const Model &model, const Kernels &kernels, uint32_t threads,
                          std::unique_ptr<Forward> *out) {
    std::unique_ptr<Team> team;
    const eb_status status = Team::create(threads, &team);
    if (status != EB_OK) return status;
    out->reset(new Forward(model, kernels, std::move(team)));
    return EB_OK;
}

eb_status Forward::run(const eb_batch &batch, float *out) {
    const int32_t *ids = batch.ids, *types = batch.token_types;
    size_t done = 0;
    while (done < batch.sequences) {
        sequences_.clear();
        slots_ = longest_ = 0;
        for (; done < batch.sequences; done++) {
            const uint32_t length = static_cast<uint32_t>(batch.lengths[done]);
            const uint32_t slots = round_up(length, GROUP);
            if (slots_ != 0 && slots_ + slots > PASS_SLOTS) break;
            sequences_.push_back({ids, types, length, slots_, slots, out});
            ids += length;
            if (types != nullptr) types += length;
            switch (model_.task) {
                case EB_TASK_CLASSIFICATION:
                    out += model_.head_out.out;
                    break;
                case EB_TASK_EMBEDDING:
                    out += model_.hidden;
                    break;
                default:
                    out += size_t{length} * model_.head_out.out;
            }
            slots_ += slots;
            longest_ = std::max(longest_, length);
        }
        tiles_ = (slots_ + TILE - 1) / TILE;
        // sharing a tile costs a dozen barriers a layer: worth it only where whole tiles leave threads idle
        const uint32_t threads = team_->threads();
        by_tile_ = tiles_ % threads == 0 || tiles_ >= 4 * threads;
        reserve();
        team_->run(thread_main, this);
        if (model_.task == EB_TASK_CLASSIFICATION) classify(*scratch_[0]);
        if (model_.task == EB_TASK_EMBEDDING)
            for (const Sequence &sequence : sequences_) pool(sequence);
    }
    return EB_OK;
}

void Forward::reserve() {
    const size_t hidden = model_.hidden, heads = model_.heads, tiles = tiles_;
    hidden_.reserve(tiles * hidden * TILE);
    values_float_.reserve(tiles * hidden * TILE);
    context_.reserve(tiles * hidden * TILE);
    queries_.reserve(tiles * heads * head_blocks_ * kernels_.packed_block);
    keys_.reserve(tiles * heads * head_blocks_ * TILE * 4);
    query_scale_.reserve(tiles * heads * TILE);
    key_scale_.reserve(heads * tiles * TILE);
    key_sum_.reserve(heads * tiles * TILE);
    values_.reserve(hidden * slots_);
    value_scale_.reserve(sequences_.size() * hidden);
    value_sum_.reserve(sequences_.size() * hidden);
    const size_t widest = std::max({model_.hidden, model_.intermediate(), model_.word.width,
                                    model_.head_dense.out, model_.head_out.out});
    for (auto &scratch : scratch_) {
        scratch->packed.reserve((widest + 3) / 4 * kernels_.packed_block);
        scratch->panel.reserve(widest * TILE);
        scratch->rows.reserve(size_t{model_.word.width} * TILE);
        scratch->partial.reserve(widest * TILE);
        scratch->scales.reserve(1);
        scratch->scores.reserve(size_t{round_up(longest_, 4)} * TILE);
        scratch->probabilities.reserve(round_up(longest_, 4) / 4 * kernels_.packed_block);
    }
}

void Forward::thread_main(void *self, uint32_t thread) { static_cast<Forward *>(self)->work(thread); }

void Forward::work(uint32_t thread) {
    for_tiles(thread, &Forward::embed, model_.layers[0]);
    for (const Layer &layer : model_.layers) {
        team_->barrier();
        attention(thread, *scratch_[thread]);
        team_->barrier();
        for_tiles(thread, &Forward::after_attention, layer);
    }
    if (model_.task == EB_TASK_TOKEN_CLASSIFICATION || model_.task == EB_TASK_QUESTION_ANSWERING) {
        team_->barrier();
        if (thread == 0) answer_tokens(*scratch_[0]);
    }
}

void Forward::for_tiles(uint32_t thread, void (Forward::*step)(uint32_t, const Layer &, Part, Scratch &),
                        const Layer &layer) {
    const uint32_t threads = team_->threads();
    for (uint32_t tile = 0; tile < tiles_; tile++) {
        if (by_tile_) {
            if (tile % threads == thread) (this->*step)(tile, layer, Part{0, 1}, *scratch_[thread]);
        } else {
            (this->*step)(tile, layer, Part{thread, threads}, *scratch_[0]);
            team_->barrier();
        }
    }
}

void Forward::wait(Part part) {
    if (part.count > 1) team_->barrier();
}

uint32_t Forward::lanes(uint32_t tile) const { return std::min(TILE, slots_ - tile * TILE); }

float *Forward::panel(const Buffer<float> &buffer, uint32_t tile) const {
    return buffer.get() + size_t{tile} * model_.hidden * TILE;
}

// Everyone's lanes must be complete before; all lanes are quantised after.
void Forward::quantize(const float *x, uint32_t rows, uint32_t tile, Part part, Scratch &scratch) {
    const Range groups = share(lanes(tile) / GROUP, part.index, part.count);
    kernels_.quantize(x, rows, groups.begin * GROUP, groups.end * GROUP, scratch.packed.get(),
                      scratch.scales.get());
    wait(part);
}

void Forward::normalize_quantize(float *x, const Norm &norm, uint32_t tile, Part part, Scratch &scratch) {
    const Range groups = share(lanes(tile) / GROUP, part.index, part.count);
    kernels_.normalize_quantize(x, norm, model_.hidden, groups.begin * GROUP, groups.end * GROUP,
                                scratch.packed.get(), scratch.scales.get());
    wait(part);
}

void Forward::linear(const Linear &linear, uint32_t tile, Part part, Scratch &scratch, Finish finish,
                     float *out) {
    const Range mine = share(chunks(linear), part.index, part.count);
    if (mine.begin < mine.end)
        kernels_.linear(linear, mine.begin, mine.end, scratch.packed.get(), *scratch.scales.get(),
                        lanes(tile), finish, out, scratch.partial.get());
    wait(part);
}

const Forward::Sequence &Forward::sequence_of(uint32_t slot) const {
    size_t i = sequences_.size() - 1;
    while (sequences_[i].first_slot > slot) i--;
    return sequences_[i];
}

// The first layer's projections follow at once, as every other layer's follow the layer before.
void Forward::embed(uint32_t tile, const Layer &first, Part part, Scratch &scratch) {
    const uint32_t width = model_.word.width;
    const bool projected = model_.projection.out != 0;
    float *x = projected ? scratch.panel.get() : panel(hidden_, tile);
    const Range groups = share(lanes(tile) / GROUP, part.index, part.count);
    const uint32_t begin = groups.begin * GROUP, end = groups.end * GROUP;
    float *rows = scratch.rows.get() + size_t{begin} * width;
    for (uint32_t lane = begin; lane < end; lane++) {
        float *row = rows + size_t{lane - begin} * width;
        const uint32_t slot = tile * TILE + lane;
        const Sequence &sequence = sequence_of(slot);
        const uint32_t token = slot - sequence.first_slot;
        if (token >= sequence.length) {
            std::fill(row, row + width, 0.0f);
            continue;
        }
        table_row<false>(model_.word, static_cast<uint32_t>(sequence.ids[token]), row);
        if (model_.token_type.rows != 0)
            table_row<true>(model_.token_type,
                            sequence.types == nullptr ? 0 : static_cast<uint32_t>(sequence.types[token]),
                            row);
        table_row<true>(model_.position, token, row);
    }
    for (uint32_t first = begin; first < end; first += GROUP)
        for (uint32_t c = 0; c < width; c++)
            for (uint32_t i = 0; i < GROUP; i++)
                x[size_t{c} * TILE + first + i] = rows[size_t{first - begin + i} * width + c];
    if (projected) {
        kernels_.normalize_quantize(x, model_.embedding_norm, width, begin, end, scratch.packed.get(),
                                    scratch.scales.get());
        wait(part);
        linear(model_.projection, tile, part, scratch, Finish::store, panel(hidden_, tile));
        quantize(panel(hidden_, tile), model_.hidden, tile, part, scratch);
    } else {
        normalize_quantize(x, model_.embedding_norm, tile, part, scratch);
    }
    project(tile, first, part, scratch);
}

// Queries, keys and values of a layer from the quantised hidden state in `scratch`.
void Forward::project(uint32_t tile, const Layer &layer, Part part, Scratch &scratch) {
    const uint32_t heads = model_.heads;
    const float factor = LOG2_E / std::sqrt(static_cast<float>(head_size_));
    const Range mine = share(heads, part.index, part.count);
    const size_t head_floats = size_t{head_size_} * TILE;
    float *x = scratch.panel.get();
    linear(layer.query, tile, part, scratch, Finish::store, x);
    for (uint32_t h = mine.begin; h < mine.end; h++)
        kernels_.quantize_queries(
            x + h * head_floats, head_size_, lanes(tile), factor,
            queries_.get() + (size_t{tile} * heads + h) * head_blocks_ * kernels_.packed_block,
            query_scale_.get() + (size_t{tile} * heads + h) * TILE);
    wait(part);
    linear(layer.key, tile, part, scratch, Finish::store, x);
    for (uint32_t h = mine.begin; h < mine.end; h++) {
        const size_t slot = (size_t{h} * tiles_ + tile) * TILE;
        kernels_.quantize_keys(x + h * head_floats, head_size_, lanes(tile),
                               keys_.get() + (size_t{tile} * heads + h) * head_blocks_ * TILE * 4,
                               key_scale_.get() + slot, key_sum_.get() + slot);
    }
    linear(layer.value, tile, part, scratch, Finish::store, panel(values_float_, tile));
}

void Forward::attention(uint32_t thread, Scratch &scratch) {
    const uint32_t hidden = model_.hidden, heads = model_.heads;
    const uint32_t items = static_cast<uint32_t>(sequences_.size()) * heads;
    const Range mine = share(items, thread, team_->threads());
    AttentionHead head;
    head.channels = head_size_;
    head.key_stride = size_t{heads} * head_blocks_ * TILE * 4;
    head.scores = scratch.scores.get();
    head.probabilities = scratch.probabilities.get();
    for (uint32_t item = mine.begin; item < mine.end; item++) {
        const uint32_t number = item / heads, h = item % heads;
        const Sequence &sequence = sequences_[number];
        const size_t channel = size_t{h} * head_size_;
        int8_t *values = values_.get() + size_t{hidden} * sequence.first_slot + channel * sequence.slots;
        float *value_scale = value_scale_.get() + size_t{number} * hidden + channel;
        int32_t *value_sum = value_sum_.get() + size_t{number} * hidden + channel;
        kernels_.quantize_values(values_float_.get() + channel * TILE, size_t{hidden} * TILE,
                                 sequence.first_slot, sequence.length, head_size_, values, sequence.slots,
                                 value_scale, value_sum);
        head.first_slot = sequence.first_slot;
        head.length = sequence.length;
        head.keys = keys_.get() + size_t{h} * head_blocks_ * TILE * 4;
        head.key_scale = key_scale_.get() + size_t{h} * tiles_ * TILE;
        head.key_sum = key_sum_.get() + size_t{h} * tiles_ * TILE;
        head.values = values;
        head.value_stride = sequence.slots;
        head.value_scale = value_scale;
        head.value_sum = value_sum;
        const uint32_t last_slot = sequence.first_slot + sequence.slots;
        for (uint32_t tile = sequence.first_slot / TILE; tile * TILE < last_slot; tile++) {
            head.lane_begin = std::max(sequence.first_slot, tile * TILE) - tile * TILE;
            head.lane_end = std::min(last_slot, (tile + 1) * TILE) - tile * TILE;
            head.queries = queries_.get() + (size_t{tile} * heads + h) * head_blocks_ * kernels_.packed_block;
            head.query_scale = query_scale_.get() + (size_t{tile} * heads + h) * TILE;
            head.out = panel(context_, tile) + channel * TILE;
            kernels_.attend(head);
        }
    }
}

void Forward::after_attention(uint32_t tile, const Layer &layer, Part part, Scratch &scratch) {
    const uint32_t hidden = model_.hidden, intermediate = layer.intermediate.out;
    const Range groups = share(lanes(tile) / GROUP, part.index, part.count);
    float *x = panel(hidden_, tile), *inner = scratch.panel.get();
    quantize(panel(context_, tile), hidden, tile, part, scratch);
    linear(layer.attention_output, tile, part, scratch, Finish::add, x);
    normalize_quantize(x, layer.attention_norm, tile, part, scratch);
    linear(layer.intermediate, tile, part, scratch, Finish::store, inner);
    if (model_.activation == Activation::gelu) {
        kernels_.gelu_quantize(inner, intermediate, groups.begin * GROUP, groups.end * GROUP,
                               scratch.packed.get(), scratch.scales.get());
        wait(part);
    } else {
        const Range rows = share(intermediate, part.index, part.count);
        kernels_.activate(model_.activation, inner + size_t{rows.begin} * TILE, rows.end - rows.begin,
                          lanes(tile));
        wait(part);
        quantize(inner, intermediate, tile, part, scratch);
    }
    linear(layer.output, tile, part, scratch, Finish::add, x);
    if (&layer == &model_.layers.back()) {
        kernels_.normalize(x, layer.output_norm, hidden, groups.begin * GROUP, groups.end * GROUP);
        return;
    }
    normalize_quantize(x, layer.output_norm, tile, part, scratch);
    project(tile, (&layer)[1], part, scratch);
}

// The head on the first token of each sequence, TILE sequences at a time.
void Forward::classify(Scratch &scratch) {
    const uint32_t hidden = model_.hidden, labels = model_.head_out.out;
    float *x = scratch.panel.get();
    for (size_t first = 0; first < sequences_.size(); first += TILE) {
        const uint32_t count = static_cast<uint32_t>(std::min<size_t>(TILE, sequences_.size() - first));
        const uint32_t used = round_up(count, GROUP);
        for (uint32_t c = 0; c < hidden; c++)
            for (uint32_t i = 0; i < used; i++) {
                const uint32_t slot = i < count ? sequences_[first + i].first_slot : 0;
                x[size_t{c} * TILE + i] = panel(hidden_, slot / TILE)[size_t{c} * TILE + slot % TILE];
            }
        uint32_t width = hidden;
        if (model_.head_dense.out != 0) {
            kernels_.quantize(x, width, 0, used, scratch.packed.get(), scratch.scales.get());
            kernels_.linear(model_.head_dense, 0, chunks(model_.head_dense), scratch.packed.get(),
                            *scratch.scales.get(), used, Finish::store, x, scratch.partial.get());
            width = model_.head_dense.out;
            kernels_.activate(model_.head_activation, x, width, used);
        }
        kernels_.quantize(x, width, 0, used, scratch.packed.get(), scratch.scales.get());
        kernels_.linear(model_.head_out, 0, chunks(model_.head_out), scratch.packed.get(),
                        *scratch.scales.get(), used, Finish::store, x, scratch.partial.get());
        for (uint32_t i = 0; i < count; i++)
            for (uint32_t c = 0; c < labels; c++) sequences_[first + i].out[c] = x[size_t{c} * TILE + i];
    }
}

void Forward::answer_tokens(Scratch &scratch) {
    const uint32_t labels = model_.head_out.out;
    float *answers = scratch.panel.get();
    for (uint32_t tile = 0; tile < tiles_; tile++) {
        const Part all{0, 1};
        quantize(panel(hidden_, tile), model_.hidden, tile, all, scratch);
        linear(model_.head_out, tile, all, scratch, Finish::store, answers);
        for (const Sequence &sequence : sequences_)
            for (uint32_t lane = 0; lane < lanes(tile); lane++) {
                const uint32_t slot = tile * TILE + lane;
                if (slot < sequence.first_slot || slot >= sequence.first_slot + sequence.length) continue;
                float *at = sequence.out + size_t{slot - sequence.first_slot} * labels;
                for (uint32_t c = 0; c < labels; c++) at[c] = answers[size_t{c} * TILE + lane];
            }
    }
}

void Forward::pool(const Sequence &sequence) {
    float square = 0.0f;
    for (uint32_t c = 0; c < model_.hidden; c++) {
        float sum = 0.0f;
        for (uint32_t t = 0; t < sequence.length; t++) {
            const uint32_t slot = sequence.first_slot + t;
            sum += panel(hidden_, slot / TILE)[size_t{c} * TILE + slot % TILE];
        }
        const float mean = sum / static_cast<float>(sequence.length);
        sequence.out[c] = mean;
        square += mean * mean;
    }
    if (!model_.normalize) return;
    const float length = std::max(std::sqrt(square), 1e-12f);
    for (uint32_t c = 0; c < model_.hidden; c++) sequence.out[c] /= length;
}

}  // namespace edgebert
