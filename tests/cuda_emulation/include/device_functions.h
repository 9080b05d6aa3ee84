// Device functions of CUDA that generated sources use without a header of their own: math, casts, atomics, packed integers.
#pragma once

using std::abs;
using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

template <class T>
static inline T __ldg(const T* address) {
  return *address;
}
template <class T>
static inline T __ldcg(const T* address) {
  return *address;
}
template <class T>
static inline T __ldcs(const T* address) {
  return *address;
}
template <class T>
static inline void __stcs(T* address, T value) {
  *address = value;
}
template <class T>
static inline void __stcg(T* address, T value) {
  *address = value;
}

// ---- min and max: the overloads of CUDA; fmin and fmax semantics for floating point ----
#define EMULATION_MINMAX(T)                               \
  static inline T min(T a, T b) { return b < a ? b : a; } \
  static inline T max(T a, T b) { return a < b ? b : a; }
EMULATION_MINMAX(int)
EMULATION_MINMAX(unsigned)
EMULATION_MINMAX(long)
EMULATION_MINMAX(unsigned long)
EMULATION_MINMAX(long long)
EMULATION_MINMAX(unsigned long long)
#undef EMULATION_MINMAX
static inline unsigned min(int a, unsigned b) { return min(unsigned(a), b); }
static inline unsigned min(unsigned a, int b) { return min(a, unsigned(b)); }
static inline unsigned max(int a, unsigned b) { return max(unsigned(a), b); }
static inline unsigned max(unsigned a, int b) { return max(a, unsigned(b)); }
static inline float min(float a, float b) { return fminf(a, b); }
static inline float max(float a, float b) { return fmaxf(a, b); }
static inline double min(double a, double b) { return fmin(a, b); }
static inline double max(double a, double b) { return fmax(a, b); }

// ---- fast math: more exact here than on the device; macros, as glibc declares functions of these names ----
#define __expf expf
#define __exp10f exp10f
#define __logf logf
#define __log2f log2f
#define __log10f log10f
#define __powf powf
#define __sinf sinf
#define __cosf cosf
#define __tanf tanf
#define __tanhf tanhf
static inline float __fdividef(float a, float b) { return a / b; }
static inline float __saturatef(float x) { return x > 0.0f ? (x < 1.0f ? x : 1.0f) : 0.0f; }
static inline float __fadd_rn(float a, float b) { return a + b; }
static inline float __fsub_rn(float a, float b) { return a - b; }
static inline float __fmul_rn(float a, float b) { return a * b; }
static inline float __fdiv_rn(float a, float b) { return a / b; }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline float __frcp_rn(float x) { return 1.0f / x; }
static inline float __fsqrt_rn(float x) { return sqrtf(x); }
static inline float __frsqrt_rn(float x) { return float(1.0 / sqrt(double(x))); }
static inline float rsqrtf(float x) { return float(1.0 / sqrt(double(x))); }
static inline double rsqrt(double x) { return 1.0 / sqrt(x); }
static inline float normcdff(float x) { return 0.5f * erfcf(-x * 0.70710678118654752f); }

// ---- bit casts and rounding ----
static inline int __float_as_int(float x) { return emulation::bit_cast<int>(x); }
static inline unsigned __float_as_uint(float x) { return emulation::bit_cast<unsigned>(x); }
static inline float __int_as_float(int x) { return emulation::bit_cast<float>(x); }
static inline float __uint_as_float(unsigned x) { return emulation::bit_cast<float>(x); }
static inline long long __double_as_longlong(double x) { return emulation::bit_cast<long long>(x); }
static inline double __longlong_as_double(long long x) { return emulation::bit_cast<double>(x); }
static inline int __float2int_rn(float x) { return int(nearbyintf(x)); }
static inline int __float2int_rz(float x) { return int(x); }
static inline int __float2int_rd(float x) { return int(floorf(x)); }
static inline int __float2int_ru(float x) { return int(ceilf(x)); }
static inline unsigned __float2uint_rn(float x) { return unsigned(nearbyintf(x)); }
static inline float __int2float_rn(int x) { return float(x); }
static inline float __uint2float_rn(unsigned x) { return float(x); }

// ---- integers ----
static inline int __popc(unsigned x) { return __builtin_popcount(x); }
static inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
static inline int __clz(int x) { return x ? __builtin_clz(unsigned(x)) : 32; }
static inline int __clzll(long long x) { return x ? __builtin_clzll((unsigned long long)x) : 64; }
static inline int __ffs(int x) { return __builtin_ffs(x); }
static inline unsigned __brev(unsigned x) {
  unsigned reversed = 0;
  for (int i = 0; i < 32; ++i) reversed |= (x >> i & 1u) << (31 - i);
  return reversed;
}
static inline int __mulhi(int a, int b) { return int((long long)a * b >> 32); }
static inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((unsigned long long)a * b >> 32); }
static inline int __mul24(int a, int b) { return a * b; }
static inline unsigned __funnelshift_l(unsigned lo, unsigned hi, unsigned shift) {
  return unsigned((((uint64_t(hi) << 32) | lo) << (shift & 31)) >> 32);
}
static inline unsigned __funnelshift_r(unsigned lo, unsigned hi, unsigned shift) {
  return unsigned(((uint64_t(hi) << 32) | lo) >> (shift & 31));
}
static inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  const uint64_t bytes = (uint64_t(b) << 32) | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned nibble = selector >> (4 * i) & 0xf;
    unsigned byte = unsigned(bytes >> (8 * (nibble & 7))) & 0xff;
    if (nibble & 8) byte = byte & 0x80 ? 0xff : 0;
    result |= byte << (8 * i);
  }
  return result;
}

template <class A, class B>
static inline int emulation_dp4a(unsigned a, unsigned b, int c) {
  for (int i = 0; i < 4; ++i) c = int(unsigned(c) + unsigned(int(A(a >> (8 * i))) * int(B(b >> (8 * i)))));
  return c;
}
static inline int __dp4a(int a, int b, int c) { return emulation_dp4a<int8_t, int8_t>(unsigned(a), unsigned(b), c); }
static inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  return unsigned(emulation_dp4a<uint8_t, uint8_t>(a, b, int(c)));
}

static inline size_t __cvta_generic_to_shared(const void* address) { return emulation::shared_address(address); }
static inline void* __cvta_shared_to_generic(size_t address) { return emulation::generic_address(uint32_t(address)); }
static inline size_t __cvta_generic_to_global(const void* address) { return size_t(address); }
static inline void __nanosleep(unsigned) { emulation::yield_now(); }

// ---- atomics ----
#define EMULATION_ATOMIC(name, T, expression)                                                        \
  static inline T name(T* address, T value) {                                                        \
    return emulation::read_modify_write(address, [=](T old) { return static_cast<T>(expression); }); \
  }
EMULATION_ATOMIC(atomicAdd, int, unsigned(old) + unsigned(value))
EMULATION_ATOMIC(atomicAdd, unsigned, old + value)
EMULATION_ATOMIC(atomicAdd, unsigned long long, old + value)
EMULATION_ATOMIC(atomicAdd, float, old + value)
EMULATION_ATOMIC(atomicAdd, double, old + value)
EMULATION_ATOMIC(atomicSub, int, unsigned(old) - unsigned(value))
EMULATION_ATOMIC(atomicSub, unsigned, old - value)
EMULATION_ATOMIC(atomicMax, int, old < value ? value : old)
EMULATION_ATOMIC(atomicMax, unsigned, old < value ? value : old)
EMULATION_ATOMIC(atomicMax, long long, old < value ? value : old)
EMULATION_ATOMIC(atomicMax, unsigned long long, old < value ? value : old)
EMULATION_ATOMIC(atomicMin, int, value < old ? value : old)
EMULATION_ATOMIC(atomicMin, unsigned, value < old ? value : old)
EMULATION_ATOMIC(atomicMin, long long, value < old ? value : old)
EMULATION_ATOMIC(atomicMin, unsigned long long, value < old ? value : old)
EMULATION_ATOMIC(atomicAnd, int, old& value)
EMULATION_ATOMIC(atomicAnd, unsigned, old& value)
EMULATION_ATOMIC(atomicOr, int, old | value)
EMULATION_ATOMIC(atomicOr, unsigned, old | value)
EMULATION_ATOMIC(atomicXor, unsigned, old ^ value)
EMULATION_ATOMIC(atomicExch, int, value)
EMULATION_ATOMIC(atomicExch, unsigned, value)
EMULATION_ATOMIC(atomicExch, unsigned long long, value)
EMULATION_ATOMIC(atomicExch, float, value)
EMULATION_ATOMIC(atomicInc, unsigned, old >= value ? 0u : old + 1u)
#undef EMULATION_ATOMIC

#define EMULATION_ATOMIC_CAS(T)                                                                        \
  static inline T atomicCAS(T* address, T compare, T value) {                                          \
    return emulation::read_modify_write(address, [=](T old) { return old == compare ? value : old; }); \
  }
EMULATION_ATOMIC_CAS(int)
EMULATION_ATOMIC_CAS(unsigned)
EMULATION_ATOMIC_CAS(unsigned short)
EMULATION_ATOMIC_CAS(unsigned long long)
#undef EMULATION_ATOMIC_CAS
