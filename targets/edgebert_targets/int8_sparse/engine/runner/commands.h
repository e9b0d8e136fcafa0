// The runner's commands; each throws Failure.
#ifndef EDGEBERT_RUNNER_COMMANDS_H
#define EDGEBERT_RUNNER_COMMANDS_H

#include <cstdint>
#include <string>

namespace runner {

struct AnswerOptions {
    std::string model, in, out;
    int32_t threads = 1;
    int32_t max_length = 0;  // tokens that texts are cut at; 0: the model's maximum
    bool logits = true;      // false: ids alone
};

struct BenchOptions {
    std::string model;
    int32_t length = 128, threads = 1, repeats = 20, warmup = 3;
};

// Answers every example of a file.
void answer(const AnswerOptions &options);

// Times inferences of one sequence and prints a JSON object.
void bench(const BenchOptions &options);

// Prints version and kernels as a JSON object.
void facts();

}  // namespace runner

#endif
