# shellcheck shell=bash
# shellcheck disable=SC2034 # what is set here is used by those who source it
# What the scripts share. Sourced, after `set -euo pipefail`; goes to the top of the project.

cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit

# Debian keeps `ip` and `aoeping` where the PATH of ordinary users does not look.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# Under CI the committed lock files must be right; elsewhere cargo may mend them.
LOCKED=()
if [ "${CI:-}" = true ]; then
    LOCKED=(--locked)
fi

say() {
    printf '== %s\n' "$*" >&2
}

# Says what is wrong and what to do about it, a line each, and ends.
die() {
    printf 'error: %s\n' "$1" >&2
    shift
    if [ $# -gt 0 ]; then
        printf '       %s\n' "$@" >&2
    fi
    exit 2
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Sets NAMESPACE to what has to stand before a command so that it may make network namespaces:
# nothing for root, a user namespace for others. Fails when neither helps.
find_namespace() {
    NAMESPACE=()
    if unshare --net true 2>/dev/null; then
        return
    fi
    if unshare --user --map-root-user unshare --net true 2>/dev/null; then
        NAMESPACE=(unshare --user --map-root-user)
        return
    fi
    return 1
}

# What to tell somebody who may have no namespaces.
NO_NAMESPACE=(
    "Either run this as root (in a container: with CAP_SYS_ADMIN and CAP_NET_ADMIN),"
    "or allow user namespaces: sysctl user.max_user_namespaces=16384, and, where there are such"
    "settings, kernel.unprivileged_userns_clone=1 or kernel.apparmor_restrict_unprivileged_userns=0."
)
