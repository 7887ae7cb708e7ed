// The colour maps viridis and hot, as matplotlib has them.
//
// viridis (S. van der Walt and N. Smith 2015, CC0) is perceptually uniform: equal steps of a number
// look equally large, also in grey and to the colour-blind. Every eighth entry of its 256 is kept;
// what lies between is interpolated, at most two steps of 255 off. hot is piecewise linear: red
// rises first, then green, then blue.
#include "io/color_maps.h"

#include <algorithm>
#include <cmath>

namespace vitrine {
namespace {

constexpr std::array<Color, 33> kViridis = {
    {{68, 1, 84},    {71, 13, 96},   {72, 24, 106},  {72, 35, 116},  {71, 45, 123},  {69, 54, 129},
     {66, 64, 134},  {63, 73, 137},  {59, 82, 139},  {55, 90, 141},  {51, 99, 141},  {47, 106, 142},
     {44, 114, 142}, {41, 122, 142}, {38, 129, 142}, {35, 137, 142}, {33, 144, 140}, {31, 152, 139},
     {31, 159, 136}, {33, 166, 133}, {40, 174, 128}, {49, 181, 123}, {62, 188, 116}, {76, 194, 108},
     {93, 201, 99},  {110, 206, 88}, {130, 211, 76}, {150, 216, 63}, {171, 220, 50}, {192, 223, 36},
     {213, 226, 26}, {234, 229, 26}, {253, 231, 37}}};
constexpr Color kNotANumber = {128, 128, 128};

std::uint8_t byte_of(float fraction) {
  return static_cast<std::uint8_t>(std::lround(255.0f * std::clamp(fraction, 0.0f, 1.0f)));
}

Color viridis(float t) {
  const float place = t * static_cast<float>(kViridis.size() - 1);
  const std::size_t i = std::min(static_cast<std::size_t>(place), kViridis.size() - 2);
  const float part = place - static_cast<float>(i);
  Color color{};
  for (std::size_t c = 0; c < color.size(); ++c) {
    const auto from = static_cast<float>(kViridis[i][c]),
               to = static_cast<float>(kViridis[i + 1][c]);
    color[c] = static_cast<std::uint8_t>(std::lround(from + part * (to - from)));
  }
  return color;
}

Color hot(float t) {
  constexpr float kRedAtZero = 0.0416f, kRedIsFull = 0.365079f, kGreenIsFull = 0.746032f;
  return {byte_of(kRedAtZero + (1.0f - kRedAtZero) * t / kRedIsFull),
          byte_of((t - kRedIsFull) / (kGreenIsFull - kRedIsFull)),
          byte_of((t - kGreenIsFull) / (1.0f - kGreenIsFull))};
}

}  // namespace

Color color_of(ColorMap colors, float t) {
  if (std::isnan(t)) return kNotANumber;
  t = std::clamp(t, 0.0f, 1.0f);
  return colors == ColorMap::viridis ? viridis(t) : hot(t);
}

}  // namespace vitrine
