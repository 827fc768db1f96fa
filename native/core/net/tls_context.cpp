#include "core/net/tls_context.hpp"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>

#include <array>
#include <limits>
#include <utility>

namespace dataplane {
namespace {

using BioPtr = std::unique_ptr<BIO, OpenSslDeleter<BIO_free>>;
using X509Ptr = std::unique_ptr<X509, OpenSslDeleter<X509_free>>;

// Records are read many at a time, not with two system calls each.
constexpr std::size_t kReadAheadBytes = 64U << 10;
constexpr std::array<unsigned char, 9> kHttp{8, 'h', 't', 't', 'p', '/', '1', '.', '1'};

bool add_roots(X509_STORE* store, std::span<const std::byte> roots) {
  if (roots.size() > std::numeric_limits<int>::max()) return false;
  const BioPtr bio(BIO_new_mem_buf(roots.data(), static_cast<int>(roots.size())));
  if (!bio) return false;
  for (;;) {
    const X509Ptr root(PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr));
    if (!root) break;
    if (X509_STORE_add_cert(store, root.get()) != 1) return false;
  }
  const unsigned long err = ERR_peek_last_error();
  const bool is_end =
      ERR_GET_LIB(err) == ERR_LIB_PEM && ERR_GET_REASON(err) == PEM_R_NO_START_LINE;
  if (is_end) ERR_clear_error();
  return is_end;
}

// Returns whether the host can be checked; says whether it is an address.
bool check_host(SSL_CTX* context, const std::string& host, bool& is_address) {
  if (host.empty() || host.find('\0') != std::string::npos) return false;
  X509_VERIFY_PARAM* const param = SSL_CTX_get0_param(context);
  X509_VERIFY_PARAM_set_hostflags(
      param, X509_CHECK_FLAG_NEVER_CHECK_SUBJECT | X509_CHECK_FLAG_NO_PARTIAL_WILDCARDS);
  // An authority that is named is trusted by itself, also where another one has signed it.
  X509_VERIFY_PARAM_set_flags(param, X509_V_FLAG_PARTIAL_CHAIN);
  is_address = X509_VERIFY_PARAM_set1_ip_asc(param, host.c_str()) == 1;
  return is_address || X509_VERIFY_PARAM_set1_host(param, host.data(), host.size()) == 1;
}

}  // namespace

std::string take_openssl_failure() {
  const unsigned long err = ERR_peek_last_error();
  const char* reason = ERR_reason_error_string(err);
  ERR_clear_error();
  return reason != nullptr ? reason : "error " + std::to_string(err);
}

TlsContext::~TlsContext() {
  if (pid_ == ::getpid()) return;
  (void)context_.release();
  (void)session_.release();
}

std::string TlsContext::open(std::string host, std::span<const std::byte> roots) {
  ERR_clear_error();
  SslContextPtr context(SSL_CTX_new(TLS_client_method()));
  if (!context) return take_openssl_failure();
  SSL_CTX* const raw = context.get();
  SSL_CTX_set_options(raw, SSL_OP_NO_RENEGOTIATION);
#ifdef SSL_OP_ENABLE_KTLS
  SSL_CTX_set_options(raw, SSL_OP_ENABLE_KTLS);
#endif
  SSL_CTX_set_mode(raw, SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER | SSL_MODE_ENABLE_PARTIAL_WRITE);
  SSL_CTX_set_read_ahead(raw, 1);
  SSL_CTX_set_default_read_buffer_len(raw, kReadAheadBytes);
  SSL_CTX_set_verify(raw, SSL_VERIFY_PEER, nullptr);
  SSL_CTX_set_session_cache_mode(raw, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
  SSL_CTX_sess_set_new_cb(raw, &TlsContext::on_session);
  SSL_CTX_set_app_data(raw, this);
  if (SSL_CTX_set_min_proto_version(raw, TLS1_2_VERSION) != 1 ||
      SSL_CTX_set_alpn_protos(raw, kHttp.data(), kHttp.size()) != 0 ||
      SSL_CTX_set_default_verify_paths(raw) != 1) {
    return take_openssl_failure();
  }
  ERR_clear_error();  // the system may have no authorities
  if (!roots.empty() && !add_roots(SSL_CTX_get_cert_store(raw), roots))
    return "the certificates to trust: " + take_openssl_failure();
  if (!check_host(raw, host, is_address_)) return "a server's name that cannot be checked";
  context_ = std::move(context);
  host_ = std::move(host);
  return {};
}

SslPtr TlsContext::connection() const {
  SslPtr ssl(SSL_new(context_.get()));
  if (!ssl) return ssl;
  // An address is no name that a server could be asked for (RFC 6066, section 3).
  if (!is_address_ && SSL_set_tlsext_host_name(ssl.get(), host_.c_str()) != 1) return nullptr;
  SSL_set_connect_state(ssl.get());
  const std::lock_guard lock(mutex_);
  if (session_) (void)SSL_set_session(ssl.get(), session_.get());  // only a hint
  return ssl;
}

int TlsContext::on_session(SSL* ssl, SSL_SESSION* session) noexcept {
  auto* const self = static_cast<TlsContext*>(SSL_CTX_get_app_data(SSL_get_SSL_CTX(ssl)));
  SslSessionPtr last(session);  // ours, since we return 1
  const std::lock_guard lock(self->mutex_);
  std::swap(self->session_, last);
  return 1;
}

}  // namespace dataplane
