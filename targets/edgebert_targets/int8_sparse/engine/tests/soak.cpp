// Runs a model over and over: the answers stay the same bits, and memory does not grow.
//
//     soak MODEL THREADS CALLS [SESSION_THREADS]
//
// THREADS threads share the model, each with its own session, and make CALLS calls together: batches of mixed
// lengths, and now and then a new session, an input that is refused, and a text. Meant for sanitizers too.
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>
#include <vector>

#include "edgebert.h"

// Sanitizers keep records of their own, which grow.
#if defined(__has_feature)
#define EDGEBERT_FEATURE(name) __has_feature(name)
#else
#define EDGEBERT_FEATURE(name) 0
#endif
#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__) || EDGEBERT_FEATURE(thread_sanitizer) || \
    EDGEBERT_FEATURE(address_sanitizer)
constexpr bool MEMORY_COUNTS = false;
#else
constexpr bool MEMORY_COUNTS = true;
#endif

namespace {

struct Batch {
    std::vector<int32_t> ids, lengths;
    std::vector<float> expected;
};

struct Job {
    const eb_model *model;
    int32_t session_threads;
    const std::vector<Batch> *batches;
    std::atomic<long> *left;
    std::atomic<int> *wrong;
    bool has_text;
};

void fail(const char *what) {
    std::fprintf(stderr, "%s: %s\n", what, eb_last_error());
    std::exit(1);
}

eb_session *open_session(const Job &job) {
    eb_session *session = nullptr;
    if (eb_session_create(job.model, job.session_threads, &session) != EB_OK) fail("eb_session_create");
    return session;
}

std::vector<float> answer(eb_session *session, const Batch &batch) {
    eb_batch call = {batch.ids.data(), nullptr, batch.lengths.data(), batch.lengths.size()};
    size_t floats = 0;
    if (eb_output_size(session, &call, &floats) != EB_OK) fail("eb_output_size");
    std::vector<float> out(floats);
    if (eb_run(session, &call, out.data(), floats) != EB_OK) fail("eb_run");
    return out;
}

bool same(const std::vector<float> &one, const std::vector<float> &other) {
    return one.size() == other.size() &&
           std::memcmp(one.data(), other.data(), one.size() * sizeof(float)) == 0;
}

void work(const Job *job) {
    eb_session *session = open_session(*job);
    std::vector<float> text(1 << 16);
    for (long n; (n = job->left->fetch_sub(1)) > 0;) {
        const Batch &batch = (*job->batches)[static_cast<size_t>(n) % job->batches->size()];
        if (!same(answer(session, batch), batch.expected)) ++*job->wrong;
        if (n % 64 == 0) {
            eb_session_free(session);
            session = open_session(*job);
        }
        if (n % 16 == 0) {
            int32_t id = -1, length = 1;
            eb_batch bad = {&id, nullptr, &length, 1};
            if (eb_run(session, &bad, text.data(), text.size()) != EB_ERROR_INPUT) ++*job->wrong;
            if (job->has_text &&
                eb_run_text(session, "a text", 6, "a pair", 6, text.data(), text.size()) != EB_OK)
                fail("eb_run_text");
        }
    }
    eb_session_free(session);
}

std::vector<Batch> make_batches(const eb_info &info) {
    std::vector<Batch> batches(12);
    uint32_t state = 1;
    auto below = [&](uint32_t limit) {
        state = state * 1664525u + 1013904223u;
        return static_cast<int32_t>((state >> 8) % limit);
    };
    for (Batch &batch : batches) {
        batch.lengths.resize(static_cast<size_t>(1 + below(3)));
        for (int32_t &length : batch.lengths) length = 1 + below(static_cast<uint32_t>(info.max_length));
        for (int32_t length : batch.lengths)
            for (int32_t i = 0; i < length; ++i)
                batch.ids.push_back(below(static_cast<uint32_t>(info.vocabulary)));
    }
    return batches;
}

long resident_kilobytes() {
    long pages = 0, all = 0;
    if (std::FILE *file = std::fopen("/proc/self/statm", "r")) {
        if (std::fscanf(file, "%ld %ld", &all, &pages) != 2) pages = 0;
        std::fclose(file);
    }
    return pages * (sysconf(_SC_PAGESIZE) / 1024);
}

void run_all(const Job &job, int threads) {
    std::vector<std::thread> team;
    for (int i = 0; i < threads; ++i) team.emplace_back(work, &job);
    for (std::thread &thread : team) thread.join();
}

}  // namespace

int main(int count, char **arguments) {
    if (count < 4) {
        std::fprintf(stderr, "usage: soak MODEL THREADS CALLS [SESSION_THREADS]\n");
        return 2;
    }
    int threads = std::atoi(arguments[2]);
    long calls = std::atol(arguments[3]);
    eb_model *model = nullptr;
    eb_info info;
    if (eb_model_open(arguments[1], &model) != EB_OK) fail("eb_model_open");
    if (eb_model_info(model, &info) != EB_OK) fail("eb_model_info");
    std::vector<Batch> batches = make_batches(info);
    std::atomic<long> left{0};
    std::atomic<int> wrong{0};
    Job job = {model,    count > 4 ? std::atoi(arguments[4]) : 1,
               &batches, &left,
               &wrong,   info.has_tokenizer && info.task == EB_TASK_CLASSIFICATION};
    eb_session *session = open_session(job);
    for (Batch &batch : batches) batch.expected = answer(session, batch);
    eb_session_free(session);

    left = calls / 10;
    run_all(job, threads);  // buffers and arenas reach their size
    long before = resident_kilobytes();
    left = calls;
    run_all(job, threads);
    long after = resident_kilobytes();
    eb_model_close(model);
    std::printf("%ld calls, %d wrong, resident %ld kB, then %ld kB\n", calls, wrong.load(), before, after);
    bool grew = MEMORY_COUNTS && after > before + before / 10 + 1024;
    return wrong != 0 || grew ? 1 : 0;
}
