// Convolution: the input is laid into planes with zeros around it, so that a tap is an offset and lanes are pixels.
#pragma once
#include <cstring>

#ifdef _OPENMP
#include <omp.h>
#endif

#include "tile.h"
#include "unified.h"

namespace {

inline int thread_number() {
#ifdef _OPENMP
  return omp_get_thread_num();
#else
  return 0;
#endif
}

inline int threads_here() {
#ifdef _OPENMP
  return omp_get_num_threads();
#else
  return 1;
#endif
}

// One channel into its phase planes: element (i, k) of phase (a, b) is pixel (i * stride + a - pad, ...), `zero` around.
template <class T>
inline void lay(const Conv& c, const T* x, T* to, T zero = T()) {
  for (int f = 0; f < c.phases; f++, to += c.phase_plane) {
    const int a = c.phase[2 * f] - c.pad_top, b = c.phase[2 * f + 1] - c.pad_left;
    const int begin = std::min(c.pitch, b < 0 ? (-b + c.stride_w - 1) / c.stride_w : 0);
    const int end = std::max(begin, std::min(c.pitch, b < c.width ? (c.width - 1 - b) / c.stride_w + 1 : 0));
    T* d = to;
    for (int i = 0; i < c.phase_rows; i++, d += c.pitch) {
      const int h = i * c.stride_h + a;
      if (h < 0 || h >= c.height) {
        fill(d, c.pitch, zero);
        continue;
      }
      const T* s = x + long(h) * c.width + b;
      fill(d, begin, zero);
      if (c.stride_w == 1) copy(s + begin, d + begin, end - begin);
      else
        for (int k = begin; k < end; k++) d[k] = s[long(k) * c.stride_w];
      fill(d + end, c.pitch - end, zero);
    }
    fill(d, to + c.phase_plane - d, zero);
  }
}

struct ConvSizes {
  long plane, lanes, channels, in, tables, out;  // floats, but for lanes and channels
  ConvSizes(const Matrix& m, const Conv& c)
      : plane(long(c.phases) * c.phase_plane),
        lanes(std::max<long>(LANES, long(c.out_height - 1) * c.pitch + c.out_width)),
        channels(m.planes ? (m.columns + 3) / 4 * 4 : m.columns),
        in(channels * plane + LANES),
        tables(m.planes ? channels / 4 * m.planes * plane + LANES : 0),
        out(m.rows * lanes) {}
};

// Parts [begin, end) of the channels of one image.
inline void lay_channels(const Matrix& m, const Conv& c, const ConvSizes& z, const float* x, float* to, float* tables,
                         long begin, long end) {
  for (long k = begin; k < end; k++) {
    if (k < m.columns) lay(c, x + k * c.height * c.width, to + k * z.plane);
    else std::memset(to + k * z.plane, 0, z.plane * sizeof(float));
  }
  if (m.planes)
    signed_sums(to + begin * z.plane, tables + begin / 4 * m.planes * z.plane, (end - begin) / 4, z.plane, m.planes);
}

// Row blocks [begin, end) of one image, into `out` and from there without the gaps between the rows into y.
inline void convolve(const Matrix& m, const Conv& c, const ConvSizes& z, const float* in, float* out, float* y,
                     const float* residual, int begin, int end) {
  const Epilogue e{m.activation, m.add_last != 0};
  const long pixels = long(c.out_height) * c.out_width;
  if (c.direct) {
    Span s{in, 1, y, pixels, pixels, residual};
    multiply(m, e, s, begin, end, z.channels * z.plane * long(sizeof(float)));
    return;
  }
  Span s{in, 1, out, z.lanes, z.lanes};
  multiply(m, residual ? Epilogue{} : e, s, begin, end, z.channels * z.plane * long(sizeof(float)));
  for (int b = begin; b < end; b++)
    for (int r = m.first[b]; r < m.first[b] + m.count[b]; r++)
      for (int h = 0; h < c.out_height; h++) {
        const long at = r * pixels + long(h) * c.out_width;
        const float* from = out + r * z.lanes + long(h) * c.pitch;
        if (residual) finish(from, residual + at, y + at, c.out_width, e);
        else copy(from, y + at, c.out_width);
      }
}

inline bool convolution(const Matrix& m, const Conv& c, const float* x, const float* residual, float* y, long images,
                        int threads) {
  static thread_local Scratch in, tables, out;
  const ConvSizes z(m, c);
  const bool direct_in = c.direct && !m.planes;
  const long in_image = long(m.columns) * c.height * c.width, out_image = long(m.rows) * c.out_height * c.out_width;
  const long work = (entries(m) + m.blocks) * m.height * z.lanes * images;
  if (work < SERIAL_WORK) threads = 1;
  bool failed = false;
  if (threads == 1 || images >= threads) {  // whole images, each in the cache of its thread
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      float* p = direct_in ? nullptr : in.get(z.in);
      float* t = m.planes ? tables.get(z.tables) : nullptr;
      float* o = c.direct ? nullptr : out.get(z.out);
      const bool whole = (direct_in || p) && (!m.planes || t) && (c.direct || o);
      if (!whole) {
#pragma omp atomic write
        failed = true;
      } else {
        const long n = threads_here(), k = thread_number();
        for (long i = images * k / n; i < images * (k + 1) / n; i++) {
          const float* source = x + i * in_image;
          if (!direct_in) lay_channels(m, c, z, source, p, t, 0, z.channels);
          convolve(m, c, z, m.planes ? t : direct_in ? source : p, o, y + i * out_image,
                   residual ? residual + i * out_image : nullptr, 0, m.blocks);
        }
      }
    }
    return !failed;
  }
  float* p = direct_in ? nullptr : in.get(z.in);
  float* t = m.planes ? tables.get(z.tables) : nullptr;
  float* o = c.direct ? nullptr : out.get(z.out);
  if (!((direct_in || p) && (!m.planes || t) && (c.direct || o))) return false;
#pragma omp parallel num_threads(threads)
  {
    const long n = threads_here(), k = thread_number();
    for (long i = 0; i < images; i++) {
      const float* source = x + i * in_image;
      if (!direct_in) {
        const long fours = (z.channels + 3) / 4;
        lay_channels(m, c, z, source, p, t, std::min(z.channels, 4 * (fours * k / n)),
                     std::min(z.channels, 4 * (fours * (k + 1) / n)));
#pragma omp barrier
      }
      convolve(m, c, z, m.planes ? t : direct_in ? source : p, o, y + i * out_image,
               residual ? residual + i * out_image : nullptr, part(m, k, n), part(m, k + 1, n));
#pragma omp barrier
    }
  }
  return true;
}

}  // namespace
