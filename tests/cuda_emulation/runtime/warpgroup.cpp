// wgmma: products of a warpgroup that read shared memory by descriptors, carried out at the wait_group that covers them.
// Descriptors and fragments as in the PTX manual, "Asynchronous warpgroup level matrix multiply-accumulate instructions".
#include <algorithm>
#include <cstring>
#include <deque>
#include <map>

#include "elements.h"
#include "memory.h"

namespace emulation {

namespace {

constexpr int kRows = 64, kMostColumns = 256, kMostK = 32, kMostSums = kMostColumns / 2;

struct Product {
  int line;
  WgmmaShape shape;
  uint64_t a, b;                      // descriptors
  uint32_t fragments[kWarpgroup][4];  // A from registers
  uint32_t* sums[kWarpgroup][kMostSums];
};

struct Operand {  // what a thread brings to the meeting of its warpgroup
  const WgmmaShape* shape;
  int line;
  uint64_t a, b;
  const uint32_t* fragment;
  uint32_t* const* sums;
};

struct Warpgroup {
  const char* name = nullptr;  // of the instruction at which its threads meet
  int line = 0, arrived = 0;
  Operand operands[kWarpgroup];
  std::vector<Product> open;
  std::deque<std::vector<Product>> groups;
};

std::map<int, Warpgroup> warpgroups;

Warpgroup& mine() { return warpgroups[current->linear / kWarpgroup]; }
int agent_of(int warpgroup) { return kTensorCores + warpgroup; }

// All 128 threads meet; the last one to arrive runs `execute`.
template <class F>
void meet(const char* name, int line, F execute) {
  settle_writes();
  Warpgroup& group = mine();
  const int first = current->linear / kWarpgroup * kWarpgroup;
  if (first + kWarpgroup > thread_count) fail("%s at line %d needs a whole warpgroup of 128 threads", name, line);
  if (group.arrived && (group.line != line || group.name != name)) {
    fail("divergent warpgroup: a thread executes %s at line %d while others wait in %s at line %d", name, line, group.name,
         group.line);
  }
  group.name = name;
  group.line = line;
  if (++group.arrived < kWarpgroup) {
    block_thread(name, line);
    return;
  }
  group.arrived = 0;
  execute(group, first);
  for (int t = first; t < first + kWarpgroup; ++t) {
    if (t != current->linear) wake(threads[t]);
  }
}

struct Tile {  // an operand in shared memory: offset of element (row or column i, k), in bytes, before the swizzle
  uint32_t start, leading, stride;
  int mode;  // span of the swizzle: 0 none, 1, 2, 3 for 32, 64, 128 bytes
  bool mn_major;
  int bytes;

  Tile(uint64_t descriptor, bool mn_major, int bytes, int line) : mn_major(mn_major), bytes(bytes) {
    static const int mode_of[] = {0, 3, 2, 1};
    start = uint32_t(descriptor & 0x3fff) << 4;
    leading = uint32_t(descriptor >> 16 & 0x3fff) << 4;
    stride = uint32_t(descriptor >> 32 & 0x3fff) << 4;
    mode = mode_of[descriptor >> 62];
    if (descriptor >> 49 & 7) fail("wgmma at line %d: a descriptor with a base offset is not modelled", line);
    if (mn_major && (bytes != 2 || mode == 0))
      fail("wgmma at line %d: a transposed operand needs 16-bit elements and a swizzle", line);
  }

  uint32_t address(int i, int k) const {
    const uint32_t span = mode ? 16u << mode : 16;
    uint32_t offset;
    if (mn_major) {
      const int across = int(span) / bytes;
      offset =
          uint32_t(i / across) * leading + uint32_t(k / 8) * stride + uint32_t(k % 8) * span + uint32_t(i % across * bytes);
    } else {
      const uint32_t along = uint32_t(k * bytes);
      offset = uint32_t(i / 8) * stride + uint32_t(i % 8) * span + along % span + along / span * leading;
    }
    const uint32_t plain = start + offset;
    return plain ^ (plain >> 7 & ((1u << mode) - 1)) << 4;
  }
};

template <class F>
void each_element(const Tile& tile, int extent, int k_extent, F visit) {
  for (int i = 0; i < extent; ++i) {
    for (int k = 0; k < k_extent; ++k) visit(i, k, static_cast<char*>(generic_address(tile.address(i, k))));
  }
}

// Calls visit(place) for each 16 bytes of the operands in shared memory.
template <class F>
void each_unit(const Product& product, F visit) {
  const WgmmaShape& shape = product.shape;
  const int bytes = bits_of_element(shape.a) / 8;
  auto of_tile = [&](const Tile& tile, int extent) {
    each_element(tile, extent, shape.k, [&](int i, int k, char* place) {
      if ((tile.mn_major ? i : k) * bytes % 16 == 0) visit(place);
    });
  };
  if (!shape.a_in_registers) of_tile(Tile(product.a, shape.transposed_a, bytes, product.line), kRows);
  of_tile(Tile(product.b, shape.transposed_b, bytes, product.line), shape.n);
}

void touch_operands(const Product& product, int agent) {
  each_unit(product, [&](char* place) {
    access_as(agent, reinterpret_cast<uintptr_t>(place), 16, Access::Read, 16, at_line(product.line));
  });
}

uint32_t raw(const char* place, int bytes) {
  uint32_t value = 0;
  memcpy(&value, place, size_t(bytes));
  return value;
}

void carry_out(const Product& product, int agent) {
  each_unit(product, [](char* place) { end_reading(place, 16); });
  touch_operands(product, agent);
  const WgmmaShape& shape = product.shape;
  const int bytes = bits_of_element(shape.a) / 8, per_register = 4 / bytes;
  static float a[kRows][kMostK], b[kMostK][kMostColumns];
  static float sums[kRows][kMostColumns];
  if (shape.a_in_registers) {
    for (int t = 0; t < kWarpgroup; ++t) {
      for (int i = 0; i < 4; ++i) {
        const int row = t / kWarpSize * 16 + t % kWarpSize / 4 + 8 * (i % 2);
        for (int e = 0; e < per_register; ++e) {
          a[row][t % 4 * per_register + e + 4 * per_register * (i / 2)] = register_element(shape.a, product.fragments[t][i], e);
        }
      }
    }
  } else {
    each_element(Tile(product.a, shape.transposed_a, bytes, product.line), kRows, shape.k,
                 [&](int i, int k, const char* place) { a[i][k] = element_value(shape.a, raw(place, bytes)); });
  }
  each_element(Tile(product.b, shape.transposed_b, bytes, product.line), shape.n, shape.k,
               [&](int i, int k, const char* place) { b[k][i] = element_value(shape.b, raw(place, bytes)); });
  // Sums of products of 8-bit integers stay exact in float: 32 of them are below 2^24.
  for (int row = 0; row < kRows; ++row) {
    memset(sums[row], 0, sizeof sums[row]);
    for (int k = 0; k < shape.k; ++k) {
      const float factor = shape.negative_a != shape.negative_b ? -a[row][k] : a[row][k];
      for (int column = 0; column < shape.n; ++column) sums[row][column] += factor * b[k][column];
    }
  }
  for (int t = 0; t < kWarpgroup; ++t) {
    for (int i = 0; i < shape.n / 2; ++i) {
      const int row = t / kWarpSize * 16 + t % kWarpSize / 4 + 8 * (i / 2 % 2), column = i / 4 * 8 + t % 4 * 2 + i % 2;
      uint32_t& target = *product.sums[t][i];
      if (is_integer(shape.a)) {
        target = uint32_t(int32_t(sums[row][column])) + (shape.accumulates ? target : 0u);
      } else {
        target = bit_cast<uint32_t>(sums[row][column] + (shape.accumulates ? bit_cast<float>(target) : 0.0f));
      }
    }
  }
}

}  // namespace

void start_block_warpgroups() { warpgroups.clear(); }

void wgmma(int line, const WgmmaShape& shape, uint64_t a, uint64_t b, const uint32_t* fragment, uint32_t* const* sums) {
  mine().operands[current->linear % kWarpgroup] = {&shape, line, a, b, fragment, sums};
  meet("wgmma.mma_async", line, [](Warpgroup& group, int first) {
    const Operand& leader = group.operands[0];
    const WgmmaShape& shape = *leader.shape;
    Product product = {leader.line, shape, leader.a, leader.b, {}, {}};
    Moment issued;
    for (int t = 0; t < kWarpgroup; ++t) {
      const Operand& operand = group.operands[t];
      if (operand.b != leader.b || (!shape.a_in_registers && operand.a != leader.a) ||
          operand.shape->accumulates != shape.accumulates) {
        fail("wgmma at line %d: the threads of the warpgroup have different descriptors", leader.line);
      }
      if (shape.a_in_registers) memcpy(product.fragments[t], operand.fragment, sizeof product.fragments[t]);
      std::copy_n(operand.sums, shape.n / 2, product.sums[t]);
      release_into(issued, first + t);
    }
    const int agent = agent_of(first / kWarpgroup);
    acquire_from(issued, agent);
    touch_operands(product, agent);  // it may read from now on
    each_unit(product, [&](char* place) { begin_reading(place, 16, product.line); });
    group.open.push_back(product);
  });
}

void wgmma_commit(int line) {
  meet("wgmma.commit_group", line, [](Warpgroup& group, int) {
    group.groups.push_back(std::move(group.open));
    group.open.clear();
  });
}

void wgmma_wait(int line, uint32_t groups) {
  meet("wgmma.wait_group", line, [groups](Warpgroup& group, int first) {
    const int agent = agent_of(first / kWarpgroup);
    while (group.groups.size() > groups) {
      for (const Product& product : group.groups.front()) carry_out(product, agent);
      group.groups.pop_front();
      Moment done;
      release_into(done, agent);
      for (int t = first; t < first + kWarpgroup; ++t) acquire_from(done, t);
    }
  });
}

}  // namespace emulation
