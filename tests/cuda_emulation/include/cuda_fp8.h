// Stand-in for CUDA's header of the same name: e4m3, e5m2 and e8m0, alone, in pairs and in fours. Conversions saturate to
// the largest finite number, as those of CUDA's C++ types do, and round to nearest even.
#pragma once

#include "cuda_bf16.h"

typedef uint8_t __nv_fp8_storage_t;
typedef uint16_t __nv_fp8x2_storage_t;
typedef uint32_t __nv_fp8x4_storage_t;

namespace emulation {

// `mantissa` bits, exponents biased by `bias`, `largest` the code of the largest finite number, `nan` that of NaN.
template <int mantissa, int bias, int largest, int nan>
struct Float8 {
  static inline float widen(uint8_t bits) {
    const int magnitude = bits & 0x7f, exponent = magnitude >> mantissa, fraction = magnitude & ((1 << mantissa) - 1);
    float value;
    if (magnitude > largest) {
      value = magnitude == largest + 1 && nan != largest + 1 ? __builtin_huge_valf() : __builtin_nanf("");
    } else {
      value = exponent ? ldexpf(float(fraction + (1 << mantissa)), exponent - bias - mantissa)
                       : ldexpf(float(fraction), 1 - bias - mantissa);
    }
    return bits & 0x80 ? -value : value;
  }

  static inline uint8_t round(float value) {
    const uint8_t sign = std::signbit(value) ? 0x80 : 0;
    const float size = fabsf(value);
    if (size != size) return uint8_t(sign | nan);
    if (size >= widen(largest)) return uint8_t(sign | largest);
    int exponent;
    frexpf(size, &exponent);  // size = f * 2^exponent with f in [1/2, 1)
    const int scale = (size == 0.0f || exponent - 1 < 1 - bias ? 1 - bias : exponent - 1) - mantissa;
    const float units = nearbyintf(ldexpf(size, -scale));  // a carry into the next exponent is the next code as well
    return uint8_t(sign | (int(units) + ((scale + mantissa + bias - 1) << mantissa)));
  }
};
using FloatE4M3 = Float8<3, 7, 0x7e, 0x7f>;
using FloatE5M2 = Float8<2, 15, 0x7b, 0x7f>;

struct FloatE8M0 {  // powers of two; rounds up
  static inline float widen(uint8_t bits) { return bits == 0xff ? __builtin_nanf("") : ldexpf(1.0f, int(bits) - 127); }
  static inline uint8_t round(float value) {
    if (!(value > 0.0f)) return value == 0.0f ? 0 : 0xff;
    int exponent;
    const float fraction = frexpf(value, &exponent);
    const int code = exponent - (fraction == 0.5f ? 1 : 0) + 127;
    return uint8_t(code < 0 ? 0 : code > 254 ? 254 : code);
  }
};

template <class Format>
struct Octet {
  __nv_fp8_storage_t __x;
  Octet() = default;
  explicit Octet(float value) : __x(Format::round(value)) {}
  explicit Octet(double value) : __x(Format::round(float(value))) {}
  explicit Octet(int value) : __x(Format::round(float(value))) {}
  template <class Other>
  explicit Octet(Narrow<Other> value) : __x(Format::round(float(value))) {}
  explicit operator float() const { return Format::widen(__x); }
  explicit operator double() const { return Format::widen(__x); }
  explicit operator int() const { return int(Format::widen(__x)); }
  template <class Other>
  explicit operator Narrow<Other>() const {
    return Narrow<Other>(Format::widen(__x));
  }
};

template <class Format>
struct Octet2 {
  __nv_fp8x2_storage_t __x;
  Octet2() = default;
  explicit Octet2(float2 v) : __x(uint16_t(Format::round(v.x) | Format::round(v.y) << 8)) {}
  template <class Other>
  explicit Octet2(Narrow2<Other> v) : __x(uint16_t(Format::round(float(v.x)) | Format::round(float(v.y)) << 8)) {}
  explicit operator float2() const { return {Format::widen(uint8_t(__x)), Format::widen(uint8_t(__x >> 8))}; }
  template <class Other>
  explicit operator Narrow2<Other>() const {
    return {Narrow<Other>(Format::widen(uint8_t(__x))), Narrow<Other>(Format::widen(uint8_t(__x >> 8)))};
  }
};

template <class Format>
struct Octet4 {
  __nv_fp8x4_storage_t __x;
  Octet4() = default;
  explicit Octet4(float4 v)
      : __x(uint32_t(Format::round(v.x)) | uint32_t(Format::round(v.y)) << 8 | uint32_t(Format::round(v.z)) << 16 |
            uint32_t(Format::round(v.w)) << 24) {}
  explicit operator float4() const {
    return {Format::widen(uint8_t(__x)), Format::widen(uint8_t(__x >> 8)), Format::widen(uint8_t(__x >> 16)),
            Format::widen(uint8_t(__x >> 24))};
  }
};

}  // namespace emulation

using __nv_fp8_e4m3 = emulation::Octet<emulation::FloatE4M3>;
using __nv_fp8_e5m2 = emulation::Octet<emulation::FloatE5M2>;
using __nv_fp8_e8m0 = emulation::Octet<emulation::FloatE8M0>;
using __nv_fp8x2_e4m3 = emulation::Octet2<emulation::FloatE4M3>;
using __nv_fp8x2_e5m2 = emulation::Octet2<emulation::FloatE5M2>;
using __nv_fp8x2_e8m0 = emulation::Octet2<emulation::FloatE8M0>;
using __nv_fp8x4_e4m3 = emulation::Octet4<emulation::FloatE4M3>;
using __nv_fp8x4_e5m2 = emulation::Octet4<emulation::FloatE5M2>;
using __nv_fp8x4_e8m0 = emulation::Octet4<emulation::FloatE8M0>;
