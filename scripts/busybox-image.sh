#!/bin/sh
# Writes a root file system of Debian's static busybox to standard output as a tar archive, for
# `pouch import - busybox`. Every applet is a link, so that `ls`, `sh` and the like just work.
set -eu

busybox=${BUSYBOX:-/bin/busybox}
[ -x "$busybox" ] || { echo "$0: $busybox is missing: apt-get install busybox-static" >&2; exit 1; }

root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT INT TERM
chmod 0755 "$root"
cd "$root"
mkdir -p bin dev etc home proc root run sbin sys tmp usr var/spool/cron
chmod 1777 tmp
chmod 0700 root
cp "$busybox" bin/busybox
chmod 0755 bin/busybox
for applet in $(bin/busybox --list); do
    [ "$applet" = busybox ] || ln -s busybox "bin/$applet"
done
ln -s ../bin usr/bin
printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n' > etc/passwd
printf 'root:x:0:\nnogroup:x:65534:\n' > etc/group
tar --sort=name --owner=0 --group=0 --numeric-owner -cf - .
