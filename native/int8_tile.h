// Sparse matrix of int8 times planes of words (four channels of a pixel): the twin of tile.h.
#pragma once
#include <cstring>

#include "matrix.h"
#include "requantise.h"

namespace {

// Lanes are neighbouring pixels of a plane or samples of a batch.
struct Int8Span {
  const int32_t* x;
  long scale;    // words of x per unit of an offset
  int32_t* y;    // words, or floats
  long y_plane;  // words from plane to plane of y: of four channels, or of one if they are floats
  long lanes;    // at least LANES
  const int32_t* residual = nullptr;  // words; lies as words of y do
};

// Vectors of the sums that are kept in registers for so many rows, beside what the products need.
template <class Dot, int ROWS>
constexpr int int8_vectors() {
  return REGISTERS == 16 ? 2 : ROWS == 8 ? (Dot::PARTS == 2 ? 2 : 3) : (Dot::PARTS == 2 ? 4 : 6);
}

template <int ROWS, int NV, bool RESIDUAL>
INLINE void store_words(const Int8Matrix& m, const Int8Span& s, const Bits* a, long row, long q, long last) {
  each<ROWS / 4>([&](auto g) FLAT {
    if (row + 4 * g >= m.rows) return;
    int32_t* y = s.y + (row / 4 + g) * s.y_plane + q;
    const int32_t* residual = RESIDUAL ? s.residual + (row / 4 + g) * s.y_plane + q : nullptr;
    each<NV>([&](auto i) FLAT {
      const long p = i < NV - 1 ? i * LANES : last;
      Bits r{};
      if constexpr (RESIDUAL) r = take<LANES>(residual + p);
      put<LANES>(y + p, four<RESIDUAL>(m, a + 4 * g * NV + i, NV, row + 4 * g, r));
    });
  });
}

template <int ROWS, int NV>
inline void store_floats(const Int8Matrix& m, const Int8Span& s, const Bits* a, long row, long q, long last) {
  const Vector low = all(m.low), high = all(m.high);
  for (int r = 0; r < ROWS && row + r < m.rows; r++)
    for (int i = 0; i < NV; i++) {
      const long p = q + (i < NV - 1 ? i * LANES : last);
      Bits sum = a[r * NV + i];
      if (s.residual) {
        const Bits word = take<LANES>(s.residual + (row + r) / 4 * s.y_plane + p);
        sum = with_residual(sum, word >> ((row + r) % 4 * 8) & 255, m.zero_residual, all(m.residual[row + r]));
      }
      const Vector v = clamp(to_floats(sum) * all(m.multiplier[row + r]), low, high);
      put<LANES>(s.y + (row + r) * s.y_plane + p, Bits(v));
    }
}

// As in tile.h, the last vector of a tile lies at q + last and may overlap the one in front of it.
template <class Dot, int RT, int NV>
INLINE void int8_tile(const Int8Matrix& m, const Int8Span& s, int block, int row, long q, long last) {
  constexpr int P = Dot::PARTS;
  constexpr int U = RT * NV >= 8 ? 1 : 2;  // sums per result that hide the latency of a product
  const long n = m.start[block + 1] - m.start[block];
  const int32_t* o = m.offset + m.start[block];
  const long height = m.height;
  const AnyWord* w = static_cast<const AnyWord*>(m.values) + long(m.start[block]) * height * P + row;
  const int32_t *x = s.x + q, *end = x + last;
  const long first = long(block) * height + row;
  Bits a[U * RT * NV];
  each<U * RT * NV>([&](auto i) FLAT {
    a[i] = i < RT * NV ? every<LANES>(m.bias[first + i % (RT * NV) / NV]) : Bits{};
  });
  const auto entry = [&](auto u, long j) FLAT {
    const long at = o[j] * s.scale;
    Bits parts[NV * P];
    each<NV>([&](auto i) FLAT {
      Dot::template open<LANES>(take<LANES>(i < NV - 1 ? x + at + i * LANES : end + at), parts + i * P);
    });
    each<RT * P>([&](auto k) FLAT {
      const Bits weight = every<LANES>(w[(j * P + k % P) * height + k / P]);
      each<NV>([&](auto i) FLAT {
        Bits& sum = a[(u * RT + k / P) * NV + i];
        sum = Dot::template add<LANES>(sum, parts[i * P + k % P], weight);
      });
    });
  };
  long j = 0;
  for (; j + U <= n; j += U) each<U>([&](auto u) FLAT { entry(u, j + u); });
  if constexpr (U > 1)
    for (; j < n; j++) entry(std::integral_constant<int, 0>{}, j);
  if constexpr (U > 1) each<RT * NV>([&](auto i) FLAT { a[i] += a[RT * NV + i]; });

  if (m.floats) store_floats<RT, NV>(m, s, a, first, q, last);
  else if (s.residual) store_words<RT, NV, true>(m, s, a, first, q, last);
  else store_words<RT, NV, false>(m, s, a, first, q, last);
}

template <class Dot, int RT, int NV>
INLINE void int8_tile_of(int vectors, const Int8Matrix& m, const Int8Span& s, int block, int row, long q, long last) {
  if constexpr (NV >= 1) {
    if (vectors == NV) int8_tile<Dot, RT, NV>(m, s, block, row, q, last);
    else int8_tile_of<Dot, RT, NV - 1>(vectors, m, s, block, row, q, last);
  }
}

template <class Dot, int RT>
void int8_rows(const Int8Matrix& m, const Int8Span& s, int begin, int end) {
  constexpr int most = int8_vectors<Dot, RT>();
  const long vectors = (s.lanes + LANES - 1) / LANES, tiles = (vectors + most - 1) / most;
  long v = 0;
  for (long t = 0; t < tiles; t++) {
    const int nv = int((vectors - v + tiles - t - 1) / (tiles - t));
    const long q = v * LANES;
    const long last = t == tiles - 1 ? s.lanes - LANES - q : long(nv - 1) * LANES;
    for (int b = begin; b < end; b++)
      for (int r = 0; r < m.height && b * m.height + r < m.rows; r += RT)
        int8_tile_of<Dot, RT, most>(nv, m, s, b, r, q, last);
    v += nv;
  }
}

template <class Dot>
inline void int8_blocks(const Int8Matrix& m, const Int8Span& s, int begin, int end) {
  if constexpr (REGISTERS == 32) {
    if (m.height >= 8) return int8_rows<Dot, 8>(m, s, begin, end);
  }
  int8_rows<Dot, 4>(m, s, begin, end);
}

// Multiply the row blocks [begin, end), in pieces whose values stay in the cache while the lanes pass.
inline void multiply(const Int8Matrix& m, const Int8Span& s, int begin, int end) {
  const long piece = L2_BYTES / 2 / (4 * (m.wide ? 2 : 1) * m.height + long(sizeof(int32_t)));
  while (begin < end) {
    int next = begin + 1;
    while (next < end && m.start[next + 1] - m.start[begin] <= piece) next++;
    if (m.wide) int8_blocks<Wide>(m, s, begin, next);
    else int8_blocks<Narrow>(m, s, begin, next);
    begin = next;
  }
}

}  // namespace
