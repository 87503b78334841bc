// Sums of products of bytes: in each 32-bit lane, four unsigned bytes (activations) times four signed ones (weights).
// All forms are exact for what they are given, so every instruction set gives the same integers.
#pragma once
#include "vector.h"

namespace {

// N words of four bytes.
template <int N>
struct Word {
  typedef int32_t type __attribute__((vector_size(4 * N)));
  typedef int32_t loose __attribute__((vector_size(4 * N), aligned(1), may_alias));
};
template <int N>
using Words = typename Word<N>::type;
typedef int32_t AnyWord __attribute__((aligned(1), may_alias));

template <int N>
INLINE Words<N> take(const void* p) { return *static_cast<const typename Word<N>::loose*>(p); }
template <int N>
INLINE void put(void* p, Words<N> v) { *static_cast<typename Word<N>::loose*>(p) = v; }
template <int N>
INLINE Words<N> every(int32_t s) { return s - Words<N>{}; }

// LANES bytes as words, and back.
typedef uint8_t Narrowed __attribute__((vector_size(LANES)));
typedef uint8_t LooseNarrowed __attribute__((vector_size(LANES), aligned(1), may_alias));
// Compilers do not find these instructions by themselves.
INLINE Bits widened(const uint8_t* p) {
#if defined(__AVX512F__)
  return Bits(_mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p))));
#elif defined(__AVX2__)
  return Bits(_mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p))));
#else
  return __builtin_convertvector(*reinterpret_cast<const LooseNarrowed*>(p), Bits);
#endif
}
// Of words from 0 to 255.
INLINE void narrow(uint8_t* p, Bits v) {
#if defined(__AVX512F__)
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(__m512i(v)));
#elif defined(__AVX2__)
  const __m128i low = _mm256_castsi256_si128(__m256i(v)), high = _mm256_extracti128_si256(__m256i(v), 1);
  const __m128i pairs = _mm_packus_epi32(low, high);
  _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(pairs, pairs));
#else
  *reinterpret_cast<LooseNarrowed*>(p) = __builtin_convertvector(v, Narrowed);
#endif
}

// Each form opens a word of activations into PARTS words, and knows as many words of weights for it.

#if defined(__SSE2__)
// Any activations: even and odd bytes as 16-bit numbers, weights stored as such (w0, w2), (w1, w3). A pair's sum is at
// most 2 * 255 * 128 < 2^31.
struct Wide {
  static constexpr int PARTS = 2;
  template <int N>
  static INLINE void open(Words<N> x, Words<N>* parts) {
    typedef uint32_t Unsigned __attribute__((vector_size(4 * N)));
    parts[0] = x & 0x00FF00FF;
    parts[1] = Words<N>(Unsigned(x) >> 8) & 0x00FF00FF;
  }
  template <int N>
  static INLINE Words<N> add(Words<N> sum, Words<N> x, Words<N> w) {
#if defined(__AVX512BW__)
    if constexpr (N == 16) return sum + Words<N>(_mm512_madd_epi16(__m512i(x), __m512i(w)));
#endif
#if defined(__AVX2__)
    if constexpr (N == 8) return sum + Words<N>(_mm256_madd_epi16(__m256i(x), __m256i(w)));
#endif
    if constexpr (N == 4) return sum + Words<N>(_mm_madd_epi16(__m128i(x), __m128i(w)));
  }
};
#endif

#if defined(__AVX512VNNI__) || defined(__AVXVNNI__)
// One instruction for all of it, without an intermediate that could overflow.
struct Narrow {
  static constexpr int PARTS = 1;
  template <int N>
  static INLINE void open(Words<N> x, Words<N>* parts) { parts[0] = x; }
  template <int N>
  static INLINE Words<N> add(Words<N> sum, Words<N> x, Words<N> w) {
#if defined(__AVX512VNNI__)
    if constexpr (N == 16) return Words<N>(_mm512_dpbusd_epi32(__m512i(sum), __m512i(x), __m512i(w)));
    if constexpr (N == 8) return Words<N>(_mm256_dpbusd_epi32(__m256i(sum), __m256i(x), __m256i(w)));
    if constexpr (N == 4) return Words<N>(_mm_dpbusd_epi32(__m128i(sum), __m128i(x), __m128i(w)));
#else
    if constexpr (N == 8) return Words<N>(_mm256_dpbusd_avx_epi32(__m256i(sum), __m256i(x), __m256i(w)));
    if constexpr (N == 4) return Words<N>(_mm_dpbusd_avx_epi32(__m128i(sum), __m128i(x), __m128i(w)));
#endif
  }
};
constexpr int NARROW_MOST = 255;  // the largest activation that Narrow takes
#elif defined(__AVX2__)
// maddubs saturates its 16-bit sums of two products. With activations of 7 bits it has nothing to saturate: the largest
// magnitude is 2 * 127 * 128 = 32512 < 2^15.
struct Narrow {
  static constexpr int PARTS = 1;
  template <int N>
  static INLINE void open(Words<N> x, Words<N>* parts) { parts[0] = x; }
  template <int N>
  static INLINE Words<N> add(Words<N> sum, Words<N> x, Words<N> w) {
#if defined(__AVX512BW__)
    if constexpr (N == 16)
      return sum + Words<N>(_mm512_madd_epi16(_mm512_maddubs_epi16(__m512i(x), __m512i(w)), _mm512_set1_epi16(1)));
#endif
    if constexpr (N == 8)
      return sum + Words<N>(_mm256_madd_epi16(_mm256_maddubs_epi16(__m256i(x), __m256i(w)), _mm256_set1_epi16(1)));
    if constexpr (N == 4)
      return sum + Words<N>(_mm_madd_epi16(_mm_maddubs_epi16(__m128i(x), __m128i(w)), _mm_set1_epi16(1)));
  }
};
constexpr int NARROW_MOST = 127;
#elif defined(__SSE2__)
typedef Wide Narrow;
constexpr int NARROW_MOST = -1;  // always wide
#else
// Plain products, byte by byte of each word.
struct Narrow {
  static constexpr int PARTS = 1;
  template <int N>
  static INLINE void open(Words<N> x, Words<N>* parts) { parts[0] = x; }
  template <int N>
  static INLINE Words<N> add(Words<N> sum, Words<N> x, Words<N> w) {
    typedef uint32_t Unsigned __attribute__((vector_size(4 * N)));
    const Unsigned bytes = Unsigned(x), signs = Unsigned(w);
    sum += Words<N>(bytes & 255) * (Words<N>(signs << 24) >> 24);
    sum += Words<N>(bytes >> 8 & 255) * (Words<N>(signs << 16) >> 24);
    sum += Words<N>(bytes >> 16 & 255) * (Words<N>(signs << 8) >> 24);
    return sum + Words<N>(bytes >> 24) * (w >> 24);
  }
};
typedef Narrow Wide;
constexpr int NARROW_MOST = 255;
#endif

}  // namespace
