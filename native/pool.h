// Max pooling: of each window first the rows, whole vectors at a time, then the columns of what is left.
#pragma once
#include <cmath>

#include "conv.h"

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

template <std::size_t... I>
INLINE Vector evens(Vector a, Vector b, std::index_sequence<I...>) {
  return __builtin_shufflevector(a, b, int(2 * I)...);
}

// line[i] = the largest of `rows` rows of x; vectors may read as far as `end`.
inline void largest_row(const float* x, long width, long rows, float* line, const float* end) {
  long i = 0;
  const float* last = x + (rows - 1) * width;
  for (; i < width && last + i + LANES <= end; i += LANES) {
    Vector v = load(x + i);
    for (long r = 1; r < rows; r++) v = most(v, load(x + r * width + i));
    store(line + i, v);
  }
  for (; i < width; i++) {
    float v = x[i];
    for (long r = 1; r < rows; r++) {
      const float w = x[r * width + i];
      v = v > w || v != v ? v : w;
    }
    line[i] = v;
  }
}

// y[j] = the largest of `kernel` values from line[j * stride] on; vectors read up to 2 LANES beyond them.
inline void largest_columns(const float* line, long kernel, long stride, float* y, long n) {
  if (stride > 2) {
    for (long j = 0; j < n; j++) {
      float v = line[j * stride];
      for (long t = 1; t < kernel; t++) {
        const float w = line[j * stride + t];
        v = v > w || v != v ? v : w;
      }
      y[j] = v;
    }
    return;
  }
  const auto at = [&](const float* p) FLAT {
    return stride == 1 ? load(p) : evens(load(p), load(p + LANES), std::make_index_sequence<LANES>{});
  };
  for (long j = 0; j < n; j += LANES) {
    const float* from = line + j * stride;
    Vector v = at(from);
    for (long t = 1; t < kernel; t++) v = most(v, at(from + t));
    if (j + LANES <= n) {
      store(y + j, v);
    } else {
      float rest[LANES];
      store(rest, v);
      copy(rest, y + j, n - j);
    }
  }
}

inline bool max_pool(const Pool& p, const float* x, float* y, long planes, int threads) {
  static thread_local Scratch lines;
  const long pixels = long(p.height) * p.width, out_pixels = long(p.out_height) * p.out_width;
  const float* end = x + planes * pixels;
  const long read = long(p.out_width - 1) * p.stride_w + p.kernel_w;  // of a line, with its padding
  const long size = std::max<long>(read, p.pad_left + p.width) + long(p.stride_w + 2) * LANES;
  if (planes * out_pixels * p.kernel_h * p.kernel_w < SERIAL_WORK) threads = 1;
  bool failed = false;
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    float* line = lines.get(size);
    if (!line) {
#pragma omp atomic write
      failed = true;
    } else {
      const long n = threads_here(), k = thread_number();
      std::fill(line, line + size, -INFINITY);
      for (long c = planes * k / n; c < planes * (k + 1) / n; c++)
        for (long h = 0; h < p.out_height; h++) {
          const long top = h * p.stride_h - p.pad_top;
          const long from = std::max(0L, top), to = std::min<long>(p.height, top + p.kernel_h);
          largest_row(x + c * pixels + from * p.width, p.width, to - from, line + p.pad_left, end);
          // What a last vector has written beyond the row is padding again.
          store(line + p.pad_left + p.width, all(-INFINITY));
          largest_columns(line, p.kernel_w, p.stride_w, y + c * out_pixels + h * p.out_width, p.out_width);
        }
    }
  }
  return !failed;
}

}  // namespace
