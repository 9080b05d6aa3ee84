// The emulated device: threads of the running block, what they wait for, and the clocks that order their memory accesses.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <stdexcept>
#include <string>
#include <vector>

#include "../include/emulation.h"

#pragma GCC visibility push(hidden)  // of the runtime's library alone

namespace emulation {

constexpr int kWarpSize = 32;
constexpr int kMostThreads = 1024;
constexpr int kNamedBarriers = 16;
constexpr int kCopyEngine = kMostThreads;      // the "thread" in whose name bulk copies (TMA) write
constexpr int kTensorCores = kCopyEngine + 1;  // one for each warpgroup: in whose name wgmma reads
constexpr int kWarpgroup = 128;
constexpr int kAgents = kTensorCores + kMostThreads / kWarpgroup;
constexpr size_t kStackBytes = 256 << 10;

struct Warp;

struct AsyncCopy {  // one cp.async
  void* destination;
  const void* source;
  uint32_t bytes, source_bytes;
  int line;
};

enum class State : uint8_t { Runnable, Blocked, Done };

struct Thread {
  uint3 index;
  int linear, lane;
  Warp* warp;
  void* stack_pointer;
  uintptr_t stack_low;
  State state;
  const char* waits_for;  // for the report of a deadlock
  int line;
  uint32_t accesses;  // since it was resumed
  bool polling;       // it came back to the scheduler only to look again
  bool fenced;        // a __threadfence happened: its next atomic releases what it wrote
  std::vector<AsyncCopy> open_copies;
  std::deque<std::vector<AsyncCopy>> copy_groups;
};

// ---- logical time: one counter for the whole process; every release takes the next tick ----
struct Clocks {
  uint32_t counter;   // the last tick given out
  uint32_t horizon;   // accesses before this tick happened before everything that runs now
  uint32_t launch;    // first tick of the launch
  uint32_t block;     // first tick of the block
  uint32_t acquired;  // ticks of earlier blocks up to here are ordered before this block (fence and atomic)
  uint32_t now[kAgents];
  uint32_t known[kAgents][kAgents];  // known[t][u]: accesses of u up to this tick happened before t's next one
  uint32_t fenced[kMostThreads];     // writes of a thread up to this tick are there for copy engine and tensor cores as well
};

struct Moment {  // what a synchronisation object has collected from those who released into it
  std::vector<uint32_t> ticks;
};

struct Launch {
  Kernel kernel;
  unsigned most_threads;  // of __launch_bounds__, 1024 without
  const char* name;
  void** arguments;
  dim3 grid, block;
  size_t dynamic_bytes;
};

enum class Order : int { Forward = 0, Reverse = 1, Random = 2 };
extern Order order_now;

extern Thread* current;  // nullptr outside a kernel
extern Thread threads[kMostThreads];
extern int thread_count, alive;
extern Launch launch_state;
extern uint3 block_index_now;
extern Clocks clocks;

// ---- scheduler.cpp ----
struct Failure : std::runtime_error {  // what fail() throws outside of a fiber; inside it leaves the fiber for good
  using std::runtime_error::runtime_error;
};
void block_thread(const char* waits_for, int line);  // until wake()
void wake(Thread& thread);
void yield_thread();  // stays runnable, and looks again later
int run(const Launch& launch, Order order, uint32_t seed);
const char* last_error();
void forget_error();

// ---- ordering.cpp ----
void start_launch_clocks();
void start_block_clocks();
void everyone_synchronises();
void synchronise(const std::vector<int>& releasing, const std::vector<int>& acquiring);
void release_into(Moment& moment, int agent);
void acquire_from(const Moment& moment, int agent);

// ---- warp.cpp ----
// Runs `execute` once, when every living lane of `mask` has arrived with the same operation, and then lets all go on.
// `operands[lane]` is what each lane brought.
using WarpFunction = void (*)(void** operands, uint32_t lanes);
void warp_operation(const char* name, int line, uint32_t mask, WarpFunction execute, void* operand);
void full_warp_operation(const char* name, int line, WarpFunction execute, void* operand);
Thread& thread_of(uint32_t lane);  // of the running thread's warp
void start_warps();
void lane_left(Thread& thread);
bool release_active_masks();

// ---- barrier.cpp ----
void start_barriers();
void thread_left_barriers();

// ---- memory.cpp ----
void start_block_memory(size_t dynamic_bytes);
void settle_writes();  // judges the write that the last check left open
void access(uintptr_t address, size_t bytes, Access kind, size_t alignment, const void* where);
inline bool is_own_stack(uintptr_t address) { return address - current->stack_low < kStackBytes; }
void* allocate(size_t bytes);
bool release(void* address);
bool is_shared(const void* address);
std::string describe(const void* address);

// ---- async.cpp ----
void thread_left_copies(Thread& thread);

// ---- bulk.cpp ----
void start_block_copies();
bool land_bulk_copy();      // true if something landed
void finish_bulk_stores();  // of the running thread, which leaves

// ---- warpgroup.cpp ----
void start_block_warpgroups();

// ---- hooks.cpp ----
std::string source_line(const void* where);

}  // namespace emulation

#pragma GCC visibility pop
