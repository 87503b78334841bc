// Max pooling, of floats or of words of four bytes: of each window first the rows, whole vectors at a time, then the
// columns of what is left.
#pragma once
#include <cmath>

#include "conv.h"
#include "dot.h"

// Shared with Python (src/secateur/runtime/library.py).
extern "C" struct Pool {
  int32_t height, width, out_height, out_width;
  int32_t kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left;
};

namespace {

// The larger one; not a number where one of them is not.
INLINE Vector most(Vector a, Vector b) {
  const Vector m = larger(a, b);
  return a == a ? m : a;
}
INLINE float most(float a, float b) { return a > b || a != a ? a : b; }

// The larger byte of each four.
template <int N>
INLINE Words<N> most_bytes(Words<N> a, Words<N> b) {
  typedef uint8_t Bytes __attribute__((vector_size(4 * N)));
  const Bytes x = Bytes(a), y = Bytes(b);
  return Words<N>(x > y ? x : y);
}
INLINE Bits most(Bits a, Bits b) { return most_bytes<LANES>(a, b); }
INLINE int32_t most(int32_t a, int32_t b) { return most_bytes<4>(every<4>(a), every<4>(b))[0]; }

INLINE Bits load(const int32_t* p) { return take<LANES>(p); }
INLINE void store(int32_t* p, Bits v) { put<LANES>(p, v); }

template <class V, std::size_t... I>
INLINE V evens(V a, V b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, int(2 * I)...);
}

// line[i] = the largest of `rows` rows of x; vectors may read as far as `end`.
template <class T>
inline void largest_row(const T* x, long width, long rows, T* line, const T* end) {
  long i = 0;
  const T* last = x + (rows - 1) * width;
  for (; i < width && last + i + LANES <= end; i += LANES) {
    auto v = load(x + i);
    for (long r = 1; r < rows; r++) v = most(v, load(x + r * width + i));
    store(line + i, v);
  }
  for (; i < width; i++) {
    T v = x[i];
    for (long r = 1; r < rows; r++) v = most(v, x[r * width + i]);
    line[i] = v;
  }
}

// y[j] = the largest of `kernel` values from line[j * stride] on; vectors read up to 2 LANES beyond them.
template <class T>
inline void largest_columns(const T* line, long kernel, long stride, T* y, long n) {
  if (stride > 2) {
    for (long j = 0; j < n; j++) {
      T v = line[j * stride];
      for (long t = 1; t < kernel; t++) v = most(v, line[j * stride + t]);
      y[j] = v;
    }
    return;
  }
  const auto at = [&](const T* p) FLAT {
    return stride == 1 ? load(p) : evens(load(p), load(p + LANES), std::make_index_sequence<LANES>{});
  };
  for (long j = 0; j < n; j += LANES) {
    const T* from = line + j * stride;
    auto v = at(from);
    for (long t = 1; t < kernel; t++) v = most(v, at(from + t));
    if (j + LANES <= n) {
      store(y + j, v);
    } else {
      T rest[LANES];
      store(rest, v);
      copy(rest, y + j, n - j);
    }
  }
}

// `least`: what is around a plane.
template <class T>
inline bool max_pool(const Pool& p, const T* x, T* y, long planes, T least, int threads) {
  static thread_local Scratch lines;
  const long pixels = long(p.height) * p.width, out_pixels = long(p.out_height) * p.out_width;
  const T* end = x + planes * pixels;
  const long read = long(p.out_width - 1) * p.stride_w + p.kernel_w;  // of a line, with its padding
  const long size = std::max<long>(read, p.pad_left + p.width) + long(p.stride_w + 2) * LANES;
  if (planes * out_pixels * p.kernel_h * p.kernel_w < SERIAL_WORK) threads = 1;
  bool failed = false;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    T* line = reinterpret_cast<T*>(lines.get(size));
    if (!line) {
#pragma omp atomic write
      failed = true;
    } else {
      const long n = threads_here(), k = thread_number();
      std::fill(line, line + size, least);
      for (long c = planes * k / n; c < planes * (k + 1) / n; c++)
        for (long h = 0; h < p.out_height; h++) {
          const long top = h * p.stride_h - p.pad_top;
          const long from = std::max(0L, top), to = std::min<long>(p.height, top + p.kernel_h);
          largest_row(x + c * pixels + from * p.width, p.width, to - from, line + p.pad_left, end);
          // What a last vector has written beyond the row is padding again.
          fill(line + p.pad_left + p.width, LANES, least);
          largest_columns(line, p.kernel_w, p.stride_w, y + c * out_pixels + h * p.out_width, p.out_width);
        }
    }
  }
  return !failed;
}

}  // namespace
