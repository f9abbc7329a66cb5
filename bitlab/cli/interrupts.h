// Ctrl-C and the end that a system asks for, as a wish: long work ends where it can be taken up again.
#pragma once

#include <string>

namespace bitlab::cli {

// While one lives, the first SIGINT or SIGTERM is noted, and a second one ends the program at once.
class Interrupts {
 public:
  Interrupts();
  ~Interrupts();
  Interrupts(const Interrupts&) = delete;
  Interrupts& operator=(const Interrupts&) = delete;

  // The signal that came in the program's life; 0: none.
  static int signal();
};

// "SIGINT", "SIGTERM".
std::string signal_name(int signal);

}  // namespace bitlab::cli
