// Shadow memory: who touched which bytes when, per granule of four bytes.
#pragma once

#include "engine.h"

#pragma GCC visibility push(hidden)

namespace emulation {

constexpr int kGranule = 4;

struct Touch {
  uint32_t when;   // a tick of Clocks
  uint32_t where;  // low half of the address in the kernel's code, or a line of the source
  uint16_t agent;
  uint8_t bytes;  // a bit per byte of the granule
  Access kind;
};

template <int N>
struct Cell {
  Touch touches[N];
};
using SharedCell = Cell<6>;
using GlobalCell = Cell<3>;

// A write that races with `other` unless it leaves the memory as it was: judged when it has happened.
struct OpenWrite {
  bool active;
  uintptr_t address;
  size_t bytes;
  uint8_t before[64];
  Touch other;
  bool other_block;
  int agent;
  const void* where;
};

extern OpenWrite open_write;

// ---- races.cpp ----
void touch_shared(SharedCell* cells, size_t offset, uintptr_t address, size_t bytes, Access kind, int agent, const void* where);
void touch_global(GlobalCell* cells, size_t offset, uintptr_t address, size_t bytes, Access kind, int agent, const void* where);

// ---- memory.cpp ----
// One access in the name of an agent (a thread or the copy engine) that is not an instruction of a fiber.
void access_as(int agent, uintptr_t address, size_t bytes, Access kind, size_t alignment, const void* where);
inline const void* at_line(int line) { return reinterpret_cast<const void*>(uintptr_t(line)); }

// Shared bytes are read or written past the load-store units: a fence must follow the threads' writes.
void check_proxy(uintptr_t address, size_t bytes, const void* where);

// Shared bytes that an asynchronous copy may be writing.
void begin_flight(const void* destination, size_t bytes, int line);
void end_flight(const void* destination, size_t bytes);

// Shared bytes that a product of a warpgroup may be reading: whole granules.
void begin_reading(const void* source, size_t bytes, int line);
void end_reading(const void* source, size_t bytes);

}  // namespace emulation

#pragma GCC visibility pop
