# Clone, push and fetch over https, both protocol versions.
cd "$(mktemp -d)"
for version in 0 2; do
  git -c protocol.version=$version clone -q https://up.test/git/project.git clone$version
done
cd clone2
head -c 3000000 /dev/urandom >large   # more than http.postBuffer: git sends it in chunks
git add large && git commit -qm large && git push -q origin HEAD:refs/heads/pushed
cd ../clone0 && git fetch -q origin pushed && git diff --stat HEAD FETCH_HEAD | tail -n 1
git push -q origin :refs/heads/pushed
