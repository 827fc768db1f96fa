// What TLS connections to one server have in common: its name, the authorities that are trusted, and
// the session that the next connection resumes.
//
// Certificates are verified by OpenSSL against the system's authorities and those that are named; the
// name or address of the server must be among those of its certificate (no common names). TLS 1.2 at
// least. Kernel TLS is used where OpenSSL and the kernel have it.
//
// Thread-safe. A forked child makes its own and leaves its parent's where it is: locks of OpenSSL may
// have been held at the fork.
#pragma once

#include <openssl/ssl.h>
#include <unistd.h>

#include <memory>
#include <mutex>
#include <span>
#include <string>

namespace dataplane {

// Owners of what OpenSSL hands out.
template <auto Free>
struct OpenSslDeleter {
  template <typename T>
  void operator()(T* object) const noexcept {
    Free(object);
  }
};
using SslContextPtr = std::unique_ptr<SSL_CTX, OpenSslDeleter<SSL_CTX_free>>;
using SslSessionPtr = std::unique_ptr<SSL_SESSION, OpenSslDeleter<SSL_SESSION_free>>;
using SslPtr = std::unique_ptr<SSL, OpenSslDeleter<SSL_free>>;

// Says why the calling thread's last call of OpenSSL failed, and forgets it.
[[nodiscard]] std::string take_openssl_failure();

class TlsContext {
 public:
  TlsContext() = default;
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;
  ~TlsContext();

  // Get ready for a server, once.
  //   host:  its DNS name or its address, IPv4 or IPv6.
  //   roots: certificates to trust besides the system's, as PEM; may be empty.
  // Returns an empty text, or why it cannot be done.
  [[nodiscard]] std::string open(std::string host, std::span<const std::byte> roots);

  // Make the state of a new connection, which resumes the last session if there is one; null when
  // OpenSSL has no memory.
  [[nodiscard]] SslPtr connection() const;

 private:
  static int on_session(SSL* ssl, SSL_SESSION* session) noexcept;

  pid_t pid_ = ::getpid();
  SslContextPtr context_;
  std::string host_;
  bool is_address_ = false;
  mutable std::mutex mutex_;  // of session_; nothing else is locked or waited for under it
  SslSessionPtr session_;
};

}  // namespace dataplane
