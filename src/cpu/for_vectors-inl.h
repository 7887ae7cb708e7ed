// A loop over floats by Highway vectors.
// Included by files that foreach_target.h compiles once per target.
#include <cstdint>

#include "hwy/highway.h"

// Highway's per-target include guard.
#if defined(VITRINE_CPU_FOR_VECTORS_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef VITRINE_CPU_FOR_VECTORS_INL_H_
#undef VITRINE_CPU_FOR_VECTORS_INL_H_
#else
#define VITRINE_CPU_FOR_VECTORS_INL_H_
#endif

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {

/// Calls body(d, i) for vectors of elements from i on, then for the rest one by one.
template <class D, class Body>
HWY_INLINE void for_vectors(D d, std::int64_t n, const Body& body) {
  const auto lanes = static_cast<std::int64_t>(hwy::HWY_NAMESPACE::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) body(d, i);
  for (; i < n; ++i) body(hwy::HWY_NAMESPACE::CappedTag<float, 1>(), i);
}
template <class Body>
HWY_INLINE void for_vectors(std::int64_t n, const Body& body) {
  for_vectors(hwy::HWY_NAMESPACE::ScalableTag<float>(), n, body);
}

// NOLINTNEXTLINE(google-readability-namespace-comments)
}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif  // VITRINE_CPU_FOR_VECTORS_INL_H_
