// `bench` and `facts`: what the device computes with, and how fast.
#include <sys/resource.h>

#include <chrono>
#include <cstdio>
#include <cstring>
#include <vector>

#include "commands.h"
#include "failure.h"
#include "model.h"

namespace runner {

namespace {

using Clock = std::chrono::steady_clock;

long long since(Clock::time_point begin) {
    return std::chrono::duration_cast<std::chrono::nanoseconds>(Clock::now() - begin).count();
}

// No-ops on silicon, which tell an emulator's counter where a timed inference begins and ends.
inline void begin_region() {
#if defined(__aarch64__)
    __asm__ __volatile__("hint #42" ::: "memory");
#endif
}

inline void end_region() {
#if defined(__aarch64__)
    __asm__ __volatile__("hint #43" ::: "memory");
#endif
}

// VmHWM begins anew at exec; ru_maxrss may show what the parent used before.
long long peak_bytes() {
    long long kilobytes = -1;
    if (std::FILE *file = std::fopen("/proc/self/status", "r")) {
        char line[256];
        while (kilobytes < 0 && std::fgets(line, sizeof line, file) != nullptr)
            if (std::strncmp(line, "VmHWM:", 6) == 0) std::sscanf(line + 6, "%lld", &kilobytes);
        std::fclose(file);
    }
    if (kilobytes < 0) {
        rusage usage;
        getrusage(RUSAGE_SELF, &usage);
        kilobytes = usage.ru_maxrss;
    }
    return kilobytes * 1024;
}

// Ids spread over the vocabulary: the time of an inference does not depend on which they are.
std::vector<int32_t> some_ids(int32_t length, int32_t vocabulary) {
    std::vector<int32_t> ids(static_cast<size_t>(length));
    for (size_t i = 0; i < ids.size(); i++)
        ids[i] = static_cast<int32_t>((i * 7919 + 1) % static_cast<size_t>(vocabulary));
    return ids;
}

void print_list(const char *names) {
    std::printf("[\"");
    for (; *names != '\0'; names++) {
        if (*names == ',')
            std::printf("\", \"");
        else
            std::putchar(*names);
    }
    std::printf("\"]");
}

}  // namespace

void facts() {
    const char *isa = eb_isa();
    if (isa == nullptr) throw Failure(eb_last_error());
    std::printf("{\"version\": \"%s\", \"kernels\": \"%s\", \"available\": ", eb_version(), isa);
    print_list(eb_isa_available());
    std::printf("}\n");
}

void bench(const BenchOptions &options) {
    const Clock::time_point begin = Clock::now();
    const Model model = open_model(options.model);
    const Session session = create_session(model, options.threads);
    const long long load = since(begin);
    const eb_info info = info_of(model);
    if (options.length > info.max_length)
        throw Failure("the model takes " + std::to_string(info.max_length) + " tokens, not " +
                      std::to_string(options.length));
    const std::vector<int32_t> ids = some_ids(options.length, info.vocabulary);
    const eb_batch batch = {ids.data(), nullptr, &options.length, 1};
    size_t floats = 0;
    check(eb_output_size(session.get(), &batch, &floats));
    std::vector<float> logits(floats);
    for (int32_t i = 0; i < options.warmup; i++) check(eb_run(session.get(), &batch, logits.data(), floats));
    std::vector<long long> times(static_cast<size_t>(options.repeats));
    for (long long &time : times) {
        const Clock::time_point start = Clock::now();
        begin_region();
        const eb_status status = eb_run(session.get(), &batch, logits.data(), floats);
        end_region();
        time = since(start);
        check(status);
    }
    std::printf("{\"version\": \"%s\", \"kernels\": \"%s\", \"length\": %d, \"threads\": %d, ", eb_version(),
                eb_isa(), options.length, options.threads);
    std::printf("\"load_ns\": %lld, \"peak_bytes\": %lld, \"ns\": [", load, peak_bytes());
    for (size_t i = 0; i < times.size(); i++) std::printf("%s%lld", i == 0 ? "" : ", ", times[i]);
    std::printf("]}\n");
}

}  // namespace runner
