#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Writes the hash-locked lists of requirements/ from the floors in pyproject.toml. One set of lists serves every Python
# from 3.11 on. Each package stands in one list only: build, then runtime, then what is left for station, then for dev.
#   tools/lock.sh [--upgrade]      without --upgrade, pins that still fit stay as they are
set -euo pipefail
cd "$(dirname "$0")/.."
command -v uv >/dev/null || { echo "lock: needs uv (python3 -m pip install uv)" >&2; exit 3; }

lock() {  # lock NAME PURPOSE OPTION...
  local out=requirements/$1.txt purpose=$2
  shift 2
  uv pip compile --quiet "${upgrade[@]}" --universal --python-version 3.11 --generate-hashes \
    --no-header --no-annotate --no-emit-index-url --output-file "$out" "$@"
  sed -i "1i # SPDX-License-Identifier: Apache-2.0\n# $purpose Written by 'make lock'; edit pyproject.toml instead." "$out"
}

already() {  # already NAME...: keep to the pins of these lists, and leave them out
  local name package
  for name in "$@"; do
    printf -- '--constraints=requirements/%s.txt\n' "$name"
    while read -r package; do printf -- '--no-emit-package=%s\n' "$package"; done \
      < <(grep -oP '^[a-z0-9-]+(?===)' "requirements/$name.txt")
  done
}

upgrade=("$@")
mkdir -p requirements
lock build 'What pip needs to build packages.' --group build
mapfile -t left_out < <(already build)
lock runtime 'What the product runs on.' pyproject.toml "${left_out[@]}"
mapfile -t left_out < <(already build runtime)
lock station 'What the machine of a builder or technician needs beside runtime.' pyproject.toml --extra station "${left_out[@]}"
mapfile -t left_out < <(already build runtime station)
lock dev 'The brokers of the development environment and the tools of the tests.' pyproject.toml --group dev "${left_out[@]}"
wc -l requirements/*.txt
