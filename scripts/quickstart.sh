#!/bin/sh
# From built programs to a running container: starts dist/pouchd unless it runs, makes an image of
# this machine's busybox, runs a container from it. Safe to repeat. `make quickdown` undoes it.
set -eu

cd "$(dirname "$0")/.."
dist=$PWD/dist
socket=/var/run/pouchd.sock
log=/var/log/pouchd.log
state=$dist/.quickstart
pouch=$dist/pouch

[ "$(id -u)" = 0 ] || { echo "quickstart must run as root" >&2; exit 1; }
if [ -t 1 ]; then bold=$(printf '\033[1m') plain=$(printf '\033[0m'); else bold='' plain=''; fi
say() { printf '\n%s# %s%s\n' "$bold" "$*" "$plain"; }
show() { printf '%s$ %s%s\n' "$bold" "$*" "$plain"; "$@"; }
unset DOCKER_HOST DOCKER_CONTEXT

# The running daemon's pid, if it is one that quickstart started.
ours() {
    [ -f "$state" ] || return 1
    pid=$(sed -n 's/^pid=//p' "$state")
    [ -n "$pid" ] || return 1
    case $(readlink "/proc/$pid/exe" 2> /dev/null) in
        "$dist/pouchd" | "$dist/pouchd (deleted)") echo "$pid" ;;
        *) return 1 ;;
    esac
}

if pid=$(ours); then
    if [ "$(readlink "/proc/$pid/exe")" = "$dist/pouchd" ]; then
        say "pouchd runs already (pid $pid)"
    else
        say "pouchd was built anew: restarting it; containers go on running"
        kill "$pid"
        while kill -0 "$pid" 2> /dev/null; do sleep 0.1; done
        pid=
    fi
elif "$pouch" version > /dev/null 2>&1; then
    echo "another daemon serves $socket: stop it first" >&2
    exit 1
else
    pid=
fi
if [ -z "$pid" ]; then
    say "starting $dist/pouchd, log in $log"
    # What was here before quickstart is not quickdown's to remove.
    if [ ! -f "$state" ]; then
        for path in /var/lib/pouch /run/pouch "$log"; do
            [ -e "$path" ] || echo "made=$path"
        done > "$state.new"
    else
        grep '^made=' "$state" > "$state.new" || true
    fi
    setsid "$dist/pouchd" < /dev/null >> "$log" 2>&1 &
    pid=$!
    echo "pid=$pid" >> "$state.new"
    mv "$state.new" "$state"
    waited=0
    until "$pouch" version > /dev/null 2>&1; do
        waited=$((waited + 1))
        if [ $waited -gt 150 ] || ! kill -0 "$pid" 2> /dev/null; then
            echo "pouchd did not come up; the end of $log:" >&2
            tail -n 20 "$log" >&2
            exit 1
        fi
        sleep 0.1
    done
fi

say "making an image from /bin/busybox"
if "$pouch" image inspect busybox > /dev/null 2>&1; then
    echo "busybox is there already"
else
    echo "$bold\$ scripts/busybox-image.sh | pouch import - busybox$plain"
    # In two steps: a pipe would hide a failure of the first.
    archive=$(mktemp)
    trap 'rm -f "$archive"' EXIT
    scripts/busybox-image.sh > "$archive"
    "$pouch" import - busybox < "$archive"
fi

say "running a container"
hello="hello-$(date +%H%M%S)"
show "$pouch" run --name "$hello" busybox sh -c \
    'echo "Hello from $(hostname), pid $$, on $(uname -sr)"; ip -4 -o addr show dev eth0'
show "$pouch" ps -a

cat << END

${bold}What to type next$plain
  dist/pouch run -it --rm busybox sh                   a shell in a container
  dist/pouch run -d --name web -p 8080:80 busybox httpd -f -h /etc
  curl localhost:8080/passwd                           what it serves
  dist/pouch logs $hello                         what the first one said
  dist/pouch --help                                    all commands
  DOCKER_HOST=unix://$socket docker run --rm busybox echo "the docker CLI works too"
  make quickdown                                       stop and remove everything
END
