# Clone and push over ssh, with Debian's client.
cd "$(mktemp -d)"
export GIT_SSH_COMMAND="ssh -o BatchMode=yes -o StrictHostKeyChecking=accept-new"
git clone -q git@git.up.test:/project.git clone 2>&1 | grep -v 'Permanently added' || true
cd clone
git commit -q --allow-empty -m over-ssh && git push -q origin HEAD:refs/heads/over-ssh
git ls-remote --heads origin 'over-*' | cut -f 2
git push -q origin :refs/heads/over-ssh
