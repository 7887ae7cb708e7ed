// Matrix product on the calling thread for shapes too small for a library call.
#pragma once

#include "cpu/sgemm.h"

namespace vitrine::cpu {

/// c = a · b (+ bias) (+ c with accumulate); a [m, k], b [k, n], c [m, n].
struct Product {
  std::int64_t m, n, k;
  GemmOperand a, b;
  const float* packed;  // what pack_factor made of b, where packed_elements asks for it
  const float* bias;    // [n], may be null
  bool accumulate;
  float* c;
  std::int64_t c_stride;
};

/// Whether `small_matmul` is the faster way to this product.
bool is_small(const Product& product);

/// Elements of `packed`; 0 where b is read as it is. Runs of rows of one product may share it
/// unless a is transposed.
std::int64_t packed_elements(const Product& product);
void pack_factor(const Product& product, float* packed);

void small_matmul(const Product& product);

}  // namespace vitrine::cpu
