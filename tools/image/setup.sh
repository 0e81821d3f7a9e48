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
export PATH=$PATH:/usr/sbin:/sbin

missing=()
for need in "${needs[@]}"; do
  IFS='|' read -r package probe purpose <<<"$need"
  bash -c "$probe" >/dev/null 2>&1 && continue
  printf 'image setup: missing: %s (%s)\n' "$package" "$purpose" >&2
  missing+=("$package")
done
((${#missing[@]})) || exit 0

command="apt-get update && apt-get install -y --no-install-recommends ${missing[*]}"
as_root=()
if ((EUID != 0)); then
  as_root=(sudo)
  [[ -t 0 ]] || as_root+=(-n)
  if ! command -v sudo >/dev/null || ! "${as_root[@]}" true; then
    printf 'image setup: these Debian packages are missing: %s; as root, run:\n  %s\n' "${missing[*]}" "$command" >&2
    exit 3
  fi
fi
printf 'image setup: installing Debian packages: %s\n' "${missing[*]}"
log=$(mktemp)
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$command" >"$log" 2>&1 </dev/null \
  || { cat "$log" >&2; echo "image setup: apt-get failed; see above" >&2; exit 1; }
rm -f "$log"
