// Average pooling of words. (Max pooling of words is that of pool.h.)
#pragma once
#include "int8_pointwise.h"
#include "pool.h"

// Shared with Python (src/secateur/runtime/library.py).
extern "C" struct Average {
  float multiplier;  // units of y in one of x
  int32_t zero_x, zero_y, most_y;
  int32_t count_padding;  // whether the zeros around are counted as pixels
};

namespace {

// The sums of n words' bytes, each byte for itself.
inline Words<4> sum_words(const int32_t* x, long n) {
  typedef uint8_t Four __attribute__((vector_size(4), aligned(1), may_alias));
  Words<4> sum{};
  long i = 0;
  if (n >= LANES) {  // LANES bytes are a fourth as many words
    Bits many{};
    for (; i + LANES / 4 <= n; i += LANES / 4) many += widened(reinterpret_cast<const uint8_t*>(x + i));
    for (int lane = 0; lane < LANES; lane++) sum[lane % 4] += many[lane];
  }
  for (; i < n; i++) sum += __builtin_convertvector(*reinterpret_cast<const Four*>(x + i), Words<4>);
  return sum;
}

inline void average_pool(const Pool& p, const Average& a, const int32_t* x, int32_t* y, long planes, int threads) {
  const long pixels = long(p.height) * p.width, out_pixels = long(p.out_height) * p.out_width;
  if (planes * out_pixels * p.kernel_h * p.kernel_w * 4 < SERIAL_WORK) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long k = 0; k < planes; k++)
    for (long h = 0; h < p.out_height; h++)
      for (long w = 0; w < p.out_width; w++) {
        const long top = h * p.stride_h - p.pad_top, left = w * p.stride_w - p.pad_left;
        const long from = std::max(0L, top), to = std::min<long>(p.height, top + p.kernel_h);
        const long first = std::max(0L, left), last = std::min<long>(p.width, left + p.kernel_w);
        const int32_t* corner = x + k * pixels + from * p.width + first;
        const bool whole = last - first == p.width;  // rows that follow each other
        Words<4> sum = whole ? sum_words(corner, (to - from) * p.width) : Words<4>{};
        if (!whole)
          for (long i = 0; i < to - from; i++) sum += sum_words(corner + i * p.width, last - first);
        const long real = (to - from) * (last - first);
        const long count = a.count_padding ? long(p.kernel_h) * p.kernel_w : real;
        const float multiplier = a.multiplier / float(count);
        uint32_t word = 0;
        for (int c = 0; c < 4; c++) {
          const float v = float(sum[c] - int32_t(real) * a.zero_x) * multiplier;
          const float limited = std::min(std::max(v, float(-a.zero_y)), float(a.most_y - a.zero_y));
          word |= uint32_t(int32_t(__builtin_rintf(limited)) + a.zero_y) << (8 * c);
        }
        y[k * out_pixels + h * p.out_width + w] = int32_t(word);
      }
}

}  // namespace
