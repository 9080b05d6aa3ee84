// Happens-before: vector clocks over the threads of a block, on one global counter that never goes back, so that nothing
// has to be cleared between barriers, blocks or launches.
#include <algorithm>

#include "engine.h"

namespace emulation {

Clocks clocks;

void start_launch_clocks() {
  clocks.launch = ++clocks.counter;
  clocks.acquired = 0;
}

void start_block_clocks() {
  everyone_synchronises();
  clocks.block = clocks.horizon;
  clocks.acquired = clocks.launch - 1;
}

// All threads of the block at once: nothing before now can race with anything after it.
void everyone_synchronises() {
  clocks.horizon = ++clocks.counter;
  std::fill_n(clocks.now, kAgents, clocks.horizon);
}

// A barrier of some threads: those who wait learn what those who arrived know.
void synchronise(const std::vector<int>& releasing, const std::vector<int>& acquiring) {
  static uint32_t joined[kAgents];
  std::fill_n(joined, kAgents, 0);
  const uint32_t tick = ++clocks.counter;
  for (int agent : releasing) {
    for (int u = 0; u < kAgents; ++u) joined[u] = std::max(joined[u], clocks.known[agent][u]);
  }
  for (int agent : releasing) {
    joined[agent] = std::max(joined[agent], clocks.now[agent]);
    clocks.now[agent] = tick;
  }
  for (int agent : acquiring) {
    for (int u = 0; u < kAgents; ++u) clocks.known[agent][u] = std::max(clocks.known[agent][u], joined[u]);
  }
}

// What this thread and those before it wrote, whoever does not go through the load-store units may read from now on.
void proxy_fence() {
  const int me = current->linear;
  for (int u = 0; u < thread_count; ++u) {
    clocks.fenced[u] = std::max({clocks.fenced[u], clocks.known[me][u], clocks.horizon - 1});
  }
  clocks.fenced[me] = clocks.now[me];
  clocks.now[me] = ++clocks.counter;
}

void release_into(Moment& moment, int agent) {
  if (moment.ticks.empty()) moment.ticks.assign(kAgents, 0);
  for (int u = 0; u < kAgents; ++u) moment.ticks[u] = std::max(moment.ticks[u], clocks.known[agent][u]);
  moment.ticks[agent] = std::max(moment.ticks[agent], clocks.now[agent]);
  clocks.now[agent] = ++clocks.counter;
}

void acquire_from(const Moment& moment, int agent) {
  for (size_t u = 0; u < moment.ticks.size(); ++u) clocks.known[agent][u] = std::max(clocks.known[agent][u], moment.ticks[u]);
}

}  // namespace emulation
