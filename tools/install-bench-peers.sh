#!/usr/bin/env bash
# Installs the peers of `dataplane bench loader` that make setup leaves out, without what they require
# and a benchmark of arrays never touches: gigabytes (transformers, torchvision, cloud clients), and an
# older NumPy than the project's. What they do import is the extra bench-peers.
# Usage: install-bench-peers.sh PYTHON [PIP OPTIONS]
set -euo pipefail

python=$1
shift
pip() { "$python" -m pip install --quiet -c constraints.txt "$@"; }

sed -n '/^bench-peers = \[/,/^\]/s/^  "\(.*\)",$/\1/p' pyproject.toml >build/bench-peers.txt
pip "$@" -r build/bench-peers.txt
pip "$@" --no-deps litdata mosaicml-streaming
printf 'bench-peers: LitData and MosaicML Streaming are there; try dataplane bench loader --smoke\n'
