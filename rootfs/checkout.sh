#!/bin/sh
# Makes the work tree's tracked files those of one commit, with git from the image. Runs inside a sandbox, as its root.
# Must not need the network, and trusts nothing that setup left in .git: what can't be used is made anew.
#
#   in:   HUTCH_WORKTREE HUTCH_COMMIT HUTCH_BRANCH (empty: detached) HUTCH_ORIGIN_URL HUTCH_DEFAULT_BRANCH (may be empty)
#         /run/hutch/git/objects (the mirror's objects, read-only)   /run/hutch/packed-refs (branches and tags of the origin)
#   out:  exit code 0; 127 if there is no git; else one sentence on stderr and 1
#
# Untracked and ignored files stay. What stands where a tracked file has to be is replaced.
set -u
export LC_ALL=C PATH="${PATH:-/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin}"
objects=${HUTCH_OBJECTS:-/run/hutch/git/objects}
packed=${HUTCH_PACKED_REFS:-/run/hutch/packed-refs}

fail() {
    printf 'cannot check out %s in %s: %s\n' "$HUTCH_COMMIT" "$HUTCH_WORKTREE" "$1" >&2
    exit "${2:-1}"
}
command -v git >/dev/null 2>&1 || fail "there is no git in this image; install git in it" 127

# Only these settings count. The image's and setup's own configuration could name programs (filters, fsmonitor) or line
# endings that make the files differ from the commit for everybody who looks later.
for name in $(env | sed -n 's/^\(GIT_[A-Za-z0-9_]*\)=.*/\1/p'); do unset "$name"; done
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_SYSTEM=/dev/null GIT_CONFIG_GLOBAL=/dev/null GIT_ATTR_NOSYSTEM=1
export GIT_TERMINAL_PROMPT=0 GIT_LFS_SKIP_SMUDGE=1 GIT_DEFAULT_HASH=sha1 GIT_DEFAULT_REF_FORMAT=files
export GIT_DIR="$HUTCH_WORKTREE/.git" GIT_WORK_TREE="$HUTCH_WORKTREE"
export GIT_AUTHOR_NAME=Hutch GIT_AUTHOR_EMAIL=hutch@localhost GIT_COMMITTER_NAME=Hutch GIT_COMMITTER_EMAIL=hutch@localhost
quiet_git() {
    git -c core.hooksPath=/dev/null -c core.fsmonitor=false -c core.untrackedCache=false -c core.bare=false \
        -c core.sparseCheckout=false -c core.splitIndex=false -c core.autocrlf=false -c core.fileMode=true -c core.symlinks=true \
        -c gc.auto=0 -c advice.detachedHead=false -c core.logAllRefUpdates=true "$@"
}

# A repository from a snapshot can be used if it is a plain one with this format.
usable() {
    [ -d "$GIT_DIR" ] && [ ! -L "$GIT_DIR" ] && [ ! -e "$GIT_DIR/commondir" ] || return 1
    for part in objects refs; do [ -d "$GIT_DIR/$part" ] || return 1; done
    # A pipe would have git wait for ever, and a link may lead to one. Links to hooks are common, and no hook is run here.
    [ -z "$(find "$GIT_DIR" ! -type f ! -type d ! -path "$GIT_DIR/hooks/*" 2>&1)" ] || return 1
    [ "$(quiet_git config --file "$GIT_DIR/config" --get core.repositoryformatversion 2>/dev/null)" = 0 ] &&
        quiet_git rev-parse --git-dir >/dev/null 2>&1
}

# The old index is kept if there is one: it alone knows which files were tracked and have to go.
make_new() {
    rm -rf "$HUTCH_WORKTREE/.git-index.hutch"
    [ -L "$GIT_DIR" ] || [ ! -f "$GIT_DIR/index" ] || mv -f "$GIT_DIR/index" "$HUTCH_WORKTREE/.git-index.hutch"
    rm -rf "$GIT_DIR" || return 1
    mkdir -p "$GIT_DIR/objects/info" "$GIT_DIR/objects/pack" "$GIT_DIR/refs/heads" "$GIT_DIR/refs/tags" "$GIT_DIR/info" "$GIT_DIR/hooks" || return 1
    [ ! -f "$HUTCH_WORKTREE/.git-index.hutch" ] || mv -f "$HUTCH_WORKTREE/.git-index.hutch" "$GIT_DIR/index"
    echo 'ref: refs/heads/main' >"$GIT_DIR/HEAD"
    printf '[core]\n\trepositoryformatversion = 0\n\tfilemode = true\n\tbare = false\n\tlogallrefupdates = true\n' >"$GIT_DIR/config"
}

# Locks and half-done merges of processes that ended with setup's sandbox.
clear_leftovers() {
    find "$GIT_DIR" -name '*.lock' ! -path "$GIT_DIR/objects/*" -exec rm -rf {} +
    rm -rf "$GIT_DIR/rebase-merge" "$GIT_DIR/rebase-apply" "$GIT_DIR/sequencer"
    rm -f "$GIT_DIR/MERGE_HEAD" "$GIT_DIR/MERGE_MSG" "$GIT_DIR/MERGE_MODE" "$GIT_DIR/CHERRY_PICK_HEAD" "$GIT_DIR/REVERT_HEAD" \
        "$GIT_DIR/BISECT_LOG" "$GIT_DIR/info/grafts" "$GIT_DIR/info/sparse-checkout"
}

# Each git takes a few milliseconds: the settings are listed once, and written only where they differ.
list_config() {
    listed="
$(quiet_git config --file "$GIT_DIR/config" --list 2>/dev/null)
"
}
set_config() {
    case $listed in
        *"
$1="*"
$1="*) ;; # twice
        *"
$1=$2
"*) return 0 ;;
    esac
    quiet_git config --file "$GIT_DIR/config" --replace-all "$1" "$2"
}

# The origin's branches and tags become exactly those of the mirror; local branches stay.
refresh_refs() {
    mkdir -p "$GIT_DIR/objects/info" || return 1
    printf '%s\n' "$objects" >"$GIT_DIR/objects/info/alternates" || return 1
    if [ -s "$objects/info/hutch-shallow" ]; then cp "$objects/info/hutch-shallow" "$GIT_DIR/shallow"; else rm -f "$GIT_DIR/shallow"; fi
    rm -rf "$GIT_DIR/refs/remotes/origin" "$GIT_DIR/refs/tags" && mkdir -p "$GIT_DIR/refs/remotes/origin" "$GIT_DIR/refs/tags" || return 1
    if [ -f "$GIT_DIR/packed-refs" ]; then
        {
            echo '# pack-refs with:' # not "sorted": git sorts it itself then
            # A line beginning with ^ belongs to the ref before it.
            awk '/^#/ {next} /^\^/ {if (keep) print; next} {keep = $2 !~ /^refs\/(remotes\/origin|tags)\//} keep' "$GIT_DIR/packed-refs"
            sed '/^#/d' "$packed"
        } >"$GIT_DIR/packed-refs.hutch"
    else
        cat "$packed" >"$GIT_DIR/packed-refs.hutch"
    fi && mv -f "$GIT_DIR/packed-refs.hutch" "$GIT_DIR/packed-refs" || return 1
    if [ -n "$HUTCH_DEFAULT_BRANCH" ]; then
        printf 'ref: refs/remotes/origin/%s\n' "$HUTCH_DEFAULT_BRANCH" >"$GIT_DIR/refs/remotes/origin/HEAD"
    fi
    list_config
    case $listed in *"
core.worktree="*) quiet_git config --file "$GIT_DIR/config" --unset-all core.worktree ;; esac
    set_config core.bare false && set_config remote.origin.url "$HUTCH_ORIGIN_URL" && set_config remote.origin.fetch '+refs/heads/*:refs/remotes/origin/*'
}

# The index says which files were tracked before. One that can't be read, or that tells git to look away from files, is
# made anew from the last commit.
prepare_index() {
    if [ -e "$GIT_DIR/index" ] &&
        [ "$({ quiet_git ls-files -v 2>/dev/null || echo 'S broken'; } | grep -c '^[a-zS]')" = 0 ]; then
        return 0
    fi
    rm -rf "$GIT_DIR/index"
    quiet_git rev-parse --verify -q 'HEAD^{commit}' >/dev/null && quiet_git read-tree HEAD 2>/dev/null
    return 0
}

set_head() {
    if [ -z "$HUTCH_BRANCH" ]; then
        quiet_git update-ref --no-deref HEAD "$HUTCH_COMMIT"
        return
    fi
    rm -f "$GIT_DIR/refs/heads/$HUTCH_BRANCH" 2>/dev/null # whatever it says, it may be rubbish
    quiet_git update-ref --no-deref "refs/heads/$HUTCH_BRANCH" "$HUTCH_COMMIT" &&
        quiet_git symbolic-ref HEAD "refs/heads/$HUTCH_BRANCH" &&
        set_config "branch.$HUTCH_BRANCH.remote" origin && set_config "branch.$HUTCH_BRANCH.merge" "refs/heads/$HUTCH_BRANCH"
}

check_out() {
    clear_leftovers && refresh_refs && prepare_index || return 1
    # Refresh first: where only times or inodes differ, read-tree would write the file again, into this task's layer.
    if [ -e "$GIT_DIR/index" ]; then quiet_git update-index -q --really-refresh >/dev/null 2>&1; fi
    quiet_git read-tree --reset -u "$HUTCH_COMMIT" && set_head
}

# Setup may have put something else in git's place, which says that all went well.
done_indeed() {
    read -r head <"$GIT_DIR/HEAD" || return 1
    case $head in "ref: "*) read -r head <"$GIT_DIR/${head#ref: }" || return 1 ;; esac
    [ "$head" = "$HUTCH_COMMIT" ]
} 2>/dev/null
must_be_done() {
    done_indeed || fail "$(command -v git) does not do what git does; has setup replaced it?"
}

parent=$(dirname "$HUTCH_WORKTREE")
if [ -L "$parent" ]; then rm -f "$parent"; fi # the result is read below the real one
if [ -L "$HUTCH_WORKTREE" ] || { [ -e "$HUTCH_WORKTREE" ] && [ ! -d "$HUTCH_WORKTREE" ]; }; then rm -f "$HUTCH_WORKTREE"; fi
mkdir -p "$HUTCH_WORKTREE" || fail "the directory can't be made"
cd -P "$HUTCH_WORKTREE" || fail "the directory can't be entered"
umask 022

if usable; then
    if check_out 2>/dev/null; then
        must_be_done
        exit 0
    fi
fi
if [ -e "$GIT_DIR" ] || [ -L "$GIT_DIR" ]; then
    echo "hutch: the repository that setup left can't be used and is made anew" >&2
fi
make_new || fail "a new repository can't be made"
check_out || fail "git refused; its message is above"
must_be_done
