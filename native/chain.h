// Layers that follow each other in one call: what they hand on lies in one piece of memory that was planned before.
#pragma once
#include "linear.h"
#include "pool.h"

extern "C" {

// Where a step reads or writes: floats behind one of the pieces of memory of a call.
struct Place {
  int64_t offset;
  int32_t piece;  // -1: there is none
};

// One layer; shared with Python (src/secateur/runtime/library.py).
struct Step {
  const Matrix* matrix;  // of a convolution or linear layer
  const Conv* conv;      // of a convolution
  const Pool* pool;      // of max pooling
  Place x, residual, y;
  int64_t count;  // images, rows or planes
};
}

namespace {

inline bool run_steps(const Step* steps, int64_t count, float* const* pieces, int threads) {
  const auto at = [&](Place p) { return p.piece < 0 ? nullptr : pieces[p.piece] + p.offset; };
  for (const Step* s = steps; s < steps + count; s++) {
    const bool done =
        s->pool   ? max_pool(*s->pool, at(s->x), at(s->y), s->count, -INFINITY, threads)
        : s->conv ? convolution(*s->matrix, *s->conv, at(s->x), at(s->residual), at(s->y), s->count, threads)
                  : linear(*s->matrix, at(s->x), at(s->residual), at(s->y), s->count, threads);
    if (!done) return false;
  }
  return true;
}

}  // namespace
