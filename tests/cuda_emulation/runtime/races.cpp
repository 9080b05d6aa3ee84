// The race detector: two accesses to the same byte, at least one a write, by agents that no barrier orders.
#include <algorithm>
#include <cstring>

#include "memory.h"

namespace emulation {

OpenWrite open_write;

namespace {

const char* verb(Access kind) {
  switch (kind) {
    case Access::Read: return "read";
    case Access::Write: return "written";
    case Access::Atomic: return "changed atomically";
  }
  return "";
}

std::string name(int agent) {
  if (agent == kCopyEngine) return "a bulk copy";
  if (agent >= kTensorCores) return "wgmma of warpgroup " + std::to_string(agent - kTensorCores);
  const uint3 t = threads[agent].index;
  return "thread (" + std::to_string(t.x) + "," + std::to_string(t.y) + "," + std::to_string(t.z) + ")";
}

const void* whole_address(uint32_t low, const void* here) {
  if (low < (1u << 24)) return at_line(int(low));
  // Kernels are loaded near each other: the upper half is that of the present access, or of a neighbour of it.
  const uintptr_t upper = reinterpret_cast<uintptr_t>(here) < (1u << 24) ? 0 : reinterpret_cast<uintptr_t>(here) >> 32;
  return reinterpret_cast<const void*>(upper << 32 | low);
}

[[noreturn]] void report(const Touch& other, bool other_block, int agent, uintptr_t address, size_t bytes, Access kind,
                         const void* where) {
  const std::string there = source_line(whole_address(other.where, where));
  fail("race in %s: %zu bytes are %s by %s%s and were %s by %s%s, %s", describe(reinterpret_cast<void*>(address)).c_str(),
       bytes, verb(kind), name(agent).c_str(), source_line(where).c_str(), verb(other.kind),
       other_block ? "another block" : name(other.agent).c_str(), there.c_str(),
       other_block ? "and blocks are not ordered" : "with no barrier between");
}

void conflict(const Touch& other, bool other_block, int agent, uintptr_t address, size_t bytes, Access kind,
              const void* where) {
  if (kind != Access::Write) report(other, other_block, agent, address, bytes, kind, where);
  // Threads that store the same value to the same place are common and harmless.
  if (open_write.active) return;
  open_write = {true, address, std::min(bytes, sizeof open_write.before), {}, other, other_block, agent, where};
  memcpy(open_write.before, reinterpret_cast<const void*>(address), open_write.bytes);
}

bool compatible(Access a, Access b) { return a == b && a != Access::Write; }

template <int N, bool kAcrossBlocks>
void touch(Cell<N>* cells, size_t offset, uintptr_t address, size_t bytes, Access kind, int agent, const void* where) {
  const uint32_t now = clocks.now[agent];
  const uint32_t* known = clocks.known[agent];
  const uint32_t stale = kAcrossBlocks ? clocks.launch : clocks.horizon;
  for (size_t begin = offset; begin < offset + bytes;) {
    const size_t granule = begin / kGranule;
    const size_t end = std::min(offset + bytes, (granule + 1) * kGranule);
    const uint8_t mask = uint8_t(((1u << (end - granule * kGranule)) - 1) & ~((1u << (begin % kGranule)) - 1));
    Touch* target = nullptr;
    for (Touch& other : cells[granule].touches) {
      if (other.when < stale) {
        if (!target) target = &other;
        continue;
      }
      if (!(other.bytes & mask)) continue;
      const bool covered = !(other.bytes & ~mask);
      const bool other_block = kAcrossBlocks && other.when < clocks.block;
      if (!other_block && other.agent == agent) {
        if (covered && (other.kind == kind || kind == Access::Write)) target = &other;
        continue;
      }
      if (compatible(other.kind, kind)) continue;
      const bool ordered =
          other_block ? other.when <= clocks.acquired : other.when < clocks.horizon || other.when <= known[other.agent];
      if (!ordered) {
        conflict(other, other_block, agent, address, bytes, kind, where);
      } else if (covered && kind == Access::Write) {
        target = &other;
      }
    }
    // All places taken: another touch is forgotten, in turn, so a race can be missed but none is invented.
    if (!target) target = &cells[granule].touches[(now + unsigned(agent)) % N];
    *target = {now, uint32_t(reinterpret_cast<uintptr_t>(where)), uint16_t(agent), mask, kind};
    begin = end;
  }
}

}  // namespace

void touch_shared(SharedCell* cells, size_t offset, uintptr_t address, size_t bytes, Access kind, int agent,
                  const void* where) {
  touch<6, false>(cells, offset, address, bytes, kind, agent, where);
}

void touch_global(GlobalCell* cells, size_t offset, uintptr_t address, size_t bytes, Access kind, int agent,
                  const void* where) {
  touch<3, true>(cells, offset, address, bytes, kind, agent, where);
}

void settle_writes() {
  if (!open_write.active) return;
  const OpenWrite write = open_write;
  open_write.active = false;
  if (memcmp(write.before, reinterpret_cast<const void*>(write.address), write.bytes) == 0) return;
  report(write.other, write.other_block, write.agent, write.address, write.bytes, Access::Write, write.where);
}

}  // namespace emulation
