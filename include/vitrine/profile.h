// Where the time of a training step goes: what was timed, what the device could do, and both as a
// table.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "vitrine/device.h"

namespace vitrine {

/// Something in a step that is timed. FLOPs and bytes are those of one call, every operand passing
/// once.
struct StepOperation {
  std::string operation;  ///< the catalogue's name
  std::string place;      ///< in the model, for example "blocks.0.norm1"
  std::string phase;      ///< "forward", "backward" or "update"
  double flops = 0;
  double bytes = 0;
  int side_by_side = 1;  ///< how many such pieces the device runs at a time
};

/// One call of one operation.
struct Span {
  int operation = 0;  ///< index into StepTimes::operations
  int worker = 0;
  double begin = 0, end = 0;  ///< seconds since the step was submitted
};

/// What a number of steps took.
struct StepTimes {
  struct Sum {
    std::int64_t calls = 0;
    double seconds = 0;  ///< of all workers
  };
  std::vector<StepOperation> operations;
  std::vector<Sum> sums;        ///< by operation
  std::vector<Span> last_step;  ///< in full
  std::int64_t steps = 0;
  int workers = 1;
};

/// What a device reaches in this process, measured where the numbers are compared.
struct Roof {
  struct Copy {
    double working_set = 0;       ///< bytes, read and written, of one worker
    double bytes_per_second = 0;  ///< read and written, of all workers together
  };
  std::vector<Copy> copies;     ///< by rising working set
  double flops_per_second = 0;  ///< of large matrix products in the precision, all workers together
  int workers = 1;
  std::string datasheet;       ///< of which product; "" where none is known
  double datasheet_flops = 0;  ///< dense, in the precision
  double datasheet_bytes = 0;  ///< of its memory, a second

  /// Of a copy whose working set is that large.
  double bytes_per_second(double working_set) const;
  /// The least seconds for so much work: the longer of computing and moving. Of `side_by_side`
  /// pieces each has its share of the device.
  double floor_seconds(double flops, double bytes, int side_by_side) const;
};

/// How large the work is that a roof is measured by; 0: what suits the device.
struct RoofSizes {
  std::int64_t product = 0;  ///< rows, columns and depth of the matrix product
  std::int64_t copy = 0;     ///< the largest working set of a worker, bytes
};

/// Takes about a second. Allocates what it copies and multiplies.
Roof measure_roof(Device& device, Precision precision, const RoofSizes& sizes = {});

/// What the manufacturer says of the product that a device's description names: sets the datasheet
/// fields, or none.
void add_datasheet(Roof& roof, const std::string& description, Precision precision);

/// One row of a table: some of the timed operations together.
struct ProfileRow {
  std::string name;  ///< of the operation, or the place
  std::int64_t calls = 0;
  double seconds = 0;  ///< of the device: pieces that run side by side share them
  double flops = 0;
  double bytes = 0;
  double floor_seconds = 0;  ///< by the roof; 0 without one
};

using Profile = std::vector<ProfileRow>;

enum class ProfileBy : std::uint8_t {
  operation,  ///< all calls of a method of the catalogue
  layer,      ///< "patch_embed", "blocks.0", …, and "update"
  place       ///< each place of the model with its operation and phase
};

/// Over all timed steps, of what was called in them; `roof` may be null. Layers stand in the
/// model's order, other rows by falling time.
Profile make_table(const StepTimes& times, ProfileBy by, const Roof* roof);

/// The table as text for so many steps, a row a line: calls, time and share; FLOPs and bytes a
/// second; with a roof how much of it is reached and what would be gained by reaching it.
std::string to_text(const Profile& profile, std::int64_t steps);

}  // namespace vitrine
