#include "guard.h"

#if !defined(__cpp_exceptions) && !defined(__wasm__)

#include <cstdlib>

namespace edgebert {

Guard *&current_guard() {
    static thread_local Guard *guard = nullptr;
    return guard;
}

void out_of_memory() {
    Guard *guard = current_guard();
    if (guard == nullptr) std::abort();
    current_guard() = guard->outer;
    longjmp(guard->place, 1);
}

}  // namespace edgebert

#endif
