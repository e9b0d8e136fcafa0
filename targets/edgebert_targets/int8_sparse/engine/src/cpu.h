// Which kernels this CPU can run, and which of them are used.
#pragma once

#include "kernels.h"

namespace edgebert {

// The kernels that EDGEBERT_ISA names, else the best ones that this CPU can run. Null when EDGEBERT_ISA names
// none, or some that this CPU lacks; last_error then says so. The variable is read in every call.
// Thread-safe.
const Kernels *choose_kernels();

// Names of all kernels that this CPU can run, best first, separated by commas.
const char *available_kernels();

}  // namespace edgebert
