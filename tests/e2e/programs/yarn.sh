# The classic one.
cd "$(mktemp -d)"
export YARN_REGISTRY="$(npm config get registry)" YARN_CACHE_FOLDER="$PWD/cache"
echo '{}' >package.json
yarn add --silent --no-lockfile --registry "$YARN_REGISTRY" is-number@7.0.0
ls node_modules
