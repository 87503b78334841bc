// Between floats and words, and from levels to other levels.
#pragma once
#include "int8_conv.h"

namespace {

// f(p, q): from p to q, LANES elements; what is left is done on copies.
template <class In, class Out, class F>
INLINE void in_vectors(const In* from, Out* to, long n, F&& f) {
  long i = 0;
  for (; i + LANES <= n; i += LANES) f(from + i, to + i);
  if (i < n) {
    In rest[LANES] = {};
    Out done[LANES];
    std::memcpy(rest, from + i, (n - i) * sizeof(In));
    f(rest, done);
    std::memcpy(to + i, done, (n - i) * sizeof(Out));
  }
}

// Levels of reals: the ends for what lies beyond them, the zero for what is not a number.
struct Quantiser {
  float inverse;
  int32_t zero, most;
  INLINE Bits operator()(Vector x) const {
    const Vector v = x * inverse, real = v == v ? v : Vector{};
    return nearest(clamp(real, all(float(-zero)), all(float(most - zero)))) + zero;
  }
};

// x: [images][channels][pixels]; y: [images][quads][pixels] words.
inline void quantise_images(const float* x, int32_t* y, long images, long channels, long pixels, const Quantiser& f,
                            int threads) {
  const long quads = (channels + 3) / 4, count = images * quads;
  if (count * pixels * 4 < SERIAL_WORK) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long k = 0; k < count; k++) {
    const long first = k % quads * 4, real = std::min(4L, channels - first);
    const float* from = x + (k / quads * channels + first) * pixels;
    int32_t* to = y + k * pixels;
    for (long q = 0; q < pixels; q += LANES) {
      const long n = std::min<long>(LANES, pixels - q);
      Bits word{};
      each<4>([&](auto c) FLAT {
        if (c >= real) return;
        const float* p = from + c * pixels + q;
        float rest[LANES] = {};
        if (n < LANES) std::memcpy(rest, p, n * sizeof(float));
        word |= f(load(n < LANES ? rest : p)) << (8 * c);
      });
      if (n == LANES) put<LANES>(to + q, word);
      else std::memcpy(to + q, &word, n * sizeof(int32_t));
    }
  }
}

// x: [rows][features]; y: [rows][4 * quads] bytes.
inline void quantise_features(const float* x, uint8_t* y, long rows, long features, const Quantiser& f) {
  const long width = (features + 3) / 4 * 4;
  for (long r = 0; r < rows; r++) {
    in_vectors(x + r * features, y + r * width, features, [&](const float* p, uint8_t* q) FLAT { narrow(q, f(load(p))); });
    std::memset(y + r * width + features, 0, width - features);
  }
}

inline void real_images(const int32_t* x, float* y, long images, long channels, long pixels, float scale, int32_t zero,
                        int threads) {
  const long quads = (channels + 3) / 4, count = images * channels;
  if (count * pixels < SERIAL_WORK) threads = 1;
#pragma omp parallel for num_threads(threads) if (threads > 1)
  for (long k = 0; k < count; k++) {
    const long c = k % channels;
    const int32_t* from = x + (k / channels * quads + c / 4) * pixels;
    in_vectors(from, y + k * pixels, pixels, [&](const int32_t* p, float* q) FLAT {
      store(q, to_floats((take<LANES>(p) >> int(c % 4 * 8) & 255) - zero) * scale);
    });
  }
}

inline void real_features(const uint8_t* x, float* y, long rows, long features, float scale, int32_t zero) {
  const long width = (features + 3) / 4 * 4;
  for (long r = 0; r < rows; r++)
    in_vectors(x + r * width, y + r * features, features,
               [&](const uint8_t* p, float* q) FLAT { store(q, to_floats(widened(p) - zero) * scale); });
}

inline void through_table(const uint8_t* table, const int32_t* x, int32_t* y, long words) {
  in_vectors(x, y, words, [&](const int32_t* p, int32_t* q) FLAT { put<LANES>(q, looked_up(table, take<LANES>(p))); });
}

}  // namespace

// Shared with Python (src/secateur/runtime/library.py): a sum of levels in fixed point.
extern "C" struct Sum {
  int32_t a, b, constant, shift, low, high;
};

namespace {

// y = (a x + b z + constant) >> shift between low and high. That no step passes 32 bits is seen to in Python.
inline void add_levels(const Sum& s, const uint8_t* x, const uint8_t* z, uint8_t* y, long n) {
  const auto f = [&](const uint8_t* p, const uint8_t* r, uint8_t* q) FLAT {
    const Bits v = (widened(p) * s.a + widened(r) * s.b + s.constant) >> s.shift;
    const Bits above = v < s.low ? every<LANES>(s.low) : v;
    narrow(q, above > s.high ? every<LANES>(s.high) : above);
  };
  long i = 0;
  for (; i + LANES <= n; i += LANES) f(x + i, z + i, y + i);
  if (i < n) {
    uint8_t rest[LANES] = {}, other[LANES] = {}, done[LANES];
    std::memcpy(rest, x + i, n - i);
    std::memcpy(other, z + i, n - i);
    f(rest, other, done);
    std::memcpy(y + i, done, n - i);
  }
}

}  // namespace
