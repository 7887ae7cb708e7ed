// JPEG through libjpeg-turbo.
//
// The library's error handler may not return; it longjmps to the function that called the library.
// Those functions hold pointers and numbers only; memory is owned by their callers.
//
// Damage that libjpeg would paint grey and call a warning (a file that ends early, codes that do
// not exist) is an error here. CMYK is converted as Pillow does.

#include <csetjmp>
#include <cstdio>
#include <cstring>

// jpeglib.h wants size_t and FILE declared.
#include <jerror.h>
#include <jpeglib.h>

#include "io/image_formats.h"

namespace vitrine {
namespace {

struct JpegReader {
  jpeg_decompress_struct jpeg{};
  jpeg_error_mgr errors{};
  std::jmp_buf failed{};
  char message[JMSG_LENGTH_MAX] = {};

  JpegReader() = default;
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&jpeg); }
};

[[noreturn]] void on_error(j_common_ptr jpeg) {
  auto* reader = static_cast<JpegReader*>(jpeg->client_data);
  jpeg->err->format_message(jpeg, reader->message);
  std::longjmp(reader->failed, 1);
}

void on_message(j_common_ptr jpeg, int level) {
  const int code = jpeg->err->msg_code;
  const bool damage =
      code == JWRN_JPEG_EOF || code == JWRN_HIT_MARKER || code == JWRN_HUFF_BAD_CODE;
  if (level < 0 && damage) on_error(jpeg);
}

bool read_header(JpegReader* reader, const unsigned char* data, unsigned long bytes) {
  reader->jpeg.err = jpeg_std_error(&reader->errors);
  reader->errors.error_exit = on_error;
  reader->errors.emit_message = on_message;
  reader->jpeg.client_data = reader;
  if (setjmp(reader->failed)) return false;
  jpeg_create_decompress(&reader->jpeg);
  jpeg_mem_src(&reader->jpeg, data, bytes);
  jpeg_read_header(&reader->jpeg, TRUE);
  switch (reader->jpeg.jpeg_color_space) {
    case JCS_GRAYSCALE:
      break;
    case JCS_CMYK:
    case JCS_YCCK:
      reader->jpeg.out_color_space = JCS_CMYK;
      break;
    default:
      reader->jpeg.out_color_space = JCS_RGB;
  }
  jpeg_calc_output_dimensions(&reader->jpeg);
  return true;
}

/// Reads [height, width, samples] into `pixels`.
bool read_pixels(JpegReader* reader, unsigned char* pixels) {
  if (setjmp(reader->failed)) return false;
  jpeg_start_decompress(&reader->jpeg);
  const std::size_t row_bytes =
      std::size_t{reader->jpeg.output_width} * reader->jpeg.output_components;
  while (reader->jpeg.output_scanline < reader->jpeg.output_height) {
    JSAMPROW row = pixels + reader->jpeg.output_scanline * row_bytes;
    jpeg_read_scanlines(&reader->jpeg, &row, 1);
  }
  jpeg_finish_decompress(&reader->jpeg);
  return true;
}

/// Ink to light. Adobe stores ink inverted.
std::uint8_t cmyk_to_light(unsigned ink, unsigned black, bool inverted) {
  const unsigned light = inverted ? ink * black : (255 - ink) * (255 - black);
  return static_cast<std::uint8_t>((light + 127) / 255);
}

}  // namespace

Image decode_jpeg(const std::string& bytes, const std::string& name) {
  JpegReader reader;
  const auto check = [&](bool ok) {
    if (!ok) throw BadInput(name + ": damaged JPEG: " + reader.message);
  };
  check(read_header(&reader, reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size()));
  const std::size_t samples = static_cast<std::size_t>(reader.jpeg.out_color_components);
  const std::size_t channels = samples == 1 ? 1 : 3;
  const bool inverted = reader.jpeg.saw_Adobe_marker;
  Image image = new_image(static_cast<std::int64_t>(channels), reader.jpeg.output_height,
                          reader.jpeg.output_width, name);
  const std::size_t plane = image.pixels.size() / channels;
  std::vector<std::uint8_t> interleaved(plane * samples);
  check(read_pixels(&reader, interleaved.data()));
  for (std::size_t i = 0; i < plane; ++i) {
    const std::uint8_t* pixel = interleaved.data() + i * samples;
    for (std::size_t c = 0; c < channels; ++c) {
      image.pixels[c * plane + i] =
          samples == 4 ? cmyk_to_light(pixel[c], pixel[3], inverted) : pixel[c];
    }
  }
  return image;
}

}  // namespace vitrine
