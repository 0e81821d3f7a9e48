#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that virtual machines need ('make vm', 'make test-vm'), and nothing else.
#   tools/vm/setup.sh                 exit 0 ready · 1 failed · 3 packages are missing and cannot be installed from here
set -euo pipefail

# Debian package | what succeeds when it is there | what it is for
needs=(
  "qemu-system-x86|command -v qemu-system-x86_64|the machine"
  "qemu-utils|command -v qemu-img|its disk"
  "ovmf|test -s /usr/share/OVMF/OVMF_CODE_4M.secboot.fd|its firmware, with Secure Boot"
  "swtpm|command -v swtpm|its TPM"
  "swtpm-tools|command -v swtpm_setup|makes that, with a certificate of a simulated vendor"
  "gnutls-bin|command -v certtool|the same"
  "mtools|command -v mcopy|puts files on its boot partition"
  "dosfstools|command -v mkfs.vfat|makes USB sticks"
  "fdisk|command -v sfdisk|reads and changes its partitions"
  "cryptsetup-bin|command -v cryptsetup|makes the disks of attackers"
  "e2fsprogs|command -v mkfs.ext4|the same"
  "util-linux|command -v setpriv && command -v unshare|a network of its own"
)

say() { printf 'vm setup: %s\n' "$*"; }
# shellcheck source=tools/debian_packages.sh
source "$(dirname "$0")/../debian_packages.sh"
ensure_packages "${needs[@]}"
