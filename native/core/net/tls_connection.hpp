// One TLS connection: decrypted bytes go into memory of the caller's choice, whole pieces at a time.
//
// The socket never blocks; waits are polls with a limit (waiting.hpp), and a signal ends them. OpenSSL
// takes bytes from the socket 64 KiB at a time and decrypts them record by record, so a block of
// 4 MiB costs some seventy system calls and one call of ours.
//
// An end without a close_notify in the middle of anything is a broken connection, never an end.
// Nothing is sent by the destructor, and nothing by a process other than the one that connected.
//
// One thread at a time uses a connection.
#pragma once

#include <unistd.h>

#include <cstddef>
#include <memory>
#include <span>
#include <string>

#include "core/base/unique_fd.hpp"
#include "core/net/tls_context.hpp"
#include "core/net/waiting.hpp"

namespace dataplane {

// What the calls of a connection return where it is TLS that failed; other values are 0 and errno.
inline constexpr int kTlsFailed = -1;

class TlsConnection {
 public:
  // Owns a connected socket from here on, which is made one that does not block.
  TlsConnection(std::shared_ptr<const TlsContext> context, UniqueFd fd);
  TlsConnection(const TlsConnection&) = delete;
  TlsConnection& operator=(const TlsConnection&) = delete;
  ~TlsConnection() { drop(); }

  [[nodiscard]] int fd() const noexcept { return fd_.get(); }

  // These return 0, kTlsFailed (`failure` says why), ETIMEDOUT, EINTR (call again with the same
  // arguments to go on) or another errno. A connection whose end broke off is ECONNRESET.

  // Agree on keys and verify the server. The waiter's pause is the time for all of it.
  [[nodiscard]] int handshake(Waiter& waiter);
  // Send everything; `rest` is what is left.
  [[nodiscard]] int send(std::span<const std::byte>& rest, Waiter& waiter);
  // Fill `rest`, or some of it unless it is to be filled as a whole; `rest` is what is left. 0 with
  // nothing received is the end that the server has declared.
  [[nodiscard]] int receive(std::span<std::byte>& rest, Waiter& waiter, bool whole);

  // Whether the connection is there and nothing has come that was not asked for. Does not wait.
  [[nodiscard]] bool is_quiet();

  // Say the end, if the socket takes it at once and this is the process that connected; drop all.
  void close() noexcept;

  // Why TLS failed.
  [[nodiscard]] const std::string& failure() const noexcept { return failure_; }
  // Of what was agreed on: whether an earlier session was resumed, "TLSv1.3", the cipher, and
  // whether the kernel decrypts.
  [[nodiscard]] bool is_resumed() const noexcept;
  [[nodiscard]] std::string version() const;
  [[nodiscard]] std::string cipher() const;
  [[nodiscard]] bool is_kernel_tls() const noexcept;

 private:
  int after(int done, Waiter& waiter, WakeMark& mark, std::size_t wanted);
  void drop() noexcept;

  std::shared_ptr<const TlsContext> context_;  // outlives ssl_, which hands it sessions
  UniqueFd fd_;
  SslPtr ssl_;
  pid_t pid_ = ::getpid();
  bool is_usable_ = false;  // the handshake is done, and nothing is broken
  std::string failure_;
};

}  // namespace dataplane
