// FASTBN_VERBOSE=1: a line on standard error for each operator call and each program plan.
#pragma once

#include <string>

namespace fastbn {

// Read once. Throws INVALID_VALUE for anything but 0 and 1.
bool verbose();

// Writes "fastbn: <text>" as one line.
void say(const std::string& text) noexcept;

}  // namespace fastbn
