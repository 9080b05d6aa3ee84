// Barriers of a block: __syncthreads, bar.sync and bar.arrive.
#include <vector>

#include "engine.h"

namespace emulation {

namespace {

struct Barrier {
  uint32_t expected = 0;  // 0: all living threads
  int line = 0;
  std::vector<int> arrived;
  std::vector<int> waiting;
};

Barrier barriers[kNamedBarriers];
int counted = 0;         // of the __syncthreads_count that threads wait at
int counted_before = 0;  // of the one that completed last

void complete(Barrier& barrier) {
  if (&barrier == &barriers[0]) {
    counted_before = counted;
    counted = 0;
  }
  if (int(barrier.arrived.size()) == alive) {
    everyone_synchronises();
  } else {
    synchronise(barrier.arrived, barrier.waiting);
  }
  for (int t : barrier.waiting) wake(threads[t]);
  barrier = Barrier();
}

bool is_complete(const Barrier& barrier) {
  return barrier.arrived.size() >= (barrier.expected ? barrier.expected : uint32_t(alive));
}

void arrive(Barrier& barrier, const char* name, int line, bool wait) {
  settle_writes();
  barrier.arrived.push_back(current->linear);
  if (wait) barrier.waiting.push_back(current->linear);
  if (is_complete(barrier)) {
    complete(barrier);
  } else if (wait) {
    block_thread(name, line);
  }
}

}  // namespace

void start_barriers() {
  counted = 0;
  for (Barrier& barrier : barriers) barrier = Barrier();
}

// A thread that returned no longer counts for __syncthreads (compute capability 7.0 and up).
void thread_left_barriers() {
  for (Barrier& barrier : barriers) {
    if (!barrier.arrived.empty() && !barrier.expected && is_complete(barrier)) complete(barrier);
  }
}

void block_barrier(int line) {
  Barrier& barrier = barriers[0];
  if (!barrier.arrived.empty() && barrier.line != line) {
    fail("divergent barrier: this thread is at the __syncthreads of line %d, others wait at the one of line %d", line,
         barrier.line);
  }
  barrier.line = line;
  arrive(barrier, "__syncthreads", line, true);
}

int block_count(int line, bool predicate) {
  counted += predicate;
  block_barrier(line);
  return counted_before;
}

void named_barrier(int line, uint32_t id, uint32_t count, bool wait) {
  if (id >= kNamedBarriers) fail("barrier %u at line %d: there are 16 of them", id, line);
  if (count % kWarpSize || count > uint32_t(thread_count)) {
    fail("barrier %u at line %d for %u threads of a block of %d: a multiple of 32 is needed", id, line, count, thread_count);
  }
  Barrier& barrier = barriers[id];
  if (!barrier.arrived.empty() && barrier.expected != count) {
    fail("barrier %u at line %d for %u threads, but others wait for %u", id, line, count, barrier.expected);
  }
  barrier.expected = count;
  arrive(barrier, wait ? "bar.sync" : "bar.arrive", line, wait);
}

void yield_now() { yield_thread(); }

void fence() {
  if (current) current->fenced = true;
}

}  // namespace emulation
