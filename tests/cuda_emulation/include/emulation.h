// What a translated kernel calls of the emulator: built-in variables, barriers, warp primitives, memory.
// The functions are in ../runtime.
#pragma once

#include <stddef.h>
#include <stdint.h>

#include <cstring>
#include <type_traits>
#include <utility>

#include "vector_types.h"

namespace emulation {

// ---- built-in variables; constant for one fiber, so g++ may keep them across barriers ----
__attribute__((const)) uint3 thread_index();
__attribute__((const)) uint3 block_index();
__attribute__((const)) dim3 block_size();
__attribute__((const)) dim3 grid_size();
__attribute__((const)) uint32_t lane();

// ---- barriers ----
void block_barrier(int line);
int block_count(int line, bool predicate);  // a barrier that counts the threads with the predicate
void named_barrier(int line, uint32_t id, uint32_t threads, bool wait);
void warp_barrier(int line, uint32_t mask);
void fence();
void proxy_fence();
void yield_now();  // lets other threads run

// ---- warp primitives ----
enum class Shuffle { Index, Up, Down, Xor };
enum class Vote { All, Any, Ballot };
uint64_t shuffle(int line, Shuffle kind, uint32_t mask, uint64_t bits, int operand, int width);
uint32_t vote(int line, Vote kind, uint32_t mask, bool predicate);
uint32_t match_any(int line, uint32_t mask, uint64_t bits);
enum class Reduction { Add, Min, Max, And, Or, Xor };
uint32_t reduce(int line, Reduction kind, bool is_signed, uint32_t mask, uint32_t value);
uint32_t active_mask(int line);

// ---- memory ----
void* dynamic_shared(size_t alignment);
void* static_shared(int id, size_t bytes, size_t alignment);
uint32_t shared_address(const void* generic);  // cvta.to.shared
void* generic_address(uint32_t shared);        // cvta.shared
enum class Access : uint8_t { Read, Write, Atomic };
void check(const void* address, size_t bytes, Access access, size_t alignment);

[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));
[[noreturn]] void trap(int line);

#define EMULATION_QUIET __attribute__((no_sanitize("thread", "undefined"), noinline))

// A read-modify-write of one naturally aligned value. No fiber switch happens inside, so it is atomic.
template <class T, class F>
EMULATION_QUIET T read_modify_write(T* address, F update) {
  check(address, sizeof(T), Access::Atomic, sizeof(T));
  T old = *address;
  *address = update(old);
  return old;
}

template <class T>
EMULATION_QUIET T load(const void* address) {
  check(address, sizeof(T), Access::Read, sizeof(T));
  T value;
  memcpy(&value, address, sizeof(T));
  return value;
}

template <class T>
EMULATION_QUIET void store(void* address, T value) {
  check(address, sizeof(T), Access::Write, sizeof(T));
  memcpy(address, &value, sizeof(T));
}

template <class T>
inline T shuffle_value(int line, Shuffle kind, uint32_t mask, T value, int operand, int width) {
  static_assert(sizeof(T) <= 8, "shuffles move at most 8 bytes");
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  bits = shuffle(line, kind, mask, bits, operand, width);
  memcpy(&value, &bits, sizeof(T));
  return value;
}

template <class T>
inline uint64_t bits_to_match(T value) {
  uint64_t bits = 0;
  memcpy(&bits, &value, sizeof(T));
  return bits;
}

template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit casts keep the size");
  To to;
  memcpy(&to, &from, sizeof(To));
  return to;
}

// The start of a launch from the driver: one entry of this type per kernel, called with pointers to the arguments.
using Kernel = void (*)(void** arguments);
void register_kernel(const char* name, Kernel kernel, unsigned most_threads);

template <class... Parameters, size_t... I>
EMULATION_QUIET void start(void (*kernel)(Parameters...), void** arguments, std::index_sequence<I...>) {
  kernel(*static_cast<std::remove_const_t<Parameters>*>(arguments[I])...);
}

template <auto kernel, class... Parameters>
void announce(const char* name, void (*)(Parameters...), unsigned most_threads) {
  register_kernel(
      name, [](void** arguments) { start<Parameters...>(kernel, arguments, std::index_sequence_for<Parameters...>()); },
      most_threads);
}

}  // namespace emulation
