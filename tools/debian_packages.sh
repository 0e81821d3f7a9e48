# SPDX-License-Identifier: Apache-2.0
# For the setup scripts to source: which Debian packages are missing, and their installation. Package sources are the
# machine's own. A script that sources it defines 'say', which names the script, and exits with
#   1 the installation failed · 3 packages are missing and cannot be installed from here
# shellcheck shell=bash
# Programs of administrators are looked for wherever they are, also by who is not root.
export PATH=$PATH:/usr/sbin:/sbin

missing_packages() {  # missing_packages 'PACKAGE|PROBE|PURPOSE'...: names those whose probe fails; says so, and what they are for
  local need package probe purpose
  for need in "$@"; do
    IFS='|' read -r package probe purpose <<<"$need"
    bash -c "$probe" >/dev/null 2>&1 && continue
    say "missing: $package ($purpose)" >&2
    printf '%s\n' "$package"
  done
}

install_packages() {  # install_packages NAME...
  local as_root=() log
  local command="apt-get update && apt-get install -y --no-install-recommends $*"
  if ((EUID != 0)); then
    as_root=(sudo)
    [[ -t 0 ]] || as_root+=(-n)
    if ! command -v sudo >/dev/null || ! "${as_root[@]}" true; then
      say "these Debian packages are missing: $*; as root, run:" >&2
      printf '  %s\n' "$command" >&2
      exit 3
    fi
  fi
  say "installing Debian packages: $*"
  log=$(mktemp)
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive sh -c "$command" >"$log" 2>&1 </dev/null \
    || { cat "$log" >&2; say "apt-get failed; see above" >&2; exit 1; }
  grep -i 'disk space will be used' "$log" || true
  rm -f "$log"
}

ensure_packages() {  # ensure_packages 'PACKAGE|PROBE|PURPOSE'...: what is missing is there afterwards
  local missing
  mapfile -t missing < <(missing_packages "$@")
  ((${#missing[@]} == 0)) || install_packages "${missing[@]}"
}
