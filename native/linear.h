// Linear layers: a few rows at a time as matrix-vector products over the outputs of a block, more of them transposed,
// so that lanes are samples.
#pragma once
#include "conv.h"

namespace {

constexpr long FEW = 4;       // rows up to which products are taken row by row
constexpr long CHUNK = 8 * 48;  // most lanes at a time
constexpr long STRIP = 128;   // outputs between two transpositions

// A vector over the outputs of a block, however the machine holds it.
template <int HEIGHT>
struct Column {
  typedef float type __attribute__((vector_size(4 * HEIGHT)));
  typedef float loose __attribute__((vector_size(4 * HEIGHT), aligned(4), may_alias));
  static INLINE type load(const float* p) { return *reinterpret_cast<const loose*>(p); }
  static INLINE void store(float* p, type v) { *reinterpret_cast<loose*>(p) = v; }
};
template <>
struct Column<1> {
  typedef float type;
  static INLINE type load(const float* p) { return *p; }
  static INLINE void store(float* p, type v) { *p = v; }
};

template <int HEIGHT, int ROWS>
void few_rows(const Matrix& m, const float* x, float* y, int begin, int end) {
  typedef Column<HEIGHT> C;
  constexpr int U = ROWS == 1 ? 8 : ROWS == 2 ? 4 : 2;
  for (int b = begin; b < end; b++) {
    typename C::type a[ROWS * U];
    each<ROWS * U>([&](auto i) FLAT { a[i] = typename C::type{}; });
    const auto entry = [&](auto u, long j) FLAT {
      const auto w = C::load(m.values + j * HEIGHT);
      each<ROWS>([&](auto n) FLAT { a[n * U + u] += w * x[long(n) * m.columns + m.offset[j]]; });
    };
    long j = m.start[b];
    const long stop = m.start[b + 1];
    for (; j + U <= stop; j += U) each<U>([&](auto u) FLAT { entry(u, j + u); });
    for (; j < stop; j++) entry(std::integral_constant<int, 0>{}, j);
    each<ROWS>([&](auto n) FLAT {
      each<U - 1>([&](auto u) FLAT { a[n * U] += a[n * U + u + 1]; });
      const auto sum = a[n * U] + C::load(m.bias + long(b) * HEIGHT);
      float* to = y + long(n) * m.rows + m.first[b];
      if (m.count[b] == HEIGHT) {
        C::store(to, sum);
      } else {
        float ragged[HEIGHT];
        C::store(ragged, sum);
        std::memcpy(to, ragged, m.count[b] * sizeof(float));
      }
    });
  }
}

template <int HEIGHT>
void few_rows(const Matrix& m, const float* x, float* y, long rows, int begin, int end) {
  switch (rows) {
    case 1: few_rows<HEIGHT, 1>(m, x, y, begin, end); break;
    case 2: few_rows<HEIGHT, 2>(m, x, y, begin, end); break;
    case 3: few_rows<HEIGHT, 3>(m, x, y, begin, end); break;
    default: few_rows<HEIGHT, 4>(m, x, y, begin, end); break;
  }
}

inline void few(const Matrix& m, const float* x, const float* residual, float* y, long rows, int begin, int end) {
  if (begin == end) return;
  switch (m.height) {
    case 1: few_rows<1>(m, x, y, rows, begin, end); break;
    case 4: few_rows<4>(m, x, y, rows, begin, end); break;
    case 8: few_rows<8>(m, x, y, rows, begin, end); break;
    default: few_rows<16>(m, x, y, rows, begin, end); break;
  }
  const Epilogue e{m.activation, m.add_last != 0};
  if (e.activation == NONE && !residual) return;
  const long from = m.first[begin], n = m.first[end - 1] + m.count[end - 1] - from;
  for (long i = 0; i < rows; i++) {
    float* to = y + i * m.rows + from;
    finish(to, residual ? residual + i * m.rows + from : nullptr, to, n, e);
  }
}

// Row blocks [begin, end) for `rows` samples whose inputs lie transposed, `lanes` apart.
inline void strips(const Matrix& m, const float* x, long lanes, const float* residual, float* y, long rows, float* out,
                   int begin, int end) {
  const Epilogue e{m.activation, m.add_last != 0};
  while (begin < end) {
    int next = begin + 1;
    const int from = m.first[begin];
    while (next < end && m.first[next] + m.count[next] - from <= STRIP) next++;
    const long width = m.first[next - 1] + m.count[next - 1] - from;
    multiply(m, residual ? Epilogue{} : e, Span{x, lanes, out - from * lanes, lanes, lanes}, begin, next,
             long(m.columns) * lanes * long(sizeof(float)));
    transpose(out, lanes, y + from, m.rows, width, rows);
    if (residual)
      for (long i = 0; i < rows; i++) {
        const long at = i * m.rows + from;
        finish(y + at, residual + at, y + at, width, e);
      }
    begin = next;
  }
}

// The samples [0, rows) transposed: columns [begin, end), zeros behind the samples and, of unified layers, the inputs.
inline void lay_samples(const Matrix& m, const float* x, long rows, long lanes, float* to, float* tables, long begin,
                        long end) {
  const long real = std::min<long>(end, m.columns);
  if (begin < real) transpose(x + begin, m.columns, to + begin * lanes, lanes, rows, real - begin);
  if (lanes > rows)
    for (long k = begin; k < real; k++) std::memset(to + k * lanes + rows, 0, (lanes - rows) * sizeof(float));
  if (end > std::max(begin, real))
    std::memset(to + std::max(begin, real) * lanes, 0, (end - std::max(begin, real)) * lanes * sizeof(float));
  if (m.planes) signed_sums(to + begin * lanes, tables + begin / 4 * m.planes * lanes, (end - begin) / 4, lanes, m.planes);
}

inline bool linear(const Matrix& m, const float* x, const float* residual, float* y, long rows, int threads) {
  static thread_local Scratch in, tables, out;
  if ((entries(m) + m.blocks) * m.height * rows < SERIAL_WORK) threads = 1;
  if (rows <= FEW && !m.planes) {
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      const long n = threads_here(), k = thread_number();
      few(m, x, residual, y, rows, part(m, k, n), part(m, k + 1, n));
    }
    return true;
  }
  const long columns = m.planes ? (m.columns + 3) / 4 * 4 : m.columns;
  // Chunks of about one size, such that their inputs stay in the cache.
  const long fits = std::max<long>(48, L2_BYTES / long(sizeof(float)) / std::max<long>(columns, 1) / 48 * 48);
  const long chunks = (rows + std::min(CHUNK, fits) - 1) / std::min(CHUNK, fits);
  const long lanes = ((rows + chunks - 1) / chunks + LANES - 1) / LANES * LANES;
  const long in_size = columns * lanes, table_size = m.planes ? columns / 4 * m.planes * lanes : 0;
  const long out_size = (STRIP + 16) * lanes;
  bool failed = false;
  float* shared = nullptr;
  float* shared_tables = nullptr;
  const bool split_rows = threads > 1 && chunks < threads;
  if (split_rows) {
    shared = in.get(in_size);
    shared_tables = m.planes ? tables.get(table_size) : nullptr;
    if (!shared || (m.planes && !shared_tables)) return false;
  }
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    const long n = threads_here(), k = thread_number();
    float* p = split_rows ? shared : in.get(in_size);
    float* t = split_rows ? shared_tables : m.planes ? tables.get(table_size) : nullptr;
    float* o = out.get(out_size);
    const bool whole = p && o && (!m.planes || t);
    if (!whole) {
#pragma omp atomic write
      failed = true;
    }
    const long first = split_rows ? 0 : chunks * k / n, stop = split_rows ? chunks : chunks * (k + 1) / n;
    for (long i = first; i < stop; i++) {
      const long from = std::min(rows, i * lanes), to = std::min(rows, (i + 1) * lanes);
      const long fours = (columns + 3) / 4;
      if (whole && to > from)
        lay_samples(m, x + from * m.columns, to - from, lanes, p, t,
                    split_rows ? std::min(columns, 4 * (fours * k / n)) : 0,
                    split_rows ? std::min(columns, 4 * (fours * (k + 1) / n)) : columns);
      if (split_rows) {
#pragma omp barrier
      }
      if (whole && to > from)
        strips(m, m.planes ? t : p, lanes, residual ? residual + from * m.rows : nullptr, y + from * m.rows, to - from,
               o, split_rows ? part(m, k, n) : 0, split_rows ? part(m, k + 1, n) : m.blocks);
      if (split_rows) {
#pragma omp barrier
      }
    }
  }
  return !failed;
}

}  // namespace
