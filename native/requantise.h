// From sums to what is stored: residual, rescaling, activation. Nothing that is computed here depends on the instruction
// set: each product is rounded on its own, and never becomes part of a fused multiply-add.
#pragma once
#include "dot.h"
#include "epilogue.h"

// Shared with Python (src/secateur/runtime/library.py).
extern "C" struct Int8Matrix {
  int32_t rows;      // outputs
  int32_t columns;   // inputs of a linear layer, or input channels of a convolution
  int32_t height;    // rows of a block: 4, 8 or 16; all blocks but the last have as many
  int32_t blocks;
  int32_t wide;      // values are 16-bit numbers (see dot.h)
  int32_t floats;    // y is float32 in planes, a channel each; else bytes, four channels to a word
  int32_t zero_x, zero_y, zero_residual;
  float low, high;         // limits of an output in front of zero_y, or of a float
  const int32_t* start;    // [blocks + 1] range of entries
  const int32_t* offset;   // [entries] four inputs each: words, or offsets into the laid planes of a convolution
  const void* values;      // [entries][height][4], wide: [entries][2][height][2]
  const int32_t* bias;     // [blocks][height], in units of a sum, the inputs' zero point taken off
  const float* multiplier; // [blocks][height] units of y in one of a sum
  const float* residual;   // [blocks][height] units of a sum in one of the residual
  const uint8_t* table;    // [256] what is stored for each rescaled byte, or null: itself
};

namespace {

// To the nearest integer, of two the even one.
INLINE Bits nearest(Vector v) {
#if defined(__AVX512F__)
  return Bits(_mm512_cvtps_epi32(v));
#elif defined(__AVX__)
  return Bits(_mm256_cvtps_epi32(v));
#elif defined(__SSE2__)
  return Bits(_mm_cvtps_epi32(v));
#else
  Bits result;
  for (int i = 0; i < LANES; i++) result[i] = int32_t(__builtin_rintf(v[i]));
  return result;
#endif
}
INLINE Vector to_floats(Bits v) { return __builtin_convertvector(v, Vector); }

// table[byte] for each byte.
INLINE Bits looked_up(const uint8_t* table, Bits v) {
#if defined(__AVX512BW__)
  const __m512i x = __m512i(v), high = _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15));
  const __m512i low = _mm512_and_si512(x, _mm512_set1_epi8(15));
  __m512i found = _mm512_setzero_si512();
#pragma GCC unroll 1
  for (int i = 0; i < 16; i++) {
    const __m512i part = _mm512_broadcast_i32x4(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * i)));
    found = _mm512_mask_shuffle_epi8(found, _mm512_cmpeq_epi8_mask(high, _mm512_set1_epi8(char(i))), part, low);
  }
  return Bits(found);
#elif defined(__AVX2__)
  __m256i x = __m256i(v), found = _mm256_setzero_si256();
#pragma GCC unroll 1
  for (int i = 0; i < 16; i++) {
    const __m256i part = _mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(table + 16 * i)));
    // A byte of these sixteen stays below 128; of any other the top bit is set, and what is found is 0.
    found = _mm256_or_si256(found, _mm256_shuffle_epi8(part, _mm256_adds_epu8(x, _mm256_set1_epi8(0x70))));
    x = _mm256_sub_epi8(x, _mm256_set1_epi8(16));
  }
  return Bits(found);
#else
  typedef uint8_t Bytes __attribute__((vector_size(4 * LANES)));
  Bytes bytes = Bytes(v);
  for (int i = 0; i < 4 * LANES; i++) bytes[i] = table[bytes[i]];
  return Bits(bytes);
#endif
}

// The residual's units become the sum's; they are integers again before they are added.
INLINE Bits with_residual(Bits sum, Bits residual, int32_t zero, Vector ratio) {
  return sum + nearest(to_floats(residual - zero) * ratio);
}

// Sums of four channels (of rows from `row` on) as one word for each lane; residual: such words.
template <bool RESIDUAL>
INLINE Bits four(const Int8Matrix& m, const Bits* sums, long stride, long row, Bits residual) {
  Vector reals[4];
  each<4>([&](auto r) FLAT {
    Bits s = sums[r * stride];
    if constexpr (RESIDUAL)
      s = with_residual(s, residual >> (8 * r) & 255, m.zero_residual, all(m.residual[row + r]));
    reals[r] = to_floats(s) * all(m.multiplier[row + r]);  // within 32 bits: the packing has seen to it
  });
  const int32_t low = m.zero_y + int32_t(m.low), high = m.zero_y + int32_t(m.high);
  Bits word{};
#if defined(__AVX512BW__)
  // Saturation on the way to 16 bits and to bytes leaves alone what lies between the ends.
  const __m512i zero = _mm512_set1_epi16(short(m.zero_y));
  const __m512i a = _mm512_packs_epi32(__m512i(nearest(reals[0])), __m512i(nearest(reals[1])));
  const __m512i b = _mm512_packs_epi32(__m512i(nearest(reals[2])), __m512i(nearest(reals[3])));
  __m512i q = _mm512_packus_epi16(_mm512_adds_epi16(a, zero), _mm512_adds_epi16(b, zero));
  q = _mm512_min_epu8(_mm512_max_epu8(q, _mm512_set1_epi8(char(low))), _mm512_set1_epi8(char(high)));
  // Each quarter has four lanes of each channel; a lane's four channels become neighbours.
  word = Bits(_mm512_shuffle_epi8(q, _mm512_broadcast_i32x4(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15))));
#elif defined(__AVX2__)
  const __m256i zero = _mm256_set1_epi16(short(m.zero_y));
  const __m256i a = _mm256_packs_epi32(__m256i(nearest(reals[0])), __m256i(nearest(reals[1])));
  const __m256i b = _mm256_packs_epi32(__m256i(nearest(reals[2])), __m256i(nearest(reals[3])));
  __m256i q = _mm256_packus_epi16(_mm256_adds_epi16(a, zero), _mm256_adds_epi16(b, zero));
  q = _mm256_min_epu8(_mm256_max_epu8(q, _mm256_set1_epi8(char(low))), _mm256_set1_epi8(char(high)));
  word = Bits(_mm256_shuffle_epi8(q, _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15))));
#else
  each<4>([&](auto r) FLAT { word |= (nearest(clamp(reals[r], all(m.low), all(m.high))) + m.zero_y) << (8 * r); });
  (void)low, (void)high;
#endif
  return m.table ? looked_up(m.table, word) : word;
}

// Up to LANES outputs of one sample: bytes, or floats.
INLINE void finish_outputs(const Int8Matrix& m, const int32_t* sums, long row, const uint8_t* residual, void* y,
                           long n) {
  Bits s = take<LANES>(sums);
  if (residual) {
    uint8_t rest[LANES] = {};
    if (n < LANES) std::memcpy(rest, residual, n);
    s = with_residual(s, widened(n < LANES ? rest : residual), m.zero_residual, load(m.residual + row));
  }
  const Vector reals = clamp(to_floats(s) * load(m.multiplier + row), all(m.low), all(m.high));
  if (m.floats) {
    if (n == LANES) store(static_cast<float*>(y), reals);
    else std::memcpy(y, &reals, n * sizeof(float));
    return;
  }
  uint8_t bytes[LANES];
  narrow(bytes, nearest(reals) + m.zero_y);
  if (m.table)
    for (uint8_t& byte : bytes) byte = m.table[byte];
  if (n == LANES) std::memcpy(y, bytes, LANES);
  else std::memcpy(y, bytes, n);
}

}  // namespace
