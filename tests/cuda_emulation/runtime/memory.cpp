// Memory of the device: global buffers far apart from each other, the shared window, and the check of every access.
#include "memory.h"

#include <dlfcn.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <map>

#include "traffic.h"

namespace emulation {

namespace {

// ---- global memory: one buffer per 4 GiB, so that an index that leaves its buffer meets no other ----
constexpr int kSlotBits = 32;
constexpr int kSlots = 4096;
constexpr size_t kMargin = 1 << 20;  // room before a buffer, so that its neighbourhood belongs to it in reports
constexpr size_t kPage = 4096;
constexpr uint32_t kMostAccesses = 1u << 26;  // of a thread before it waits for others: seconds of work
constexpr unsigned char kPoison = 0xff;       // NaN in every floating-point format, -1 in every integer

struct Buffer {
  size_t bytes = 0;
  bool in_use = false;
  GlobalCell* cells = nullptr;
  size_t cell_bytes = 0;
};

Buffer buffers[kSlots];
int next_slot = 0;

uintptr_t global_base() {
  static const uintptr_t base = [] {
    void* memory = mmap(nullptr, size_t(kSlots) << kSlotBits, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return memory == MAP_FAILED ? uintptr_t(0) : reinterpret_cast<uintptr_t>(memory);
  }();
  return base;
}

uintptr_t start_of(int slot) { return global_base() + (uintptr_t(slot) << kSlotBits) + kMargin; }

size_t pages(size_t bytes) { return (std::max<size_t>(bytes, 1) + kPage - 1) / kPage * kPage; }

// ---- shared memory: dynamic first, then each static array, with gaps that belong to nobody ----
constexpr size_t kWindow = 512 << 10;
constexpr size_t kDynamicOffset = 1024;
constexpr size_t kGap = 128;
constexpr size_t kMostStatic = 48 << 10, kMostShared = 227 << 10;  // of a block

struct SharedArray {
  size_t offset, bytes;
};

std::vector<SharedArray> shared_arrays;
std::map<int, size_t> static_arrays;  // id -> index into shared_arrays
size_t shared_top;
SharedCell* shared_cells;
uint16_t* in_flight;  // per granule: line of the copy that may be writing it, 0 for none
struct Readers {
  uint16_t count, line;
};
Readers* being_read;  // per granule: by products of warpgroups
struct Stored {
  uint32_t when;
  int writer;
};
Stored* stored;  // per granule: the last write, if a thread's

uintptr_t shared_base() {
  static const uintptr_t base = [] {
    void* memory = mmap(nullptr, 2 * kWindow, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) fail("no memory for the shared window");
    shared_cells = new SharedCell[kWindow / kGranule]();
    in_flight = new uint16_t[kWindow / kGranule]();
    being_read = new Readers[kWindow / kGranule]();
    stored = new Stored[kWindow / kGranule]();
    return (reinterpret_cast<uintptr_t>(memory) + kWindow - 1) / kWindow * kWindow;
  }();
  return base;
}

const SharedArray* array_at(size_t offset, size_t bytes) {
  for (const SharedArray& array : shared_arrays) {
    if (offset >= array.offset && offset + bytes <= array.offset + array.bytes) return &array;
  }
  return nullptr;
}

const char* verb(Access kind) { return kind == Access::Read ? "read" : kind == Access::Write ? "write" : "atomic access"; }

[[noreturn]] void outside(uintptr_t address, size_t bytes, Access kind, const void* where) {
  fail("out of bounds: %s of %zu bytes at %s%s", verb(kind), bytes, describe(reinterpret_cast<void*>(address)).c_str(),
       source_line(where).c_str());
}

void check_shared(int agent, uintptr_t address, size_t bytes, Access kind, const void* where) {
  const size_t offset = address - shared_base();
  if (!array_at(offset, bytes)) outside(address, bytes, kind, where);
  for (size_t granule = offset / kGranule; granule <= (offset + bytes - 1) / kGranule; ++granule) {
    if (kind != Access::Read && being_read[granule].count) {
      fail(
          "wgmma still under way: %s of %zu bytes at %s%s, which the wgmma issued at line %d may be reading: no wait_group "
          "covers it "
          "yet",
          verb(kind), bytes, describe(reinterpret_cast<void*>(address)).c_str(), source_line(where).c_str(),
          being_read[granule].line);
    }
    if (!in_flight[granule]) continue;
    fail(
        "asynchronous copy still under way: %s of %zu bytes at %s%s, which the copy issued at line %d may be writing: no wait "
        "covers it yet",
        verb(kind), bytes, describe(reinterpret_cast<void*>(address)).c_str(), source_line(where).c_str(), in_flight[granule]);
  }
  if (agent >= kTensorCores) check_proxy(address, bytes, where);
  if (kind == Access::Write) {
    const Stored write = agent < kMostThreads ? Stored{clocks.now[agent], agent} : Stored{};
    std::fill(stored + offset / kGranule, stored + (offset + bytes - 1) / kGranule + 1, write);
  }
  touch_shared(shared_cells, offset, address, bytes, kind, agent, where);
}

void check_global(int agent, uintptr_t address, size_t bytes, Access kind, const void* where) {
  const int slot = int((address - global_base()) >> kSlotBits);
  Buffer& buffer = buffers[slot];
  const uintptr_t start = start_of(slot);
  if (!buffer.in_use || address < start || address + bytes > start + buffer.bytes) outside(address, bytes, kind, where);
  touch_global(buffer.cells, address - start, address, bytes, kind, agent, where);
}

}  // namespace

void access_as(int agent, uintptr_t address, size_t bytes, Access kind, size_t alignment, const void* where) {
  if (!bytes) return;
  settle_writes();
  if (address % alignment) {
    fail("misaligned: %s of %zu bytes at %s%s is not aligned to %zu bytes", verb(kind), bytes,
         describe(reinterpret_cast<void*>(address)).c_str(), source_line(where).c_str(), alignment);
  }
  if (address - shared_base() < kWindow) {
    check_shared(agent, address, bytes, kind, where);
  } else if (address - global_base() < (uintptr_t(kSlots) << kSlotBits)) {
    check_global(agent, address, bytes, kind, where);
  } else {
    Dl_info info;  // constants and tables of the kernel's library
    if (!dladdr(reinterpret_cast<void*>(address), &info)) outside(address, bytes, kind, where);
  }
}

void access(uintptr_t address, size_t bytes, Access kind, size_t alignment, const void* where) {
  if (!current || is_own_stack(address)) return;
  if (++current->accesses > kMostAccesses) {
    fail("%u accesses to memory without a wait: an endless loop%s", kMostAccesses, source_line(where).c_str());
  }
  if (counting) count_access(address, bytes, kind, address - shared_base() < kWindow, where);
  access_as(current->linear, address, bytes, kind, alignment, where);
  if (kind != Access::Atomic) return;
  // Fence and atomic: the way in which blocks hand results to each other.
  if (current->fenced) clocks.acquired = std::max(clocks.acquired, clocks.block - 1);
}

void check(const void* address, size_t bytes, Access kind, size_t alignment) {
  access(reinterpret_cast<uintptr_t>(address), bytes, kind, alignment, __builtin_return_address(0));
}

std::string describe(const void* pointer) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  char text[200];
  if (address - shared_base() < kWindow) {
    const size_t offset = address - shared_base();
    const SharedArray* nearest = nullptr;
    for (const SharedArray& array : shared_arrays) {
      if (!nearest || array.offset <= offset) nearest = &array;
    }
    if (!nearest) return "shared memory, of which this kernel has none";
    snprintf(text, sizeof text, "shared memory, byte %td of an array of %zu", ptrdiff_t(offset) - ptrdiff_t(nearest->offset),
             nearest->bytes);
  } else if (address - global_base() < (uintptr_t(kSlots) << kSlotBits)) {
    const int slot = int((address - global_base()) >> kSlotBits);
    const Buffer& buffer = buffers[slot];
    snprintf(text, sizeof text, "global memory, byte %td of a %sbuffer of %zu", ptrdiff_t(address) - ptrdiff_t(start_of(slot)),
             buffer.in_use ? "" : "freed ", buffer.bytes);
  } else {
    snprintf(text, sizeof text, "%p, which is no memory of the device", pointer);
  }
  return text;
}

void start_block_memory(size_t dynamic_bytes) {
  shared_arrays.clear();
  static_arrays.clear();
  memset(reinterpret_cast<void*>(shared_base()), kPoison, kWindow);
  std::fill_n(in_flight, kWindow / kGranule, uint16_t(0));
  std::fill_n(being_read, kWindow / kGranule, Readers{0, 0});
  shared_top = kDynamicOffset;
  if (!dynamic_bytes) return;
  if (dynamic_bytes > kMostShared) fail("%zu bytes of dynamic shared memory: %zu is the most", dynamic_bytes, kMostShared);
  shared_arrays.push_back({kDynamicOffset, dynamic_bytes});
  shared_top += dynamic_bytes + kGap;
}

void* dynamic_shared(size_t alignment) {
  if (kDynamicOffset % alignment) fail("dynamic shared memory aligned to %zu bytes: 1024 is the most", alignment);
  return reinterpret_cast<void*>(shared_base() + kDynamicOffset);
}

void* static_shared(int id, size_t bytes, size_t alignment) {
  auto [entry, is_new] = static_arrays.try_emplace(id, shared_arrays.size());
  if (is_new) {
    size_t taken = bytes;
    for (const auto& [other, index] : static_arrays) taken += other == id ? 0 : shared_arrays[index].bytes;
    if (taken > kMostStatic) fail("%zu bytes of static shared memory: %zu is the most", taken, kMostStatic);
    if (taken + launch_state.dynamic_bytes > kMostShared) {
      fail("%zu bytes of static and %zu of dynamic shared memory: %zu is the most", taken, launch_state.dynamic_bytes,
           kMostShared);
    }
    alignment = std::max<size_t>(alignment, 16);
    shared_top = (shared_top + alignment - 1) / alignment * alignment;
    if (shared_top + bytes + kGap > kWindow) fail("more than %zu bytes of shared memory", kWindow);
    shared_arrays.push_back({shared_top, bytes});
    shared_top += bytes + kGap;
  }
  return reinterpret_cast<void*>(shared_base() + shared_arrays[entry->second].offset);
}

bool is_shared(const void* address) { return reinterpret_cast<uintptr_t>(address) - shared_base() < kWindow; }

uint32_t shared_address(const void* generic) {
  if (!is_shared(generic)) fail("an address in %s is used as one in shared memory", describe(generic).c_str());
  return uint32_t(reinterpret_cast<uintptr_t>(generic) - shared_base());
}

void* generic_address(uint32_t shared) { return reinterpret_cast<void*>(shared_base() + shared); }

void begin_flight(const void* destination, size_t bytes, int line) {
  const size_t offset = reinterpret_cast<uintptr_t>(destination) - shared_base();
  std::fill_n(in_flight + offset / kGranule, bytes / kGranule, uint16_t(std::max(line, 1)));
}

void end_flight(const void* destination, size_t bytes) {
  const size_t offset = reinterpret_cast<uintptr_t>(destination) - shared_base();
  std::fill_n(in_flight + offset / kGranule, bytes / kGranule, uint16_t(0));
}

void check_proxy(uintptr_t address, size_t bytes, const void* where) {
  const size_t offset = address - shared_base();
  for (const Stored* each = stored + offset / kGranule; each <= stored + (offset + bytes - 1) / kGranule; ++each) {
    if (each->when < clocks.block || each->when <= clocks.fenced[each->writer]) continue;
    fail("no fence.proxy.async between a write of %s, by thread %d, and an asynchronous access%s",
         describe(reinterpret_cast<void*>(address)).c_str(), each->writer, source_line(where).c_str());
  }
}

void begin_reading(const void* source, size_t bytes, int line) {
  Readers* first = being_read + (reinterpret_cast<uintptr_t>(source) - shared_base()) / kGranule;
  for (Readers* each = first; each != first + bytes / kGranule; ++each) *each = {uint16_t(each->count + 1), uint16_t(line)};
}

void end_reading(const void* source, size_t bytes) {
  Readers* first = being_read + (reinterpret_cast<uintptr_t>(source) - shared_base()) / kGranule;
  for (Readers* each = first; each != first + bytes / kGranule; ++each) --each->count;
}

void* allocate(size_t bytes) {
  if (!global_base() || bytes > (size_t(1) << kSlotBits) - 2 * kMargin) return nullptr;
  for (int tried = 0; tried < kSlots; ++tried) {  // in turn, so that a freed buffer is not soon another one
    const int slot = next_slot;
    next_slot = (next_slot + 1) % kSlots;
    Buffer& buffer = buffers[slot];
    if (buffer.in_use) continue;
    void* start = reinterpret_cast<void*>(start_of(slot));
    const size_t cell_bytes = pages((bytes / kGranule + 1) * sizeof(GlobalCell));
    void* cells = mmap(nullptr, cell_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (cells == MAP_FAILED) return nullptr;
    if (mprotect(start, pages(bytes), PROT_READ | PROT_WRITE)) {
      munmap(cells, cell_bytes);
      return nullptr;
    }
    memset(start, kPoison, bytes);
    buffer = {bytes, true, static_cast<GlobalCell*>(cells), cell_bytes};
    return start;
  }
  return nullptr;
}

bool release(void* address) {
  const uintptr_t offset = reinterpret_cast<uintptr_t>(address) - global_base();
  const int slot = int(offset >> kSlotBits);
  if (offset >= (uintptr_t(kSlots) << kSlotBits) || !buffers[slot].in_use ||
      start_of(slot) != reinterpret_cast<uintptr_t>(address))
    return false;
  Buffer& buffer = buffers[slot];
  munmap(buffer.cells, buffer.cell_bytes);
  mmap(address, pages(buffer.bytes), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
  buffer.in_use = false;
  buffer.cells = nullptr;
  return true;
}

}  // namespace emulation
