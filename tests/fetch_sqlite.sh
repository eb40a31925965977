#!/usr/bin/env bash
# Builds the oldest SQLite that the ledger has to do with, 3.26 of RHEL 8, for the tests:
#
#   tests/fetch_sqlite.sh TARGET_DIR
#
# Its source is inside version 4.0.6 of the npm package sqlite3. Afterwards a Python that links SQLite
# dynamically, as Debian's does, takes it with LD_LIBRARY_PATH=TARGET_DIR. When it is there already,
# nothing is done.
#
# Exit status: 0 there, 1 the fetch or the build failed, 3 not possible on this kind of host.
set -euo pipefail

[ $# -eq 1 ] || { echo "usage: tests/fetch_sqlite.sh TARGET_DIR" >&2; exit 2; }
for tool in npm cc tar; do
    command -v "$tool" >/dev/null || { echo "fetch_sqlite.sh: this host has no $tool" >&2; exit 3; }
done
mkdir -p "$1"
target=$(cd "$1" && pwd)
[ ! -e "$target/libsqlite3.so.0" ] || exit 0

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
npm pack --silent sqlite3@4.0.6 >/dev/null
tar -xzf sqlite3-4.0.6.tgz package/deps/sqlite-autoconf-3260000.tar.gz
tar -xzf package/deps/sqlite-autoconf-3260000.tar.gz
# What Python's module was compiled for, and no more.
options="-DSQLITE_ENABLE_DESERIALIZE -DSQLITE_ENABLE_LOAD_EXTENSION"
# shellcheck disable=SC2086  # the words are options
cc -O1 -w -shared -fPIC $options -o "$target/libsqlite3.new" sqlite-autoconf-3260000/sqlite3.c \
    -lpthread -ldl -lm
mv "$target/libsqlite3.new" "$target/libsqlite3.so.0"
