// The PTX instructions that translated inline assembly calls. Addresses are 32-bit offsets into the shared window.
#pragma once

#include <cmath>

#include "emulation.h"

namespace emulation {

// ---- registers ----
// The operand of an output as the register that its constraint says.
template <class Register, class T>
inline Register& view(T& variable) {
  static_assert(sizeof(Register) == sizeof(T), "the operand has not the size of its register");
  return reinterpret_cast<Register&>(variable);
}

// The bits of a register as another type: the same size keeps the bits, another size takes the value.
template <class To, class From>
inline To as(From from) {
  if constexpr (std::is_same_v<To, From>) {
    return from;
  } else if constexpr (std::is_same_v<To, bool>) {
    return from != From(0);
  } else if constexpr (sizeof(To) == sizeof(From) && std::is_floating_point_v<To> != std::is_floating_point_v<From>) {
    return bit_cast<To>(from);
  } else {
    return To(from);
  }
}

template <class Register, class T>
inline void put(Register& target, T value) {
  target = as<Register>(value);
}

struct Sink {
  template <class T>
  void operator=(T) {}
};
inline Sink sink() { return {}; }
template <class T>
inline void put(Sink, T) {}

template <class T, int N>
struct alignas(sizeof(T) * N) Pack {
  T at[N];
};

// ---- arithmetic ----
template <class T>
inline T min_of(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return std::fmin(a, b);
  else
    return b < a ? b : a;
}
template <class T>
inline T max_of(T a, T b) {
  if constexpr (std::is_floating_point_v<T>)
    return std::fmax(a, b);
  else
    return a < b ? b : a;
}
template <class T>
inline T min_nan(T a, T b) {
  return a != a ? a : b != b ? b : min_of(a, b);
}
template <class T>
inline T max_nan(T a, T b) {
  return a != a ? a : b != b ? b : max_of(a, b);
}
template <class T>
inline T min_of(T a, T b, T c) {
  return min_of(min_of(a, b), c);
}
template <class T>
inline T max_of(T a, T b, T c) {
  return max_of(max_of(a, b), c);
}

template <class T>
inline T shl(T value, uint32_t amount) {
  return amount < 8 * sizeof(T) ? T(value << amount) : T(0);
}
template <class T>
inline T shr(T value, uint32_t amount) {
  if (amount >= 8 * sizeof(T)) return std::is_signed_v<T> && value < 0 ? T(-1) : T(0);
  return T(value >> amount);
}

inline uint32_t lop3(uint32_t a, uint32_t b, uint32_t c, uint32_t table) {
  uint32_t result = 0;
  for (int i = 0; i < 8; ++i) {
    if (table >> i & 1) result |= (i & 4 ? a : ~a) & (i & 2 ? b : ~b) & (i & 1 ? c : ~c);
  }
  return result;
}

inline float rni(float x) { return std::nearbyint(x); }
inline float rzi(float x) { return std::trunc(x); }
inline float rmi(float x) { return std::floor(x); }
inline float rpi(float x) { return std::ceil(x); }
inline double rni(double x) { return std::nearbyint(x); }
inline double rzi(double x) { return std::trunc(x); }

// cvt to integers clamps, and NaN becomes 0.
template <class T, class F>
inline T to_integer(F x) {
  constexpr double low = std::is_signed_v<T> ? -double(uint64_t(1) << (8 * sizeof(T) - 1)) : 0.0;
  constexpr double high =
      std::is_signed_v<T> ? double(uint64_t(1) << (8 * sizeof(T) - 1)) : 2.0 * double(uint64_t(1) << (8 * sizeof(T) - 1));
  constexpr T least = std::is_signed_v<T> ? T(uint64_t(1) << (8 * sizeof(T) - 1)) : T(0);
  if (x != x) return 0;
  if (x <= low) return least;
  if (x >= high) return T(~least);
  return T(x);
}

template <class T>
inline T saturate(int64_t x) {
  constexpr int64_t low = std::is_signed_v<T> ? -(int64_t(1) << (8 * sizeof(T) - 1)) : 0;
  constexpr int64_t high = std::is_signed_v<T> ? (int64_t(1) << (8 * sizeof(T) - 1)) - 1 : (int64_t(1) << (8 * sizeof(T))) - 1;
  return T(x < low ? low : x > high ? high : x);
}

// tf32: 10 bits of mantissa, round to nearest with ties away from zero (cvt.rna).
inline uint32_t round_to_tf32(float x) {
  const uint32_t bits = bit_cast<uint32_t>(x);
  return (bits & 0x7f800000u) == 0x7f800000u ? bits : (bits + 0x1000u) & ~0x1fffu;
}

// ---- packed halves: `Half` is __half or __nv_bfloat16 ----
template <class Half>
inline Half from_bits(uint16_t bits) {
  return bit_cast<Half>(bits);
}
template <class Half>
inline uint16_t bits_of(Half value) {
  return bit_cast<uint16_t>(value);
}
template <class Half>
inline uint32_t pack(float low, float high) {
  return uint32_t(bits_of(Half(low))) | uint32_t(bits_of(Half(high))) << 16;
}

template <class Half, int lanes, class F, class... Bits>
inline uint32_t each_lane(F function, Bits... operands) {
  uint32_t result = 0;
  for (int i = 0; i < lanes; ++i) {
    const float value = function(float(from_bits<Half>(uint16_t(uint32_t(operands) >> (16 * i))))...);
    result |= uint32_t(bits_of(Half(value))) << (16 * i);
  }
  return result;
}

#define EMULATION_PACKED(name, parameters, expression)                                         \
  template <class Half, int lanes, class... Bits>                                              \
  inline uint32_t packed_##name(Bits... operands) {                                            \
    return each_lane<Half, lanes>([] parameters -> float { return expression; }, operands...); \
  }
EMULATION_PACKED(add, (float a, float b), a + b)
EMULATION_PACKED(sub, (float a, float b), a - b)
EMULATION_PACKED(mul, (float a, float b), a* b)
EMULATION_PACKED(fma, (float a, float b, float c), float(double(a) * double(b) + double(c)))
EMULATION_PACKED(min, (float a, float b), fminf(a, b))
EMULATION_PACKED(max, (float a, float b), fmaxf(a, b))
EMULATION_PACKED(neg, (float a), -a)
EMULATION_PACKED(abs, (float a), fabsf(a))
EMULATION_PACKED(ex2, (float a), exp2f(a))
EMULATION_PACKED(tanh, (float a), tanhf(a))
#undef EMULATION_PACKED

// The width of a shuffle from the operand c of shfl.sync: the segment mask in bits 8 to 12.
inline int shuffle_width(uint32_t clamp) { return 32 - int(clamp >> 8 & 31); }

// ---- matrices ----
enum class Element : uint8_t { F16, BF16, TF32, E4M3, E5M2, S8, U8, S4, U4 };

struct MmaShape {  // m16n8
  int k;
  Element a, b;
  bool half_sums, saturates;
};

// `registers[i]`: a lane's register of the i-th of `count` 8x8 matrices.
void ldmatrix(int line, int count, bool transposed, uint32_t address, uint32_t* const* registers);
void stmatrix(int line, int count, bool transposed, uint32_t address, uint32_t* const* registers);
void mma(int line, const MmaShape& shape, const uint32_t* a, const uint32_t* b, const uint32_t* c, uint32_t* const* d);

// ---- asynchronous copies ----
void cp_async(int line, uint32_t destination, const void* source, uint32_t bytes, uint32_t source_bytes);
void cp_async_commit();
void cp_async_wait(uint32_t groups);
void cp_async_wait_all();

// ---- mbarrier ----
void mbarrier_init(int line, uint32_t address, uint32_t count);
void mbarrier_expect(int line, uint32_t address, uint32_t bytes);
uint64_t mbarrier_arrive(int line, uint32_t address, uint32_t count);  // the phase in which it arrived
bool mbarrier_test(int line, uint32_t address, uint32_t parity);
void mbarrier_wait(int line, uint32_t address, uint32_t parity);

// ---- bulk copies ----
void bulk_tensor_load(int line, uint32_t rank, uint32_t destination, const void* map, const int32_t* corner, uint32_t barrier);
void bulk_load(int line, uint32_t destination, const void* source, uint32_t bytes, uint32_t barrier);
void bulk_tensor_store(int line, uint32_t rank, const void* map, const int32_t* corner, uint32_t source);
void bulk_commit(int line);
void bulk_wait(int line, uint32_t groups);

// ---- warpgroup products: D[64, n] (+)= A[64, k] B[k, n] ----
struct WgmmaShape {
  int n, k;
  Element a, b;
  bool a_in_registers, transposed_a, transposed_b, negative_a, negative_b, accumulates;
};

void wgmma(int line, const WgmmaShape& shape, uint64_t a, uint64_t b, const uint32_t* fragment, uint32_t* const* sums);
void wgmma_commit(int line);
void wgmma_wait(int line, uint32_t groups);

}  // namespace emulation
