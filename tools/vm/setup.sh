#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that virtual machines need ('make vm', 'make test-vm'), and nothing else.
#   tools/vm/setup.sh                 exit 0 ready · 1 failed · 3 packages are missing and cannot be installed from here
set -euo pipefail

# Debian package | what succeeds when it is there
vm_needs=(
  "qemu-system-x86|command -v qemu-system-x86_64"
  "qemu-utils|command -v qemu-img"
  "ovmf|test -s /usr/share/OVMF/OVMF_CODE_4M.secboot.fd"
  "swtpm|command -v swtpm"
  "swtpm-tools|command -v swtpm_setup"
  "gnutls-bin|command -v certtool"
  "mtools|command -v mcopy"
  "dosfstools|command -v mkfs.vfat"
  "fdisk|command -v sfdisk"
  "cryptsetup-bin|command -v cryptsetup"
  "e2fsprogs|command -v mkfs.ext4"
  "util-linux|command -v setpriv && command -v unshare"
)
export PATH=$PATH:/usr/sbin:/sbin

missing=()
for need in "${vm_needs[@]}"; do
  bash -c "${need#*|}" >/dev/null 2>&1 || missing+=("${need%%|*}")
done
((${#missing[@]})) || exit 0

command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
as_root=()
if ((EUID != 0)); then
  as_root=(sudo)
  [[ -t 0 ]] || as_root+=(-n)
  if ! command -v sudo >/dev/null || ! "${as_root[@]}" true; then
    printf 'vm setup: these Debian packages are missing: %s; as root, run:\n  %s\n' "${missing[*]}" "$command" >&2
    exit 3
  fi
fi
printf 'vm setup: installing Debian packages: %s\n' "${missing[*]}"
log=$(mktemp)
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$command" >"$log" 2>&1 </dev/null \
  || { cat "$log" >&2; echo "vm setup: apt-get failed; see above" >&2; exit 1; }
rm -f "$log"
