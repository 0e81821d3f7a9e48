#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Runs a program in another root, in a mount namespace that was made for it.
#   enter.sh ROOT [--bind PATH]... --chdir DIR -- PROGRAM...
set -euo pipefail
root=$1
shift
binds=()
while [[ $1 == --bind ]]; do
  binds+=("$2")
  shift 2
done
[[ $1 == --chdir && $3 == -- ]]
folder=$2
shift 3

mount --make-rprivate /
mount --bind "$root" "$root"
cp /etc/resolv.conf "$root/etc/resolv.conf" 2>/dev/null || true
cd "$root"
mount -t proc proc proc
mount --rbind /sys sys
mount --rbind /dev dev
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
for path in "${binds[@]}"; do  # after /tmp, where a checkout may be
  mkdir -p "$root$path"
  mount --rbind "$path" "$root$path"
done
mkdir -p .outside
pivot_root . .outside
umount -l /.outside
rmdir /.outside
cd "$folder"
exec "$@"
