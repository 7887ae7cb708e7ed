// A profile as text and as JSON.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "train/step_profile_figures.h"
#include "vitrine/step_profile.h"

namespace vitrine {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::size_t kNameWidth = 18;

std::string line(const Figure& figure) {
  std::string text = figure.name;
  text.resize(std::max(text.size(), kNameWidth), ' ');
  return text + figure.value + (figure.note.empty() ? "" : "  " + figure.note) + "\n";
}

std::string lines(const std::vector<Figure>& figures) {
  std::string text;
  for (const Figure& figure : figures) text += line(figure);
  return text;
}

Json to_json(const Profile& table, std::int64_t steps) {
  Json rows = Json::array();
  const double per_step = 1 / static_cast<double>(std::max<std::int64_t>(steps, 1));
  for (const ProfileRow& row : table) {
    rows.push_back({{"name", row.name},
                    {"calls", static_cast<double>(row.calls) * per_step},
                    {"seconds", row.seconds * per_step},
                    {"flops", row.flops * per_step},
                    {"bytes", row.bytes * per_step},
                    {"floor_seconds", row.floor_seconds * per_step}});
  }
  return rows;
}

Json to_json(const Roof& roof) {
  Json copies = Json::array();
  for (const Roof::Copy& copy : roof.copies) {
    copies.push_back(
        {{"working_set", copy.working_set}, {"bytes_per_second", copy.bytes_per_second}});
  }
  return {{"copies", copies},
          {"flops_per_second", roof.flops_per_second},
          {"datasheet", roof.datasheet},
          {"datasheet_flops", roof.datasheet_flops},
          {"datasheet_bytes_per_second", roof.datasheet_bytes}};
}

}  // namespace

std::string to_text(const StepProfile& p, ProfileBy by) {
  std::string text = lines(setting(p));
  if (p.times.steps == 0) return text + "\n" + lines(key_figures(p));
  const Figure next = next_to_optimise(p);
  return text + lines(roofs(p)) + "\n" + to_text(make_table(p.times, by, &p.roof), p.times.steps) +
         "\n" + (next.name.empty() ? "" : line(next)) + lines(key_figures(p)) + "\n" +
         lines(reconciliation(p));
}

Json to_json(const StepProfile& p) {
  Json json{{"model", p.model},
            {"device", p.device},
            {"description", p.description},
            {"precision", p.precision},
            {"data", p.data},
            {"images_per_step", p.images_per_step},
            {"batch_size", p.chunking.batch},
            {"chunks", p.chunking.count},
            {"lanes", p.chunking.lanes},
            {"recompute", {{"selective", p.recomputed.selective}, {"full", p.recomputed.full}}},
            {"workers", p.times.workers},
            {"images_per_second", p.images_per_second()},
            {"first_step_seconds", p.first_step_seconds},
            {"wall_seconds", p.wall_seconds},
            {"plain_seconds", p.plain_seconds},
            {"timed_seconds", p.timed_seconds},
            {"data_seconds", p.data_seconds},
            {"flops", p.flops},
            {"bytes", p.bytes},
            {"model_flops", p.model_flops},
            {"planned_bytes", p.planned_bytes},
            {"peak_bytes", p.peak_bytes}};
  if (p.times.steps == 0) return json;
  json["operation_seconds"] = p.operation_seconds();
  json["floor_seconds"] = p.floor_seconds();
  json["timed_step_seconds"] = p.timed_step_seconds();
  json["rest_seconds"] = p.rest_seconds();
  json["overhead_seconds"] = p.overhead_seconds();
  json["overhead_noise_seconds"] = p.overhead_noise();
  json["roof"] = to_json(p.roof);
  json["by_operation"] = to_json(make_table(p.times, ProfileBy::operation, &p.roof), p.times.steps);
  json["by_layer"] = to_json(make_table(p.times, ProfileBy::layer, &p.roof), p.times.steps);
  json["by_place"] = to_json(make_table(p.times, ProfileBy::place, &p.roof), p.times.steps);
  return json;
}

}  // namespace vitrine
