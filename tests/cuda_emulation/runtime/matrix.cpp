// Warp-level matrix instructions: ldmatrix, stmatrix and mma, with the fragment layouts of the PTX manual, section
// "Matrix multiply-accumulate operation using mma instruction" and "ldmatrix".
#include <cstring>

#include "elements.h"
#include "memory.h"
#include "traffic.h"

namespace emulation {

namespace {

struct MatrixOperand {
  int line, count;
  bool transposed, stores;
  uint32_t address;
  uint32_t* const* registers;
};

// Each of `count` 8x8 matrices of 16-bit elements has its row addresses in eight lanes. Lane 4r + c holds row r, columns
// 2c and 2c + 1; transposed: the other way round.
void execute_matrix(void** operands, uint32_t) {
  const MatrixOperand& first = *static_cast<MatrixOperand*>(operands[0]);
  for (int matrix = 0; matrix < first.count; ++matrix) {
    uint32_t rows[8];
    for (int row = 0; row < 8; ++row) {
      const uint32_t address = rows[row] = static_cast<MatrixOperand*>(operands[matrix * 8 + row])->address;
      if (address % 16)
        fail("misaligned: row address 0x%x of %s at line %d", address, first.stores ? "stmatrix" : "ldmatrix", first.line);
    }
    if (counting) count_rows(rows, 8, first.stores ? Access::Write : Access::Read, first.line);
    for (int lane = 0; lane < kWarpSize; ++lane) {
      uint16_t halves[2];
      uint32_t* target = static_cast<MatrixOperand*>(operands[lane])->registers[matrix];
      memcpy(halves, target, sizeof halves);
      for (int half = 0; half < 2; ++half) {
        const int along = lane / 4, across = 2 * (lane % 4) + half;
        const int row = first.transposed ? across : along, column = first.transposed ? along : across;
        const uint32_t base = static_cast<MatrixOperand*>(operands[matrix * 8 + row])->address;
        char* place = static_cast<char*>(generic_address(base)) + 2 * column;
        if (first.transposed || half == 0) {
          access_as(thread_of(uint32_t(lane)).linear, reinterpret_cast<uintptr_t>(place), first.transposed ? 2 : 4,
                    first.stores ? Access::Write : Access::Read, 1, at_line(first.line));
        }
        if (first.stores) {
          memcpy(place, &halves[half], 2);
        } else {
          memcpy(&halves[half], place, 2);
        }
      }
      if (!first.stores) memcpy(target, halves, sizeof halves);
    }
  }
}

struct MmaOperand {
  const MmaShape* shape;
  const uint32_t *a, *b, *c;
  uint32_t* const* d;
};

constexpr int kRows = 16, kColumns = 8, kMostK = 64;

// Register i of A: row = lane / 4 + 8 (i % 2), k = (lane % 4) E + e + 4 E (i / 2), with E elements in a register;
// of B: k = (lane % 4) E + e + 4 E i, column = lane / 4.
void execute_mma(void** operands, uint32_t) {
  const MmaShape& shape = *static_cast<MmaOperand*>(operands[0])->shape;
  static float a[kRows][kMostK], b[kMostK][kColumns];
  const int per_register = 32 / bits_of_element(shape.a), wide = 4 * per_register;
  for (int lane = 0; lane < kWarpSize; ++lane) {
    const MmaOperand& mine = *static_cast<MmaOperand*>(operands[lane]);
    for (int i = 0; i < shape.k / wide; ++i) {
      for (int e = 0; e < per_register; ++e) {
        const int k = lane % 4 * per_register + e + wide * i;
        a[lane / 4][k] = register_element(shape.a, mine.a[2 * i], e);
        a[lane / 4 + 8][k] = register_element(shape.a, mine.a[2 * i + 1], e);
        b[k][lane / 4] = register_element(shape.b, mine.b[i], e);
      }
    }
  }
  static float floats[kRows][kColumns];
  static int64_t integers[kRows][kColumns];
  // Accumulators: row = lane / 4 + 8 (i / 2), column = 2 (lane % 4) + i % 2.
  auto each_accumulator = [&](auto visit) {
    for (int lane = 0; lane < kWarpSize; ++lane) {
      for (int i = 0; i < 4; ++i)
        visit(*static_cast<MmaOperand*>(operands[lane]), i, lane / 4 + 8 * (i / 2), 2 * (lane % 4) + i % 2);
    }
  };
  if (is_integer(shape.a)) {
    for (auto& row : integers) memset(row, 0, sizeof row);
    for (int row = 0; row < kRows; ++row) {
      for (int k = 0; k < shape.k; ++k) {
        for (int column = 0; column < kColumns; ++column) integers[row][column] += int64_t(a[row][k]) * int64_t(b[k][column]);
      }
    }
    each_accumulator([&](const MmaOperand& mine, int i, int row, int column) {
      const int64_t sum = int64_t(int32_t(mine.c[i])) + integers[row][column];
      *mine.d[i] = uint32_t(shape.saturates ? saturate<int32_t>(sum) : sum);
    });
    return;
  }
  each_accumulator([&](const MmaOperand& mine, int i, int row, int column) {
    floats[row][column] = shape.half_sums ? register_element(Element::F16, mine.c[i / 2], i % 2) : bit_cast<float>(mine.c[i]);
  });
  for (int row = 0; row < kRows; ++row) {
    for (int k = 0; k < shape.k; ++k) {
      for (int column = 0; column < kColumns; ++column) floats[row][column] += a[row][k] * b[k][column];
    }
  }
  each_accumulator([&](const MmaOperand& mine, int i, int row, int column) {
    if (!shape.half_sums) {
      *mine.d[i] = bit_cast<uint32_t>(floats[row][column]);
    } else if (i % 2 == 0) {
      *mine.d[i / 2] = uint32_t(Binary16::round(floats[row][column])) | uint32_t(Binary16::round(floats[row][column + 1]))
                                                                            << 16;
    }
  });
}

}  // namespace

void ldmatrix(int line, int count, bool transposed, uint32_t address, uint32_t* const* registers) {
  MatrixOperand mine = {line, count, transposed, false, address, registers};
  full_warp_operation("ldmatrix", line, execute_matrix, &mine);
}

void stmatrix(int line, int count, bool transposed, uint32_t address, uint32_t* const* registers) {
  MatrixOperand mine = {line, count, transposed, true, address, registers};
  full_warp_operation("stmatrix", line, execute_matrix, &mine);
}

void mma(int line, const MmaShape& shape, const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* const* d) {
  MmaOperand mine = {&shape, a, b, c, d};
  full_warp_operation("mma.sync", line, execute_mma, &mine);
}

}  // namespace emulation
