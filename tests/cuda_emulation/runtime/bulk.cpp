// mbarrier objects and bulk copies (TMA). A copy is carried out by the copy engine as late as possible: when no thread can
// go on without it. Until then its bytes are in flight.
#include <algorithm>
#include <cstring>
#include <deque>
#include <map>

#include "../include/ptx.h"
#include "memory.h"
#include "tensor_map.h"

namespace emulation {

namespace {

struct TransactionBarrier {
  uint32_t expected, pending;
  int64_t bytes;  // announced and not yet arrived
  uint32_t phase;
  Moment current, completed;
};

struct BulkCopy {
  int line;
  uint32_t destination, barrier;
  TensorMap map;  // rank 0: a plain copy of `bytes` from `source`
  int32_t corner[5];
  const char* source;
  uint32_t bytes;
  Moment issued;
};

struct BulkStore {
  int line;
  TensorMap map;
  int32_t corner[5];
  uint32_t source;
};

std::map<uint32_t, TransactionBarrier> barriers;  // by shared address
std::deque<BulkCopy> copies;

struct Stores {
  std::vector<BulkStore> open;
  std::deque<std::vector<BulkStore>> groups;
};
std::map<int, Stores> stores;  // by thread

// The 16-byte units of a swizzled tile: bits 4 to 6 of the address are exchanged with bits 7 to 9 (1, 2 or 3 of them).
uint32_t swizzled(uint32_t address, int mode) { return address ^ (address >> 7 & ((1u << mode) - 1)) << 4; }

TransactionBarrier& barrier_at(uint32_t address, int line, const char* what, int agent) {
  access_as(agent, reinterpret_cast<uintptr_t>(generic_address(address)), 8, Access::Atomic, 8, at_line(line));
  auto found = barriers.find(address);
  if (found == barriers.end()) fail("%s at line %d: no mbarrier was initialised at shared address 0x%x", what, line, address);
  return found->second;
}

void complete_if_due(TransactionBarrier& barrier) {
  if (barrier.pending || barrier.bytes) return;
  barrier.phase ^= 1;
  barrier.pending = barrier.expected;
  barrier.completed = barrier.current;
}

uint32_t tile_bytes(const TensorMap& map) {
  uint32_t bytes = map.element_bytes;
  for (int i = 0; i < map.rank; ++i) bytes *= map.box[i];
  return bytes;
}

// Calls visit(shared address, global address or nullptr outside of the tensor, bytes) for each 16 bytes of a tile.
template <class F>
void each_unit(const TensorMap& map, const int32_t* corner, uint32_t shared, F visit) {
  const uint32_t row_bytes = map.box[0] * map.element_bytes, rows = tile_bytes(map) / row_bytes;
  for (uint32_t row = 0; row < rows; ++row) {
    int64_t offset = 0;
    bool inside = true;
    for (int i = 1, rest = int(row); i < map.rank; ++i) {
      const int64_t at = int64_t(corner[i]) + rest % int(map.box[i]);
      rest /= int(map.box[i]);
      inside &= at >= 0 && at < int64_t(map.extents[i]);
      offset += at * int64_t(map.strides[i - 1]);
    }
    for (uint32_t byte = 0; byte < row_bytes; byte += map.element_bytes) {
      const int64_t at = int64_t(corner[0]) + byte / map.element_bytes;
      const bool here = inside && at >= 0 && at < int64_t(map.extents[0]);
      visit(swizzled(shared + row * row_bytes + byte, map.swizzle), here ? map.base + offset + at * map.element_bytes : nullptr,
            map.element_bytes);
    }
  }
}

const TensorMap& map_of(const void* map, int line, uint32_t rank) {
  const TensorMap& tensor = *static_cast<const TensorMap*>(map);
  if (tensor.magic != kTensorMapMagic) fail("the operand at line %d is no tensor map", line);
  if (tensor.rank != rank) fail("a copy of rank %u at line %d from a tensor map of rank %d", rank, line, tensor.rank);
  return tensor;
}

void land(BulkCopy& copy) {
  acquire_from(copy.issued, kCopyEngine);
  char* destination = static_cast<char*>(generic_address(copy.destination));
  const uint32_t bytes = copy.map.rank ? tile_bytes(copy.map) : copy.bytes;
  end_flight(destination, bytes);
  access_as(kCopyEngine, reinterpret_cast<uintptr_t>(destination), bytes, Access::Write, 16, at_line(copy.line));
  if (copy.map.rank) {
    each_unit(copy.map, copy.corner, copy.destination, [&](uint32_t target, const char* source, uint32_t size) {
      void* place = generic_address(target);
      if (!source) {
        memset(place, 0, size);
        return;
      }
      access_as(kCopyEngine, reinterpret_cast<uintptr_t>(source), size, Access::Read, 1, at_line(copy.line));
      memcpy(place, source, size);
      if (copy.map.rounds) {
        float value;
        memcpy(&value, source, sizeof value);
        const uint32_t rounded = round_to_tf32(value);
        memcpy(place, &rounded, sizeof rounded);
      }
    });
  } else {
    access_as(kCopyEngine, reinterpret_cast<uintptr_t>(copy.source), bytes, Access::Read, 16, at_line(copy.line));
    memcpy(destination, copy.source, bytes);
  }
  settle_writes();
  TransactionBarrier& barrier = barrier_at(copy.barrier, copy.line, "a bulk copy", kCopyEngine);
  barrier.bytes -= bytes;
  release_into(barrier.current, kCopyEngine);
  complete_if_due(barrier);
}

void issue(BulkCopy copy, uint32_t bytes) {
  char* destination = static_cast<char*>(generic_address(copy.destination));
  const size_t alignment = copy.map.rank ? 128 : 16;
  check_proxy(reinterpret_cast<uintptr_t>(destination), bytes, at_line(copy.line));
  access_as(current->linear, reinterpret_cast<uintptr_t>(destination), bytes, Access::Write, alignment, at_line(copy.line));
  settle_writes();
  release_into(copy.issued, current->linear);
  begin_flight(destination, bytes, copy.line);
  copies.push_back(std::move(copy));
}

void carry_out(const BulkStore& store) {
  each_unit(store.map, store.corner, store.source, [&](uint32_t source, char* target, uint32_t size) {
    if (!target) return;
    access_as(current->linear, reinterpret_cast<uintptr_t>(generic_address(source)), size, Access::Read, 1,
              at_line(store.line));
    access_as(current->linear, reinterpret_cast<uintptr_t>(target), size, Access::Write, 1, at_line(store.line));
    memcpy(target, generic_address(source), size);
    settle_writes();
  });
}

}  // namespace

void start_block_copies() {
  barriers.clear();
  copies.clear();
  stores.clear();
}

bool land_bulk_copy() {
  if (copies.empty()) return false;
  const bool newest_first = order_now == Order::Reverse;
  BulkCopy copy = newest_first ? std::move(copies.back()) : std::move(copies.front());
  newest_first ? copies.pop_back() : copies.pop_front();
  land(copy);
  for (int t = 0; t < thread_count; ++t) {
    if (threads[t].state == State::Blocked && !strcmp(threads[t].waits_for, "an mbarrier")) wake(threads[t]);
  }
  return true;
}

void finish_bulk_stores() { bulk_wait(current->line, 0); }

// ---- mbarrier ----
void mbarrier_init(int line, uint32_t address, uint32_t count) {
  access_as(current->linear, reinterpret_cast<uintptr_t>(generic_address(address)), 8, Access::Write, 8, at_line(line));
  settle_writes();
  if (!count) fail("mbarrier.init at line %d for no arrivals", line);
  barriers[address] = {count, count, 0, 0, {}, {}};
}

void mbarrier_expect(int line, uint32_t address, uint32_t bytes) {
  barrier_at(address, line, "mbarrier.expect_tx", current->linear).bytes += bytes;
}

uint64_t mbarrier_arrive(int line, uint32_t address, uint32_t count) {
  TransactionBarrier& barrier = barrier_at(address, line, "mbarrier.arrive", current->linear);
  if (count > barrier.pending) {
    fail("mbarrier.arrive at line %d: %u arrivals, but the phase waits for %u more of %u", line, count, barrier.pending,
         barrier.expected);
  }
  const uint64_t token = barrier.phase;
  release_into(barrier.current, current->linear);
  barrier.pending -= count;
  complete_if_due(barrier);
  for (int t = 0; t < thread_count; ++t) {
    if (threads[t].state == State::Blocked && !strcmp(threads[t].waits_for, "an mbarrier")) wake(threads[t]);
  }
  return token;
}

bool mbarrier_test(int line, uint32_t address, uint32_t parity) {
  const TransactionBarrier& barrier = barrier_at(address, line, "mbarrier.test_wait", current->linear);
  if (barrier.phase == (parity & 1)) {
    yield_thread();
    return false;
  }
  acquire_from(barrier.completed, current->linear);
  return true;
}

void mbarrier_wait(int line, uint32_t address, uint32_t parity) {
  const TransactionBarrier& barrier = barrier_at(address, line, "mbarrier.try_wait", current->linear);
  while (barrier.phase == (parity & 1)) block_thread("an mbarrier", line);
  acquire_from(barrier.completed, current->linear);
}

// ---- bulk copies ----
void bulk_tensor_load(int line, uint32_t rank, uint32_t destination, const void* map, const int32_t* corner, uint32_t barrier) {
  BulkCopy copy = {line, destination, barrier, map_of(map, line, rank), {}, nullptr, 0, {}};
  std::copy_n(corner, rank, copy.corner);
  issue(std::move(copy), tile_bytes(copy.map));
}

void bulk_load(int line, uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier) {
  if (bytes % 16) fail("cp.async.bulk at line %d of %u bytes: a multiple of 16 is needed", line, bytes);
  issue({line, destination, barrier, {}, {}, static_cast<const char*>(source), bytes, {}}, bytes);
}

void bulk_tensor_store(int line, uint32_t rank, const void* map, const int32_t* corner, uint32_t source) {
  BulkStore store = {line, map_of(map, line, rank), {}, source};
  std::copy_n(corner, rank, store.corner);
  const uint32_t bytes = tile_bytes(store.map);
  access_as(current->linear, reinterpret_cast<uintptr_t>(generic_address(source)), bytes, Access::Read, 128, at_line(line));
  check_proxy(reinterpret_cast<uintptr_t>(generic_address(source)), bytes, at_line(line));
  stores[current->linear].open.push_back(store);
}

void bulk_commit(int) {
  Stores& mine = stores[current->linear];
  mine.groups.push_back(std::move(mine.open));
  mine.open.clear();
}

void bulk_wait(int, uint32_t groups) {
  auto found = stores.find(current->linear);
  if (found == stores.end()) return;
  Stores& mine = found->second;
  while (mine.groups.size() > groups) {
    for (const BulkStore& store : mine.groups.front()) carry_out(store);
    mine.groups.pop_front();
  }
}

}  // namespace emulation
