// __half and __nv_bfloat16 with CUDA's conversions, operators and intrinsics: one template over the format.
// Arithmetic is done in float and rounded once to nearest even, which is exact for +, -, *, / and sqrt of both formats.
#pragma once

#include <cmath>
#include <cstdint>

#include "emulation.h"
#include "vector_types.h"

namespace emulation {

struct Binary16 {
  static inline uint16_t round(float value) {
    const uint32_t bits = bit_cast<uint32_t>(value), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return uint16_t(0x7fff);
    if (magnitude >= 0x477ff000u) return uint16_t(sign | 0x7c00u);  // 65520 and more
    if (magnitude < 0x38800000u) {                                  // subnormal: adding 0.5 rounds at 2^-24
      const float shifted = bit_cast<float>(magnitude) + 0.5f;
      return uint16_t(sign | (bit_cast<uint32_t>(shifted) - 0x3f000000u));
    }
    const uint32_t odd = magnitude >> 13 & 1u;
    return uint16_t(sign | ((magnitude - 0x38000000u + 0xfffu + odd) >> 13));
  }
  static inline float widen(uint16_t bits) {
    const uint32_t sign = uint32_t(bits & 0x8000u) << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00u) return bit_cast<float>(sign | 0x7f800000u | (magnitude & 0x3ffu) << 13);
    if (magnitude < 0x400u) {
      const float value = float(magnitude) * 5.9604644775390625e-8f;  // 2^-24
      return sign ? -value : value;
    }
    return bit_cast<float>(sign | ((magnitude << 13) + 0x38000000u));
  }
};

struct Brain16 {
  static inline uint16_t round(float value) {
    const uint32_t bits = bit_cast<uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) return uint16_t(0x7fff);
    return uint16_t((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
  }
  static inline float widen(uint16_t bits) { return bit_cast<float>(uint32_t(bits) << 16); }
};

template <class Format>
struct Raw {
  uint16_t x;
};

template <class Format>
struct alignas(2) Narrow {
  uint16_t __x;

  Narrow() = default;
  Narrow(Raw<Format> raw) : __x(raw.x) {}
  Narrow(float value) : __x(Format::round(value)) {}
  Narrow(double value) : __x(Format::round(float(value))) {}
  Narrow(short value) : __x(Format::round(float(value))) {}
  Narrow(unsigned short value) : __x(Format::round(float(value))) {}
  Narrow(int value) : __x(Format::round(float(value))) {}
  Narrow(unsigned value) : __x(Format::round(float(value))) {}
  Narrow(long value) : __x(Format::round(float(value))) {}
  Narrow(unsigned long value) : __x(Format::round(float(value))) {}
  Narrow(long long value) : __x(Format::round(float(value))) {}
  Narrow(unsigned long long value) : __x(Format::round(float(value))) {}
  template <class Other>
  explicit Narrow(Narrow<Other> value) : __x(Format::round(float(value))) {}

  operator float() const { return Format::widen(__x); }
  operator Raw<Format>() const { return {__x}; }

  friend Narrow operator+(const Narrow& a, const Narrow& b) { return Narrow(float(a) + float(b)); }
  friend Narrow operator-(const Narrow& a, const Narrow& b) { return Narrow(float(a) - float(b)); }
  friend Narrow operator*(const Narrow& a, const Narrow& b) { return Narrow(float(a) * float(b)); }
  friend Narrow operator/(const Narrow& a, const Narrow& b) { return Narrow(float(a) / float(b)); }
  friend Narrow operator-(const Narrow& a) { return Narrow(Raw<Format>{uint16_t(a.__x ^ 0x8000u)}); }
  friend Narrow operator+(const Narrow& a) { return a; }
  friend Narrow& operator+=(Narrow& a, const Narrow& b) { return a = a + b; }
  friend Narrow& operator-=(Narrow& a, const Narrow& b) { return a = a - b; }
  friend Narrow& operator*=(Narrow& a, const Narrow& b) { return a = a * b; }
  friend Narrow& operator/=(Narrow& a, const Narrow& b) { return a = a / b; }
  friend bool operator==(const Narrow& a, const Narrow& b) { return float(a) == float(b); }
  friend bool operator!=(const Narrow& a, const Narrow& b) { return float(a) != float(b); }
  friend bool operator<(const Narrow& a, const Narrow& b) { return float(a) < float(b); }
  friend bool operator>(const Narrow& a, const Narrow& b) { return float(a) > float(b); }
  friend bool operator<=(const Narrow& a, const Narrow& b) { return float(a) <= float(b); }
  friend bool operator>=(const Narrow& a, const Narrow& b) { return float(a) >= float(b); }
};

template <class Format>
struct alignas(4) Narrow2 {
  Narrow<Format> x, y;
  Narrow2() = default;
  Narrow2(Narrow<Format> x, Narrow<Format> y) : x(x), y(y) {}
  friend Narrow2 operator+(Narrow2 a, Narrow2 b) { return {a.x + b.x, a.y + b.y}; }
  friend Narrow2 operator-(Narrow2 a, Narrow2 b) { return {a.x - b.x, a.y - b.y}; }
  friend Narrow2 operator*(Narrow2 a, Narrow2 b) { return {a.x * b.x, a.y * b.y}; }
  friend Narrow2 operator/(Narrow2 a, Narrow2 b) { return {a.x / b.x, a.y / b.y}; }
  friend Narrow2 operator-(Narrow2 a) { return {-a.x, -a.y}; }
};

// CUDA's min and max give the number where one operand is NaN.
template <class T>
inline T smaller(T a, T b) {
  return a != a ? b : b != b ? a : b < a ? b : a;
}
template <class T>
inline T larger(T a, T b) {
  return a != a ? b : b != b ? a : a < b ? b : a;
}
template <class T>
inline T fused(T a, T b, T c) {
  return T(float(double(float(a)) * double(float(b)) + double(float(c))));
}

}  // namespace emulation

#define EMULATION_NARROW_UNARY(name, H, expression) \
  static inline H name(H a) {                       \
    const float x = float(a);                       \
    return H(float(expression));                    \
  }
#define EMULATION_NARROW_BINARY(name, H, H2, expression) \
  static inline H name(H a, H b) { return expression; }  \
  static inline H2 name##2(H2 p, H2 q) { return H2(name(p.x, q.x), name(p.y, q.y)); }
#define EMULATION_NARROW_TEST(name, H, expression) \
  static inline bool name(H a, H b) { return expression; }

// Everything that both types have under the same names.
#define EMULATION_NARROW_INTRINSICS(H, H2)                                                                \
  EMULATION_NARROW_BINARY(__hadd, H, H2, a + b)                                                           \
  EMULATION_NARROW_BINARY(__hsub, H, H2, a - b)                                                           \
  EMULATION_NARROW_BINARY(__hmul, H, H2, a* b)                                                            \
  EMULATION_NARROW_BINARY(__hmax, H, H2, emulation::larger(a, b))                                         \
  EMULATION_NARROW_BINARY(__hmin, H, H2, emulation::smaller(a, b))                                        \
  static inline H __hdiv(H a, H b) { return a / b; }                                                      \
  static inline H2 __h2div(H2 a, H2 b) { return a / b; }                                                  \
  static inline H __hadd_rn(H a, H b) { return a + b; }                                                   \
  static inline H __hsub_rn(H a, H b) { return a - b; }                                                   \
  static inline H __hmul_rn(H a, H b) { return a * b; }                                                   \
  static inline H2 __hmul2_rn(H2 a, H2 b) { return a * b; }                                               \
  static inline H2 __hadd2_rn(H2 a, H2 b) { return a + b; }                                               \
  static inline H __hfma(H a, H b, H c) { return emulation::fused(a, b, c); }                             \
  static inline H2 __hfma2(H2 a, H2 b, H2 c) { return H2(__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)); } \
  static inline H __hneg(H a) { return -a; }                                                              \
  static inline H2 __hneg2(H2 a) { return -a; }                                                           \
  static inline H __habs(H a) { return H(fabsf(float(a))); }                                              \
  static inline H2 __habs2(H2 a) { return H2(__habs(a.x), __habs(a.y)); }                                 \
  static inline bool __hisnan(H a) { return a != a; }                                                     \
  static inline int __hisinf(H a) { return std::isinf(float(a)) ? (float(a) < 0 ? -1 : 1) : 0; }          \
  EMULATION_NARROW_TEST(__heq, H, a == b)                                                                 \
  EMULATION_NARROW_TEST(__hne, H, a != b)                                                                 \
  EMULATION_NARROW_TEST(__hlt, H, a < b)                                                                  \
  EMULATION_NARROW_TEST(__hle, H, a <= b)                                                                 \
  EMULATION_NARROW_TEST(__hgt, H, a > b)                                                                  \
  EMULATION_NARROW_TEST(__hge, H, a >= b)                                                                 \
  EMULATION_NARROW_UNARY(hexp, H, expf(x))                                                                \
  EMULATION_NARROW_UNARY(hexp2, H, exp2f(x))                                                              \
  EMULATION_NARROW_UNARY(hexp10, H, powf(10.0f, x))                                                       \
  EMULATION_NARROW_UNARY(hlog, H, logf(x))                                                                \
  EMULATION_NARROW_UNARY(hlog2, H, log2f(x))                                                              \
  EMULATION_NARROW_UNARY(hlog10, H, log10f(x))                                                            \
  EMULATION_NARROW_UNARY(hsqrt, H, sqrtf(x))                                                              \
  EMULATION_NARROW_UNARY(hrsqrt, H, 1.0 / sqrt(double(x)))                                                \
  EMULATION_NARROW_UNARY(hrcp, H, 1.0f / x)                                                               \
  EMULATION_NARROW_UNARY(hsin, H, sinf(x))                                                                \
  EMULATION_NARROW_UNARY(hcos, H, cosf(x))                                                                \
  EMULATION_NARROW_UNARY(htanh, H, tanhf(x))                                                              \
  EMULATION_NARROW_UNARY(hfloor, H, floorf(x))                                                            \
  EMULATION_NARROW_UNARY(hceil, H, ceilf(x))                                                              \
  EMULATION_NARROW_UNARY(hrint, H, nearbyintf(x))                                                         \
  EMULATION_NARROW_UNARY(htrunc, H, truncf(x))                                                            \
  static inline H2 h2exp(H2 a) { return H2(hexp(a.x), hexp(a.y)); }                                       \
  static inline H2 h2exp2(H2 a) { return H2(hexp2(a.x), hexp2(a.y)); }                                    \
  static inline float __low2float(H2 a) { return float(a.x); }                                            \
  static inline float __high2float(H2 a) { return float(a.y); }                                           \
  static inline H atomicAdd(H* address, H value) {                                                        \
    return emulation::read_modify_write(address, [=](H old) { return old + value; });                     \
  }                                                                                                       \
  static inline H2 atomicAdd(H2* address, H2 value) {                                                     \
    return emulation::read_modify_write(address, [=](H2 old) { return old + value; });                    \
  }
