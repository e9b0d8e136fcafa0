// The output file of the runner: each example's ids and logits ("Runner files 1" in docs/formats.md).
#ifndef EDGEBERT_RUNNER_ANSWERS_H
#define EDGEBERT_RUNNER_ANSWERS_H

#include <cstddef>
#include <cstdint>
#include <string>

namespace runner {

class Answers {
  public:
    explicit Answers(uint32_t examples);
    void add(const int32_t *ids, size_t tokens, const float *logits, size_t floats);
    // Writes a temporary file beside `path` and renames it. Throws Failure.
    void write(const std::string &path) const;

  private:
    std::string bytes_;
};

}  // namespace runner

#endif
