// Sparse matrix times planes: y[row][lane] = sum over entries of value[row] * x[offset + lane].
#pragma once
#include <algorithm>

#include "epilogue.h"
#include "matrix.h"

namespace {

// Lanes are neighbouring pixels of a plane or samples of a batch: for all of them an entry is the same.
struct Span {
  const float* x;
  long scale;    // floats of x per unit of an offset
  float* y;
  long y_plane;  // floats from row to row of y
  long lanes;    // at least LANES
  const float* residual = nullptr;  // lies as y does, elsewhere
  const int32_t* keep = nullptr;    // [lanes] all bits where a lane is stored, none where it becomes 0
  bool far = false;                 // x does not stay in the cache
};

// Rows and vectors of the sums that are kept in registers.
template <int HEIGHT>
struct Shape {
  static constexpr int rows = REGISTERS == 32 ? (HEIGHT >= 8 ? 8 : HEIGHT) : (HEIGHT >= 4 ? 4 : HEIGHT);
  static constexpr int vectors = REGISTERS == 32 ? (rows == 8 ? 3 : rows == 4 ? 6 : 12) : (rows == 4 ? 3 : 6);
};

// The last vector of a tile lies at q + last: where lanes are no multiple of LANES, it overlaps the one in front
// of it and computes some lanes twice, so that nothing is read or written beyond the planes.
template <int HEIGHT, int NV>
INLINE void tile(const Matrix& m, const Epilogue& e, const Span& s, int block, int row,
                 long q, long last) {
  constexpr int RT = Shape<HEIGHT>::rows;
  constexpr int U = RT * NV >= 8 ? 1 : (7 + RT * NV) / (RT * NV);  // sums per result that hide the latency of FMA
  const long n = m.start[block + 1] - m.start[block];
  const int32_t* o = m.offset + m.start[block];
  const float* w = m.values + long(m.start[block]) * HEIGHT + row;
  const float *x = s.x + q, *end = x + last;
  Vector a[U * RT * NV];
  const float* bias = m.bias + long(block) * HEIGHT + row;
  each<U * RT * NV>([&](auto i) FLAT { a[i] = i < RT * NV ? all(bias[i % (RT * NV) / NV]) : Vector{}; });
  const auto entry = [&](auto u, long j) FLAT {
    const long at = o[j] * s.scale;
    Vector v[NV];
    each<NV - 1>([&](auto i) FLAT { v[i] = load(x + at + i * LANES); });
    v[NV - 1] = load(end + at);
    // The next tile's lanes: planes are too far apart for the processor to see what will be read.
    if (s.far) each<NV>([&](auto i) FLAT { __builtin_prefetch(x + at + (NV + i) * LANES); });
    each<RT>([&](auto r) FLAT {
      const Vector weight = all(w[j * HEIGHT + r]);
      each<NV>([&](auto i) FLAT { a[(u * RT + r) * NV + i] += weight * v[i]; });
    });
  };
  const long to = (m.first[block] + row) * s.y_plane + q;
  if (s.residual) {  // while the products are summed
    const int below = std::min(RT, m.count[block] - row);
    for (int r = 0; r < below; r++)
      each<NV>([&](auto i) FLAT { __builtin_prefetch(s.residual + to + r * s.y_plane + i * LANES); });
  }
  long j = 0;
  for (; j + U <= n; j += U) each<U>([&](auto u) FLAT { entry(u, j + u); });
  if constexpr (U > 1)
    for (; j < n; j++) entry(std::integral_constant<int, 0>{}, j);

  each<RT * NV>([&](auto i) FLAT {
    each<U - 1>([&](auto u) FLAT { a[i] += a[(u + 1) * RT * NV + i]; });
  });
  const int rows = std::min(RT, m.count[block] - row);
  if (rows == RT && e.clamps() && !s.residual && !s.keep) {  // the usual case, without a question for each store
    float* y = s.y + to;
    if (e.activation != NONE) {
      const Vector low = all(e.low()), high = all(e.high());
      each<RT * NV>([&](auto i) FLAT { a[i] = clamp(a[i], low, high); });
    }
    each<RT>([&](auto r) FLAT {
      each<NV - 1>([&](auto i) FLAT { store(y + i * LANES, a[r * NV + i]); });
      store(y + last, a[r * NV + NV - 1]);
      y += s.y_plane;
    });
    return;
  }
  if (e.clamps() && !e.add_last) {
    const Vector low = all(e.low()), high = all(e.high());
    each<RT>([&](auto r) FLAT {
      if (r < rows)
        each<NV>([&](auto i) FLAT {
          const long p = i < NV - 1 ? i * LANES : last;
          Vector v = a[r * NV + i];
          if (s.residual) v += load(s.residual + to + r * s.y_plane + p);
          v = clamp(v, low, high);
          if (s.keep)
            v = reinterpret_cast<Vector>(reinterpret_cast<Bits>(v) & *reinterpret_cast<const LooseBits*>(s.keep + q + p));
          store(s.y + to + r * s.y_plane + p, v);
        });
    });
    return;
  }
  float sums[RT * NV * LANES];  // a loop over memory: the code of an activation for every register would be long
  each<RT * NV>([&](auto i) FLAT { store(sums + i * LANES, a[i]); });
  for (int r = 0; r < rows; r++)
    for (int i = 0; i < NV; i++) {
      const long p = i < NV - 1 ? i * LANES : last, at = to + r * s.y_plane + p;
      Vector v = e(load(sums + (r * NV + i) * LANES), s.residual ? load(s.residual + at) : Vector{});
      if (s.keep)
        v = reinterpret_cast<Vector>(reinterpret_cast<Bits>(v) & *reinterpret_cast<const LooseBits*>(s.keep + q + p));
      store(s.y + at, v);
    }
}

template <int HEIGHT, int NV>
INLINE void tile_of(int vectors, const Matrix& m, const Epilogue& e, const Span& s, int block,
                    int row, long q, long last) {
  if constexpr (NV >= 1) {
    if (vectors == NV) tile<HEIGHT, NV>(m, e, s, block, row, q, last);
    else tile_of<HEIGHT, NV - 1>(vectors, m, e, s, block, row, q, last);
  }
}

template <int HEIGHT>
void multiply_blocks(const Matrix& m, const Epilogue& e, const Span& s, int begin, int end) {
  constexpr int most = Shape<HEIGHT>::vectors;
  const long vectors = (s.lanes + LANES - 1) / LANES, tiles = (vectors + most - 1) / most;
  long v = 0;
  for (long t = 0; t < tiles; t++) {
    const int nv = int((vectors - v + tiles - t - 1) / (tiles - t));
    const long q = v * LANES;
    const bool final = t == tiles - 1;
    // In the last tile the last vector ends with the lanes; a tile of one vector starts earlier instead.
    const long last = final ? s.lanes - LANES - q : long(nv - 1) * LANES;
    for (int b = begin; b < end; b++)
      for (int r = 0; r < m.count[b]; r += Shape<HEIGHT>::rows)
        tile_of<HEIGHT, most>(nv, m, e, s, b, r, q, last);
    v += nv;
  }
}

// Multiply the row blocks [begin, end), in pieces whose values stay in the cache while the lanes pass.
inline void multiply(const Matrix& m, const Epilogue& e, Span s, int begin, int end, long x_bytes) {
  s.far = x_bytes > L2_BYTES;
  const long piece = (x_bytes <= L2_BYTES ? L2_BYTES / 4 : L2_BYTES) / long(sizeof(float) * (m.height + 1));
  while (begin < end) {
    int next = begin + 1;
    while (next < end && m.start[next + 1] - m.start[begin] <= piece) next++;
    switch (m.height) {
      case 1: multiply_blocks<1>(m, e, s, begin, next); break;
      case 4: multiply_blocks<4>(m, e, s, begin, next); break;
      case 8: multiply_blocks<8>(m, e, s, begin, next); break;
      default: multiply_blocks<16>(m, e, s, begin, next); break;
    }
    begin = next;
  }
}

}  // namespace
