#!/usr/bin/env bash
# Fetches what the tests run on, without root and without installing anything:
#
#   tests/fetch_server.sh mariadb|mysql|python TARGET_DIR
#
# mariadb is MariaDB 10.11 of Debian bookworm, mysql is MySQL 9.7 of Debian sid. Afterwards
# TARGET_DIR/bin holds the server (mariadbd or mysqld) and the client (mysql), ready to run. python is
# the newest Python of Debian sid, then TARGET_DIR/bin/python3; `-m venv --without-pip` works with it.
# When they are there already, nothing is fetched. They come with every library they need, down to the
# C library, so any Debian-like host will do, whatever its release.
#
# Environment: DEBIAN_MIRROR, default http://deb.debian.org/debian
# Exit status: 0 there, 1 the fetch failed, 2 wrong usage, 3 not possible on this kind of host.
set -euo pipefail

readonly MIRROR=${DEBIAN_MIRROR:-http://deb.debian.org/debian}

die() { # STATUS MESSAGE
    printf 'fetch_server.sh: %s\n' "$2" >&2
    exit "$1"
}

[ $# -eq 2 ] || die 2 "usage: tests/fetch_server.sh mariadb|mysql|python TARGET_DIR"
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
python)
    suite=sid
    packages=() # known when the index is here
    server=usr/bin/python3
    client=
    ;;
*) die 2 "unknown server '$1': say mariadb, mysql or python" ;;
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
[ ! -x "$target/bin/${server##*/}" ] || { [ -n "$client" ] && [ ! -x "$target/bin/mysql" ]; } || exit 0

# What an interrupted fetch left behind is not worth keeping. bin/ is made last, so that it only
# exists once everything else does.
rm -rf "${target:?}"/{root,apt,bin,bin.new,share,lib}
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

# NAME PROGRAM [OPTIONS [LOADER_OPTIONS]]: writes bin.new/NAME, which runs PROGRAM with its own libraries
wrapper() {
    cat >"$target/bin.new/$1" <<EOF
#!/bin/sh
root=\$(dirname -- "\$(dirname -- "\$(readlink -f -- "\$0")")")/root
exec "\$root/$loader" ${4-} --library-path "\$root/lib/$triplet:\$root/usr/lib/$triplet" \\
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
step() { # ARGUMENTS...: runs apt-get
    apt-get -qq "$@" >"$apt/log" 2>&1 || {
        cat "$apt/log" >&2
        die 1 "apt-get $* failed (see above); is $MIRROR reachable? DEBIAN_MIRROR names another one"
    }
}
step update
if [ "$1" = python ]; then
    packages=("$(apt-cache pkgnames python3. | grep -E '^python3\.[0-9]+$' | sort -V | tail -n 1)")
    server=usr/bin/${packages[0]}
fi
step install --yes --download-only "${packages[@]}"
for package in "$apt"/cache/archives/*.deb; do
    dpkg -x "$package" "$root" || die 1 "cannot unpack $package; is the disk full?"
done

loader=$(cd "$root" && find . -name 'ld-linux*.so.*' -type f -printf '%P\n' | head -n 1)
[ -n "$loader" ] || die 1 "the packages hold no loader for $(dpkg --print-architecture)"
triplet=$(basename "$(dirname "$loader")")
mkdir "$target/bin.new"
# shellcheck disable=SC2016  # the variables are for the wrapper to fill in
if [ "$1" = python ]; then
    # Python finds its library, and its environment, by the name it was called by.
    wrapper python3 "$server" '' '--argv0 "$0"'
    ln -s "root/usr/lib" "$target/lib"
    server=python3 check=(--version)
else
    wrapper "${server##*/}" "$server" \
        '--lc-messages-dir="$root/usr/share/mysql" --character-sets-dir="$root/usr/share/mysql/charsets"'
    wrapper mysql "$client"
    ln -s "root/usr/share" "$target/share"
    check=(--no-defaults --version)
fi
rm -rf "$apt" "$root"/usr/share/{doc,man,locale}
"$target/bin.new/${server##*/}" "${check[@]}" >/dev/null || die 1 "what was fetched does not run here"
mv "$target/bin.new" "$target/bin"
