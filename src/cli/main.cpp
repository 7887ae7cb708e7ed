#include "cli/commands.h"

int main(int argc, char** argv) {
  return vitrine::run_program(argc, argv);
}
