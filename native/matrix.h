// The packed matrix: row blocks, each with the list of columns in which it is not zero.
#pragma once
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "vector.h"

// These two are shared with Python (src/secateur/runtime/library.py); a change of them is a new SECATEUR_ABI.
extern "C" {

struct Matrix {
  int32_t rows;      // outputs
  int32_t columns;   // inputs of a linear layer, or input channels of a convolution
  int32_t height;    // rows of a block: 1, 4, 8 or 16
  int32_t blocks;
  int32_t planes;    // 0, or planes that four inputs make: 8 signed sums, then perhaps the 4 inputs themselves (12)
  int32_t activation;
  int32_t add_last;
  const int32_t* first;   // [blocks] first row
  const int32_t* count;   // [blocks] rows that exist
  const int32_t* start;   // [blocks + 1] range of entries
  const int32_t* offset;  // [entries] inputs, or offsets into the laid planes of a convolution
  const float* values;    // [entries][height]
  const float* bias;      // [blocks][height]
};

struct Conv {
  int32_t height, width, out_height, out_width;
  int32_t stride_h, stride_w, pad_top, pad_left;
  int32_t phases;        // (row, column) remainders by the stride that some tap reads; each has its own plane
  int32_t phase_rows, pitch, phase_plane;  // rows, floats of a row, floats of a plane
  int32_t direct;        // the input is read, and the output written, where it lies
  const int32_t* phase;  // [phases][2]
};
}

namespace {

constexpr long SERIAL_WORK = 1 << 20;  // multiply-accumulates that are not worth waking a thread for
constexpr long L1_BYTES = 32 << 10, L2_BYTES = 512 << 10;

template <class M>
inline long entries(const M& m) { return m.start[m.blocks]; }

// The first block of part `i` of `n` with about equal numbers of entries.
template <class M>
inline int part(const M& m, long i, long n) {
  if (i >= n) return m.blocks;
  // Entries alone would give a matrix of empty blocks to one thread.
  const long total = entries(m) + m.blocks, wanted = total * i / n;
  int low = 0, high = m.blocks;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (m.start[middle] + middle < wanted) low = middle + 1;
    else high = middle;
  }
  return low;
}

// Memory of a thread that grows and is used again.
class Scratch {
 public:
  float* get(size_t floats) {
    if (floats > size_) {
      std::free(memory_);
      const size_t bytes = (floats * sizeof(float) + 4095) / 4096 * 4096;
      memory_ = static_cast<float*>(std::aligned_alloc(4096, bytes));
      size_ = memory_ ? bytes / sizeof(float) : 0;
    }
    return memory_;
  }
  ~Scratch() { std::free(memory_); }

 private:
  float* memory_ = nullptr;
  size_t size_ = 0;
};

}  // namespace
