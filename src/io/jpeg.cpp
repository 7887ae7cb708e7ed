// JPEG through libjpeg-turbo.
//
// The library's error handler may not return; it longjmps to the function that called the library.
// Those functions touch members and numbers only, so that no C++ object is jumped over.
//
// Only the rows and the columns of blocks that are wanted are decoded. Where colours are stored
// at half the resolution, the library interpolates them between blocks, and at the sides of what it
// decodes it cannot: some columns more are decoded beside the wanted ones and thrown away.
//
// Damage that libjpeg would paint grey and call a warning (a file that ends early, restarts in the
// wrong order, codes that do not exist) is an error here. In the midst of a file libjpeg-turbo
// takes such codes for zeros and says nothing; then only a lack of data at the end shows.
//
// Ink of CMYK is taken to be stored inverted, as Adobe does it and Pillow assumes it.

#include <algorithm>
#include <csetjmp>
#include <cstdio>
#include <cstring>

// jpeglib.h wants size_t and FILE declared.
#include <jerror.h>
#include <jpeglib.h>

#include "io/image_formats.h"

namespace vitrine {
namespace {

/// Scales in eighths. libjpeg-turbo takes longer for 5, 6 and 7 than for 8.
constexpr int kScales[] = {1, 2, 3, 4, 8};

/// Columns decoded on both sides of the wanted ones. One would do, but the library does not
/// interpolate rows of colours that are one or two samples wide.
constexpr std::int64_t kEdge = 4;

bool is_damage(int warning) {
  return warning == JWRN_JPEG_EOF || warning == JWRN_HIT_MARKER || warning == JWRN_HUFF_BAD_CODE ||
         warning == JWRN_MUST_RESYNC;
}

bool is_enough(const AxisRequest& axis, int eighths) {
  if (axis.minimum == 0) return eighths == 8;
  return axis.size * eighths / 8 >= static_cast<double>(axis.minimum);
}

class JpegDecoder : public FormatDecoder {
 public:
  JpegDecoder() = default;
  JpegDecoder(const JpegDecoder&) = delete;
  JpegDecoder& operator=(const JpegDecoder&) = delete;
  ~JpegDecoder() override { jpeg_destroy_decompress(&jpeg_); }

  PictureInfo open(std::span<const unsigned char> file, const std::string& name) override;
  void read(const std::string& name, const StoredRequest& request, RowSink& sink,
            std::vector<std::uint8_t>& pixels) override;

 private:
  [[noreturn]] static void on_error(j_common_ptr jpeg);
  static void on_message(j_common_ptr jpeg, int level);

  // These return false with `message_` set.
  bool read_header(const unsigned char* file, unsigned long bytes);
  bool start(std::int64_t first_row, std::int64_t left, std::int64_t right);
  bool read_row(JSAMPROW row);
  bool finish();

  void check(bool ok, const std::string& name) {
    if (!ok) fail_decoding(name, std::string("damaged JPEG: ") + message_);
  }
  int orientation() const;

  jpeg_decompress_struct jpeg_{};
  jpeg_error_mgr errors_{};
  std::jmp_buf failed_{};
  char message_[JMSG_LENGTH_MAX] = {};
  bool created_ = false;
  JDIMENSION left_ = 0;  ///< the first column that is decoded
  std::vector<std::uint8_t> row_;
};

void JpegDecoder::on_error(j_common_ptr jpeg) {
  auto* self = static_cast<JpegDecoder*>(jpeg->client_data);
  jpeg->err->format_message(jpeg, self->message_);
  std::longjmp(self->failed_, 1);
}

void JpegDecoder::on_message(j_common_ptr jpeg, int level) {
  if (level < 0 && is_damage(jpeg->err->msg_code)) on_error(jpeg);
}

bool JpegDecoder::read_header(const unsigned char* file, unsigned long bytes) {
  if (setjmp(failed_)) return false;
  if (!created_) {
    jpeg_.err = jpeg_std_error(&errors_);
    errors_.error_exit = on_error;
    errors_.emit_message = on_message;
    jpeg_.client_data = this;
    jpeg_create_decompress(&jpeg_);
    jpeg_save_markers(&jpeg_, JPEG_APP0 + 1, 0xFFFF);
    created_ = true;
  }
  jpeg_abort_decompress(&jpeg_);
  jpeg_mem_src(&jpeg_, file, bytes);
  jpeg_read_header(&jpeg_, TRUE);
  return true;
}

bool JpegDecoder::start(std::int64_t first_row, std::int64_t left, std::int64_t right) {
  if (setjmp(failed_)) return false;
  jpeg_start_decompress(&jpeg_);
  left_ = static_cast<JDIMENSION>(left);
  auto width = static_cast<JDIMENSION>(right - left);
  if (width < jpeg_.output_width) jpeg_crop_scanline(&jpeg_, &left_, &width);
  if (first_row > 0) jpeg_skip_scanlines(&jpeg_, static_cast<JDIMENSION>(first_row));
  return true;
}

bool JpegDecoder::read_row(JSAMPROW row) {
  if (setjmp(failed_)) return false;
  jpeg_read_scanlines(&jpeg_, &row, 1);
  return true;
}

bool JpegDecoder::finish() {
  if (setjmp(failed_)) return false;
  if (jpeg_.output_scanline == jpeg_.output_height) jpeg_finish_decompress(&jpeg_);
  jpeg_abort_decompress(&jpeg_);
  return true;
}

int JpegDecoder::orientation() const {
  for (auto* marker = jpeg_.marker_list; marker != nullptr; marker = marker->next) {
    if (marker->data_length >= 6 && std::memcmp(marker->data, "Exif\0", 6) == 0) {
      return exif_orientation({marker->data, marker->data_length});
    }
  }
  return 1;
}

PictureInfo JpegDecoder::open(std::span<const unsigned char> file, const std::string& name) {
  check(read_header(file.data(), file.size()), name);
  check_image_size(jpeg_.image_height, jpeg_.image_width, name);
  return {"JPEG", jpeg_.image_height, jpeg_.image_width, jpeg_.num_components, orientation()};
}

void JpegDecoder::read(const std::string& name, const StoredRequest& request, RowSink& sink,
                       std::vector<std::uint8_t>& pixels) {
  const int eighths = *std::find_if(std::begin(kScales), std::end(kScales) - 1, [&](int scale) {
    return is_enough(request.y, scale) && is_enough(request.x, scale);
  });
  jpeg_.scale_num = static_cast<unsigned>(eighths);
  jpeg_.scale_denom = 8;
  Samples samples = Samples::rgb;
  jpeg_.out_color_space = JCS_RGB;
  if (jpeg_.jpeg_color_space == JCS_GRAYSCALE) {
    samples = Samples::grey;
    jpeg_.out_color_space = JCS_GRAYSCALE;
  } else if (jpeg_.num_components == 4) {
    samples = Samples::inverted_cmyk;
    jpeg_.out_color_space = JCS_CMYK;
  }
  const AxisPart y = plan_axis(request.y, jpeg_.image_height, eighths);
  const AxisPart x = plan_axis(request.x, jpeg_.image_width, eighths);
  const std::int64_t width = (std::int64_t{jpeg_.image_width} * eighths + 7) / 8;
  check(start(y.begin, std::max<std::int64_t>(0, x.begin - kEdge), std::min(width, x.end + kEdge)),
        name);
  row_.resize(std::size_t{jpeg_.output_width} * static_cast<std::size_t>(count_of(samples)));
  sink.start(samples, request.channels, y, x, pixels);
  const std::uint8_t* wanted = row_.data() + (x.begin - left_) * count_of(samples);
  for (std::int64_t i = y.begin; i < y.end; ++i) {
    check(read_row(row_.data()), name);
    sink.add(wanted);
  }
  check(finish(), name);
}

}  // namespace

std::unique_ptr<FormatDecoder> make_jpeg_decoder() {
  return std::make_unique<JpegDecoder>();
}

}  // namespace vitrine
