// Elements of matrix operands as they lie in 32-bit registers and in shared memory.
#pragma once

#include <cmath>

#include "../include/narrow_floats.h"
#include "../include/ptx.h"

namespace emulation {

constexpr int bits_of_element(Element type) {
  switch (type) {
    case Element::F16:
    case Element::BF16: return 16;
    case Element::TF32: return 32;
    case Element::S4:
    case Element::U4: return 4;
    default: return 8;
  }
}

inline bool is_integer(Element type) {
  return type == Element::S8 || type == Element::U8 || type == Element::S4 || type == Element::U4;
}

// 1 sign bit, then `exponent` and `mantissa` bits; e4m3 has no infinities and one NaN, e5m2 is IEEE-like.
inline float eight_bits(uint8_t bits, int mantissa, int bias, bool has_infinity) {
  const int magnitude = bits & 0x7f, exponent = magnitude >> mantissa, fraction = magnitude & ((1 << mantissa) - 1);
  const float sign = bits & 0x80 ? -1.0f : 1.0f;
  if (has_infinity && exponent == (0x7f >> mantissa)) return fraction ? NAN : sign * INFINITY;
  if (!has_infinity && magnitude == 0x7f) return NAN;
  if (exponent == 0) return sign * std::ldexp(float(fraction), 1 - bias - mantissa);
  return sign * std::ldexp(float(fraction + (1 << mantissa)), exponent - bias - mantissa);
}

// The number in the low bits of `raw`. Integers of 8 bits and less are exact in float as well.
inline float element_value(Element type, uint32_t raw) {
  switch (type) {
    case Element::F16: return Binary16::widen(uint16_t(raw));
    case Element::BF16: return Brain16::widen(uint16_t(raw));
    case Element::TF32: return bit_cast<float>(raw & ~0x1fffu);
    case Element::E4M3: return eight_bits(uint8_t(raw), 3, 7, false);
    case Element::E5M2: return eight_bits(uint8_t(raw), 2, 15, true);
    case Element::S8: return float(int8_t(raw));
    case Element::U8: return float(uint8_t(raw));
    case Element::S4: return float(int8_t(raw << 4) >> 4);
    case Element::U4: return float(raw & 0xf);
  }
  return 0.0f;
}

inline float register_element(Element type, uint32_t value, int index) {
  return element_value(type, value >> (index * bits_of_element(type) % 32));
}

}  // namespace emulation
