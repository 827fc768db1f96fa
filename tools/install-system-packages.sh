#!/usr/bin/env bash
# Installs what the build and the mount need from the system: a C++ compiler, libzstd, liblz4, OpenSSL,
# fuse3, and for a Python of the system (PYTHON, or python3) its venv module and headers.
# Does nothing when all are there; says what to type when it may not install.
# DATAPLANE_FUZZ=install adds clang, which nothing but `make fuzz-smoke` needs.
set -euo pipefail

# fuse3 brings its library, whose package is called differently in every release.
packages=(g++ pkg-config libzstd-dev liblz4-dev libssl-dev fuse3)
python=$(readlink -f "$(command -v "${PYTHON:-python3}" || true)" || true)
case "$python" in
  /usr/bin/python3.*) packages+=("${python##*/}-venv" "${python##*/}-dev") ;;
  "") packages+=(python3 python3-venv python3-dev) ;;
esac
if [ "${DATAPLANE_TEST_CEPH:-}" = install ]; then
  packages+=(ceph-mon ceph-osd radosgw curl)
fi
if [ "${DATAPLANE_FUZZ:-}" = install ]; then
  packages+=(clang libclang-rt-dev)
fi

missing=()
if ! command -v dpkg-query >/dev/null; then
  for tool in c++ pkg-config fusermount3; do
    command -v "$tool" >/dev/null || missing+=("$tool")
  done
  if command -v pkg-config >/dev/null; then
    for library in libzstd liblz4 libssl; do
      pkg-config --exists "$library" || missing+=("$library (with headers)")
    done
  fi
  if [ "${#missing[@]}" -gt 0 ]; then
    printf 'missing: %s\ninstall them with the package manager of this system, then run this again\n' "${missing[*]}" >&2
    exit 1
  fi
  exit 0
fi

missing=()
for package in "${packages[@]}"; do
  dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed || missing+=("$package")
done
[ "${#missing[@]}" -eq 0 ] && exit 0

run=()
if [ "$(id -u)" -ne 0 ]; then
  if command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    run=(sudo)
  else
    printf 'system packages are missing and this user may not install them; ask for, or run:\n  sudo apt-get install %s\n' "${missing[*]}" >&2
    exit 1
  fi
fi
echo "installing system packages: ${missing[*]}"
"${run[@]}" apt-get update -qq
DEBIAN_FRONTEND=noninteractive "${run[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
