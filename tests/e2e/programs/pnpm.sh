cd "$(mktemp -d)"
echo '{}' >package.json
pnpm add --silent --store-dir store --config.fetch-retries=0 is-number@7.0.0
ls node_modules
