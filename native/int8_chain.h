// Steps on words that follow each other in one call: the twin of chain.h.
#pragma once
#include "chain.h"
#include "int8_linear.h"
#include "int8_pool.h"

// One step; shared with Python (src/secateur/runtime/library.py). Places count words.
extern "C" struct Int8Step {
  const Int8Matrix* matrix;  // of a convolution or linear layer
  const Conv* conv;          // of a convolution
  const Pool* pool;          // of pooling
  const Average* average;    // of average pooling
  const Sum* sum;            // of a sum of two tensors
  const uint8_t* table;      // of other levels
  Place x, other, y;         // other: the residual, or the second term
  int64_t count;             // images, rows, planes or words
};

namespace {

inline bool run_int8_steps(const Int8Step* steps, int64_t count, int32_t* const* pieces, int threads) {
  const auto at = [&](Place p) { return p.piece < 0 ? nullptr : pieces[p.piece] + p.offset; };
  const auto bytes = [&](Place p) { return reinterpret_cast<uint8_t*>(at(p)); };
  for (const Int8Step* s = steps; s < steps + count; s++) {
    bool done = true;
    if (s->sum) add_levels(*s->sum, bytes(s->x), bytes(s->other), bytes(s->y), 4 * s->count);
    else if (s->table) through_table(s->table, at(s->x), at(s->y), s->count);
    else if (s->average) average_pool(*s->pool, *s->average, at(s->x), at(s->y), s->count, threads);
    else if (s->pool) done = max_pool(*s->pool, at(s->x), at(s->y), s->count, 0, threads);
    else if (s->conv) done = int8_convolution(*s->matrix, *s->conv, at(s->x), at(s->other), at(s->y), s->count, threads);
    else done = int8_linear(*s->matrix, at(s->x), at(s->other), at(s->y), s->count, threads);
    if (!done) return false;
  }
  return true;
}

}  // namespace
