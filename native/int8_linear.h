// Linear layers of int8: of a few samples, vectors over the outputs of a block; of more, lanes are samples.
#pragma once
#include "int8_conv.h"

namespace {

// x: [ROWS][quads] words; sums: [ROWS][blocks * height].
template <class Dot, int HEIGHT, int ROWS>
void int8_few_rows(const Int8Matrix& m, const int32_t* x, int32_t* sums, int begin, int end) {
  constexpr int N = HEIGHT < LANES ? HEIGHT : LANES, V = HEIGHT / N, P = Dot::PARTS;
  constexpr int U = ROWS * V >= 4 ? 1 : ROWS * V == 1 ? 4 : 2;  // sums per result that hide the latency of a product
  const long quads = (long(m.columns) + 3) / 4, outputs = long(m.blocks) * HEIGHT;
  for (int b = begin; b < end; b++) {
    Words<N> a[U * ROWS * V];
    each<U * ROWS * V>([&](auto i) FLAT {
      a[i] = i < ROWS * V ? take<N>(m.bias + long(b) * HEIGHT + i % V * N) : Words<N>{};
    });
    const auto entry = [&](auto u, long j) FLAT {
      const AnyWord* w = static_cast<const AnyWord*>(m.values) + j * P * HEIGHT;
      each<ROWS>([&](auto n) FLAT {
        Words<N> parts[P];
        Dot::template open<N>(every<N>(x[n * quads + m.offset[j]]), parts);
        each<V * P>([&](auto k) FLAT {
          Words<N>& sum = a[(u * ROWS + n) * V + k / P];
          sum = Dot::template add<N>(sum, parts[k % P], take<N>(w + k % P * HEIGHT + k / P * N));
        });
      });
    };
    long j = m.start[b];
    const long stop = m.start[b + 1];
    for (; j + U <= stop; j += U) each<U>([&](auto u) FLAT { entry(u, j + u); });
    for (; j < stop; j++) entry(std::integral_constant<int, 0>{}, j);
    each<ROWS * V>([&](auto i) FLAT {
      each<U - 1>([&](auto u) FLAT { a[i] += a[(u + 1) * ROWS * V + i]; });
      put<N>(sums + i / V * outputs + long(b) * HEIGHT + i % V * N, a[i]);
    });
  }
}

template <class Dot, int HEIGHT>
void int8_few_rows(const Int8Matrix& m, const int32_t* x, int32_t* sums, long rows, int begin, int end) {
  switch (rows) {
    case 1: int8_few_rows<Dot, HEIGHT, 1>(m, x, sums, begin, end); break;
    case 2: int8_few_rows<Dot, HEIGHT, 2>(m, x, sums, begin, end); break;
    case 3: int8_few_rows<Dot, HEIGHT, 3>(m, x, sums, begin, end); break;
    default: int8_few_rows<Dot, HEIGHT, 4>(m, x, sums, begin, end); break;
  }
}

template <class Dot>
void int8_few_rows(const Int8Matrix& m, const int32_t* x, int32_t* sums, long rows, int begin, int end) {
  switch (m.height) {
    case 4: int8_few_rows<Dot, 4>(m, x, sums, rows, begin, end); break;
    case 8: int8_few_rows<Dot, 8>(m, x, sums, rows, begin, end); break;
    default: int8_few_rows<Dot, 16>(m, x, sums, rows, begin, end); break;
  }
}

inline void int8_few(const Int8Matrix& m, const int32_t* x, const int32_t* residual, int32_t* y, int32_t* sums,
                     long rows, int begin, int end) {
  if (begin == end) return;
  if (m.wide) int8_few_rows<Wide>(m, x, sums, rows, begin, end);
  else int8_few_rows<Narrow>(m, x, sums, rows, begin, end);
  const long outputs = long(m.blocks) * m.height, words = (long(m.rows) + 3) / 4;
  const long size = m.floats ? sizeof(float) : 1, width = m.floats ? m.rows : 4 * words;
  const long first = long(begin) * m.height, last = std::min(long(end) * m.height, width);
  for (long i = 0; i < rows; i++)
    for (long r = first; r < last; r += LANES) {
      // What lies behind a block's last row belongs to the next one, whoever computes that.
      const long n = std::min<long>(LANES, last - r);
      const uint8_t* add = residual ? reinterpret_cast<const uint8_t*>(residual + i * words) + r : nullptr;
      finish_outputs(m, sums + i * outputs + r, r, add, reinterpret_cast<char*>(y) + (i * width + r) * size, n);
    }
}

inline void transpose_words(const int32_t* from, long from_stride, int32_t* to, long to_stride, long rows,
                            long columns) {
  transpose(reinterpret_cast<const float*>(from), from_stride, reinterpret_cast<float*>(to), to_stride, rows, columns);
}

// x: [rows][quads] words; y: [rows][quads] words or [rows][outputs] floats.
inline bool int8_linear(const Int8Matrix& m, const int32_t* x, const int32_t* residual, int32_t* y, long rows,
                        int threads) {
  static thread_local Scratch in, out, laid, few_sums;
  const long quads = (long(m.columns) + 3) / 4, out_quads = (long(m.rows) + 3) / 4;
  const long planes = m.floats ? m.rows : out_quads;
  if ((entries(m) + m.blocks) * m.height * 4 * rows < SERIAL_WORK) threads = 1;
  if (rows <= FEW) {
    const auto sums = reinterpret_cast<int32_t*>(few_sums.get(rows * m.blocks * m.height + LANES));
    if (!sums) return false;
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const long n = threads_here(), k = thread_number();
      int8_few(m, x, residual, y, sums, rows, part(m, k, n), part(m, k + 1, n));
    }
    return true;
  }
  // Chunks of about one size, such that their inputs stay in the cache.
  const long fits = std::max<long>(48, L2_BYTES / long(sizeof(int32_t)) / std::max<long>(quads, 1) / 48 * 48);
  const long chunks = (rows + std::min(CHUNK, fits) - 1) / std::min(CHUNK, fits);
  const long lanes = ((rows + chunks - 1) / chunks + LANES - 1) / LANES * LANES;
  const auto xs = reinterpret_cast<int32_t*>(in.get(quads * lanes));
  const auto ys = reinterpret_cast<int32_t*>(out.get(planes * lanes));
  const auto rs = residual ? reinterpret_cast<int32_t*>(laid.get(out_quads * lanes)) : nullptr;
  if (!xs || !ys || (residual && !rs)) return false;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const long n = threads_here(), k = thread_number();
    const int begin = part(m, k, n), end = part(m, k + 1, n);
    const long first = quads * k / n, columns = quads * (k + 1) / n - first;
    const long row = long(begin) * m.height, stop = std::min<long>(long(end) * m.height, m.rows);
    const long plane = m.floats ? row : row / 4, width = (m.floats ? stop : (stop + 3) / 4) - plane;
    for (long from = 0; from < rows; from += lanes) {
      const long count = std::min(lanes, rows - from);
      transpose_words(x + from * quads + first, quads, xs + first * lanes, lanes, count, columns);
      for (long q = first; q < first + columns; q++) fill(xs + q * lanes + count, lanes - count, 0);
      if (residual && end > begin) {
        const long g = row / 4, wide = (stop + 3) / 4 - g;
        transpose_words(residual + from * out_quads + g, out_quads, rs + g * lanes, lanes, count, wide);
        for (long q = g; q < g + wide; q++) fill(rs + q * lanes + count, lanes - count, 0);
      }
#pragma omp barrier
      if (end > begin) {
        multiply(m, Int8Span{xs, lanes, ys, lanes, lanes, rs}, begin, end);
        transpose_words(ys + plane * lanes, lanes, y + from * planes + plane, planes, width, count);
      }
#pragma omp barrier
    }
  }
  return true;
}

}  // namespace
