// BertNormalizer: cleaning, Chinese characters set apart, accents stripped, lower case.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace edgebert {

class BertNormalizer {
  public:
    BertNormalizer() = default;
    BertNormalizer(bool clean_text, bool chinese_characters, bool strip_accents, bool lowercase);

    // True when every text stays as it is.
    bool is_identity() const { return identity_; }

    // `text` is valid UTF-8; `*out` is overwritten. Thread-safe.
    void normalize(std::string_view text, std::string *out) const;

  private:
    // Nonstarters that wait for the starter behind them, to be ordered by combining class.
    using Pending = std::vector<uint64_t>;

    void add(uint32_t c, Pending *pending, std::string *out) const;
    void decomposed(uint32_t c, Pending *pending, std::string *out) const;
    void flush(Pending *pending, std::string *out) const;
    void emit(uint32_t c, uint32_t kind, std::string *out) const;

    bool clean_text_ = false, chinese_characters_ = false, strip_accents_ = false, lowercase_ = false;
    bool identity_ = true;
    char ascii_[128];  // what becomes of an ASCII character; `DROPPED` for none
    static constexpr char DROPPED = static_cast<char>(0xFF);
};

}  // namespace edgebert
