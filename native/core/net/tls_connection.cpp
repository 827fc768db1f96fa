#include "core/net/tls_connection.hpp"

#include <fcntl.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/ssl3.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <utility>

namespace dataplane {
namespace {

// What OpenSSL may hold of a record that has not come as a whole.
constexpr std::size_t kHeldBytes = SSL3_RT_MAX_ENCRYPTED_LENGTH + SSL3_RT_HEADER_LENGTH;
// Two records are worth waking up for. With more the sender, who has to encrypt, finds the window
// full while we sleep: 256 KiB halved the rate of one connection over loopback.
constexpr std::size_t kWorthWakingBytes = 32U << 10;

bool is_end_without_notice(unsigned long err) {
#ifdef SSL_R_UNEXPECTED_EOF_WHILE_READING
  return ERR_GET_LIB(err) == ERR_LIB_SSL &&
         ERR_GET_REASON(err) == SSL_R_UNEXPECTED_EOF_WHILE_READING;
#else
  (void)err;
  return false;
#endif
}

// Whether the server has shown a certificate that may sign others. OpenSSL takes it from a server, if
// it is trusted; the client library does not, and both shall say the same of one server.
bool is_authority(const SSL* ssl) {
  X509* const certificate = SSL_get0_peer_certificate(ssl);
  return certificate != nullptr && (X509_get_extension_flags(certificate) & EXFLAG_CA) != 0;
}

}  // namespace

TlsConnection::TlsConnection(std::shared_ptr<const TlsContext> context, UniqueFd fd)
    : context_(std::move(context)), fd_(std::move(fd)), ssl_(context_->connection()) {
  const int flags = ::fcntl(fd_.get(), F_GETFL);
  if (flags >= 0) (void)::fcntl(fd_.get(), F_SETFL, flags | O_NONBLOCK);
  if (ssl_ && SSL_set_fd(ssl_.get(), fd_.get()) != 1) ssl_.reset();
  ERR_clear_error();
}

int TlsConnection::handshake(Waiter& waiter) {
  if (!ssl_) return ENOMEM;
  WakeMark mark(fd_.get());
  for (;;) {
    ERR_clear_error();
    errno = 0;
    const int done = SSL_do_handshake(ssl_.get());
    if (done == 1) {
      is_usable_ = !is_authority(ssl_.get());
      if (!is_usable_) failure_ = "the certificate is refused: an authority's own";
      return is_usable_ ? 0 : kTlsFailed;
    }
    if (const int err = after(done, waiter, mark, 1); err != 0) {
      const long refusal = SSL_get_verify_result(ssl_.get());
      if (err == kTlsFailed && refusal != X509_V_OK)
        failure_ = std::string("the certificate is refused: ") +
                   X509_verify_cert_error_string(refusal);
      return err;
    }
  }
}

int TlsConnection::send(std::span<const std::byte>& rest, Waiter& waiter) {
  if (!is_usable_) return ENOTCONN;
  WakeMark mark(fd_.get());
  while (!rest.empty()) {
    ERR_clear_error();
    errno = 0;
    std::size_t sent = 0;
    const int done = SSL_write_ex(ssl_.get(), rest.data(), rest.size(), &sent);
    if (done == 1) {
      rest = rest.subspan(sent);
      waiter.progressed();
    } else if (const int err = after(done, waiter, mark, 1); err != 0) {
      return err;
    }
  }
  return 0;
}

int TlsConnection::receive(std::span<std::byte>& rest, Waiter& waiter, bool whole) {
  if (!is_usable_) return ENOTCONN;
  WakeMark mark(fd_.get());
  while (!rest.empty()) {
    ERR_clear_error();
    errno = 0;
    std::size_t got = 0;
    const int done = SSL_read_ex(ssl_.get(), rest.data(), rest.size(), &got);
    if (done == 1) {
      rest = rest.subspan(got);
      waiter.progressed();
      if (!whole) return 0;
    } else if (SSL_get_error(ssl_.get(), done) == SSL_ERROR_ZERO_RETURN) {
      return 0;
    } else if (const int err = after(done, waiter, mark, whole ? rest.size() : 1); err != 0) {
      return err;
    }
  }
  return 0;
}

bool TlsConnection::is_quiet() {
  if (!is_usable_) return false;
  ERR_clear_error();
  std::byte next{};
  std::size_t got = 0;
  const int done = SSL_peek_ex(ssl_.get(), &next, 1, &got);
  const bool is_waiting = done != 1 && SSL_get_error(ssl_.get(), done) == SSL_ERROR_WANT_READ;
  ERR_clear_error();
  return is_waiting;
}

void TlsConnection::close() noexcept {
  if (is_usable_ && pid_ == ::getpid()) {
    ERR_clear_error();
    (void)SSL_shutdown(ssl_.get());
    ERR_clear_error();
  }
  drop();
  fd_.reset();
}

bool TlsConnection::is_resumed() const noexcept {
  return is_usable_ && SSL_session_reused(ssl_.get()) == 1;
}

std::string TlsConnection::version() const { return is_usable_ ? SSL_get_version(ssl_.get()) : ""; }

std::string TlsConnection::cipher() const {
  return is_usable_ ? SSL_get_cipher_name(ssl_.get()) : "";
}

bool TlsConnection::is_kernel_tls() const noexcept {
  return is_usable_ && BIO_get_ktls_recv(SSL_get_rbio(ssl_.get())) != 0;
}

// Wait for what a call of OpenSSL needs that was not done; 0 to call it again.
int TlsConnection::after(int done, Waiter& waiter, WakeMark& mark, std::size_t wanted) {
  const int system_error = errno;
  switch (SSL_get_error(ssl_.get(), done)) {
    case SSL_ERROR_WANT_READ:
      // Of the bytes that are wanted some may be here, encrypted: so many fewer are sure to come.
      mark.set(wanted > kHeldBytes ? std::min(wanted - kHeldBytes, kWorthWakingBytes) : 1);
      return waiter.wait(POLLIN);
    case SSL_ERROR_WANT_WRITE:
      return waiter.wait(POLLOUT);
    case SSL_ERROR_SYSCALL:
    case SSL_ERROR_ZERO_RETURN:
      is_usable_ = false;
      return system_error != 0 ? system_error : ECONNRESET;
    default:
      is_usable_ = false;
      if (is_end_without_notice(ERR_peek_last_error())) {
        ERR_clear_error();
        return ECONNRESET;
      }
      failure_ = take_openssl_failure();
      return kTlsFailed;
  }
}

// To OpenSSL a connection without an end is a sign of an attack, and its session of no more use. Here
// most end that way, and a body that is cut off is found out by its length. A forked child leaves the
// state where it is: another thread may have been in the middle of it.
void TlsConnection::drop() noexcept {
  if (pid_ != ::getpid()) (void)ssl_.release();
  if (ssl_) SSL_set_shutdown(ssl_.get(), SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
  ssl_.reset();
  is_usable_ = false;
}

}  // namespace dataplane
