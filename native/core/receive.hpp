// Receiving from a socket into memory of the caller's choice, whole pieces at a time.
//
// A client that hands out what each system call brought makes its caller copy it, and wakes it (in
// Python: makes it wait for the interpreter) some twenty times for a block of 4 MiB. Here one call
// brings all of it. The socket is told how much is worth waking up for (SO_RCVLOWAT).
//
// Thread-safe for different sockets.
#pragma once

#include <cstddef>
#include <span>

namespace dataplane {

// Receive until `out` is full or the other side has ended; `received`, which may be more than 0 at
// the start, says how far it got. Returns 0, ETIMEDOUT when nothing came for `pause_ms`, EINTR when
// a signal came (call again to go on), or another errno. SO_RCVLOWAT is
// 1 afterwards; the socket may block or not.
[[nodiscard]] int receive(int fd, std::span<std::byte> out, int pause_ms,
                          std::size_t& received) noexcept;

}  // namespace dataplane
