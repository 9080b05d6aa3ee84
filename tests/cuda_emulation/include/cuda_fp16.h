// Stand-in for CUDA's header of the same name.
#pragma once

#include "narrow_floats.h"

using __half = emulation::Narrow<emulation::Binary16>;
using __half2 = emulation::Narrow2<emulation::Binary16>;
using __half_raw = emulation::Raw<emulation::Binary16>;
using half = __half;
using half2 = __half2;

EMULATION_NARROW_INTRINSICS(__half, __half2)

static inline __half __float2half(float x) { return __half(x); }
static inline __half __float2half_rn(float x) { return __half(x); }
static inline __half __double2half(double x) { return __half(x); }
static inline float __half2float(__half x) { return float(x); }
static inline __half __int2half_rn(int x) { return __half(x); }
static inline int __half2int_rn(__half x) { return int(nearbyintf(float(x))); }
static inline int __half2int_rz(__half x) { return int(float(x)); }
static inline __half2 __float2half2_rn(float x) { return __half2(__half(x), __half(x)); }
static inline __half2 __floats2half2_rn(float x, float y) { return __half2(__half(x), __half(y)); }
static inline __half2 __float22half2_rn(float2 x) { return __half2(__half(x.x), __half(x.y)); }
static inline float2 __half22float2(__half2 x) { return make_float2(float(x.x), float(x.y)); }
static inline __half2 __half2half2(__half x) { return __half2(x, x); }
static inline __half2 __halves2half2(__half x, __half y) { return __half2(x, y); }
static inline __half2 make_half2(__half x, __half y) { return __half2(x, y); }
static inline __half __low2half(__half2 x) { return x.x; }
static inline __half __high2half(__half2 x) { return x.y; }
static inline __half2 __lows2half2(__half2 a, __half2 b) { return __half2(a.x, b.x); }
static inline __half2 __highs2half2(__half2 a, __half2 b) { return __half2(a.y, b.y); }
static inline unsigned short __half_as_ushort(__half x) { return x.__x; }
static inline short __half_as_short(__half x) { return short(x.__x); }
static inline __half __ushort_as_half(unsigned short x) { return __half_raw{x}; }
static inline __half __short_as_half(short x) { return __half_raw{uint16_t(x)}; }
