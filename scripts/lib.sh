# Shell helpers shared by the scripts: words to the user, Debian packages, a fit Python, the virtual environment.
# Must only be sourced, must not change anything by being sourced, and never prints to stdout.
# shellcheck shell=bash

HUTCH_ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
# shellcheck disable=SC2034  # used by the scripts that source this file
VENV=$HUTCH_ROOT/.venv
MIN_PYTHON="3.12"

if [ -t 2 ] && [ -z "${NO_COLOR-}" ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
say() { printf '%s==> %s%s\n' "$bold" "$*" "$plain" >&2; }
note() { printf '    %s\n' "$*" >&2; }
die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

is_installed() { [ "$(dpkg-query -W -f='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# Installs those of the named Debian packages that are missing; asks nothing.
need_packages() {
    local package log missing=()
    command -v dpkg-query >/dev/null || die "this is no Debian system: install what provides these, then run again: $*"
    for package in "$@"; do is_installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -eq 0 ] && return 0
    [ "$(id -u)" -eq 0 ] || die "Debian packages are missing; run as root: apt-get install ${missing[*]}"
    say "Installing Debian packages: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    log=$(mktemp)
    if ! { apt-get -qq update && apt-get -qq -y install --no-install-recommends "${missing[@]}"; } >"$log" 2>&1; then
        tail -n 20 "$log" >&2
        die "apt-get could not install: ${missing[*]}; its message is above, all of it in $log"
    fi
    rm -f "$log"
}

# Prints the path of the interpreter if it is new enough and can make virtual environments.
python_if_fit() {
    "$1" -c "import sys, venv, ensurepip
if sys.version_info < tuple(map(int, '$MIN_PYTHON'.split('.'))): sys.exit(1)
print(sys.executable)" 2>/dev/null
}

has_headers() {
    "$1" -c 'import os, sys, sysconfig; sys.exit(not os.path.exists(sysconfig.get_path("include") + "/Python.h"))'
}

# Debian's own Python first (Debian 13 has 3.13), then others on PATH, then those of a pyenv, newest first.
find_python() {
    local candidate found
    if [ -x /usr/bin/python3 ] && /usr/bin/python3 -c "import sys; sys.exit(sys.version_info < (3, 12))" 2>/dev/null; then
        need_packages python3-venv python3-dev
    fi
    while read -r candidate; do
        found=$(python_if_fit "$candidate") && has_headers "$found" && printf '%s\n' "$found" && return 0
    done < <(
        [ -n "${HUTCH_PYTHON:-}" ] && printf '%s\n' "$HUTCH_PYTHON"
        printf '%s\n' /usr/bin/python3
        type -aP python3.14 python3.13 python3.12 python3 || true
        find "${PYENV_ROOT:-$HOME/.pyenv}/versions" -mindepth 3 -maxdepth 3 -path '*/bin/python3' 2>/dev/null | sort -rV
    )
    return 1
}

# The last resort: uv, found or installed into a directory of its own, fetches a Python.
fetch_python() {
    local uv target="${XDG_CACHE_HOME:-$HOME/.cache}/hutch/uv"
    uv=$(type -P uv || true)
    [ -z "$uv" ] && [ -x "$HOME/.local/bin/uv" ] && uv=$HOME/.local/bin/uv
    if [ -z "$uv" ]; then
        need_packages python3 python3-venv
        [ -x "$target/bin/uv" ] || { /usr/bin/python3 -m venv "$target" && "$target/bin/pip" -q install uv; } >&2 || return 1
        uv=$target/bin/uv
    fi
    say "No Python $MIN_PYTHON or newer found: fetching one with uv"
    "$uv" python install 3.13 >&2 && "$uv" python find 3.13
}
