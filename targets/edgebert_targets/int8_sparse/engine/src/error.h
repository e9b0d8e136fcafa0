// How a failure travels inside the engine: a status and a line of text, stored per thread.
#pragma once

#include "edgebert.h"

namespace edgebert {

// Stores the message for eb_last_error and returns `status`. printf-like.
eb_status fail(eb_status status, const char *format, ...) __attribute__((format(printf, 2, 3)));

// The calling thread's last message.
const char *last_error();

}  // namespace edgebert
