// Unified blocks: four inputs under one magnitude need one product, once their signed sum is known. All outputs share
// the eight sums (the other eight are their negatives).
#pragma once
#include "vector.h"

namespace {

// Of inputs a, b, c, d (planes of `lanes` floats): plane 0 holds a + b + c + d; bit 0 of a plane's number turns the
// sign of b, bit 1 that of c, bit 2 that of d. With 12 planes the inputs themselves follow, for blocks of any values.
inline void signed_sums(const float* x, float* to, long groups, long lanes, int planes) {
  for (long g = 0; g < groups; g++, x += 4 * lanes, to += planes * lanes)
    for (long i = 0; i < lanes; i += LANES) {
      const long q = i + LANES <= lanes ? i : lanes - LANES;
      const Vector a = load(x + q), b = load(x + lanes + q), c = load(x + 2 * lanes + q), d = load(x + 3 * lanes + q);
      const Vector ab[2] = {a + b, a - b}, cd[4] = {c + d, d - c, c - d, -c - d};
      each<8>([&](auto k) FLAT { store(to + k * lanes + q, ab[k % 2] + cd[k / 2]); });
      if (planes == 12) {
        store(to + 8 * lanes + q, a);
        store(to + 9 * lanes + q, b);
        store(to + 10 * lanes + q, c);
        store(to + 11 * lanes + q, d);
      }
    }
}

}  // namespace
