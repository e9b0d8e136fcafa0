#include "answers.h"

#include <cerrno>
#include <cstdio>
#include <cstring>

#include "failure.h"
#include "numbers.h"

namespace runner {

Answers::Answers(uint32_t examples) : bytes_("EBRUNOU1") { append_u32(bytes_, examples); }

void Answers::add(const int32_t *ids, size_t tokens, const float *logits, size_t floats) {
    append_u32(bytes_, static_cast<uint32_t>(tokens));
    append_u32(bytes_, static_cast<uint32_t>(floats));
    for (size_t i = 0; i < tokens; i++) append_u32(bytes_, static_cast<uint32_t>(ids[i]));
    for (size_t i = 0; i < floats; i++) {
        uint32_t bits;
        std::memcpy(&bits, &logits[i], sizeof bits);
        append_u32(bytes_, bits);
    }
}

void Answers::write(const std::string &path) const {
    const std::string temporary = path + ".part";
    std::FILE *file = std::fopen(temporary.c_str(), "wb");
    if (file == nullptr) throw Failure(temporary + " cannot be written: " + std::strerror(errno));
    const bool whole = std::fwrite(bytes_.data(), 1, bytes_.size(), file) == bytes_.size();
    const bool closed = std::fclose(file) == 0;
    if (!whole || !closed || std::rename(temporary.c_str(), path.c_str()) != 0) {
        const std::string why = std::strerror(errno);
        std::remove(temporary.c_str());
        throw Failure(path + " cannot be written: " + why);
    }
}

}  // namespace runner
