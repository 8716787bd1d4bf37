# What automatic setup's steps use. Read by any POSIX shell, as root, in the repository's directory. Tools that an image lacks
# come by its apt, or to a directory of their own below /opt/hutch, so that they never meet a project's packages.
hutch_root=$PWD hutch_apt_updated='' hutch_title=''
export CI=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_INPUT=1 PIP_BREAK_SYSTEM_PACKAGES=1 PIP_ROOT_USER_ACTION=ignore

hutch_step() {
    hutch_title=$1
    printf '\n== %s\n' "$hutch_title"
}

hutch_failed() {
    set -- $?
    [ "$1" -ne 0 ] || set -- 1
    printf 'automatic setup failed with exit code %s at: %s\n' "$1" "$hutch_title" >&2
    printf 'give a script of your own with --setup, or do without with --no-setup\n' >&2
    exit "$1"
}

hutch_skipped() {
    printf 'automatic setup goes on without what could not be fetched: %s\n' "$hutch_title" >&2
}

# COMMAND PACKAGE…: Debian's packages, where there is no such command.
hutch_apt() {
    ! command -v "$1" >/dev/null 2>&1 || return 0
    if ! command -v apt-get >/dev/null 2>&1; then
        printf 'there is no %s in this image, and no apt-get to install it with\n' "$1" >&2
        return 1
    fi
    shift
    if [ -z "$hutch_apt_updated" ]; then
        apt-get update -qq || return
        hutch_apt_updated=yes
    fi
    apt-get install -qq -y --no-install-recommends "$@" >/dev/null
}

# COMMAND: what is in its directory becomes this script's, and everybody's unless there is one already.
hutch_use() {
    PATH=$hutch_place/bin:$PATH
    export PATH
    hash -r
    [ -e "/usr/local/bin/$1" ] || { mkdir -p /usr/local/bin && ln -sf "$hutch_place/bin/$1" "/usr/local/bin/$1"; }
}

hutch_node() {
    hutch_apt node nodejs && hutch_apt npm npm
}

# COMMAND PACKAGE VERSION [BEGINNING…]: by npm. A version of the image that begins so will do as well.
hutch_npm_tool() {
    hutch_node || return
    hutch_command=$1 hutch_package=$2 hutch_version=$3
    shift 3
    if command -v "$hutch_command" >/dev/null 2>&1; then
        # Not in the project, where a manager would begin to fetch the version that is asked for there.
        hutch_have=$(cd / && "$hutch_command" --version 2>/dev/null) || hutch_have=''
        [ "$hutch_have" != "$hutch_version" ] || return 0
        for hutch_beginning; do
            case $hutch_have in "$hutch_beginning"*) return 0 ;; esac
        done
    fi
    set -- "$hutch_command" "$hutch_package" "$hutch_version"
    hutch_place=/opt/hutch/$1-$3
    [ -x "$hutch_place/bin/$1" ] ||
        npm install --global --prefix "$hutch_place" --no-audit --no-fund --no-update-notifier --loglevel error "$2@$3" || return
    hutch_use "$1"
}

# COMMAND: by pip, in a virtual environment of its own.
hutch_pip_tool() {
    ! command -v "$1" >/dev/null 2>&1 || return 0
    hutch_python || return
    hutch_place=/opt/hutch/$1
    [ -x "$hutch_place/bin/$1" ] || hutch_pip_place "$1" || return
    hutch_use "$1"
}

# PACKAGE: by the pip that is here, which saves many seconds; one older than 22.3 can't, and has to make another. What is used is
# compiled when it is.
hutch_pip_place() {
    python3 -m venv --without-pip "$hutch_place" || return
    if python3 -m pip --help | grep -q -e '--python '; then
        python3 -m pip --python "$hutch_place/bin/python3" install -q --no-compile "$1"
    else
        python3 -m venv "$hutch_place" && "$hutch_place/bin/pip" install -q --no-compile "$1"
    fi
}

hutch_python() {
    hutch_apt python3 python3 && { python3 -c 'import pip, venv, ensurepip' 2>/dev/null || hutch_apt '' python3-pip python3-venv; }
}

hutch_java() {
    hutch_apt java default-jdk-headless || return
    # The filter's authority for a Java that has just come.
    if [ -r /etc/hutch/java-trust.sh ]; then . /etc/hutch/java-trust.sh; fi
}

# GROUP…: dependency groups (PEP 735) of the pyproject.toml here, where pip knows them.
hutch_pip_groups() {
    if ! python3 -m pip install --help | grep -q -e --group; then
        printf 'pip is older than 25.1 here and knows no dependency groups: %s left out\n' "$*" >&2
        return 0
    fi
    for hutch_group; do
        shift
        set -- "$@" --group "$hutch_group"
    done
    python3 -m pip install "$@"
}

# Yarn asks the registry that npm asks, which is where this sandbox's packages come from, unless somebody said otherwise.
hutch_yarn_registry() {
    hutch_registry=$(npm config get registry 2>/dev/null) || return 0
    case $hutch_registry in
        http*) export YARN_REGISTRY="${YARN_REGISTRY-$hutch_registry}" YARN_NPM_REGISTRY_SERVER="${YARN_NPM_REGISTRY_SERVER-${hutch_registry%/}}" ;;
    esac
}

# FILE: a lock file that the repository has not, gone again unless it is ignored there.
hutch_drop() {
    git check-ignore -q -- "$1" 2>/dev/null || rm -f -- "$1"
}

# PATTERN…: leave the work tree as it was: tracked files as committed, everything else known to git as excluded.
hutch_settle() {
    command -v git >/dev/null 2>&1 && [ -d "$hutch_root/.git" ] || return 0
    cd "$hutch_root" || return 0
    hutch_changed=$(git -c core.fsmonitor=false diff --name-only HEAD -- | head -n 5)
    if [ -n "$hutch_changed" ]; then
        printf 'put back as committed: %s\n' "$hutch_changed"
        git -c core.hooksPath=/dev/null -c core.fsmonitor=false checkout -q -f HEAD -- . || return 0
    fi
    mkdir -p .git/info
    for hutch_pattern; do
        grep -qxF -e "$hutch_pattern" .git/info/exclude 2>/dev/null || printf '%s\n' "$hutch_pattern" >>.git/info/exclude
    done
    # Names in quotes have characters that no pattern can be trusted with.
    git -c core.fsmonitor=false ls-files --others --exclude-standard --directory --no-empty-directory |
        sed -e '/^"/d' -e 's/[][*?\\!# ]/\\&/g' -e 's|^|/|' >.git/info/exclude.hutch
    cat .git/info/exclude.hutch >>.git/info/exclude
    rm -f .git/info/exclude.hutch
}
