// In which order threads of a block and blocks of a grid run.
#pragma once

#include <cstdint>
#include <string>

namespace simt {

/// What becomes runnable first runs first; last runs first; or chance decides.
enum class Order { fifo, lifo, random };

/// One worker and the same schedule give the same run. With more workers blocks meet as they do on
/// a GPU, while each block by itself still runs as the seed says.
struct Schedule {
  Order order = Order::random;
  std::uint64_t seed = 1;  ///< of Order::random
  int workers = 0;         ///< operating system threads; 0: as many as the machine has processors
};

/// What set_schedule gave, at first what the environment says: VITRINE_SIMT = fifo, lifo or
/// random:<seed> and VITRINE_SIMT_WORKERS = <count>. Throws Error if it says anything else.
Schedule current_schedule();

/// For launches from now on, of all threads.
void set_schedule(const Schedule& schedule);

/// As the environment variables that choose it.
std::string to_string(const Schedule& schedule);

}  // namespace simt
