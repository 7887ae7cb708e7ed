// Mixup and cutmix of the images of a batch; see vitrine/augment.h.
//
//   mixup   out = round(w a + (1 − w) b), in float, ties to even: what timm's FastCollateMixup does
//   cutmix  a with b's pixels in the box
//
// An image belongs to one thread. The outputs lie apart from the images, so a pair can be mixed
// both ways.
#include <algorithm>
#include <cstring>

#include "catalogue/check.h"
#include "cpu/cpu_kernels.h"
#include "vitrine/arguments.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/mix_images.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

void mixup(const std::uint8_t* a, const std::uint8_t* b, std::int64_t n, float weight,
           std::uint8_t* out) {
  const auto at = [&](auto d, std::int64_t i) HWY_ATTR {
    const hn::Rebind<std::uint8_t, decltype(d)> bytes;
    const hn::Rebind<std::int32_t, decltype(d)> integers;
    const auto pixels = [&](const std::uint8_t* from) HWY_ATTR {
      return hn::ConvertTo(d, hn::PromoteTo(integers, hn::LoadU(bytes, from + i)));
    };
    const auto mixed = hn::Add(hn::Mul(pixels(a), hn::Set(d, weight)),
                               hn::Mul(pixels(b), hn::Set(d, 1.0f - weight)));
    hn::StoreU(hn::DemoteTo(bytes, hn::NearestInt(mixed)), bytes, out + i);
  };
  const hn::ScalableTag<float> d;
  const auto lanes = static_cast<std::int64_t>(hn::Lanes(d));
  std::int64_t i = 0;
  for (; i + lanes <= n; i += lanes) at(d, i);
  for (; i < n; ++i) at(hn::CappedTag<float, 1>(), i);
}

}  // namespace HWY_NAMESPACE
}  // namespace vitrine::cpu
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(mixup);

namespace {

// What check_arguments leaves: the mixes lie in this device's memory.
void check_mix(const MixImages& args, std::int64_t b) {
  const ImageMix& mix = args.mixes[b];
  const auto name = [&] { return "mixes[" + std::to_string(b) + "]"; };
  VITRINE_CHECK(mix.partner >= -1 && mix.partner < args.batch, "mix_images",
                name() + ".partner is " + std::to_string(mix.partner) + ", expected -1 to " +
                    std::to_string(args.batch - 1));
  VITRINE_CHECK(mix.weight >= 0.0f && mix.weight <= 1.0f, "mix_images",
                name() + ".weight is " + std::to_string(mix.weight) + ", expected 0 to 1");
  const bool inside = mix.y >= 0 && mix.x >= 0 && mix.height >= 0 && mix.width >= 0 &&
                      mix.height <= args.height - mix.y && mix.width <= args.width - mix.x;
  VITRINE_CHECK(inside, "mix_images",
                name() + " has a box of " + std::to_string(mix.height) + "x" +
                    std::to_string(mix.width) + " at (" + std::to_string(mix.y) + ", " +
                    std::to_string(mix.x) + "), expected inside the image of " +
                    std::to_string(args.height) + "x" + std::to_string(args.width));
}

void mix_image(const MixImages& args, std::int64_t b) {
  const ImageMix& mix = args.mixes[b];
  const std::int64_t elements = args.channels * args.height * args.width;
  const std::uint8_t* image = args.images.data + b * elements;
  const std::uint8_t* partner = args.images.data + mix.partner * elements;
  std::uint8_t* out = args.out.data + b * elements;
  const bool cutmix = mix.height > 0 && mix.width > 0;
  if (mix.partner >= 0 && !cutmix) {
    return HWY_DYNAMIC_DISPATCH(mixup)(image, partner, elements, mix.weight, out);
  }
  std::memcpy(out, image, elements);
  if (mix.partner < 0) return;
  for (std::int64_t c = 0; c < args.channels; ++c) {
    for (std::int64_t y = mix.y; y < mix.y + mix.height; ++y) {
      const std::int64_t first = (c * args.height + y) * args.width + mix.x;
      std::memcpy(out + first, partner + first, mix.width);
    }
  }
}

}  // namespace

void CpuKernels::mix_images(const MixImages& args) {
  check_arguments(args);
  for (std::int64_t b = 0; b < args.batch; ++b) check_mix(args, b);
  pool_.parallel_for(args.batch, [&](int, std::int64_t b) { mix_image(args, b); });
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
