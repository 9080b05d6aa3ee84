// Counts what a warp's accesses cost: bank conflicts of shared memory, sectors of global memory.
#pragma once

#include "engine.h"

#pragma GCC visibility push(hidden)

namespace emulation {

extern bool counting;

// One access of the running thread, at `where` (an address in the kernel's code, or a line).
void count_access(uintptr_t address, size_t bytes, Access kind, bool shared, const void* where);

// The rows of 16 bytes that one phase of ldmatrix or stmatrix moves.
void count_rows(const uint32_t* addresses, int rows, Access kind, int line);

// After a block: accesses that not all lanes took part in are complete now.
void finish_counting_block();

}  // namespace emulation

#pragma GCC visibility pop
