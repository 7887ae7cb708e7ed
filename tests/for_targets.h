// Every instruction set of this machine that the library is compiled for, one after another.
#pragma once

#include <gtest/gtest.h>

#include "hwy/highway.h"

namespace vitrine::cpu {

/// Calls body() once per instruction set.
template <typename Body>
void for_targets(const Body& body) {
  for (const auto target : hwy::SupportedAndGeneratedTargets()) {
    SCOPED_TRACE(hwy::TargetName(target));
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(target);
    body();
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().DeInit();
}

}  // namespace vitrine::cpu
