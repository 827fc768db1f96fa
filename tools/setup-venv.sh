#!/usr/bin/env bash
# Makes the virtual environment VENV and installs the project in it, with all extras, for work on it.
# Shows what it is doing: a line per step, large downloads, how far the compiler is. All that pip and
# the compiler say is in build/setup.log; its end is shown when a step fails.
# Usage: setup-venv.sh VENV (PYTHON names the interpreter, python3 by default)
set -euo pipefail

venv=$1
log=build/setup.log
steps=3
large_mb=10 # downloads below this are not worth a line

step() { printf 'setup %s/%s: %s\n' "$1" "$steps" "$2"; }

# Reads what pip says, keeps it in the log, and prints the little that a person waits for.
follow() {
  local line
  while IFS= read -r line; do
    printf '%s\n' "$line" >>"$log"
    if [[ $line =~ ^\ *\[([1-9][0-9]*)/([0-9]+)\]\  ]]; then
      progress "compiling ${BASH_REMATCH[1]} of ${BASH_REMATCH[2]}" "${BASH_REMATCH[1]}" "${BASH_REMATCH[2]}"
    elif [[ $line =~ Downloading\ ([^ ]+)\ \(([0-9]+)[.0-9]*\ ([MG])B\) ]]; then
      if [ "${BASH_REMATCH[3]}" = G ] || [ "${BASH_REMATCH[2]}" -ge "$large_mb" ]; then
        end_progress
        printf '  downloading %s (%s %sB)\n' "${BASH_REMATCH[1]##*/}" "${BASH_REMATCH[2]}" "${BASH_REMATCH[3]}"
      fi
    elif [[ $line == "Installing collected packages: "* ]]; then
      end_progress
      printf '  installing %s packages\n' "$(wc -w <<<"${line#*: }")"
    fi
  done
}

# One line that counts on a terminal; elsewhere a line now and then.
progress() {
  if [ -t 1 ]; then
    printf '\r  %s' "$1"
    counting=1
    [ "$2" -ne "$3" ] || end_progress
  elif [ $(($2 % 10)) -eq 0 ] || [ "$2" -eq "$3" ]; then
    printf '  %s\n' "$1"
  fi
}

# The next line after one that counts begins in a new one.
end_progress() {
  [ -z "${counting:-}" ] || printf '\n'
  counting=
}

install() {
  if ! PYTHONUNBUFFERED=1 "$venv/bin/python" -m pip install -v -c constraints.txt "$@" 2>&1 | follow; then
    printf '\nsetup failed; the end of %s:\n' "$log" >&2
    tail -n 40 "$log" >&2
    exit 1
  fi
}

mkdir -p build
: >"$log"
step 1 "a virtual environment in $venv (details are in $log)"
[ -x "$venv/bin/python" ] || "${PYTHON:-python3}" -m venv "$venv"
install --upgrade pip
step 2 "build tools"
install "scikit-build-core>=0.11" "nanobind>=2.4" cmake ninja
# An older setup installed the project as `dataplane`: two distributions must not own one command.
"$venv/bin/python" -m pip uninstall --yes dataplane >>"$log" 2>&1 || true
step 3 "packages of all extras, and the native module; this takes minutes"
install --no-build-isolation -e ".[all,bench,dev]"
printf 'setup: done; try %s/bin/dataplane --help\n' "$venv"
