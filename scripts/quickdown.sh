#!/bin/sh
# Stops and removes everything that quickstart made: containers, the daemon, shims, network, files.
# What was there before quickstart, and dist/, stay.
set -eu

cd "$(dirname "$0")/.."
dist=$PWD/dist
state=$dist/.quickstart
log=/var/log/pouchd.log

[ "$(id -u)" = 0 ] || { echo "quickdown must run as root" >&2; exit 1; }
unset DOCKER_HOST DOCKER_CONTEXT
if [ ! -f "$state" ]; then
    echo "nothing to do: quickstart has not run"
    exit 0
fi
made() { grep -qx "made=$1" "$state"; }
is_ours() { # pid program
    case $(readlink "/proc/$1/exe" 2> /dev/null) in
        "$dist/$2" | "$dist/$2 (deleted)") return 0 ;;
        *) return 1 ;;
    esac
}
# Waits up to ten seconds for a process to go.
gone() {
    waited=0
    while [ -d "/proc/$1" ] && [ $waited -lt 100 ]; do
        sleep 0.1
        waited=$((waited + 1))
    done
    [ ! -d "/proc/$1" ]
}

pid=$(sed -n 's/^pid=//p' "$state")
if ! is_ours "${pid:-none}" pouchd && made /var/lib/pouch; then
    # It died. One that runs takes its containers down in order.
    setsid "$dist/pouchd" < /dev/null >> "$log" 2>&1 &
    pid=$!
    waited=0
    until "$dist/pouch" version > /dev/null 2>&1 || [ $waited -gt 100 ]; do
        sleep 0.1
        waited=$((waited + 1))
    done
fi
if is_ours "${pid:-none}" pouchd; then
    if made /var/lib/pouch; then
        containers=$("$dist/pouch" ps -aq || true)
        # shellcheck disable=SC2086 # a list of words
        [ -z "$containers" ] || "$dist/pouch" rm -f -v $containers > /dev/null
    fi
    kill "$pid"
    gone "$pid" || { echo "pouchd (pid $pid) does not stop; see $log" >&2; exit 1; }
    echo "stopped pouchd"
fi

# Shims outlive the daemon by design; with their containers removed none is left but by accident.
if made /var/lib/pouch; then
    for process in /proc/[0-9]*; do
        shim=${process#/proc/}
        if is_ours "$shim" containerd-shim-pouch-v2; then
            kill -9 "$shim" 2> /dev/null || true
        fi
    done
fi

# With its last container gone the daemon takes its network down when it stops; this is for one
# that was killed.
if made /var/lib/pouch; then
    if ip link show pouch0 > /dev/null 2>&1; then ip link delete pouch0; fi
    if nft list table inet pouch > /dev/null 2>&1; then nft delete table inet pouch; fi
fi
for path in /run/pouch /var/lib/pouch; do
    made "$path" || continue
    # The innermost mounts last in the table, so from the end.
    awk -v below="$path/" 'index($5, below) == 1 { print $5 }' /proc/self/mountinfo | tac |
        while read -r mount; do umount -l "$mount"; done
    rm -rf --one-file-system "$path"
done
if made /var/lib/pouch; then
    find /sys/fs/cgroup -depth -type d \( -path '/sys/fs/cgroup/pouch' -o \
        -path '/sys/fs/cgroup/pouch/*' -o -path '/sys/fs/cgroup/*/pouch' -o \
        -path '/sys/fs/cgroup/*/pouch/*' \) -exec rmdir {} + 2> /dev/null || true
    rm -f /var/run/pouchd.sock /var/run/pouchd.pid
fi
if made "$log"; then rm -f "$log"; fi
rm -f "$state"
echo "removed what quickstart made"
