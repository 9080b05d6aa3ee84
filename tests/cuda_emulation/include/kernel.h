// CUDA C++ for g++: what every translated source includes first. Qualifiers vanish, built-in variables and functions
// become calls of the emulator.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#define __CUDACC__ 1
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0
#define __CUDA_ARCH__ 900

#define __device__
#define __host__
#define __global__
#define __constant__
#define __forceinline__ inline
#define __builtin_assume(condition)
#define __noinline__
#define __restrict__ /* fibers of one function alias each other's buffers: no promise to g++ */
#define __launch_bounds__(...)
#define __grid_constant__
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))

#include "emulation.h"

#define threadIdx (::emulation::thread_index())
#define blockIdx (::emulation::block_index())
#define blockDim (::emulation::block_size())
#define gridDim (::emulation::grid_size())
static const int warpSize = 32;

#define __match_any_sync(mask, value) ::emulation::match_any(__LINE__, mask, ::emulation::bits_to_match(value))
#define __reduce_add_sync(mask, value) EMULATION_REDUCE(Add, mask, value)
#define __reduce_min_sync(mask, value) EMULATION_REDUCE(Min, mask, value)
#define __reduce_max_sync(mask, value) EMULATION_REDUCE(Max, mask, value)
#define EMULATION_REDUCE(kind, mask, value)                                                 \
  std::decay_t<decltype(value)>(::emulation::reduce(__LINE__, ::emulation::Reduction::kind, \
                                                    std::is_signed_v<std::decay_t<decltype(value)>>, mask, uint32_t(value)))

#define __syncthreads() ::emulation::block_barrier(__LINE__)
#define __syncthreads_count(predicate) ::emulation::block_count(__LINE__, predicate)
#define __syncthreads_or(predicate) int(::emulation::block_count(__LINE__, predicate) != 0)
#define __syncthreads_and(predicate) int(::emulation::block_count(__LINE__, !(predicate)) == 0)
#define EMULATION_SYNCWARP0() ::emulation::warp_barrier(__LINE__, 0xffffffffu)
#define EMULATION_SYNCWARP1(mask) ::emulation::warp_barrier(__LINE__, mask)
#define EMULATION_PICK(_0, _1, name, ...) name
#define __syncwarp(...) EMULATION_PICK(_0, ##__VA_ARGS__, EMULATION_SYNCWARP1, EMULATION_SYNCWARP0)(__VA_ARGS__)
#define __threadfence() ::emulation::fence()
#define __threadfence_block() ::emulation::fence()
#define __threadfence_system() ::emulation::fence()
#define __trap() ::emulation::trap(__LINE__)
#define __activemask() ::emulation::active_mask(__LINE__)

#define EMULATION_SHUFFLE(kind, mask, value, operand, width, ...) \
  ::emulation::shuffle_value(__LINE__, ::emulation::Shuffle::kind, mask, value, operand, width)
#define __shfl_sync(...) EMULATION_SHUFFLE(Index, __VA_ARGS__, 32, 32)
#define __shfl_up_sync(...) EMULATION_SHUFFLE(Up, __VA_ARGS__, 32, 32)
#define __shfl_down_sync(...) EMULATION_SHUFFLE(Down, __VA_ARGS__, 32, 32)
#define __shfl_xor_sync(...) EMULATION_SHUFFLE(Xor, __VA_ARGS__, 32, 32)
#define __any_sync(mask, p) int(::emulation::vote(__LINE__, ::emulation::Vote::Any, mask, p))
#define __all_sync(mask, p) int(::emulation::vote(__LINE__, ::emulation::Vote::All, mask, p))
#define __ballot_sync(mask, p) (::emulation::vote(__LINE__, ::emulation::Vote::Ballot, mask, p))

#include "device_functions.h"
#include "cuda_bf16.h"
#include "ptx.h"
