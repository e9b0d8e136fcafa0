// Little-endian numbers in files, whatever the machine's own order.
#ifndef EDGEBERT_RUNNER_NUMBERS_H
#define EDGEBERT_RUNNER_NUMBERS_H

#include <cstdint>
#include <string>

namespace runner {

inline uint32_t load_u32(const char *from) {
    uint32_t value = 0;
    for (int i = 3; i >= 0; i--) value = value << 8 | static_cast<unsigned char>(from[i]);
    return value;
}

inline void append_u32(std::string &to, uint32_t value) {
    for (int i = 0; i < 4; i++, value >>= 8) to.push_back(static_cast<char>(value & 0xff));
}

}  // namespace runner

#endif
