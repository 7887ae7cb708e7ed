// Handwritten-looking digits, drawn.
//
//   centre lines (Catmull-Rom splines, i.e. cubic Beziers through given points)
//     → each point moved a little (a different hand every time)
//     → elastic distortion: a sum of slow random waves      (Simard, Steinkraus, Platt 2003)
//     → rotation, shear, unequal scale, shift
//     → ink: at each pixel the strongest disc of the pen that covers it; pen width and pressure
//       change along the stroke; the edge is soft (blur)
//     → noise in the ink
//
// Every image is a function of (seed, index) alone, on one RandomStream.

#include <algorithm>
#include <array>
#include <cmath>

#include "vitrine/dataset.h"
#include "vitrine/error.h"

namespace vitrine {
namespace {

constexpr int kSide = 28, kDigits = 10;
constexpr double kPi = 3.141592653589793;

struct Point {
  double x = 0, y = 0;
};
using Stroke = std::vector<Point>;  ///< points the pen passes; a corner ends a stroke
using Glyph = std::vector<Stroke>;  ///< one way to write a digit, in the unit square, y down

/// Every way this hand knows to write each digit.
const std::array<std::vector<Glyph>, kDigits>& glyphs() {
  static const std::array<std::vector<Glyph>, kDigits> kGlyphs = {{
      // 0: round, slim, not quite closed
      {{{{.50, .00},
         {.22, .14},
         {.10, .50},
         {.22, .86},
         {.50, 1.0},
         {.78, .86},
         {.90, .50},
         {.78, .14},
         {.50, .00}}},
       {{{.55, .00},
         {.35, .15},
         {.26, .50},
         {.34, .88},
         {.50, 1.0},
         {.68, .86},
         {.76, .50},
         {.70, .16},
         {.55, .00}}},
       {{{.62, .03},
         {.30, .10},
         {.12, .48},
         {.25, .88},
         {.55, .99},
         {.82, .80},
         {.88, .42},
         {.72, .10},
         {.48, .06}}}},
      // 1: a bar, with a flag, with flag and foot
      {{{{.50, .00}, {.50, .50}, {.50, 1.0}}},
       {{{.26, .24}, {.42, .13}, {.55, .00}}, {{.55, .00}, {.54, .50}, {.53, 1.0}}},
       {{{.28, .20}, {.42, .12}, {.54, .00}},
        {{.54, .00}, {.53, .50}, {.53, .98}},
        {{.26, .99}, {.53, .98}, {.80, .98}}}},
      // 2: straight foot, looped foot
      {{{{.14, .24}, {.28, .05}, {.56, .00}, {.82, .17}, {.76, .46}, {.44, .76}, {.10, .99}},
        {{.10, .99}, {.50, .96}, {.92, .97}}},
       {{{.18, .20},
         {.36, .03},
         {.64, .02},
         {.82, .22},
         {.70, .54},
         {.42, .84},
         {.18, .97},
         {.10, .86},
         {.26, .78},
         {.52, .90},
         {.72, .99},
         {.94, .90}}}},
      // 3: round, flat top
      {{{{.14, .13}, {.40, .00}, {.74, .08}, {.80, .28}, {.62, .43}, {.40, .47}},
        {{.40, .47}, {.70, .52}, {.88, .72}, {.74, .94}, {.42, 1.0}, {.10, .88}}},
       {{{.16, .03}, {.48, .02}, {.82, .01}},
        {{.82, .01}, {.62, .22}, {.42, .41}},
        {{.42, .41}, {.74, .46}, {.90, .70}, {.72, .95}, {.40, 1.0}, {.12, .88}}}},
      // 4: open, closed, open with a short stem
      {{{{.24, .00}, {.18, .28}, {.10, .56}},
        {{.10, .56}, {.48, .56}, {.90, .52}},
        {{.74, .08}, {.70, .54}, {.66, 1.0}}},
       {{{.66, .00}, {.38, .34}, {.06, .66}},
        {{.06, .66}, {.48, .66}, {.94, .64}},
        {{.66, .00}, {.66, .50}, {.66, 1.0}}},
       {{{.20, .02}, {.14, .24}, {.20, .46}, {.48, .52}, {.78, .46}},
        {{.80, .04}, {.78, .46}, {.72, 1.0}}}},
      // 5: bar apart, one line
      {{{{.26, .03}, {.54, .02}, {.86, .01}},
        {{.26, .03}, {.23, .22}, {.19, .44}},
        {{.19, .44}, {.48, .36}, {.80, .48}, {.86, .74}, {.64, .97}, {.34, .99}, {.10, .88}}},
       {{{.86, .03},
         {.58, .02},
         {.30, .06},
         {.22, .24},
         {.24, .42},
         {.52, .44},
         {.80, .56},
         {.82, .82},
         {.54, 1.0},
         {.14, .92}}}},
      // 6: curved back, straight back
      {{{{.74, .02},
         {.44, .14},
         {.20, .44},
         {.14, .74},
         {.30, .97},
         {.62, .98},
         {.82, .78},
         {.68, .56},
         {.42, .54},
         {.18, .72}}},
       {{{.60, .00},
         {.40, .26},
         {.22, .60},
         {.24, .90},
         {.50, 1.0},
         {.76, .86},
         {.74, .64},
         {.50, .56},
         {.26, .74}}}},
      // 7: plain, with a bar, with a hooked roof
      {{{{.10, .04}, {.48, .04}, {.88, .02}}, {{.88, .02}, {.62, .48}, {.42, 1.0}}},
       {{{.10, .04}, {.48, .03}, {.86, .02}},
        {{.86, .02}, {.62, .46}, {.46, 1.0}},
        {{.34, .52}, {.58, .50}, {.84, .48}}},
       {{{.10, .20}, {.14, .04}, {.50, .07}, {.88, .03}},
        {{.88, .03}, {.68, .36}, {.54, .68}, {.50, 1.0}}}},
      // 8: one line, two rings
      {{{{.76, .14},
         {.52, .00},
         {.24, .10},
         {.26, .32},
         {.52, .48},
         {.78, .68},
         {.74, .92},
         {.48, 1.0},
         {.20, .90},
         {.22, .66},
         {.50, .48},
         {.74, .32},
         {.76, .14}}},
       {{{.50, .00}, {.26, .10}, {.26, .36}, {.50, .46}, {.74, .36}, {.74, .10}, {.50, .00}},
        {{.50, .46}, {.20, .60}, {.20, .90}, {.50, 1.0}, {.80, .90}, {.80, .60}, {.50, .46}}}},
      // 9: straight stem, curved tail
      {{{{.80, .16}, {.56, .00}, {.26, .10}, {.18, .32}, {.36, .50}, {.64, .44}, {.80, .16}},
        {{.80, .16}, {.78, .56}, {.70, 1.0}}},
       {{{.80, .18},
         {.58, .00},
         {.28, .08},
         {.18, .30},
         {.38, .48},
         {.66, .42},
         {.80, .18},
         {.84, .50},
         {.74, .84},
         {.50, 1.0},
         {.24, .92}}}},
  }};
  return kGlyphs;
}

/// A slow displacement of the plane.
class Elastic {
 public:
  explicit Elastic(RandomStream& random) {
    constexpr double kAmplitude = 0.032, kFrequency = 1.1 * kPi;
    for (Wave& wave : waves_) {
      wave.kx = random.uniform(-kFrequency, kFrequency);
      wave.ky = random.uniform(-kFrequency, kFrequency);
      wave.phase = random.uniform(0, 2 * kPi);
      wave.dx = kAmplitude * random.normal();
      wave.dy = kAmplitude * random.normal();
    }
  }
  Point operator()(Point p) const {
    Point moved = p;
    for (const Wave& wave : waves_) {
      const double height = std::sin(wave.kx * p.x + wave.ky * p.y + wave.phase);
      moved.x += wave.dx * height;
      moved.y += wave.dy * height;
    }
    return moved;
  }

 private:
  struct Wave {
    double kx = 0, ky = 0, phase = 0, dx = 0, dy = 0;
  };
  std::array<Wave, 4> waves_;
};

/// From the unit square to pixels.
class Affine {
 public:
  explicit Affine(RandomStream& random) {
    constexpr double kHeight = 18.5, kWidth = 14.5;  // pixels
    const double angle = random.uniform(-0.20, 0.20), shear = random.uniform(-0.08, 0.30);
    const double size = random.uniform(0.84, 1.12);
    const double sx = kWidth * size * random.uniform(0.82, 1.14), sy = kHeight * size;
    const double c = std::cos(angle), s = std::sin(angle);
    // rotation · [1, −shear; 0, 1] · scale: a positive shear leans to the right
    xx_ = c * sx;
    xy_ = (-c * shear - s) * sy;
    yx_ = s * sx;
    yy_ = (-s * shear + c) * sy;
    x_ = kSide / 2.0 + random.uniform(-2.2, 2.2);
    y_ = kSide / 2.0 + random.uniform(-2.2, 2.2);
  }
  Point operator()(Point p) const {
    const double x = p.x - 0.5, y = p.y - 0.5;
    return {xx_ * x + xy_ * y + x_, yx_ * x + yy_ * y + y_};
  }

 private:
  double xx_, xy_, yx_, yy_, x_, y_;
};

/// The sheet of paper: strongest ink so far at each pixel, in [0, 1].
using Ink = std::array<double, kSide * kSide>;

/// The pen of one image.
struct Pen {
  double radius, softness, pressure;             ///< pixels, pixels, ink in [0, 1]
  double wave, phase, width_change, ink_change;  ///< how they vary along a stroke

  explicit Pen(RandomStream& random)
      : radius(random.uniform(0.75, 1.75)),
        softness(random.uniform(0.9, 1.7)),
        pressure(random.uniform(0.82, 1.06)),
        wave(random.uniform(0.5, 1.6) * kPi),
        phase(random.uniform(0, 2 * kPi)),
        width_change(random.uniform(0, 0.24)),
        ink_change(random.uniform(0, 0.18)) {}

  /// Presses one dot on the paper.
  void press(Point p, double along, Ink& ink) const {
    const double sway = std::sin(wave * along + phase);
    const double r = radius * (1 + width_change * sway);
    const double strength = pressure * (1 - ink_change * (0.5 - 0.5 * sway));
    const double reach = r + softness / 2;
    const int left = std::max(0, static_cast<int>(std::floor(p.x - reach)));
    const int right = std::min(kSide - 1, static_cast<int>(std::ceil(p.x + reach)));
    const int top = std::max(0, static_cast<int>(std::floor(p.y - reach)));
    const int bottom = std::min(kSide - 1, static_cast<int>(std::ceil(p.y + reach)));
    for (int y = top; y <= bottom; ++y) {
      for (int x = left; x <= right; ++x) {
        const double dx = x + 0.5 - p.x, dy = y + 0.5 - p.y;
        const double cover = (reach - std::sqrt(dx * dx + dy * dy)) / softness;
        double& value = ink[static_cast<std::size_t>(y * kSide + x)];
        value = std::max(value, strength * std::min(1.0, cover));
      }
    }
  }
};

/// The Catmull-Rom spline between b and c, t in [0, 1].
Point spline(Point a, Point b, Point c, Point d, double t) {
  const auto value = [t](double a1, double b1, double c1, double d1) {
    return b1 +
           0.5 * t *
               ((c1 - a1) + t * ((2 * a1 - 5 * b1 + 4 * c1 - d1) + t * (3 * (b1 - c1) + d1 - a1)));
  };
  return {value(a.x, b.x, c.x, d.x), value(a.y, b.y, c.y, d.y)};
}

/// Draws one stroke, a dot every half pixel or closer.
void draw_stroke(const Stroke& stroke, const Elastic& elastic, const Affine& affine, const Pen& pen,
                 Ink& ink) {
  constexpr double kDotsPerUnit = 40;
  for (std::size_t i = 0; i + 1 < stroke.size(); ++i) {
    const Point b = stroke[i], c = stroke[i + 1];
    const Point a = i > 0 ? stroke[i - 1] : Point{2 * b.x - c.x, 2 * b.y - c.y};
    const Point d = i + 2 < stroke.size() ? stroke[i + 2] : Point{2 * c.x - b.x, 2 * c.y - b.y};
    const double length = std::sqrt((c.x - b.x) * (c.x - b.x) + (c.y - b.y) * (c.y - b.y));
    const int dots = 2 + static_cast<int>(length * kDotsPerUnit);
    for (int k = 0; k <= dots; ++k) {
      const double t = static_cast<double>(k) / dots;
      pen.press(affine(elastic(spline(a, b, c, d, t))), static_cast<double>(i) + t, ink);
    }
  }
}

/// The glyph as this hand writes it: points moved, those that strokes share together.
Glyph varied(const Glyph& glyph, RandomStream& random) {
  constexpr double kWander = 0.026;
  Glyph result = glyph;
  for (std::size_t s = 0; s < glyph.size(); ++s) {
    for (std::size_t p = 0; p < glyph[s].size(); ++p) {
      Point& point = result[s][p];
      point.x += kWander * random.normal();
      point.y += kWander * random.normal();
      for (std::size_t earlier = 0; earlier < s; ++earlier) {
        for (std::size_t q = 0; q < glyph[earlier].size(); ++q) {
          const Point& other = glyph[earlier][q];
          if (other.x == glyph[s][p].x && other.y == glyph[s][p].y) point = result[earlier][q];
        }
      }
    }
  }
  return result;
}

/// Digits come in shuffled tens, so that any count is balanced.
int label_of(std::uint64_t seed, std::uint64_t index) {
  constexpr std::uint64_t kLabelStreams = std::uint64_t{1} << 40;
  RandomStream random(seed, kLabelStreams + index / kDigits);
  std::array<int, kDigits> order{};
  for (int i = 0; i < kDigits; ++i) order[static_cast<std::size_t>(i)] = i;
  for (std::size_t i = kDigits; i > 1; --i) std::swap(order[i - 1], order[random.below(i)]);
  return order[index % kDigits];
}

void draw_digit(int digit, RandomStream random, std::uint8_t* pixels) {
  constexpr double kFaintest = 0.02, kGrain = 0.05;
  const std::vector<Glyph>& ways = glyphs()[static_cast<std::size_t>(digit)];
  const Glyph glyph = varied(ways[random.below(ways.size())], random);
  const Elastic elastic(random);
  const Affine affine(random);
  const Pen pen(random);
  Ink ink{};
  for (const Stroke& stroke : glyph) draw_stroke(stroke, elastic, affine, pen, ink);
  for (std::size_t i = 0; i < ink.size(); ++i) {
    const bool blank = ink[i] < kFaintest;
    const double value = blank ? 0.0 : ink[i] * (1 + kGrain * random.normal());
    pixels[i] = static_cast<std::uint8_t>(std::clamp(value, 0.0, 1.0) * 255 + 0.5);
  }
}

}  // namespace

Dataset make_digits(std::int64_t count, std::uint64_t seed) {
  if (count < 0) throw BadInput("digits: " + std::to_string(count) + " images, expected 0 or more");
  Dataset dataset;
  dataset.name = "digits";
  dataset.channels = 1;
  dataset.height = dataset.width = kSide;
  dataset.images.resize(static_cast<std::size_t>(count * dataset.image_bytes()));
  for (int digit = 0; digit < kDigits; ++digit) {
    dataset.class_names.push_back(std::to_string(digit));
  }
  for (std::int64_t i = 0; i < count; ++i) {
    const auto index = static_cast<std::uint64_t>(i);
    const int digit = label_of(seed, index);
    dataset.labels.push_back(digit);
    draw_digit(digit, RandomStream(seed, index), dataset.images.data() + i * dataset.image_bytes());
  }
  return dataset;
}

}  // namespace vitrine
