// One sample through a unified layer: blocks of 16 outputs x 4 inputs under one magnitude, signs as 4-bit codes that
// look the signed sum of the 4 inputs up.
#pragma once
#include "linear.h"

extern "C" struct Lookup {
  int32_t rows, columns, blocks;
  int32_t activation, add_last;
  const int32_t* start;      // [blocks + 1] entries, in eights
  const int32_t* group;      // [8 x eights] which four inputs; any where the magnitude is 0
  const uint32_t* code;      // [eights][16]: 4 bits for each of 8 entries, the sign of input k in bit k
  const float* magnitude;    // [8 x eights]
  const float* bias;         // [blocks][16]
};

namespace {

struct Sixteen {
#if defined(__AVX512F__)
  __m512 v;
  INLINE Sixteen() : v(_mm512_setzero_ps()) {}
  // Fused: this += magnitude * table[(codes >> shift) & 15]
  INLINE void add(const float* table, const uint32_t* codes, int shift, float magnitude) {
    const __m512i c = _mm512_srli_epi32(_mm512_loadu_si512(codes), shift);
    v = _mm512_fmadd_ps(_mm512_permutexvar_ps(c, _mm512_loadu_ps(table)), _mm512_set1_ps(magnitude), v);
  }
  INLINE void write(float* to) const { _mm512_storeu_ps(to, v); }
#elif defined(__AVX2__)
  __m256 v[2];
  INLINE Sixteen() : v{_mm256_setzero_ps(), _mm256_setzero_ps()} {}
  INLINE void add(const float* table, const uint32_t* codes, int shift, float magnitude) {
    // Eight sums fit into a register; with bit 3 set the sum is the negative of that with all bits turned.
    const __m256 low = _mm256_loadu_ps(table), m = _mm256_set1_ps(magnitude);
    for (int h = 0; h < 2; h++) {
      const __m256i c = _mm256_srl_epi32(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(codes + 8 * h)),
                                         _mm_cvtsi32_si128(shift));
      const __m256i turned = _mm256_srai_epi32(_mm256_slli_epi32(c, 28), 31);
      const __m256 sum = _mm256_permutevar8x32_ps(low, _mm256_xor_si256(c, turned));
      const __m256 sign = _mm256_and_ps(_mm256_castsi256_ps(turned), _mm256_set1_ps(-0.0f));
      v[h] = _mm256_fmadd_ps(_mm256_xor_ps(sum, sign), m, v[h]);
    }
  }
  INLINE void write(float* to) const {
    _mm256_storeu_ps(to, v[0]);
    _mm256_storeu_ps(to + 8, v[1]);
  }
#else
  float v[16] = {};
  INLINE void add(const float* table, const uint32_t* codes, int shift, float magnitude) {
    for (int i = 0; i < 16; i++) v[i] += magnitude * table[(codes[i] >> shift) & 15];
  }
  INLINE void write(float* to) const { std::memcpy(to, v, sizeof v); }
#endif
};

inline void sums_of_four(const float* x, float* to) {
  for (int k = 0; k < 16; k++)
    to[k] = ((k & 1 ? -x[0] : x[0]) + (k & 2 ? -x[1] : x[1])) + ((k & 4 ? -x[2] : x[2]) + (k & 8 ? -x[3] : x[3]));
}

inline bool look_up(const Lookup& l, const float* x, const float* residual, float* y, int threads) {
  static thread_local Scratch scratch;
  const long groups = (l.columns + 3) / 4;
  float* table = scratch.get(16 * std::max<long>(groups, 1));
  if (!table) return false;
  for (long g = 0; g < l.columns / 4; g++) sums_of_four(x + 4 * g, table + 16 * g);
  if (l.columns % 4) {
    float four[4] = {};
    std::memcpy(four, x + l.columns / 4 * 4, (l.columns % 4) * sizeof(float));
    sums_of_four(four, table + 16 * (groups - 1));
  }
  const Epilogue e{l.activation, l.add_last != 0};
  if (l.start[l.blocks] * 8L * 64 < SERIAL_WORK) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1) schedule(static)
  for (int b = 0; b < l.blocks; b++) {
    Sixteen sum[4];
    for (long j = l.start[b]; j < l.start[b + 1]; j++)
      each<8>([&](auto u) FLAT {
        sum[u % 4].add(table + 16L * l.group[8 * j + u], l.code + 16 * j, 4 * u, l.magnitude[8 * j + u]);
      });
    float part[4][16], total[16];
    for (int k = 0; k < 4; k++) sum[k].write(part[k]);
    for (int i = 0; i < 16; i++) total[i] = (part[0][i] + part[1][i]) + (part[2][i] + part[3][i]) + l.bias[16L * b + i];
    finish(total, residual ? residual + 16L * b : nullptr, y + 16L * b, std::min(16, l.rows - 16 * b), e);
  }
  return true;
}

}  // namespace
