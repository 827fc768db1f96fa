#!/usr/bin/env bash
# Builds the fuzz targets of native/fuzz with clang and runs them, as many at once as there are CPUs.
#   tools/fuzz.sh SECONDS [TARGET...]        targets are names such as fuzz_blosc; all when none is given
# Corpora stay in build/fuzz/corpus, so that the next run goes on where this one ends. An input that
# breaks a target is kept in build/fuzz/found; copied to native/fuzz/regressions/TARGET it becomes a test.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${1:?usage: tools/fuzz.sh SECONDS [TARGET...]}
shift
build=$PWD/build/fuzz
mkdir -p "$build/found"

# A clang that can link a fuzzer; the compiler is often there without its run-time libraries.
find_clang() {
  local name
  for name in "${CLANGXX:-}" clang++ clang++-{22..14}; do
    [ -n "$name" ] && command -v "$name" >/dev/null || continue
    if echo 'extern "C" int LLVMFuzzerTestOneInput(const char*, unsigned long) { return 0; }' |
      "$name" -x c++ - -fsanitize=fuzzer,address,undefined -o "$build/probe" 2>/dev/null; then
      echo "$name"
      return
    fi
  done
}
clang=$(find_clang)
if [ -z "$clang" ]; then
  DATAPLANE_FUZZ=install bash tools/install-system-packages.sh || {
    echo 'fuzzing needs clang with its sanitizer run time (Debian: clang libclang-rt-dev)' >&2
    exit 1
  }
  clang=$(find_clang)
fi
if [ -z "$clang" ]; then
  echo 'clang is there, but cannot link a fuzzer: its sanitizer run time is missing (Debian: libclang-rt-dev)' >&2
  exit 1
fi

cmake -S native -B "$build" -G Ninja -DCMAKE_CXX_COMPILER="$clang" -DCMAKE_BUILD_TYPE=RelWithDebInfo \
  -DDATAPLANE_BUILD_PYTHON=OFF -DDATAPLANE_BUILD_FUZZERS=ON -DDATAPLANE_WERROR=ON \
  -DDATAPLANE_SANITIZE=address,undefined >/dev/null
cmake --build "$build" | tail -n 1
"$build/make_seeds" "$build/seeds"

targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
  for source in native/fuzz/fuzz_*.cpp; do targets+=("$(basename "$source" .cpp)"); done
fi

# One target; prints its last line of statistics, and the end of its log when it found something.
run_one() {
  set -euo pipefail
  local target=$1 log="$build/$1.log"
  mkdir -p "$build/corpus/$target"
  local known=()
  [ -d "native/fuzz/regressions/$target" ] && known=("native/fuzz/regressions/$target")
  if "$build/$target" -max_total_time="$seconds" -max_len=8192 -timeout=60 -verbosity=0 \
    -print_final_stats=1 -artifact_prefix="$build/found/$target-" \
    "$build/corpus/$target" "$build/seeds/$target" ${known[@]+"${known[@]}"} >"$log" 2>&1; then
    printf '%-16s %12s inputs in %s s, nothing found\n' "$target" \
      "$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")" "$seconds"
  else
    tail -n 40 "$log"
    echo "$target failed: see $log; the input is in $build/found"
    return 1
  fi
}

export -f run_one
export build seconds
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'run_one {}'
