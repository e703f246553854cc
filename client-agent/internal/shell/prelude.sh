# What scripts written for LTSP find when they run in the agent: the helpers by LTSP's names.
umask 0022
_NL='
'
_LTSP_DIR=/usr/share/ltsp
_VERSION=${_VERSION:-23.02}
BASE_DIR=${BASE_DIR:-/srv/ltsp}
TFTP_DIR=${TFTP_DIR:-/srv/tftp}
HOME_DIR=${HOME_DIR:-/home}

# Text as it is, whatever the shell's own echo makes of backslashes.
echo() { printf '%s\n' "$*"; }

warn() { printf '%s\n' "$*" >&2; }

debug() {
    case ",${LTSP_DEBUG-}," in
    ,1, | *",$_APPLET,"*) warn "$@" ;;
    esac
}

# Ends the shell, and with it the applet.
die() {
    warn "${*:-ltsp gives up}"
    exit 1
}

version() { echo "ltsp $_VERSION"; }

is_command() {
    local _name
    for _name in "$@"; do
        command -v "$_name" >/dev/null 2>&1 || return 1
    done
}

# rwr [!] COMMAND: runs it, complains if it failed (with "!", if it did not), returns its status. The others are made of it: re ends everything,
# rw goes on, rs and rsr are quiet.
rwr() {
    local _expect=ok _status=0 _outcome
    if test "$1" = '!'; then
        _expect=failure
        shift
    fi
    if test "${_RWR_SILENCE-}" = 1; then
        "$@" >/dev/null 2>&1 || _status=$?
    else
        "$@" || _status=$?
    fi
    if test "$_status" = 0; then _outcome=ok; else _outcome=failure; fi
    if test "$_outcome" != "$_expect" && test "${_RWR_SILENCE-}" != 1; then
        warn "LTSP command failed: $*"
    fi
    return "$_status"
}
re() { rwr "$@" || die; }
rw() { rwr "$@" || :; }
rs() {
    local _RWR_SILENCE=1
    rwr "$@" || :
}
rsr() {
    local _RWR_SILENCE=1
    rwr "$@"
}

# echo_vars EXPRESSION [BUT_NOT]: the names of the variables that have a value and match, sorted; echo_values: their values.
echo_vars() {
    local _name _value
    for _name in $(set | LC_ALL=C sed -n 's/^\([A-Za-z_][A-Za-z0-9_]*\)=.*/\1/p' | LC_ALL=C grep -Ex -- "$1" | LC_ALL=C grep -Evx -- "${2:-.^}" | LC_ALL=C sort -u); do
        eval "_value=\${$_name-}"
        test -z "$_value" || echo "$_name"
    done
}
echo_values() {
    local _each _value
    for _each in $(echo_vars "$@"); do
        eval "_value=\${$_each-}"
        echo "$_value"
    done
}

# Expands a text in which % stands for $.
eval_percent() {
    eval "cat <<_LTSP_EOF
$(printf '%s' "$*" | tr '%' '$')
_LTSP_EOF
"
}

textif() { if test -n "$1"; then echo "$2"; else echo "$3"; fi; }
textifb() { if test "${1:-0}" != 0; then echo "$2"; else echo "$3"; fi; }

# run_parts_list [TEST PATTERN] DIRECTORY...: files in the order of their names; of two with one name, that of the later directory.
run_parts_list() {
    local _test=-name _pattern='[0-9]*' _dir _n=10
    case "$1" in
    -*)
        _test=$1
        _pattern=$2
        shift 2
        ;;
    esac
    for _dir in "$@"; do
        test -d "$_dir" || continue
        _n=$((_n + 1))
        find "$_dir" -maxdepth 1 "$_test" "$_pattern" -type f | sed "s|.*/\(.*\)|\1	$_n	&|"
    done | LC_ALL=C sort | awk -F '\t' '$1 != name && file != "" { print file } { name = $1; file = $3 } END { if (file != "") print file }'
}

# Services that are not kept, one a line.
exclude_kept_services() {
    local _kept=$1 _service
    shift
    printf '%s\n' "$*" | sed 's/#.*//' | tr -s ' \t' '\n\n' | while read -r _service; do
        case " $_kept " in
        *" $_service "*) ;;
        *) test -z "$_service" || echo "$_service" ;;
        esac
    done
}

vmount() {
    test "$1" != --no-exit || shift
    echo "mount $*"
    re mount "$@"
}

# Nothing is undone when the applet ends, and what these find out is known.
exit_command() { :; }
network_vars() { :; }
kernel_vars() { :; }
debug_shell() { warn "${*:-no shell here: the agent offers one on the console}"; }
