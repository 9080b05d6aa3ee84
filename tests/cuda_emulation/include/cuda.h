// Stand-in for CUDA's header of the same name: what kernels use of it.
#pragma once

#include <stdint.h>

struct alignas(64) CUtensorMap {
  uint64_t opaque[16];
};
