// safetensors: what is written is read, and what is damaged or hostile is refused by name.

#include "vitrine/safetensors.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "io/files.h"
#include "temporary_directory.h"
#include "vitrine/random.h"

namespace vitrine {
namespace {

/// A file with this header, whatever it says, and so many bytes of data.
std::string make_file(const std::string& header, std::size_t data_bytes) {
  const std::uint64_t length = header.size();
  std::string bytes(sizeof length, '\0');
  std::memcpy(bytes.data(), &length, sizeof length);
  return bytes + header + std::string(data_bytes, '\x40');
}

std::string error_of(const std::filesystem::path& path) {
  try {
    SafetensorsFile file(path);
  } catch (const BadInput& error) {
    return error.what();
  }
  return "";
}

/// {"a": {…}} with these fields.
std::string one_tensor(const std::string& fields) {
  return "{\"a\":{" + fields + "}}";
}

const std::string kF32x2 = R"("dtype":"F32","shape":[2],"data_offsets":[0,8])";

struct HostileHeader {
  std::string header;
  std::size_t data_bytes;
  std::string message;  ///< a part of it
};

std::vector<HostileHeader> hostile_json() {
  const std::string deep(100000, '[');
  return {
      {"", 8, "does not begin with '{'"},
      {" {}", 0, "does not begin with '{'"},
      {"[]", 0, "does not begin with '{'"},
      {"{}\n", 0, "does not end with '}' and spaces"},
      {"{", 0, "does not end with '}'"},
      {"{}}", 0, "not JSON at byte 3"},
      {"{\"a\":}", 0, "not JSON"},
      {"{a:{}}", 0, "not JSON"},
      {"{} {}", 0, "not JSON"},
      {"{\"a\xC3\x28\":{}}", 0, "invalid UTF-8"},
      {"{\"\xED\xA0\x80\":{}}", 0, "invalid UTF-8"},
      {one_tensor("\"dtype\":" + deep) + "}", 0, "dtype is an array, expected a string"},
      {"{\"a\":" + deep + "}", 0, "'a' is an array, expected an object"},
      {"{\"a\":1}", 0, "'a' is a number, expected an object"},
      {"{\"a\":null}", 0, "'a' is null, expected an object"},
      {"{\"a\":true}", 0, "'a' is a boolean, expected an object"},
      {"{\"a\":\"F32\"}", 0, "'a' is a string, expected an object"},
      {"{\"a\":{" + kF32x2 + "},\"a\":{" + kF32x2 + "}}", 8, "duplicate key 'a'"},
      {one_tensor(kF32x2 + ",\"dtype\":\"F32\""), 8, "'a': duplicate key 'dtype'"},
      {one_tensor(kF32x2 + ",\"shape\":[2]"), 8, "'a': duplicate key 'shape'"},
      {"{\"__metadata__\":{},\"__metadata__\":{}}", 0, "duplicate key '__metadata__'"},
      {R"({"__metadata__":{"k":"1","k":"2"}})", 0, "duplicate key 'k' in __metadata__"},
      {R"({"__metadata__":{"k":1}})", 0, "'k' is a number, expected a string"},
      {R"({"__metadata__":{"k":{}}})", 0, "'k' is an object, expected a string"},
      {R"({"__metadata__":"text"})", 0, "'__metadata__' is a string, expected an object"},
      {one_tensor(kF32x2 + ",\"strides\":[1]"), 8, "unknown key 'strides'"},
      {one_tensor("\"a\\nb\":1"), 0, "unknown key 'a\\x0ab'"},
  };
}

std::vector<HostileHeader> hostile_tensors() {
  const auto tensor = [](const std::string& dtype, const std::string& shape,
                         const std::string& offsets) {
    return one_tensor("\"dtype\":" + dtype + ",\"shape\":" + shape +
                      ",\"data_offsets\":" + offsets);
  };
  const auto two = [](const std::string& first, const std::string& second) {
    return R"({"a":{"dtype":"U8","shape":[4],"data_offsets":)" + first +
           R"(},"b":{"dtype":"U8","shape":[4],"data_offsets":)" + second + "}}";
  };
  return {
      {one_tensor(R"("shape":[2],"data_offsets":[0,8])"), 8, "'a': dtype is missing"},
      {one_tensor(R"("dtype":"F32","data_offsets":[0,8])"), 8, "'a': shape is missing"},
      {one_tensor(R"("dtype":"F32","shape":[2])"), 8, "'a': data_offsets is missing"},
      {one_tensor(""), 0, "'a': dtype is missing"},
      {tensor("\"F33\"", "[2]", "[0,8]"), 8, "dtype 'F33', expected F32, BF16"},
      {tensor("\"F64\"", "[1]", "[0,8]"), 8, "dtype 'F64', expected F32, BF16"},
      {tensor("4", "[2]", "[0,8]"), 8, "dtype is a number, expected a string"},
      {tensor("\"F32\"", "2", "[0,8]"), 8, "shape is a number, expected an array"},
      {tensor("\"F32\"", "[-2]", "[0,8]"), 8, "shape holds the negative number -2"},
      {tensor("\"F32\"", "[2.0]", "[0,8]"), 8, "shape holds the number '2.0'"},
      {tensor("\"F32\"", "[2e0]", "[0,8]"), 8, "shape holds the number '2e0'"},
      {tensor("\"F32\"", "[\"2\"]", "[0,8]"), 8, "shape holds a string"},
      {tensor("\"F32\"", "[[2]]", "[0,8]"), 8, "shape holds an array"},
      {tensor("\"F32\"", "[null]", "[0,8]"), 8, "shape holds null"},
      {tensor("\"F32\"", "[9223372036854775808]", "[0,8]"), 8, "which is too large"},
      {tensor("\"F32\"", "[18446744073709551617]", "[0,8]"), 8, "shape holds the number"},
      {tensor("\"F32\"", "[4294967296,4294967296]", "[0,8]"), 8, "is too large"},
      {tensor("\"F32\"", "[4611686018427387904]", "[0,0]"), 0, "is too large"},
      {tensor("\"F32\"", "[4294967296,4294967296,0]", "[0,0]"), 0, "is too large"},
      {tensor("\"F32\"", "[3]", "[0,8]"), 8, "are 8 bytes, expected 12 for F32 [3]"},
      {tensor("\"F32\"", "[]", "[0,8]"), 8, "are 8 bytes, expected 4 for F32 []"},
      {tensor("\"F32\"", "[2]", "[0]"), 8, "data_offsets holds 1 numbers, expected 2"},
      {tensor("\"F32\"", "[2]", "[0,8,8]"), 8, "data_offsets holds 3 numbers, expected 2"},
      {tensor("\"F32\"", "[2]", "[-8,0]"), 8, "data_offsets holds the negative number"},
      {tensor("\"F32\"", "[2]", "[8,0]"), 8, "end before they begin"},
      {tensor("\"F32\"", "[2]", "[0,8]"), 7, "reach beyond the 7 bytes of data"},
      {tensor("\"F32\"", "[2]", "[1,9223372036854775807]"), 8, "reach beyond the 8 bytes"},
      {tensor("\"F32\"", "[2]", "[0,8]"), 9, "end at byte 8 of 9 bytes of data (trailing"},
      {tensor("\"F32\"", "[2]", "[1,9]"), 9, "begins at byte 1, expected 0 (hole)"},
      {two("[0,4]", "[5,9]"), 9, "'b' begins at byte 5, expected 4 (hole)"},
      {two("[4,8]", "[0,4]"), 9, "end at byte 8 of 9"},
      {two("[0,4]", "[3,7]"), 7, "'b' begins at byte 3, expected 4 (overlap)"},
      {two("[0,4]", "[0,4]"), 4, "begins at byte 0, expected 4 (overlap)"},
      {"{}", 1, "end at byte 0 of 1 bytes"},
  };
}

void expect_refused(const std::vector<HostileHeader>& table) {
  const TemporaryDirectory directory;
  const auto path = directory / "hostile.safetensors";
  for (const HostileHeader& hostile : table) {
    SCOPED_TRACE(hostile.header.substr(0, 120));
    write_file(path, make_file(hostile.header, hostile.data_bytes));
    const std::string message = error_of(path);
    EXPECT_EQ(message.find(path.string() + ": "), 0u) << message;
    EXPECT_NE(message.find(hostile.message), std::string::npos) << message;
    EXPECT_EQ(message.find('\n'), std::string::npos) << message;
    EXPECT_LT(message.size(), path.string().size() + 300);
  }
}

TEST(Safetensors, RefusesHostileJson) {
  expect_refused(hostile_json());
}

TEST(Safetensors, RefusesHostileTensors) {
  expect_refused(hostile_tensors());
}

TEST(Safetensors, RefusesHostileLengths) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  EXPECT_NE(error_of(path).find("no such file"), std::string::npos);
  EXPECT_NE(error_of(directory.path()).find("not a regular file"), std::string::npos);
  write_file(path, "");
  EXPECT_NE(error_of(path).find("it is empty"), std::string::npos);
  write_file(path, "1234567");
  EXPECT_NE(error_of(path).find("7 bytes, expected at least 8"), std::string::npos);
  write_file(path, std::string("\x03\0\0\0\0\0\0\0{}", 10));
  EXPECT_NE(error_of(path).find("header length 3, but only 2 bytes follow"), std::string::npos);
  write_file(path, std::string(8, '\xFF') + "{}");
  EXPECT_NE(error_of(path).find("18446744073709551615, expected at most"), std::string::npos);
  write_file(path, std::string("\x01\xE1\xF5\x05\0\0\0\0{}", 10));
  EXPECT_NE(error_of(path).find("100000001, expected at most 100000000"), std::string::npos);
}

TEST(Safetensors, EveryTruncationIsRefused) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  const std::string whole = make_file(one_tensor(kF32x2) + "   ", 8);
  write_file(path, whole);
  EXPECT_EQ(error_of(path), "");
  for (std::size_t bytes = 0; bytes < whole.size(); ++bytes) {
    write_file(path, whole.substr(0, bytes));
    EXPECT_NE(error_of(path), "") << bytes;
  }
}

TEST(Safetensors, RandomDamageNeverCrashes) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  const std::string whole = make_file(one_tensor(kF32x2), 8);
  for (std::uint64_t seed : {1, 2, 3}) {
    SCOPED_TRACE(seed);
    RandomStream random(seed, 0);
    for (int i = 0; i < 100; ++i) {
      std::string damaged = whole;
      damaged[random.below(damaged.size())] = static_cast<char>(random.below(256));
      write_file(path, damaged);
      try {
        const SafetensorsFile file(path);
        for (const auto& entry : file.entries()) EXPECT_LE(entry.bytes, whole.size());
      } catch (const BadInput&) {
      }
    }
  }
}

TEST(Safetensors, WhatIsWrittenIsRead) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  RandomStream random(17, 0);
  std::vector<float> a(3 * 5), scalar = {2.5f};
  for (float& v : a) v = static_cast<float>(random.normal());
  const std::vector<std::uint8_t> bytes = {1, 2, 3};
  const std::vector<SafetensorsTensor> tensors = {{"z \"quoted\" é", DType::f32, {3, 5}, a.data()},
                                                  {"bytes", DType::u8, {3}, bytes.data()},
                                                  {"empty", DType::f32, {0, 7}, nullptr},
                                                  {"a.scalar", DType::f32, {}, scalar.data()}};
  write_safetensors(path, tensors, {{"format", "pt"}, {"note", "line\nbreak"}});

  const std::string raw = read_file(path);
  std::uint64_t length = 0;
  std::memcpy(&length, raw.data(), sizeof length);
  EXPECT_EQ(length % 8, 0u);
  EXPECT_EQ(raw.size(), 8 + length + 60 + 3 + 4);
  EXPECT_EQ(std::memcmp(raw.data() + 8 + length, a.data(), 60), 0);

  const SafetensorsFile file(path);
  ASSERT_EQ(file.entries().size(), 4u);
  EXPECT_EQ(file.metadata().at("note"), "line\nbreak");
  EXPECT_EQ(file.metadata().at("format"), "pt");
  EXPECT_EQ(file.entries()[0].name, tensors[0].name);
  EXPECT_EQ(file.read_f32(tensors[0].name, {3, 5}), a);
  EXPECT_EQ(file.read_f32("a.scalar", {}), scalar);  // its data is not aligned to 4 bytes
  EXPECT_TRUE(file.read_f32("empty", {0, 7}).empty());
  ASSERT_NE(file.find("bytes"), nullptr);
  EXPECT_EQ(std::memcmp(file.find("bytes")->data, bytes.data(), 3), 0);
  EXPECT_EQ(file.find("missing"), nullptr);
}

TEST(Safetensors, ReadNamesWhatItExpected) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  const std::vector<std::int32_t> values = {1, 2};
  const std::vector<SafetensorsTensor> tensors = {{"a", DType::i32, {2}, values.data()}};
  write_safetensors(path, tensors);
  const SafetensorsFile file(path);
  const auto message = [&](const std::string& name, const Shape& shape) -> std::string {
    try {
      file.read_f32(name, shape);
    } catch (const BadInput& error) {
      return std::string(error.what()).substr(path.string().size());
    }
    return "";
  };
  EXPECT_EQ(message("b", {2, 3}), ": tensor 'b' is missing, expected shape [2, 3]");
  EXPECT_EQ(message("a", {1, 2}), ": tensor 'a' has shape [2], expected [1, 2]");
  EXPECT_EQ(message("a", {2}), ": tensor 'a' has dtype I32, expected F32, BF16 or F16");
}

/// IEEE binary16 by its definition.
double half_value(std::uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  const double sign = bits >> 15 ? -1.0 : 1.0;
  if (exponent == 31) {
    return mantissa ? std::numeric_limits<double>::quiet_NaN()
                    : sign * std::numeric_limits<double>::infinity();
  }
  return exponent == 0 ? sign * std::ldexp(mantissa, -24)
                       : sign * std::ldexp(1024 + mantissa, exponent - 25);
}

TEST(Safetensors, HalfPrecisionIsExact) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  std::vector<std::uint16_t> bits(65536);
  for (std::size_t i = 0; i < bits.size(); ++i) bits[i] = static_cast<std::uint16_t>(i);
  const std::vector<SafetensorsTensor> tensors = {{"f16", DType::f16, {65536}, bits.data()},
                                                  {"bf16", DType::bf16, {65536}, bits.data()}};
  write_safetensors(path, tensors);
  const SafetensorsFile file(path);
  const std::vector<float> f16 = file.read_f32("f16", {65536});
  const std::vector<float> bf16 = file.read_f32("bf16", {65536});
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const double expected = half_value(bits[i]);
    ASSERT_TRUE(std::isnan(expected) ? std::isnan(f16[i]) : f16[i] == expected) << i;
    ASSERT_EQ(std::signbit(f16[i]), (i & 0x8000) != 0) << i;
    std::uint32_t wide = 0;
    std::memcpy(&wide, &bf16[i], sizeof wide);
    ASSERT_EQ(wide, i << 16) << i;
  }
}

TEST(Safetensors, RefusesToWriteNonsense) {
  const TemporaryDirectory directory;
  const auto path = directory / "file";
  const float x = 1;
  const auto write = [&](const std::vector<SafetensorsTensor>& tensors) {
    write_safetensors(path, tensors);
  };
  EXPECT_THROW(write({{"a", DType::f32, {1}, &x}, {"a", DType::f32, {1}, &x}}), BadInput);
  EXPECT_THROW(write({{"__metadata__", DType::f32, {1}, &x}}), BadInput);
  EXPECT_THROW(write({{"a", DType::f32, {-1}, &x}}), BadInput);
  EXPECT_THROW(write({{"a", DType::f32, {1}, nullptr}}), BadInput);
  EXPECT_THROW(write({{"\xFF", DType::f32, {1}, &x}}), BadInput);
  EXPECT_TRUE(std::filesystem::is_empty(directory.path()));
  EXPECT_THROW(write_safetensors(directory / "no/file", {}), IoError);
}

}  // namespace
}  // namespace vitrine
