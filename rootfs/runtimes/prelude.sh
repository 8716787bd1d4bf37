# Read before every recipe's script.

# packages SUITE NAME…: install Debian's packages, of another release than the image's, too. Silent unless it fails.
packages() {
  own=$(. /etc/os-release && echo "$VERSION_CODENAME")
  if [ "$1" != "$own" ]; then
    sed "s/\\b$own/$1/" /etc/apt/sources.list >/etc/apt/sources.list.d/runtime.list
  fi
  shift
  {
    apt-get update --quiet=2 && apt-get install --yes --quiet=2 --no-install-recommends "$@"
  } >/tmp/packages.log 2>&1 || {
    tail -n 30 /tmp/packages.log
    return 1
  }
}
