// Warp-synchronous operations: lanes meet, the last to arrive executes for all of them.
#include <algorithm>
#include <list>

#include "engine.h"

namespace emulation {

struct Meeting {
  const char* name;
  int line;
  uint32_t mask, arrived;
  WarpFunction execute;
  void* operands[kWarpSize];
};

struct Warp {
  int first = 0;
  uint32_t living = 0;
  std::list<Meeting> meetings;
  uint32_t asking = 0;  // lanes that wait in __activemask
  uint32_t active[kWarpSize];
};

namespace {

Warp warps[kMostThreads / kWarpSize];

Thread& lane_of(const Warp& warp, int lane) { return threads[warp.first + lane]; }

void complete(Warp& warp, std::list<Meeting>::iterator meeting) {
  const uint32_t lanes = meeting->arrived;
  meeting->execute(meeting->operands, lanes);
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (lanes >> lane & 1) wake(lane_of(warp, lane));
  }
  warp.meetings.erase(meeting);
}

bool is_complete(const Warp& warp, const Meeting& meeting) {
  return (meeting.arrived & warp.living) == (meeting.mask & warp.living);
}

bool release_active_mask(Warp& warp) {
  if (!warp.asking) return false;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if ((warp.living >> lane & 1) && lane_of(warp, lane).state == State::Runnable) return false;
  }
  // The lanes that stopped at the same line run together.
  while (warp.asking) {
    const int line = lane_of(warp, __builtin_ctz(warp.asking)).line;
    uint32_t group = 0;
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if ((warp.asking >> lane & 1) && lane_of(warp, lane).line == line) group |= 1u << lane;
    }
    for (int lane = 0; lane < kWarpSize; ++lane) {
      if (!(group >> lane & 1)) continue;
      warp.active[lane] = group;
      wake(lane_of(warp, lane));
    }
    warp.asking &= ~group;
  }
  return true;
}

}  // namespace

void start_warps() {
  for (int first = 0; first < thread_count; first += kWarpSize) {
    Warp& warp = warps[first / kWarpSize];
    const int lanes = std::min(kWarpSize, thread_count - first);
    warp.first = first;
    warp.living = lanes == kWarpSize ? ~0u : (1u << lanes) - 1;
    warp.meetings.clear();
    warp.asking = 0;
    for (int lane = 0; lane < lanes; ++lane) threads[first + lane].warp = &warp;
  }
}

void lane_left(Thread& thread) {
  Warp& warp = *thread.warp;
  warp.living &= ~(1u << thread.lane);
  for (auto meeting = warp.meetings.begin(); meeting != warp.meetings.end();) {
    auto next = std::next(meeting);
    if (meeting->arrived && is_complete(warp, *meeting)) complete(warp, meeting);
    meeting = next;
  }
}

void warp_operation(const char* name, int line, uint32_t mask, WarpFunction execute, void* operand) {
  settle_writes();
  Thread& thread = *current;
  Warp& warp = *thread.warp;
  const uint32_t bit = 1u << thread.lane;
  if (!(mask & bit))
    fail("%s at line %d: lane %d executes it, but the mask 0x%08x does not name it", name, line, thread.lane, mask);
  auto meeting = warp.meetings.begin();
  for (; meeting != warp.meetings.end(); ++meeting) {
    if (meeting->mask == mask && meeting->line == line && meeting->execute == execute && meeting->name == name) break;
  }
  if (meeting == warp.meetings.end()) {
    warp.meetings.push_back({name, line, mask, 0, execute, {}});
    meeting = std::prev(warp.meetings.end());
  }
  meeting->arrived |= bit;
  meeting->operands[thread.lane] = operand;
  if (is_complete(warp, *meeting)) {
    complete(warp, meeting);
  } else {
    block_thread(name, line);
  }
}

void full_warp_operation(const char* name, int line, WarpFunction execute, void* operand) {
  if (current->warp->living != ~0u)
    fail("%s at line %d needs all 32 lanes; living lanes: 0x%08x", name, line, current->warp->living);
  warp_operation(name, line, ~0u, execute, operand);
}

Thread& thread_of(uint32_t lane) { return lane_of(*current->warp, int(lane)); }

// __activemask(): the lanes that run together are not defined by the program. Here: all lanes of the warp that stop at
// this line while no other lane of the warp can run.
uint32_t active_mask(int line) {
  Warp& warp = *current->warp;
  warp.asking |= 1u << current->lane;
  block_thread("__activemask", line);
  return warp.active[current->lane];
}

bool release_active_masks() {
  bool released = false;
  for (int first = 0; first < thread_count; first += kWarpSize) released |= release_active_mask(warps[first / kWarpSize]);
  return released;
}

// ---- the primitives ----
namespace {

struct ShuffleOperand {
  Shuffle kind;
  uint64_t bits, result;
  int operand, width;
};

void execute_shuffle(void** operands, uint32_t lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    auto& mine = *static_cast<ShuffleOperand*>(operands[lane]);
    const int segment = lane & ~(mine.width - 1), last = segment + mine.width - 1;
    int source = lane;
    switch (mine.kind) {
      case Shuffle::Index: source = segment + (mine.operand & (mine.width - 1)); break;
      case Shuffle::Up: source = lane - mine.operand; break;
      case Shuffle::Down: source = lane + mine.operand; break;
      case Shuffle::Xor: source = lane ^ mine.operand; break;
    }
    if (mine.kind == Shuffle::Up ? source < segment : source > last) source = lane;
    // A lane that does not take part gives an undefined value: the poison.
    mine.result = source >= 0 && (lanes >> source & 1) ? static_cast<ShuffleOperand*>(operands[source])->bits : ~uint64_t(0);
  }
}

struct VoteOperand {
  Vote kind;
  bool predicate;
  uint32_t result;
};

void execute_vote(void** operands, uint32_t lanes) {
  uint32_t ballot = 0;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (lanes >> lane & 1) ballot |= uint32_t(static_cast<VoteOperand*>(operands[lane])->predicate) << lane;
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    auto& mine = *static_cast<VoteOperand*>(operands[lane]);
    mine.result = mine.kind == Vote::Ballot ? ballot : mine.kind == Vote::Any ? ballot != 0 : ballot == lanes;
  }
}

struct MatchOperand {
  uint64_t bits;
  uint32_t result;
};

void execute_match(void** operands, uint32_t lanes) {
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (!(lanes >> lane & 1)) continue;
    auto& mine = *static_cast<MatchOperand*>(operands[lane]);
    mine.result = 0;
    for (int other = 0; other < kWarpSize; ++other) {
      if ((lanes >> other & 1) && static_cast<MatchOperand*>(operands[other])->bits == mine.bits) mine.result |= 1u << other;
    }
  }
}

struct ReduceOperand {
  Reduction kind;
  bool is_signed;
  uint32_t value;
};

uint32_t combine(const ReduceOperand& how, uint32_t a, uint32_t b) {
  const bool less = how.is_signed ? int32_t(a) < int32_t(b) : a < b;
  switch (how.kind) {
    case Reduction::Add: return a + b;
    case Reduction::Min: return less ? a : b;
    case Reduction::Max: return less ? b : a;
    case Reduction::And: return a & b;
    case Reduction::Or: return a | b;
    case Reduction::Xor: return a ^ b;
  }
  return 0;
}

void execute_reduce(void** operands, uint32_t lanes) {
  const ReduceOperand how = *static_cast<ReduceOperand*>(operands[__builtin_ctz(lanes)]);
  uint32_t total = how.value;
  for (int lane = __builtin_ctz(lanes) + 1; lane < kWarpSize; ++lane) {
    if (lanes >> lane & 1) total = combine(how, total, static_cast<ReduceOperand*>(operands[lane])->value);
  }
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (lanes >> lane & 1) static_cast<ReduceOperand*>(operands[lane])->value = total;
  }
}

// Of the warp's primitives only __syncwarp orders memory accesses.
void execute_barrier(void** operands, uint32_t lanes) {
  std::vector<int> agents;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    if (lanes >> lane & 1) agents.push_back(static_cast<Thread*>(operands[lane])->linear);
  }
  synchronise(agents, agents);
}

}  // namespace

uint64_t shuffle(int line, Shuffle kind, uint32_t mask, uint64_t bits, int operand, int width) {
  if (width <= 0 || width > kWarpSize || (width & (width - 1))) fail("a shuffle at line %d has the width %d", line, width);
  ShuffleOperand mine = {kind, bits, 0, operand, width};
  warp_operation("__shfl_sync", line, mask, execute_shuffle, &mine);
  return mine.result;
}

uint32_t vote(int line, Vote kind, uint32_t mask, bool predicate) {
  VoteOperand mine = {kind, predicate, 0};
  warp_operation("a warp vote", line, mask, execute_vote, &mine);
  return mine.result;
}

uint32_t match_any(int line, uint32_t mask, uint64_t bits) {
  MatchOperand mine = {bits, 0};
  warp_operation("__match_any_sync", line, mask, execute_match, &mine);
  return mine.result;
}

uint32_t reduce(int line, Reduction kind, bool is_signed, uint32_t mask, uint32_t value) {
  ReduceOperand mine = {kind, is_signed, value};
  warp_operation("__reduce_sync", line, mask, execute_reduce, &mine);
  return mine.value;
}

void warp_barrier(int line, uint32_t mask) { warp_operation("__syncwarp", line, mask, execute_barrier, current); }

}  // namespace emulation
