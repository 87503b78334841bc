// The C interface of the kernels. One shared library per instruction set is made from this file (see build.py).
#include "chain.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

EXPORT int secateur_abi() { return SECATEUR_ABI; }

// Whether this processor, under this operating system, has the instructions of a library. Asked of the portable one.
EXPORT int secateur_supports(int avx512) {
#if defined(__x86_64__) || defined(__i386__)
  __builtin_cpu_init();
  if (avx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq");
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  (void)avx512;
  return 0;
#endif
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
  return max_pool(*p, x, y, planes, threads) ? 0 : 1;
}

// Steps in turn, on the pieces of memory that their places name. What a step writes overlaps nothing that it reads.
EXPORT int secateur_chain(const Step* steps, int64_t count, float* const* pieces, int threads) {
  return run_steps(steps, count, pieces, threads) ? 0 : 1;
}
