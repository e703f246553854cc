#!/bin/sh
# Makes $work/root, a root file system of the packages given, and $work/image of it.
# bootstrap.sh RELEASE BASE PACKAGE...   run in namespaces of its own, with work and compressor in the environment
set -eu
release=$1 base=$2
shift 2
packages=$(echo "$*" | tr ' ' ',')

cat >"$work/setup" <<'EOT'
#!/bin/sh
set -eu
: >"$1/etc/fstab"
: >"$1/etc/machine-id"
rm -f "$1/etc/hostname" "$1/etc/resolv.conf" "$1/etc/apt/apt.conf.d/99mmdebstrap" "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"
EOT
chmod 755 "$work/setup"

set --
while IFS= read -r option; do set -- "$@" "--aptopt=$option"; done <"$work/fetch.conf"
mmdebstrap --mode=root --variant="$base" --include="$packages" --customize-hook="$work/setup" --keyring="$work/keys" \
    --dpkgopt=force-unsafe-io --aptopt='APT::Sandbox::User "root"' "$@" "$release" "$work/root" "$work/release.list"
echo "CORPUS: root installed"

dpkg-query --admindir="$work/root/var/lib/dpkg" -W >"$work/packages"
mksquashfs "$work/root" "$work/image" -noappend -no-progress -comp "$compressor" -mkfs-time 0 -wildcards -ef "$work/excludes"
