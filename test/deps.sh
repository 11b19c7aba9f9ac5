#!/bin/sh
# Installs the Debian packages that the tests use, if something is missing and
# this is root on Debian or Ubuntu. Without them the tests that need them skip
# and say so.
set -eu

missing=
need() { # program package
	command -v "$1" >/dev/null 2>&1 || [ -x "/usr/sbin/$1" ] || missing="$missing $2"
}
need nginx nginx-light
need haproxy haproxy
need apache2ctl apache2
need stunnel4 stunnel4
need hitch hitch
need keytool default-jre-headless
need getfacl acl
need fusermount3 fuse3
need openssl openssl
need curl curl
need useradd passwd
need gcc gcc
need inotifywait inotify-tools
need incrond incron
need entr entr
need etcd etcd-server
need prometheus-node-exporter prometheus-node-exporter
need promtool prometheus
need systemd-analyze systemd
need nsenter util-linux
need dbus-daemon dbus
need pkcheck polkitd
# Debian has the server in no path.
ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || missing="$missing postgresql"

[ -n "$missing" ] || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
	echo "deps: not installed:$missing; some tests will skip" >&2
	exit 0
fi
echo "deps: installing$missing"
export DEBIAN_FRONTEND=noninteractive
# The services are for the tests to start, not for the machine.
apt-get update -qq
# Images without manuals lack the directories in which Java's and PostgreSQL's
# packages put links.
mkdir -p /usr/share/man/man1 /usr/share/man/man7
# shellcheck disable=SC2086
RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $missing >/dev/null
