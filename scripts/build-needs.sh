#!/bin/sh
# Installs what building and running needs and this machine lacks; says nothing when all is there.
# Words after the script's name are further Debian packages to install if dpkg does not know them.
set -eu

need=
want() { # path package
    [ -e "$1" ] || need="$need $2"
}
command -v cc > /dev/null || need="$need gcc libc6-dev"
want /usr/include/stdlib.h libc6-dev
want /usr/lib/x86_64-linux-gnu/libseccomp.a libseccomp-dev
want /bin/busybox busybox-static
command -v nft > /dev/null || want /usr/sbin/nft nftables
command -v ip > /dev/null || want /sbin/ip iproute2
for package; do
    status=$(dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null || true)
    [ "$status" = installed ] || need="$need $package"
done
# A shared busybox cannot run in an image that holds nothing else.
if [ -e /bin/busybox ] && ldd /bin/busybox > /dev/null 2>&1; then need="$need busybox-static"; fi

if [ -n "$need" ]; then
    echo "installing:$need"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq
    # shellcheck disable=SC2086 # a list of words
    apt-get install -y -qq --no-install-recommends $need > /dev/null
fi
command -v cargo > /dev/null || [ -x "$HOME/.cargo/bin/cargo" ] || {
    echo "cargo is missing: install Rust from https://rustup.rs and run this again" >&2
    exit 1
}
