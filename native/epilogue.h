// What happens to a sum before it is stored: residual, activation.
#pragma once
#include <cmath>
#include <cstring>

#include "vector.h"

namespace {

enum Activation : int32_t { NONE, RELU, RELU6, SILU, GELU, GELU_TANH, HARDSWISH };

INLINE Vector clamp(Vector v, Vector low, Vector high) { return smaller(high, larger(low, v)); }

// exp(x) to about 2 ulp: x = n ln 2 + r, exp(r) by its series, 2^n by the exponent's bits.
INLINE Vector exponential(Vector x) {
  x = clamp(x, all(-87.3f), all(88.3f));
  const Vector shifted = x * 1.44269504f + 12582912.0f;  // rounds to the nearest integer, which the low bits then hold
  const Vector n = shifted - 12582912.0f;
  const Vector r = (x - n * 0.693359375f) + n * 2.12194440e-4f;
  Vector p = r * (1.0f / 5040) + 1.0f / 720;
  p = p * r + 1.0f / 120;
  p = p * r + 1.0f / 24;
  p = p * r + 1.0f / 6;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  // An exponent of 127 in front of the shift leaves exactly the bits of 2^n.
  const Bits power = (reinterpret_cast<Bits>(shifted) - 0x4B400000 + 127) << 23;
  const Vector result = p * reinterpret_cast<Vector>(power);
  return x == x ? result : x;
}

// Abramowitz and Stegun, Handbook of Mathematical Functions, 7.1.26: |error| < 1.5e-7.
INLINE Vector error_function(Vector x) {
  const Vector a = x < 0.0f ? -x : x, t = 1.0f / (a * 0.3275911f + 1.0f);
  Vector p = t * 1.061405429f - 1.453152027f;
  p = p * t + 1.421413741f;
  p = p * t - 0.284496736f;
  p = p * t + 0.254829592f;
  const Vector y = 1.0f - p * t * exponential(-a * a);
  return x < 0.0f ? -y : y;
}

INLINE Vector sigmoid(Vector x) { return 1.0f / (exponential(-x) + 1.0f); }

INLINE Vector activate(Vector x, int activation) {
  switch (activation) {
    case RELU: return larger(all(0.0f), x);
    case RELU6: return clamp(x, all(0.0f), all(6.0f));
    case SILU: return x * sigmoid(x);
    case GELU: return x * 0.5f * (error_function(x * 0.70710678f) + 1.0f);
    // 0.5 x (1 + tanh(u)) = x sigmoid(2 u)
    case GELU_TANH: return x * sigmoid(1.5957691216f * (x + 0.044715f * x * x * x));
    case HARDSWISH: return x * (clamp(x + 3.0f, all(0.0f), all(6.0f)) * (1.0f / 6));
    default: return x;
  }
}

struct Epilogue {
  int activation = NONE;
  bool add_last = false;  // the residual is added behind the activation instead of in front of it

  bool clamps() const { return activation <= RELU6; }
  float low() const { return activation == NONE ? -INFINITY : 0.0f; }
  float high() const { return activation == RELU6 ? 6.0f : INFINITY; }

  INLINE Vector operator()(Vector sum, Vector residual) const {
    return add_last ? activate(sum, activation) + residual : activate(sum + residual, activation);
  }
};

// to[i] = epilogue(from[i], residual[i]); `to` may be `from`, `residual` may be null.
inline void finish(const float* from, const float* residual, float* to, long n, const Epilogue& e) {
  long i = 0;
  for (; i + LANES <= n; i += LANES)
    store(to + i, e(load(from + i), residual ? load(residual + i) : Vector{}));
  if (i < n) {
    float s[LANES] = {}, r[LANES] = {};
    std::memcpy(s, from + i, (n - i) * sizeof(float));
    if (residual) std::memcpy(r, residual + i, (n - i) * sizeof(float));
    store(s, e(load(s), load(r)));
    std::memcpy(to + i, s, (n - i) * sizeof(float));
  }
}

}  // namespace
