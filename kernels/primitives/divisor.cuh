// Division by a number that a whole launch shares.
//
//   Granlund and Montgomery 1994, "Division by invariant integers using multiplication"
#pragma once

#include <bit>

#include "primitives/cuda.cuh"

namespace vitrine::cuda {

/// Division of numbers below 2^31 by multiplication (Granlund and Montgomery 1994).
class Divisor {
 public:
  explicit Divisor(std::int64_t divisor)
      : divisor_(static_cast<unsigned>(divisor)),
        shift_(31 + std::bit_width(divisor_ - 1)),
        multiplier_(static_cast<unsigned>((std::uint64_t{1} << shift_) / divisor_ + 1)) {}

  /// Returns n / divisor and leaves the remainder in n.
  __device__ __forceinline__ unsigned divide(unsigned& n) const {
    const auto quotient = static_cast<unsigned>((std::uint64_t{n} * multiplier_) >> shift_);
    n -= quotient * divisor_;
    return quotient;
  }

 private:
  unsigned divisor_;
  int shift_;
  unsigned multiplier_;
};

}  // namespace vitrine::cuda
