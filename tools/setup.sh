#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Readies a checkout: installs the Debian packages that are missing and makes .venv with exactly the locked Python
# packages. It touches nothing else and may be interrupted at any moment: what is ready is marked last, and what is not
# marked is made anew. When everything is ready it ends within a moment. Package sources are the machine's own.
#   tools/setup.sh                 exit 0 ready · 1 failed · 3 Debian packages are missing and cannot be installed from here
set -euo pipefail
cd "$(dirname "$0")/.."

# Debian package | what succeeds when it is there | what it is for
needs=(
  "python3-venv|python3 -c 'import ensurepip, venv'|makes .venv"
  "ca-certificates|test -s /etc/ssl/certs/ca-certificates.crt|TLS to the package index"
  "curl|command -v curl|the tests call the peer protocol with it"
  "gcc|command -v gcc|builds tpm2-pytss, which is published as source only"
  "libc6-dev|test -e /usr/include/stdio.h|the same"
  "python3-dev|python3 -c 'import os, sysconfig; os.stat(sysconfig.get_path(\"include\") + \"/Python.h\")'|the same"
  "pkg-config|command -v pkg-config|finds the TPM libraries for that"
  "libtss2-dev|pkg-config --exists tss2-esys|the TPM libraries, which the keys are used through"
  "swtpm|command -v swtpm|the software TPM of development and tests"
  "swtpm-tools|command -v swtpm_setup && command -v swtpm_localca|makes a software TPM, with a certificate of a simulated vendor"
  "gnutls-bin|command -v certtool|the same"
  "strace|command -v strace|the tests watch with it that what is confirmed was synced to disk"
  "nftables|command -v nft|the tests attack the box's firewall with it"
  "iproute2|command -v ip|makes the networks for that"
  "faketime|command -v faketime|the tests start a box whose clock is ten years wrong with it"
)

say() { printf 'setup: %s\n' "$*"; }

# shellcheck source=tools/debian_packages.sh
source tools/debian_packages.sh

pip() { .venv/bin/python -m pip -qq --disable-pip-version-check "$@"; }

install_locked() {  # install_locked LIST...: exactly what the lists say, each file checked against its hash
  local list options=(--require-hashes --no-deps --no-build-isolation --use-pep517 --no-compile)
  for list in "$@"; do options+=(--requirement "requirements/$list.txt"); done
  pip install "${options[@]}"
}

make_venv() {
  say "making .venv: $(grep -c == requirements/*.txt | awk -F: '{n += $2} END {print n}') locked packages, $(python3 -V)"
  rm -rf .venv
  python3 -m venv .venv
  install_locked build
  install_locked runtime station dev
}

install_project() {
  pip install --no-index --no-deps --no-build-isolation --editable .
}

ready() { [[ -f .venv/$1 && $(<".venv/$1") == "$2" ]]; }  # ready MARK KEY
digest() { sha256sum | cut -c1-64; }

exec 9<requirements
flock 9  # one setup at a time in a checkout

ensure_packages "${needs[@]}"
python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { say "needs Python 3.11 or later" >&2; exit 1; }

venv_key=$({ pwd -P; python3 -V; cat tools/setup.sh requirements/*.txt; } | digest)
project_key=$(digest <pyproject.toml)
if ready .locked "$venv_key" && ready .project "$project_key"; then
  say "ready"
  exit 0
fi
if ! ready .locked "$venv_key"; then
  make_venv
  echo "$venv_key" >.venv/.locked
fi
install_project
echo "$project_key" >.venv/.project
say "ready in $SECONDS s; .venv takes $(du -sm .venv | cut -f1) MB; 'make clean' removes it"
