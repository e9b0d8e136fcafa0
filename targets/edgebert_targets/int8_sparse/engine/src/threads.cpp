#include "threads.h"

#include <sched.h>
#if !defined(__wasm__)
#include <pthread.h>
#endif

#include <vector>

#include "error.h"

namespace edgebert {

namespace {

inline void relax() {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

// Spins shortly, because waits inside a call are shorter than a system call, then gives the CPU away, because
// there may be fewer CPUs than threads.
constexpr uint32_t SPINS = 4000;

}  // namespace

void Barrier::reset(uint32_t threads) { threads_ = threads; }

void Barrier::wait() {
    if (threads_ == 1) return;
    const uint32_t phase = __atomic_load_n(&phase_, __ATOMIC_RELAXED);
    if (__atomic_add_fetch(&arrived_, 1, __ATOMIC_ACQ_REL) == threads_) {
        __atomic_store_n(&arrived_, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&phase_, phase + 1, __ATOMIC_RELEASE);
        return;
    }
    for (uint32_t spins = 0; __atomic_load_n(&phase_, __ATOMIC_ACQUIRE) == phase; spins++) {
        if (spins < SPINS)
            relax();
        else
            sched_yield();
    }
}

#if defined(__wasm__)

// A WebAssembly module has one thread unless its page asks for more, which we do not.
struct Team::State {};

Team::Team(uint32_t threads) : threads_(threads), state_(new State) { barrier_.reset(threads); }

Team::~Team() = default;

eb_status Team::create(uint32_t threads, std::unique_ptr<Team> *out) {
    if (threads != 1) return fail(EB_ERROR_THREADS, "%u threads asked for; WebAssembly has one", threads);
    out->reset(new Team(1));
    return EB_OK;
}

void Team::run(void (*work)(void *context, uint32_t thread), void *context) { work(context, 0); }

#else

struct Team::State {
    pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
    pthread_cond_t wake = PTHREAD_COND_INITIALIZER;
    pthread_cond_t done = PTHREAD_COND_INITIALIZER;
    std::vector<pthread_t> workers;
    void (*work)(void *, uint32_t) = nullptr;
    void *context = nullptr;
    uint64_t call = 0;
    uint32_t running = 0;
    uint32_t next_thread = 1;
    bool stop = false;

    static void *loop(void *self) {
        State &state = *static_cast<State *>(self);
        pthread_mutex_lock(&state.mutex);
        const uint32_t thread = state.next_thread++;
        for (uint64_t seen = 0;;) {
            while (!state.stop && state.call == seen) pthread_cond_wait(&state.wake, &state.mutex);
            if (state.stop) break;
            seen = state.call;
            pthread_mutex_unlock(&state.mutex);
            state.work(state.context, thread);
            pthread_mutex_lock(&state.mutex);
            if (--state.running == 0) pthread_cond_signal(&state.done);
        }
        pthread_mutex_unlock(&state.mutex);
        return nullptr;
    }
};

Team::Team(uint32_t threads) : threads_(threads), state_(new State) { barrier_.reset(threads); }

eb_status Team::create(uint32_t threads, std::unique_ptr<Team> *out) {
    std::unique_ptr<Team> team(new Team(threads));
    team->state_->workers.reserve(threads - 1);
    for (uint32_t i = 1; i < threads; i++) {
        pthread_t worker;
        const int error = pthread_create(&worker, nullptr, State::loop, team->state_.get());
        if (error != 0)
            return fail(EB_ERROR_THREADS, "cannot start thread %u of %u (error %d); ask for fewer threads",
                        i + 1, threads, error);
        team->state_->workers.push_back(worker);
    }
    *out = std::move(team);
    return EB_OK;
}

Team::~Team() {
    pthread_mutex_lock(&state_->mutex);
    state_->stop = true;
    pthread_cond_broadcast(&state_->wake);
    pthread_mutex_unlock(&state_->mutex);
    for (pthread_t worker : state_->workers) pthread_join(worker, nullptr);
}

void Team::run(void (*work)(void *context, uint32_t thread), void *context) {
    if (threads_ == 1) return work(context, 0);
    pthread_mutex_lock(&state_->mutex);
    state_->work = work;
    state_->context = context;
    state_->running = threads_ - 1;
    state_->call++;
    pthread_cond_broadcast(&state_->wake);
    pthread_mutex_unlock(&state_->mutex);
    work(context, 0);
    pthread_mutex_lock(&state_->mutex);
    while (state_->running != 0) pthread_cond_wait(&state_->done, &state_->mutex);
    pthread_mutex_unlock(&state_->mutex);
}

#endif

}  // namespace edgebert
