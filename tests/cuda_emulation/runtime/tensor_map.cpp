// cuTensorMapEncodeTiled with the checks of the driver.
#include "tensor_map.h"

#include <cstring>

using emulation::TensorMap;

// 0, or -1 for what the driver refuses with CUDA_ERROR_INVALID_VALUE.
extern "C" int emulation_encode_tensor_map(void* target, int type, uint32_t rank, void* address, const uint64_t* extents,
                                           const uint64_t* strides, const uint32_t* box, const uint32_t* element_strides,
                                           int interleave, int swizzle) {
  static const uint8_t bytes_of[] = {1, 2, 4, 4, 8, 8, 2, 4, 8, 2, 4, 4, 4};
  constexpr int kTf32 = 11;
  static const uint32_t span_of[] = {0, 32, 64, 128};
  if (type < 0 || type > 12 || rank < 1 || rank > 5 || interleave != 0 || swizzle < 0 || swizzle > 3) return -1;
  if (reinterpret_cast<uintptr_t>(address) % 16) return -1;
  TensorMap map{};
  map.magic = emulation::kTensorMapMagic;
  map.rank = uint8_t(rank);
  map.element_bytes = bytes_of[type];
  map.swizzle = uint8_t(swizzle);
  map.rounds = type == kTf32;
  map.base = static_cast<char*>(address);
  for (uint32_t i = 0; i < rank; ++i) {
    if (extents[i] == 0 || extents[i] > 0xffffffffu || box[i] == 0 || box[i] > 256 || element_strides[i] != 1) return -1;
    map.extents[i] = uint32_t(extents[i]);
    map.box[i] = box[i];
    if (i + 1 < rank) {
      if (strides[i] % 16) return -1;
      map.strides[i] = strides[i];
    }
  }
  const uint32_t inner = map.box[0] * map.element_bytes;
  if (inner % 16 || (swizzle && inner > span_of[swizzle])) return -1;
  memcpy(target, &map, sizeof map);
  return 0;
}
