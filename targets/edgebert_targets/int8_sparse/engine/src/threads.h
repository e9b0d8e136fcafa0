// A team of threads that runs one function together and sleeps between calls.
#pragma once

#include <cstdint>
#include <memory>

#include "edgebert.h"

namespace edgebert {

// Where threads of a team wait for each other. One thread alone never waits.
class Barrier {
  public:
    void reset(uint32_t threads);
    void wait();

  private:
    uint32_t threads_ = 1;
    uint32_t arrived_ = 0;  // atomic
    uint32_t phase_ = 0;    // atomic
};

class Team {
  public:
    // `threads` >= 1, the caller included. EB_ERROR_THREADS when they cannot be started.
    static eb_status create(uint32_t threads, std::unique_ptr<Team> *out);
    ~Team();

    uint32_t threads() const { return threads_; }

    // work(context, thread) on every thread; returns when all have. Workers then sleep.
    void run(void (*work)(void *context, uint32_t thread), void *context);

    // For `work`: waits until every thread has come here.
    void barrier() { barrier_.wait(); }

  private:
    struct State;
    explicit Team(uint32_t threads);
    uint32_t threads_;
    Barrier barrier_;
    std::unique_ptr<State> state_;
};

}  // namespace edgebert
