#!/usr/bin/env bash
# Fetches a real database server for the tests, without root and without installing anything:
#
#   tests/fetch_server.sh mariadb|mysql TARGET_DIR
#
# mariadb is MariaDB 10.11 of Debian bookworm, mysql is MySQL 9.7 of Debian sid. Afterwards
# TARGET_DIR/bin holds the server (mariadbd or mysqld) and the client (mysql), ready to run. When they
# are there already, nothing is fetched. They come with every library they need, down to the C
# library, so any Debian-like host will do, whatever its release.
#
# Environment: DEBIAN_MIRROR, default http://deb.debian.org/debian
# Exit status: 0 there, 1 the fetch failed, 2 wrong usage, 3 not possible on this kind of host.
set -euo pipefail

readonly MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

die() { # STATUS MESSAGE
    printf 'fetch_server.sh: %s\n' "$2" >&2
    exit "$1"
}

[ $# -eq 2 ] || die 2 "usage: tests/fetch_server.sh mariadb|mysql TARGET_DIR"
case $1 in
mariadb)
    suite=bookworm
    packages=(mariadb-server-core mariadb-client-core)
    server=usr/sbin/mariadbd
    client=usr/bin/mariadb
    ;;
mysql)
    suite=sid
    packages=(mysql-server-core mysql-client-core)
    server=usr/sbin/mysqld
    client=usr/bin/mysql
    ;;
*) die 2 "unknown server '$1': say mariadb or mysql" ;;
esac

for tool in apt-get apt-config dpkg flock; do
    command -v "$tool" >/dev/null ||
        die 3 "this host has no $tool; install MariaDB or MySQL yourself and put its server on PATH"
done
keyring=
for file in /usr/share/keyrings/debian-archive-keyring.{gpg,pgp}; do
    [ ! -r "$file" ] || keyring=$file
done
[ -n "$keyring" ] || die 3 "Debian's signing keys are missing; install the package debian-archive-keyring"

mkdir -p "$2" || die 1 "cannot create $2"
target=$(cd "$2" && pwd)
# Two test processes may want the same server at once: the second waits, and then finds it.
exec 9>"$target/.lock"
flock 9
[ ! -x "$target/bin/${server##*/}" ] || [ ! -x "$target/bin/mysql" ] || exit 0

# What an interrupted fetch left behind is not worth keeping. bin/ is made last, so that it only
# exists once everything else does.
rm -rf "${target:?}"/{root,apt,bin,bin.new,share}
root=$target/root
apt=$target/apt
mkdir -p "$root" "$apt"/lists/partial "$apt"/cache/archives/partial

private_apt_settings() {
    # Nothing of the host's package state is read or written; only how it reaches the network counts.
    apt-config dump | grep -iE '^Acquire::[^ ]*proxy' || true
    # A mirror may be older than sid's promise of one week. The signature is checked all the same.
    cat <<EOF
Dir::Etc::main "/dev/null";
Dir::Etc::parts "/dev/null";
Dir::Etc::sourcelist "$apt/sources.list";
Dir::Etc::sourceparts "/dev/null";
Dir::State "$apt";
Dir::State::status "$apt/status";
Dir::Cache "$apt/cache";
APT::Architecture "$(dpkg --print-architecture)";
APT::Install-Recommends "false";
APT::Sandbox::User "root";
APT::Update::Error-Mode "any";
Acquire::Check-Valid-Until "false";
Acquire::Languages "none";
Acquire::Retries "3";
EOF
}

wrapper() { # NAME PROGRAM [OPTIONS]: writes bin.new/NAME, which runs PROGRAM with its own libraries
    cat >"$target/bin.new/$1" <<EOF
#!/bin/sh
root=\$(dirname -- "\$(dirname -- "\$(readlink -f -- "\$0")")")/root
exec "\$root/$loader" --library-path "\$root/lib/$triplet:\$root/usr/lib/$triplet" \\
    "\$root/$2" "\$@" ${3-}
EOF
    chmod +x "$target/bin.new/$1"
}

printf 'fetch_server.sh: fetching %s from Debian %s into %s\n' "$1" "$suite" "$target" >&2
private_apt_settings >"$apt/apt.conf"
echo "deb [signed-by=$keyring] $MIRROR $suite main" >"$apt/sources.list"
# The server packages ask for perl only for helper scripts that the tests do not use.
cat >"$apt/status" <<EOF
Package: perl
Status: install ok installed
Version: 99
Architecture: $(dpkg --print-architecture)
Multi-Arch: allowed
Maintainer: nobody
Description: left out on purpose
EOF
export APT_CONFIG=$apt/apt.conf
for step in "update" "install --yes --download-only ${packages[*]}"; do
    # shellcheck disable=SC2086  # the words of a step are its arguments
    apt-get -qq $step >"$apt/log" 2>&1 || {
        cat "$apt/log" >&2
        die 1 "apt-get $step failed (see above); is $MIRROR reachable? DEBIAN_MIRROR names another one"
    }
done
for package in "$apt"/cache/archives/*.deb; do
    dpkg -x "$package" "$root" || die 1 "cannot unpack $package; is the disk full?"
done

loader=$(cd "$root" && find . -name 'ld-linux*.so.*' -type f -printf '%P\n' | head -n 1)
[ -n "$loader" ] || die 1 "the packages hold no loader for $(dpkg --print-architecture)"
triplet=$(basename "$(dirname "$loader")")
mkdir "$target/bin.new"
# shellcheck disable=SC2016  # $root is for the wrapper to fill in
wrapper "${server##*/}" "$server" \
    '--lc-messages-dir="$root/usr/share/mysql" --character-sets-dir="$root/usr/share/mysql/charsets"'
wrapper mysql "$client"
ln -s "root/usr/share" "$target/share"
rm -rf "$apt" "$root"/usr/share/{doc,man,locale}
"$target/bin.new/${server##*/}" --no-defaults --version >/dev/null || die 1 "the fetched server does not run here"
mv "$target/bin.new" "$target/bin"
