// The C interface of the kernels. One shared library per instruction set is made from this file (see build.py).
#include "int8_chain.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int secateur_abi() { return SECATEUR_ABI; }

// Whether this processor, under this operating system, has the instructions of a library (numbers of library.py). Asked
// of the portable one.
EXPORT int secateur_supports(int library) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  switch (library) {
    case 0: return avx512 && __builtin_cpu_supports("avx512vnni");
    case 1: return avx512;
    case 2: return avx2 && __builtin_cpu_supports("avxvnni");
    case 3: return avx2;
  }
#endif
  return library == 4;
}

// Each returns 0, or 1 where memory ran out. x, y and residual are dense: (images, channels, height, width) or
// (rows, features). y overlaps neither x nor the residual.
EXPORT int secateur_conv(const Matrix* m, const Conv* c, const float* x, const float* residual, float* y,
                         int64_t images, int threads) {
  return convolution(*m, *c, x, residual, y, images, threads) ? 0 : 1;
}

EXPORT int secateur_linear(const Matrix* m, const float* x, const float* residual, float* y, int64_t rows,
                           int threads) {
  return linear(*m, x, residual, y, rows, threads) ? 0 : 1;
}

// x and y are (planes, height, width); y does not overlap x.
EXPORT int secateur_max_pool(const Pool* p, const float* x, float* y, int64_t planes, int threads) {
  return max_pool(*p, x, y, planes, -INFINITY, threads) ? 0 : 1;
}

// Steps in turn, on the pieces of memory that their places name. What a step writes overlaps nothing that it reads.
EXPORT int secateur_chain(const Step* steps, int64_t count, float* const* pieces, int threads) {
  return run_steps(steps, count, pieces, threads) ? 0 : 1;
}

// The twins for bytes: x, residual and y are words of four channels, (images, channels / 4, height, width) or
// (rows, features / 4), but for a y of floats, which is as above.
EXPORT int secateur_int8_conv(const Int8Matrix* m, const Conv* c, const int32_t* x, const int32_t* residual, int32_t* y,
                              int64_t images, int threads) {
  return int8_convolution(*m, *c, x, residual, y, images, threads) ? 0 : 1;
}

EXPORT int secateur_int8_linear(const Int8Matrix* m, const int32_t* x, const int32_t* residual, int32_t* y,
                                int64_t rows, int threads) {
  return int8_linear(*m, x, residual, y, rows, threads) ? 0 : 1;
}

// Whether the weights of a layer are to be 16-bit numbers, if its inputs are as large as `most`.
EXPORT int secateur_int8_wide(int most) { return most > NARROW_MOST; }

EXPORT int secateur_int8_max_pool(const Pool* p, const int32_t* x, int32_t* y, int64_t planes, int threads) {
  return max_pool(*p, x, y, planes, 0, threads) ? 0 : 1;
}

EXPORT int secateur_int8_average_pool(const Pool* p, const Average* a, const int32_t* x, int32_t* y, int64_t planes,
                                      int threads) {
  average_pool(*p, *a, x, y, planes, threads);
  return 0;
}

// Floats (count, channels, pixels), or (count, channels) where pixels is 0, to words and back.
EXPORT int secateur_int8_quantise(const float* x, int32_t* y, int64_t count, int64_t channels, int64_t pixels,
                                  float inverse, int zero, int most, int threads) {
  const Quantiser f{inverse, zero, most};
  if (pixels) quantise_images(x, y, count, channels, pixels, f, threads);
  else quantise_features(x, reinterpret_cast<uint8_t*>(y), count, channels, f);
  return 0;
}

EXPORT int secateur_int8_reals(const int32_t* x, float* y, int64_t count, int64_t channels, int64_t pixels, float scale,
                               int zero, int threads) {
  if (pixels) real_images(x, y, count, channels, pixels, scale, zero, threads);
  else real_features(reinterpret_cast<const uint8_t*>(x), y, count, channels, scale, zero);
  return 0;
}

EXPORT int secateur_int8_table(const uint8_t* table, const int32_t* x, int32_t* y, int64_t words) {
  through_table(table, x, y, words);
  return 0;
}

EXPORT int secateur_int8_add(const Sum* s, const uint8_t* x, const uint8_t* z, uint8_t* y, int64_t bytes) {
  add_levels(*s, x, z, y, bytes);
  return 0;
}

EXPORT int secateur_int8_chain(const Int8Step* steps, int64_t count, int32_t* const* pieces, int threads) {
  return run_int8_steps(steps, count, pieces, threads) ? 0 : 1;
}
