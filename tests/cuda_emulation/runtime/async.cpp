// cp.async. A copy lands at the wait_group that covers it and not earlier: who reads too soon would find poison, and the
// check of the access says so first.
#include <cstring>

#include "../include/ptx.h"
#include "memory.h"
#include "traffic.h"

namespace emulation {

namespace {

void land(const AsyncCopy& copy) {
  end_flight(copy.destination, copy.bytes);
  access_as(current->linear, reinterpret_cast<uintptr_t>(copy.destination), copy.bytes, Access::Write, copy.bytes,
            at_line(copy.line));
  memcpy(copy.destination, copy.source, copy.source_bytes);
  memset(static_cast<char*>(copy.destination) + copy.source_bytes, 0, copy.bytes - copy.source_bytes);
  settle_writes();
}

}  // namespace

void cp_async(int line, uint32_t destination, const void* source, uint32_t bytes, uint32_t source_bytes) {
  if (source_bytes > bytes) fail("cp.async at line %d: %u bytes from the source for %u", line, source_bytes, bytes);
  void* target = generic_address(destination);
  // The copy may write from now on: earlier readers must be done.
  access_as(current->linear, reinterpret_cast<uintptr_t>(target), bytes, Access::Write, bytes, at_line(line));
  settle_writes();
  access_as(current->linear, reinterpret_cast<uintptr_t>(source), source_bytes, Access::Read, bytes, at_line(line));
  if (counting) {
    count_access(reinterpret_cast<uintptr_t>(target), bytes, Access::Write, true, at_line(line));
    if (source_bytes) count_access(reinterpret_cast<uintptr_t>(source), source_bytes, Access::Read, false, at_line(line));
  }
  begin_flight(target, bytes, line);
  current->open_copies.push_back({target, source, bytes, source_bytes, line});
}

void cp_async_commit() {
  current->copy_groups.push_back(std::move(current->open_copies));
  current->open_copies.clear();
}

void cp_async_wait(uint32_t groups) {
  while (current->copy_groups.size() > groups) {
    for (const AsyncCopy& copy : current->copy_groups.front()) land(copy);
    current->copy_groups.pop_front();
  }
}

void cp_async_wait_all() {
  cp_async_commit();
  cp_async_wait(0);
}

// A kernel may end with committed copies that nobody waits for; copies that were never committed are a mistake.
void thread_left_copies(Thread& thread) {
  if (!thread.open_copies.empty())
    fail("the thread ends with a cp.async that no commit_group covers (line %d)", thread.open_copies.front().line);
}

}  // namespace emulation
