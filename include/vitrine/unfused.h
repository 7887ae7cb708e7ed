// Products that are rounded before they are added to something: the same bits on every device.
//
// nvcc fuses a product with the sum that takes it where nobody forbids it. On the CPU the files
// that need this are compiled with -ffp-contract=off.
#pragma once

#include "vitrine/random.h"

namespace vitrine {

VITRINE_HOST_DEVICE inline double unfused_product(double a, double b) {
#ifdef __CUDA_ARCH__
  return __dmul_rn(a, b);
#else
  return a * b;
#endif
}

VITRINE_HOST_DEVICE inline float unfused_product(float a, float b) {
#ifdef __CUDA_ARCH__
  return __fmul_rn(a, b);
#else
  return a * b;
#endif
}

}  // namespace vitrine
