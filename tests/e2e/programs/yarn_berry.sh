cd "$(mktemp -d)"
export YARN_NPM_REGISTRY_SERVER="$(npm config get registry)" YARN_NODE_LINKER=node-modules YARN_GLOBAL_FOLDER="$PWD/global"
export YARN_NPM_REGISTRY_SERVER="${YARN_NPM_REGISTRY_SERVER%/}" YARN_ENABLE_TELEMETRY=0 CI=1 YARN_ENABLE_IMMUTABLE_INSTALLS=0
echo '{"name": "try"}' >package.json
touch yarn.lock
node /opt/berry/node_modules/@yarnpkg/cli-dist/bin/yarn.js add is-number@7.0.0 >log || { cat log; exit 1; }
ls node_modules
