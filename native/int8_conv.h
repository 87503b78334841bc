// Convolution of words: as conv.h, with four channels of a pixel in the place of one float, and the zero point around.
#pragma once
#include "conv.h"
#include "int8_tile.h"

namespace {

INLINE int32_t four_of(int32_t byte) { return int32_t(uint32_t(byte) * 0x01010101u); }

struct Int8Sizes {
  long plane, lanes, pixels;             // words
  long quads, out_quads, out_planes;     // planes of words
  long in, out, residual;                // words of working memory
  Int8Sizes(const Int8Matrix& m, const Conv& c)
      : plane(long(c.phases) * c.phase_plane),
        lanes(std::max<long>(LANES, long(c.out_height - 1) * c.pitch + c.out_width)),
        pixels(long(c.out_height) * c.out_width),
        quads((long(m.columns) + 3) / 4),
        out_quads((long(m.rows) + 3) / 4),
        out_planes(m.floats ? m.rows : out_quads),
        in(c.direct ? 0 : quads * plane + LANES),
        out(c.direct ? 0 : out_planes * lanes),
        residual(c.direct ? 0 : out_quads * lanes) {}
};

// Working memory of one image; nothing where input and output lie as the kernels want them.
struct Int8Room {
  int32_t *in = nullptr, *out = nullptr, *residual = nullptr;
};

inline bool int8_room(const Int8Sizes& z, bool residual, Int8Room& room) {
  static thread_local Scratch in, out, laid;
  const auto words = [](Scratch& s, long n) { return n ? reinterpret_cast<int32_t*>(s.get(n)) : nullptr; };
  room = {words(in, z.in), words(out, z.out), residual ? words(laid, z.residual) : nullptr};
  return (!z.in || room.in) && (!z.out || room.out) && (!residual || !z.residual || room.residual);
}

// Row blocks [begin, end) of one image; the rows of pixels lie `pitch` apart until they are copied into y.
inline void int8_convolve(const Int8Matrix& m, const Conv& c, const Int8Sizes& z, const int32_t* x, const Int8Room& room,
                          int32_t* y, const int32_t* residual, int begin, int end) {
  if (begin == end) return;
  if (c.direct) {
    multiply(m, Int8Span{x, 1, y, z.pixels, z.pixels, residual}, begin, end);
    return;
  }
  const long last = std::min<long>(long(end) * m.height, m.rows);
  if (residual)
    for (long g = long(begin) * m.height / 4; g < (last + 3) / 4; g++)
      for (int h = 0; h < c.out_height; h++)
        copy(residual + g * z.pixels + long(h) * c.out_width, room.residual + g * z.lanes + long(h) * c.pitch,
             c.out_width);
  multiply(m, Int8Span{room.in, 1, room.out, z.lanes, z.lanes, residual ? room.residual : nullptr}, begin, end);
  const long from = m.floats ? long(begin) * m.height : long(begin) * m.height / 4;
  for (long g = from; g < (m.floats ? last : (last + 3) / 4); g++)
    for (int h = 0; h < c.out_height; h++)
      copy(room.out + g * z.lanes + long(h) * c.pitch, y + g * z.pixels + long(h) * c.out_width, c.out_width);
}

inline bool int8_convolution(const Int8Matrix& m, const Conv& c, const int32_t* x, const int32_t* residual, int32_t* y,
                             long images, int threads) {
  const Int8Sizes z(m, c);
  const long in_image = z.quads * c.height * c.width, out_image = z.out_planes * z.pixels;
  const long residual_image = z.out_quads * z.pixels;
  if ((entries(m) + m.blocks) * m.height * 4 * z.lanes * images < SERIAL_WORK) threads = 1;
  const auto lay_quads = [&](const int32_t* from, int32_t* to, long begin, long end) {
    for (long k = begin; k < end; k++)
      lay(c, from + k * c.height * c.width, to + k * z.plane, four_of(m.zero_x));
  };
  const auto residual_of = [&](long i) { return residual ? residual + i * residual_image : nullptr; };
  bool failed = false;
  if (threads == 1 || images >= threads) {  // whole images, each in the cache of its thread
#pragma omp parallel num_threads(threads) if (threads > 1)
    {
      Int8Room room;
      if (!int8_room(z, residual != nullptr, room)) {
#pragma omp atomic write
        failed = true;
      } else {
        const long n = threads_here(), k = thread_number();
        for (long i = images * k / n; i < images * (k + 1) / n; i++) {
          if (!c.direct) lay_quads(x + i * in_image, room.in, 0, z.quads);
          int8_convolve(m, c, z, x + i * in_image, room, y + i * out_image, residual_of(i), 0, m.blocks);
        }
      }
    }
    return !failed;
  }
  Int8Room room;
  if (!int8_room(z, residual != nullptr, room)) return false;
#pragma omp parallel num_threads(threads)
  {
    const long n = threads_here(), k = thread_number();
    for (long i = 0; i < images; i++) {
      if (!c.direct) {
        lay_quads(x + i * in_image, room.in, z.quads * k / n, z.quads * (k + 1) / n);
#pragma omp barrier
      }
      int8_convolve(m, c, z, x + i * in_image, room, y + i * out_image, residual_of(i), part(m, k, n),
                    part(m, k + 1, n));
#pragma omp barrier
    }
  }
  return true;
}

}  // namespace
