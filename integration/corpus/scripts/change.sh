#!/bin/sh
# Makes $work/image from the image BASE after ACTION was done to its root, which lies in an overlay.
# change.sh BASE ACTION [ARGUMENT...]   run in namespaces of its own, with work and compressor in the environment
set -eu
base=$1 action=$2
shift 2
root=$work/root
mkdir "$work/lower" "$work/upper" "$work/overlay" "$work/lists" "$work/archives" "$root"
mount -t squashfs -o ro,loop "$base" "$work/lower"
mount -t overlay -o "lowerdir=$work/lower,upperdir=$work/upper,workdir=$work/overlay,redirect_dir=on" overlay "$root"

# enter mounts what maintainer scripts expect, and keeps them from starting daemons.
enter() {
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount --bind /dev "$root/dev"
    mkdir -p "$root/dev/pts"
    mount -t devpts devpts "$root/dev/pts"
    mount -t tmpfs tmpfs "$root/run"
    mount -t tmpfs tmpfs "$root/tmp"
    mkdir -p "$root/var/cache/apt/archives"
    mount --bind "$work/archives" "$root/var/cache/apt/archives"
    printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
    chmod 755 "$root/usr/sbin/policy-rc.d"
}

leave() {
    rm "$root/usr/sbin/policy-rc.d"
    umount "$root/var/cache/apt/archives" "$root/tmp" "$root/run" "$root/dev/pts" "$root/dev" "$root/sys" "$root/proc"
}

# This machine's apt works on the root, whose dpkg it calls.
apt() {
    APT_CONFIG=$work/apt.conf apt-get -q -y "$@" </dev/null
}

prepare_apt() {
    mkdir -p "$work/lists/partial" "$work/archives/partial"
    {
        cat "$work/fetch.conf"
        cat <<EOT
Dir "$root/";
Dir::Etc::SourceList "$work/all.list";
Dir::Etc::SourceParts "/dev/null";
Dir::Etc::TrustedParts "$work/keys";
Dir::State::Lists "$work/lists/";
Dir::Cache::pkgcache "";
Dir::Cache::srcpkgcache "";
DPkg::Chroot-Directory "$root";
DPkg::Options { "--force-unsafe-io"; "--force-confdef"; "--force-confold"; };
DPkg::Use-Pty "false";
APT::Install-Recommends "false";
pkgCacheGen::ForceEssential "none";
APT::Sandbox::User "root";
EOT
    } >"$work/apt.conf"
    apt update
}

# upgradable prints those packages with a newer version whose source package is among the arguments.
upgradable() {
    APT_CONFIG=$work/apt.conf apt-get -q -s dist-upgrade | awk '$1 == "Inst" { print $2 }' | sort >"$work/newer"
    # shellcheck disable=SC2016 # dpkg-query's own variables
    dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${source:Package} ${Package}\n' |
        awk -v wanted=" $* " 'index(wanted, " " $1 " ") { print $2 }' | sort | comm -12 - "$work/newer"
}

purge_old_kernels() {
    current=$(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Depends}' linux-image-amd64 2>/dev/null | sed 's/[ ,].*//') || return 0
    old=$(dpkg-query --admindir="$root/var/lib/dpkg" -W -f '${Package} ${Status}\n' 'linux-image-[0-9]*' |
        awk -v current="$current" '$1 != current && $NF != "not-installed" { print $1 }')
    [ -z "$old" ] || apt purge $old
}

edit() {
    mkdir -p "$root/etc/sysctl.d" "$root/etc/modprobe.d" "$root/etc/profile.d" "$root/etc/default"
    echo school-client >"$root/etc/hostname"
    printf '127.0.0.1 localhost\n127.0.1.1 school-client\n::1 localhost ip6-localhost ip6-loopback\n10.0.0.1 server\n' >"$root/etc/hosts"
    echo 'Welcome to the computer room. Save your work in your home folder.' >"$root/etc/motd"
    echo 'School client \n \l' >"$root/etc/issue"
    printf 'PATH="/usr/local/bin:/usr/bin:/bin:/usr/local/games:/usr/games"\nSCHOOL=1\n' >"$root/etc/environment"
    echo 'vm.swappiness = 10' >"$root/etc/sysctl.d/60-school.conf"
    echo 'blacklist pcspkr' >"$root/etc/modprobe.d/school.conf"
    echo 'umask 027' >"$root/etc/profile.d/school.sh"
    echo 'LANG=C.UTF-8' >"$root/etc/default/locale"
    useradd --root "$root" --uid 1000 --shell /bin/bash --comment 'Guest' guest
    mkdir -p "$root/usr/share/backgrounds"
    cp "$work/wallpaper" "$root/usr/share/backgrounds/school.jpg"
}

export DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8
case $action in
upgrade)
    enter
    prepare_apt
    list=$(upgradable "$@")
    [ -n "$list" ] || { echo "no update of $*" >&2; exit 1; }
    apt install --only-upgrade $list
    leave
    ;;
full)
    enter
    prepare_apt
    apt dist-upgrade
    purge_old_kernels
    apt autoremove --purge
    leave
    ;;
install)
    enter
    prepare_apt
    apt install "$@"
    leave
    ;;
edit) edit ;;
copy) ;;
*) echo "unknown action $action" >&2; exit 2 ;;
esac
echo "CORPUS: $action done"

dpkg-query --admindir="$root/var/lib/dpkg" -W >"$work/packages"
mksquashfs "$root" "$work/image" -noappend -no-progress -comp "$compressor" -mkfs-time 0 -wildcards -ef "$work/excludes"
