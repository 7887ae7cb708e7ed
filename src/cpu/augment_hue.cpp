// Hue turned in Pillow's HSV: pixel::with_hue_shifted for vectors of pixels, operation by operation
// in the same types, so that results are equal to the bit.
#include "cpu/augment_images.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "cpu/augment_hue.cpp"
#include "hwy/foreach_target.h"
// clang-format off: the line above decides what the next one compiles for
#include "hwy/highway.h"
// clang-format on

HWY_BEFORE_NAMESPACE();
namespace vitrine::cpu::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::ScalableTag<double>;
using Floats = hn::Rebind<float, Doubles>;
using Words = hn::Rebind<std::int32_t, Doubles>;
using Bytes = hn::Rebind<std::uint8_t, Doubles>;
using Double = hn::Vec<Doubles>;
using Float = hn::Vec<Floats>;
using Word = hn::Vec<Words>;

struct Colors {
  Word r, g, b;
};
struct HueSaturationValue {
  Word h, s, v;
};

HWY_INLINE Float to_float(Word v) {
  return hn::ConvertTo(Floats(), v);
}
HWY_INLINE Double to_double(Float v) {
  return hn::PromoteTo(Doubles(), v);
}
HWY_INLINE Double number(double v) {
  return hn::Set(Doubles(), v);
}

// part · 255, cut.
HWY_INLINE Word of_255(Float part) {
  return hn::DemoteTo(Words(), hn::Mul(to_double(part), number(255.0)));
}

HWY_INLINE Word either(hn::Mask<Words> first, Word a, hn::Mask<Words> second, Word b, Word c) {
  return hn::IfThenElse(first, a, hn::IfThenElse(second, b, c));
}

HWY_INLINE HueSaturationValue to_hsv(const Colors& color) {
  const Words d;
  const auto [r, g, b] = color;
  const Word high = hn::Max(r, hn::Max(g, b)), low = hn::Min(r, hn::Min(g, b));
  const Word range = hn::Sub(high, low), one = hn::Set(d, 1);
  const auto red = hn::Eq(r, high), green = hn::Eq(g, high);
  const Word after = either(red, b, green, r, g), before = either(red, g, green, b, r);
  const Word base = either(red, hn::Zero(d), green, hn::Set(d, 2), hn::Set(d, 4));
  const Float chroma = to_float(hn::Max(range, one));
  const Float plus = hn::Div(to_float(hn::Sub(high, after)), chroma);
  const Float minus = hn::Div(to_float(hn::Sub(high, before)), chroma);
  const Double sum =
      hn::Sub(hn::Add(hn::PromoteTo(Doubles(), base), to_double(plus)), to_double(minus));
  const Double sector = to_double(hn::DemoteTo(Floats(), sum));
  const Double turn = hn::Add(hn::Div(sector, number(6.0)), number(1.0));
  const auto below = hn::Lt(turn, number(1.0));
  const Double hue = hn::IfThenElse(below, turn, hn::Sub(turn, number(1.0)));
  const Float saturation = hn::Div(to_float(range), to_float(hn::Max(high, one)));
  return {of_255(hn::DemoteTo(Floats(), hue)), of_255(saturation), high};
}

// pixel::reduced_value.
HWY_INLINE Word reduced_value(Double v, Double reduced) {
  const Double value = hn::Mul(v, hn::Sub(number(1.0), reduced)), cut = hn::Floor(value);
  const auto up = hn::Ge(hn::Sub(value, cut), number(0.5));
  return hn::DemoteTo(Words(), hn::Add(cut, hn::IfThenElseZero(up, number(1.0))));
}

HWY_INLINE Colors to_rgb(const HueSaturationValue& color) {
  const Words d;
  const auto of_255ths = [](Word v, double scale) {
    return hn::Div(hn::Mul(hn::PromoteTo(Doubles(), v), number(scale)), number(255.0));
  };
  const Double position = of_255ths(color.h, 6.0), whole = hn::Floor(position);
  const Float fraction = hn::DemoteTo(Floats(), hn::Sub(position, whole));
  const Float saturation = hn::DemoteTo(Floats(), of_255ths(color.s, 1.0));
  const Double value = hn::PromoteTo(Doubles(), color.v);
  const Double rest = hn::Sub(number(1.0), to_double(fraction));
  const Word v = color.v, p = reduced_value(value, to_double(saturation));
  const Word q = reduced_value(value, to_double(hn::Mul(saturation, fraction)));
  const Word t = reduced_value(value, hn::Mul(to_double(saturation), rest));
  const Word sector = hn::DemoteTo(d, whole);  // 0 … 6, the last the same as the first
  const auto is = [&](int i) { return hn::Eq(sector, hn::Set(d, i)); };
  const auto one = is(1), two = is(2), three = is(3), four = is(4), five = is(5);
  return {either(one, q, hn::Or(two, three), p, hn::IfThenElse(four, t, v)),
          either(three, q, hn::Or(four, five), p, hn::IfThenElse(hn::Or(one, two), v, t)),
          either(five, q, hn::Or(three, four), v, hn::IfThenElse(two, t, p))};
}

// The planes begin at `image` and are `plane` bytes long.
HWY_INLINE void shift_pixels(std::uint8_t* image, int plane, int shift) {
  const Bytes bytes;
  const Words d;
  const auto levels = [&](int c) { return hn::PromoteTo(d, hn::LoadU(bytes, image + c * plane)); };
  const auto store = [&](Word v, int c) {
    hn::StoreU(hn::DemoteTo(bytes, v), bytes, image + c * plane);
  };
  HueSaturationValue hsv = to_hsv({levels(0), levels(1), levels(2)});
  hsv.h = hn::And(hn::Add(hsv.h, hn::Set(d, shift)), hn::Set(d, pixel::kLevels - 1));
  const Colors color = to_rgb(hsv);
  store(color.r, 0);
  store(color.g, 1);
  store(color.b, 2);
}

void shift_hues(std::uint8_t* image, int plane, std::uint8_t shift) {
  const int lanes = static_cast<int>(hn::Lanes(Doubles()));
  int i = 0;
  if (HWY_TARGET != HWY_SCALAR) {
    for (; i + lanes <= plane; i += lanes) shift_pixels(image + i, plane, shift);
  }
  for (; i < plane; ++i) {
    std::uint8_t *red = image + i, *green = red + plane, *blue = green + plane;
    const pixel::Rgb color = pixel::with_hue_shifted({*red, *green, *blue}, shift);
    *red = color.r;
    *green = color.g;
    *blue = color.b;
  }
}

}  // namespace vitrine::cpu::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace vitrine::cpu {

HWY_EXPORT(shift_hues);

void shift_hue(std::uint8_t* image, int plane, std::uint8_t shift) {
  HWY_DYNAMIC_DISPATCH(shift_hues)(image, plane, shift);
}

}  // namespace vitrine::cpu
#endif  // HWY_ONCE
