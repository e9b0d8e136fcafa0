// What ends a command: one line on stderr and exit code 1.
#ifndef EDGEBERT_RUNNER_FAILURE_H
#define EDGEBERT_RUNNER_FAILURE_H

#include <stdexcept>
#include <string>

#include "edgebert.h"

namespace runner {

using Failure = std::runtime_error;

// Throws what the library says about a call that failed.
inline void check(eb_status status) {
    if (status != EB_OK) throw Failure(eb_last_error());
}

}  // namespace runner

#endif
