// tests/exchange: checkpoints that timm, transformers and torchvision wrote, with the logits those
// libraries compute; tools/make_exchange_fixtures.py made them. And the means to damage a copy.
#pragma once

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <functional>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "io/files.h"
#include "vitrine/exchange.h"
#include "vitrine/safetensors.h"

namespace vitrine {

struct ExchangeFixture {
  const char* name;
  Naming naming;
  std::vector<float> mean, std;           ///< that the files tell
  std::vector<std::string> class_names;   ///< that the files tell
  std::vector<std::string> ignored = {};  ///< tensors without a part in classification
  bool has_head = true;
  bool has_resized = false;  ///< resized.safetensors: the same at another size
};

inline const std::vector<ExchangeFixture>& exchange_fixtures() {
  static const std::vector<float> half = {0.5f}, mean = {0.48f}, std = {0.23f};
  static const std::vector<float> halves = {0.5f, 0.5f, 0.5f};
  static const std::vector<std::string> labels = {"LABEL_0", "LABEL_1", "LABEL_2", "LABEL_3",
                                                  "LABEL_4"};
  static const std::vector<std::string> eleven = {
      "L\u00f6we", "ant, \"emmet\"", "c/d",     "class 3", "class 4", "class 5",
      "class 6",   "class 7",        "class 8", "class 9", "class 10"};
  static const std::vector<ExchangeFixture> list = {
      {"huggingface_base",
       Naming::huggingface_v4,
       mean,
       std,
       {},
       {"pooler.dense.bias", "pooler.dense.weight"},
       false},
      {"huggingface_v4", Naming::huggingface_v4, mean, std, labels},
      {"huggingface_v4_no_qkv_bias",
       Naming::huggingface_v4,
       mean,
       std,
       {"tench", "goldfish", "great white shark"}},
      {"huggingface_v5", Naming::huggingface_v4, mean, std, labels},
      {"huggingface_v5_no_qkv_bias", Naming::huggingface_v5, mean, std, {"ant", "bee", "cat"}},
      {"huggingface_v5_own_names", Naming::huggingface_v5, mean, std, eleven},
      {"timm_avg", Naming::timm, half, half, {}},
      {"timm_avg_no_class_token", Naming::timm, half, half, {}, {}, true, true},
      {"timm_avg_norm_first", Naming::timm, half, half, {}},
      {"timm_layer_scale", Naming::timm, half, half, {}},
      {"timm_registers", Naming::timm, half, half, {}, {}, true, true},
      {"timm_registers_positions", Naming::timm, half, half, {}, {}, true, true},
      {"timm_token", Naming::timm, halves, halves, {}, {}, true, true},
      {"torchvision", Naming::torchvision, {}, {}, {}},
  };
  return list;
}

inline void PrintTo(const ExchangeFixture& fixture, std::ostream* out) {
  *out << fixture.name;
}

inline std::filesystem::path exchange_directory() {
  return VITRINE_TESTS_DIRECTORY "/exchange";
}

/// A safetensors file taken apart, to be put together differently.
struct RawSafetensors {
  nlohmann::ordered_json header;
  std::string data;

  explicit RawSafetensors(const std::filesystem::path& path) {
    const std::string contents = read_file(path);
    std::uint64_t length = 0;
    std::memcpy(&length, contents.data(), sizeof length);
    header = nlohmann::ordered_json::parse(contents.substr(sizeof length, length));
    data = contents.substr(sizeof length + length);
  }
  void write(const std::filesystem::path& path) const {
    std::string text = header.dump();
    text.resize((text.size() + 7) / 8 * 8, ' ');
    const std::uint64_t length = text.size();
    write_file(path,
               std::string(reinterpret_cast<const char*>(&length), sizeof length) + text + data);
  }
  /// Names without the metadata.
  std::vector<std::string> names() const {
    std::vector<std::string> list;
    for (const auto& [name, value] : header.items()) {
      if (name != "__metadata__") list.push_back(name);
    }
    return list;
  }
  std::string bytes(const std::string& name) const {
    const auto& offsets = header.at(name).at("data_offsets");
    const auto begin = offsets[0].get<std::size_t>();
    return data.substr(begin, offsets[1].get<std::size_t>() - begin);
  }
  void rename(const std::string& from, const std::string& to) {
    nlohmann::ordered_json renamed = nlohmann::ordered_json::object();
    for (const auto& [name, value] : header.items()) renamed[name == from ? to : name] = value;
    header = std::move(renamed);
  }
};

}  // namespace vitrine
