// libFuzzer over eb_run: batches of odd shapes on one model give an error or finite numbers, and the same
// ones for each sequence by itself.
//
//     EDGEBERT_FUZZ_MODEL=model.gguf run_fuzz CORPUS
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "edgebert.h"

namespace {

eb_model *model;
eb_session *sessions[2];  // one thread and two
eb_info info;

void check(bool holds) {
    if (!holds) std::abort();
}

// Numbers from the fuzzer's bytes, zeros after their end.
struct Bytes {
    const uint8_t *data;
    size_t size;

    uint8_t next() {
        if (size == 0) return 0;
        --size;
        return *data++;
    }
};

std::vector<float> run(eb_session *session, const eb_batch &batch, eb_status *status) {
    size_t floats = 0;
    *status = eb_output_size(session, &batch, &floats);
    std::vector<float> out(floats);
    if (*status == EB_OK) *status = eb_run(session, &batch, out.data(), out.size());
    return out;
}

}  // namespace

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    const char *path = std::getenv("EDGEBERT_FUZZ_MODEL");
    check(path != nullptr && eb_model_open(path, &model) == EB_OK && eb_model_info(model, &info) == EB_OK);
    for (int32_t i = 0; i < 2; ++i) check(eb_session_create(model, i + 1, &sessions[i]) == EB_OK);
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    Bytes bytes = {data, size};
    uint8_t flags = bytes.next();
    bool typed = flags & 1;
    eb_session *session = sessions[flags >> 1 == 127];  // seldom: waking a thread costs more than a small run
    std::vector<int32_t> ids, types, lengths(bytes.next() % 9);
    for (int32_t &length : lengths) {
        length = bytes.next() - 2;  // now and then not a length
        // What is there follows from the lengths that can be right; wrong ones must be found before it is
        // read.
        for (int32_t i = 0; i < length && length <= info.max_length; ++i) {
            uint8_t byte = bytes.next();
            ids.push_back(byte == 255 ? info.vocabulary - 1 + bytes.next() % 2
                                      : static_cast<int32_t>(byte) * 31 % info.vocabulary);
            types.push_back(info.token_types < 2 ? 0 : byte % 2);
        }
    }
    eb_batch batch = {ids.data(), typed ? types.data() : nullptr, lengths.data(), lengths.size()};
    eb_status status;
    std::vector<float> out = run(session, batch, &status);
    if (status != EB_OK) {
        check(eb_last_error()[0] != '\0');
        return 0;
    }
    for (float value : out) check(std::isfinite(value));
    size_t first = 0, row = 0;
    for (int32_t &length : lengths) {
        eb_batch alone = {ids.data() + first, typed ? types.data() + first : nullptr, &length, 1};
        std::vector<float> own = run(sessions[0], alone, &status);
        check(status == EB_OK && std::memcmp(own.data(), out.data() + row, own.size() * sizeof(float)) == 0);
        first += static_cast<size_t>(length);
        row += own.size();
    }
    return 0;
}
