// The input file of the runner: texts, pairs of texts, or token ids ("Runner files 1" in docs/formats.md).
#ifndef EDGEBERT_RUNNER_EXAMPLES_H
#define EDGEBERT_RUNNER_EXAMPLES_H

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace runner {

// Either a text with or without a second one, or ids with their token types; all point into the file.
struct Example {
    const char *text = nullptr, *pair = nullptr;
    size_t text_size = 0, pair_size = 0;
    std::vector<int32_t> ids, token_types;
};

struct Examples {
    std::vector<char> bytes;
    std::vector<Example> rows;
    bool are_texts = true;
};

// Throws Failure for a file that cannot be read, is too large, or is not in the format to its last byte.
Examples read_examples(const std::string &path);

}  // namespace runner

#endif
