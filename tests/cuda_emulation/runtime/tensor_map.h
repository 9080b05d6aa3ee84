// A tensor map as cuTensorMapEncodeTiled leaves it: what a bulk tensor copy needs, in the 128 bytes of CUtensorMap.
#pragma once

#include <cstdint>

namespace emulation {

constexpr uint32_t kTensorMapMagic = 0x7e4503a9;

struct TensorMap {
  uint32_t magic;
  uint8_t rank, element_bytes, swizzle, rounds;  // rounds: to tf32
  char* base;
  uint32_t extents[5];
  uint32_t box[5];
  uint64_t strides[4];  // in bytes, of dimensions 1 to 4
};
static_assert(sizeof(TensorMap) <= 128, "a tensor map has 128 bytes");

}  // namespace emulation
