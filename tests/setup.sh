#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Installs what lint, tests, lab and demo need on a Debian 12 or 13: packages that are missing, and .cache/venv.
# "setup.sh unit" installs only what lint and unit tests need; it needs root only where a package is missing.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
    dbus-daemon iproute2 python3 python3-dbus-next python3-jeepney python3-pystemd python3-pyudev python3-sdnotify
    python3-venv
)
if [ "${1-}" != unit ]; then
    packages+=(
        ca-certificates dbus debian-archive-keyring e2fsprogs mmdebstrap qemu-system-x86 qemu-utils systemd
    )
fi
log=.cache/setup.log
venv=.cache/venv

give_up() {
    echo "setup: $1" >&2
    exit 1
}

timed() {
    local title=$1 started=$SECONDS
    shift
    echo -n "setup: $title ..." >&2
    if ! "$@" >>"$log" 2>&1 </dev/null; then
        echo " failed" >&2
        tail -n 15 "$log" >&2
        give_up "'$*' failed; its output is in $log"
    fi
    echo " $((SECONDS - started)) s" >&2
}

mkdir -p .cache 2>/dev/null || give_up "cannot make $PWD/.cache: run it as $(stat -c %U .), whose directory this is"
[ -w .cache ] || give_up "$PWD/.cache is $(stat -c %U .cache)'s: run it as that user, or take it away: make clean"
exec 9>.cache/setup.lock
if command -v flock >/dev/null; then
    flock 9
fi
: >"$log"

command -v dpkg-query >/dev/null || give_up "this is no Debian (no dpkg-query): run it on a Debian 12 or 13"
missing=()
for package in "${packages[@]}"; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2>/dev/null || true)
    [ "$status" = installed ] || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    install="apt-get update && apt-get install --yes --no-install-recommends ${missing[*]}"
    [ "$(id -u)" = 0 ] || give_up "packages are missing, and you are not root; have root type: $install"
    command -v apt-get >/dev/null || give_up "no apt-get, and these packages are missing: ${missing[*]}"
    timed "package lists" apt-get update
    timed "packages: ${missing[*]}" env DEBIAN_FRONTEND=noninteractive \
        apt-get install --yes --no-install-recommends "${missing[@]}"
fi

# Debian's interpreter, not whichever comes first in PATH: only it sees the packages above.
wanted=$(/usr/bin/python3 -V; sha256sum tests/requirements.txt)
if [ "$(cat "$venv/installed" 2>/dev/null)" != "$wanted" ]; then
    rm -rf "$venv"
    timed "virtual environment $venv" /usr/bin/python3 -m venv --system-site-packages "$venv"
    timed "tools of tests/requirements.txt" \
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --requirement tests/requirements.txt
    echo "$wanted" >"$venv/installed"
fi
