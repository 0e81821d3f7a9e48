#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the Debian packages that building an image needs ('make image'), and nothing else. What the build itself runs
# is installed into a Debian 13 root of its own below build/image; nothing of it touches the machine.
#   tools/image/setup.sh              exit 0 ready · 1 failed · 3 packages are missing and cannot be installed from here
set -euo pipefail

# Debian package | what succeeds when it is there | what it is for
needs=(
  "mmdebstrap|command -v mmdebstrap|makes the Debian 13 root that everything is built in"
  "debian-archive-keyring|test -s /usr/share/keyrings/debian-archive-keyring.gpg|proves Debian's packages"
  "util-linux|command -v unshare|enters that root"
  "git|command -v git|the time of the newest commit stands in everything built"
)
# Who is not root builds in a user namespace, with numbers of users of its own.
((EUID == 0)) || needs+=("uidmap|command -v newuidmap && grep -q \"^$(id -un):\" /etc/subuid|the same, for who is not root")

say() { printf 'image setup: %s\n' "$*"; }
# shellcheck source=tools/debian_packages.sh
source "$(dirname "$0")/../debian_packages.sh"
ensure_packages "${needs[@]}"
