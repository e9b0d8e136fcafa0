// A forward pass: from token ids to the task's numbers.
#pragma once

#include <memory>
#include <vector>

#include "buffer.h"
#include "edgebert.h"
#include "kernels.h"
#include "model.h"
#include "threads.h"

namespace edgebert {

class Forward {
  public:
    // The model must outlive it. EB_ERROR_THREADS when the threads cannot be started.
    static eb_status create(const Model &model, const Kernels &kernels, uint32_t threads,
                            std::unique_ptr<Forward> *out);

    // Runs a batch whose ids, token types and lengths have been checked; `out` as eb_run writes it.
    // Throws std::bad_alloc.
    eb_status run(const eb_batch &batch, float *out);

  private:
    // A sequence and the slots of its tokens.
    struct Sequence {
        const int32_t *ids, *types;  // types may be null
        uint32_t length, first_slot, slots;
        float *out;
    };

    // What a thread, or all threads together, need while they work on a tile.
    struct Scratch {
        Buffer<uint8_t> packed;
        Buffer<float> panel;
        Buffer<float> rows;  // embeddings, [lane][width]
        Buffer<int32_t> partial;
        Buffer<TokenScales> scales;
        Buffer<float> scores;
        Buffer<uint8_t> probabilities;
    };

    // A thread's part of the work on a tile: 0 of 1, or its number among all.
    struct Part {
        uint32_t index, count;
    };

    Forward(const Model &model, const Kernels &kernels, std::unique_ptr<Team> team);

    void reserve();
    void run_sequences();
    static void thread_main(void *self, uint32_t thread);
    void work(uint32_t thread);

    void for_tiles(uint32_t thread, void (Forward::*step)(uint32_t, const Layer &, Part, Scratch &),
                   const Layer &layer);
    void wait(Part part);
    uint32_t lanes(uint32_t tile) const;
    const Sequence &sequence_of(uint32_t slot) const;
    float *panel(const Buffer<float> &buffer, uint32_t tile) const;
    void quantize(const float *x, uint32_t rows, uint32_t tile, Part part, Scratch &scratch);
    void normalize_quantize(float *x, const Norm &norm, uint32_t tile, Part part, Scratch &scratch);
    void linear(const Linear &linear, uint32_t tile, Part part, Scratch &scratch, Finish finish, float *out);

    void embed(uint32_t tile, const Layer &first, Part part, Scratch &scratch);
    void project(uint32_t tile, const Layer &layer, Part part, Scratch &scratch);
    void attention(uint32_t thread, Scratch &scratch);
    void after_attention(uint32_t tile, const Layer &layer, Part part, Scratch &scratch);
    void classify(Scratch &scratch);
    void answer_tokens(Scratch &scratch);
    void pool(const Sequence &sequence);

    const Model &model_;
    const Kernels &kernels_;
    std::unique_ptr<Team> team_;
    uint32_t head_size_, head_blocks_;  // channels of a head, and blocks of 4 of them

    std::vector<Sequence> sequences_;
    uint32_t tiles_ = 0, slots_ = 0, longest_ = 0;
    bool by_tile_ = true;  // each thread takes tiles, or all threads share each tile

    Buffer<float> hidden_, values_float_, context_;  // [tile][hidden][TILE]
    Buffer<uint8_t> queries_, keys_;                 // [tile][head][block]
    Buffer<float> query_scale_;                      // [tile][head][TILE]
    Buffer<float> key_scale_, value_scale_;          // [head][slot]; [sequence][hidden]
    Buffer<int32_t> key_sum_, value_sum_;            // the same
    Buffer<int8_t> values_;                          // [sequence][hidden][slot of the sequence]
    std::vector<std::unique_ptr<Scratch>> scratch_;  // a thread
};

}  // namespace edgebert
