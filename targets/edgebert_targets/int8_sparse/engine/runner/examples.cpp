#include "examples.h"

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>

#include "failure.h"
#include "numbers.h"

namespace runner {

namespace {

constexpr char MAGIC[8] = {'E', 'B', 'R', 'U', 'N', 'I', 'N', '1'};
constexpr size_t MAX_FILE = size_t{256} << 20;
constexpr uint32_t NO_PAIR = 0xffffffffu;
constexpr uint32_t TEXTS = 1, IDS = 2;

struct Closed {
    void operator()(std::FILE *file) const { std::fclose(file); }
};

std::vector<char> read_file(const std::string &path) {
    std::unique_ptr<std::FILE, Closed> file(std::fopen(path.c_str(), "rb"));
    if (file == nullptr) throw Failure(path + " cannot be opened: " + std::strerror(errno));
    std::vector<char> bytes;
    char chunk[1 << 16];
    for (size_t got; (got = std::fread(chunk, 1, sizeof chunk, file.get())) > 0;) {
        if (bytes.size() + got > MAX_FILE)
            throw Failure(path + " is larger than 256 MiB; send fewer examples at a time");
        bytes.insert(bytes.end(), chunk, chunk + got);
    }
    if (std::ferror(file.get()) != 0) throw Failure(path + " cannot be read: " + std::strerror(errno));
    return bytes;
}

// Takes numbers and runs of bytes off the front of the file; what is not there is a Failure.
class Reader {
  public:
    Reader(const std::string &path, const std::vector<char> &bytes) : path_(path), bytes_(bytes) {}

    size_t left() const { return bytes_.size() - place_; }

    const char *take(size_t count) {
        if (count > left()) damaged("ends too early");
        const char *start = bytes_.data() + place_;
        place_ += count;
        return start;
    }

    uint32_t number() { return load_u32(take(4)); }

    std::vector<int32_t> numbers(uint32_t count) {
        const char *from = take(size_t{4} * count);
        std::vector<int32_t> values(count);
        for (uint32_t i = 0; i < count; i++) values[i] = static_cast<int32_t>(load_u32(from + size_t{4} * i));
        return values;
    }

    [[noreturn]] void damaged(const char *what) const {
        throw Failure(path_ + " " + what + "; write it again as docs/formats.md says");
    }

  private:
    const std::string &path_;
    const std::vector<char> &bytes_;
    size_t place_ = 0;
};

Example read_text(Reader &reader) {
    Example row;
    const uint32_t text = reader.number(), pair = reader.number();
    row.text_size = text;
    row.text = reader.take(text);
    if (pair != NO_PAIR) {
        row.pair_size = pair;
        row.pair = reader.take(pair);
    }
    return row;
}

Example read_ids(Reader &reader) {
    Example row;
    const uint32_t count = reader.number();
    if (count == 0) reader.damaged("holds an example without ids");
    if (count > reader.left() / 8) reader.damaged("ends too early");
    row.ids = reader.numbers(count);
    row.token_types = reader.numbers(count);
    return row;
}

}  // namespace

Examples read_examples(const std::string &path) {
    Examples examples;
    examples.bytes = read_file(path);
    Reader reader(path, examples.bytes);
    if (std::memcmp(reader.take(sizeof MAGIC), MAGIC, sizeof MAGIC) != 0)
        reader.damaged("is no input file of this runner");
    const uint32_t kind = reader.number(), count = reader.number();
    if (kind != TEXTS && kind != IDS) reader.damaged("holds neither texts nor ids");
    examples.are_texts = kind == TEXTS;
    // Every example takes four bytes at least, so that a lie about their number costs no memory.
    if (count > reader.left() / 4) reader.damaged("ends too early");
    examples.rows.reserve(count);
    for (uint32_t i = 0; i < count; i++)
        examples.rows.push_back(examples.are_texts ? read_text(reader) : read_ids(reader));
    if (reader.left() != 0) reader.damaged("goes on after its last example");
    return examples;
}

}  // namespace runner
