// The generated tables behind unicode.h; see tools/make_unicode_tables.py.
#pragma once

#include <cstdint>

namespace edgebert::unicode_tables {

// kinds[blocks[block_index[c / 128] * 128 + c % 128]] are the properties of c.
extern const uint16_t kinds[];
extern const uint8_t block_index[];
extern const uint8_t blocks[];

// Sorted keys; beside each, offset * 8 + length of its replacement in the pool.
extern const uint32_t lowercase_count, lowercase_keys[];
extern const uint16_t lowercase_places[];
extern const uint32_t decomposition_count, decomposition_keys[];
extern const uint16_t decomposition_places[];
extern const uint32_t pool[];

// Sorted; first * 256 + class: the class of all code points from `first` up to the next entry's.
extern const uint32_t combining_count, combining_ranges[];

}  // namespace edgebert::unicode_tables
