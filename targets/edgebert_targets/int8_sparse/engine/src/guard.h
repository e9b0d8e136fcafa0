// The end of every failure inside the engine that is no status: a lack of memory.
#pragma once

#include <new>
#include <utility>

#include "error.h"

#if !defined(__cpp_exceptions) && !defined(__wasm__)
#include <csetjmp>
#endif

namespace edgebert {

#if defined(__cpp_exceptions)

[[noreturn]] inline void out_of_memory() { throw std::bad_alloc(); }

// Runs `call`; what it or the standard library throws is a lack of memory.
template <typename Call>
eb_status guarded(Call call) {
    try {
        return call();
    } catch (...) {
        return fail(EB_ERROR_MEMORY, "out of memory; free some or use smaller inputs");
    }
}

#elif defined(__wasm__)

// Nothing can jump out of a call there: a lack of memory ends the program, which in a browser is one module.
[[noreturn]] inline void out_of_memory() { __builtin_trap(); }

template <typename Call>
eb_status guarded(Call call) {
    return call();
}

#else

// Without exceptions a lack of memory jumps back to the guarded call of its thread. What the call had
// allocated by then is lost, and nothing else: no lock is held where memory is asked for.
struct Guard {
    jmp_buf place;
    Guard *outer;
};

// The calling thread's innermost guard; null outside of a guarded call.
Guard *&current_guard();

// Called by operator new too. Aborts outside of a guarded call.
[[noreturn]] void out_of_memory();

template <typename Call>
eb_status guarded(Call call) {
    Guard guard;
    guard.outer = current_guard();
    if (setjmp(guard.place) != 0) {
        return fail(EB_ERROR_MEMORY, "out of memory; free some or use smaller inputs");
    }
    current_guard() = &guard;
    const eb_status status = call();
    current_guard() = guard.outer;
    return status;
}

#endif

}  // namespace edgebert
