// Vectors of floats by the compilers' vector extension: as wide as the instruction set that this file is compiled for.
#pragma once
#include <cstddef>
#include <cstdint>
#include <utility>
#if defined(__SSE__)
#include <immintrin.h>
#endif

#define FLAT __attribute__((always_inline))
#define INLINE inline FLAT

namespace {

#if defined(__AVX512F__)
constexpr int LANES = 16;
#elif defined(__AVX__)
constexpr int LANES = 8;
#else
constexpr int LANES = 4;
#endif

// Registers decide how many sums a tile may keep.
#if defined(__AVX512F__) || defined(__aarch64__)
constexpr int REGISTERS = 32;
#else
constexpr int REGISTERS = 16;
#endif

typedef float Vector __attribute__((vector_size(4 * LANES)));
typedef int32_t Bits __attribute__((vector_size(4 * LANES)));
typedef float Loose __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef int32_t LooseBits __attribute__((vector_size(4 * LANES), aligned(4), may_alias));

INLINE Vector load(const float* p) { return *reinterpret_cast<const Loose*>(p); }
INLINE void store(float* p, Vector v) { *reinterpret_cast<Loose*>(p) = v; }
// The second, where one is not a number.
#if defined(__AVX512F__)
INLINE Vector larger(Vector a, Vector b) { return _mm512_max_ps(a, b); }
INLINE Vector smaller(Vector a, Vector b) { return _mm512_min_ps(a, b); }
#elif defined(__AVX__)
INLINE Vector larger(Vector a, Vector b) { return _mm256_max_ps(a, b); }
INLINE Vector smaller(Vector a, Vector b) { return _mm256_min_ps(a, b); }
#elif defined(__SSE__)
INLINE Vector larger(Vector a, Vector b) { return _mm_max_ps(a, b); }
INLINE Vector smaller(Vector a, Vector b) { return _mm_min_ps(a, b); }
#else
INLINE Vector larger(Vector a, Vector b) { return b < a ? a : b; }
INLINE Vector smaller(Vector a, Vector b) { return b > a ? a : b; }
#endif
INLINE Vector all(float s) { return s - Vector{}; }  // s - 0 is s, also for -0

// f(0), f(1), ... with constants: loops over registers must not stay loops.
template <class F, std::size_t... I>
INLINE void each(F&& f, std::index_sequence<I...>) {
  (f(std::integral_constant<int, int(I)>{}), ...);
}
template <int N, class F>
INLINE void each(F&& f) {
  each(f, std::make_index_sequence<N>{});
}

// The elements of a and b in turns: those of the lower halves, and those of the upper halves.
template <std::size_t... I>
INLINE Vector zip_low(Vector a, Vector b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, (I % 2 ? LANES + int(I / 2) : int(I / 2))...);
}
template <std::size_t... I>
INLINE Vector zip_high(Vector a, Vector b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, ((I % 2 ? LANES : 0) + LANES / 2 + int(I / 2))...);
}

// LANES x LANES elements, transposed: log2(LANES) perfect shuffles of the rows.
INLINE void transpose_square(const float* from, long from_stride, float* to, long to_stride) {
  constexpr auto sequence = std::make_index_sequence<LANES>{};
  Vector a[LANES], b[LANES];
  each<LANES>([&](auto i) FLAT { a[i] = load(from + i * from_stride); });
#pragma GCC unroll 4
  for (int step = 1; step < LANES; step *= 2) {
    each<LANES / 2>([&](auto i) FLAT {
      b[2 * i] = zip_low(a[i], a[i + LANES / 2], sequence);
      b[2 * i + 1] = zip_high(a[i], a[i + LANES / 2], sequence);
    });
    each<LANES>([&](auto i) FLAT { a[i] = b[i]; });
  }
  each<LANES>([&](auto i) FLAT { store(to + i * to_stride, a[i]); });
}

// to[column][row] = from[row][column].
inline void transpose(const float* from, long from_stride, float* to, long to_stride, long rows, long columns) {
  const long r = rows - rows % LANES, c = columns - columns % LANES;
  for (long i = 0; i < r; i += LANES)
    for (long j = 0; j < c; j += LANES)
      transpose_square(from + i * from_stride + j, from_stride, to + j * to_stride + i, to_stride);
  for (long i = 0; i < rows; i++)
    for (long j = i < r ? c : 0; j < columns; j++) to[j * to_stride + i] = from[i * from_stride + j];
}

// Rows of pixels are short, so the calls of memcpy and memset would take longer than what they do. T has four bytes.
template <int N, class T>
INLINE bool copy_ends(const T* from, T* to, long n) {
  typedef T Part __attribute__((vector_size(4 * N), aligned(4), may_alias));
  if (n < N) return false;
  long i = 0;
  for (; i + N < n; i += N) *reinterpret_cast<Part*>(to + i) = *reinterpret_cast<const Part*>(from + i);
  *reinterpret_cast<Part*>(to + n - N) = *reinterpret_cast<const Part*>(from + n - N);
  return true;
}
template <class T>
INLINE void copy(const T* from, T* to, long n) {
  if (copy_ends<LANES>(from, to, n) || copy_ends<4>(from, to, n)) return;
  for (long i = 0; i < n; i++) to[i] = from[i];
}
template <class T>
INLINE void fill(T* to, long n, T value) {
  typedef T Part __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
  const Part part = value - Part{};
  long i = 0;
  for (; i + LANES <= n; i += LANES) *reinterpret_cast<Part*>(to + i) = part;
#pragma GCC unroll 1
  for (; i < n; i++) to[i] = value;
}

}  // namespace
