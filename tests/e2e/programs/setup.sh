# Everything that is called by tests/e2e/test_programs.py and isn't part of the base image.
apt-get update -qq
apt-get install -qq -y default-jdk-headless maven golang-go ruby bundler php-cli php-curl composer >/dev/null
npm install --global --no-audit --no-fund --silent yarn pnpm ws
npm install --prefix /opt/berry --no-audit --no-fund --silent @yarnpkg/cli-dist
pip install --quiet uv 'httpx[http2]' requests aiohttp websockets grpcio
