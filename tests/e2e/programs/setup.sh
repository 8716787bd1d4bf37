# Everything that is called by tests/e2e/test_programs.py and isn't part of the base image.
(
  npm install --global --no-audit --no-fund --silent yarn pnpm ws
  npm install --prefix /opt/berry --no-audit --no-fund --silent @yarnpkg/cli-dist
  pip install --quiet uv 'httpx[http2]' requests aiohttp websockets grpcio
) &
apt-get update -qq
apt-get install -qq -y default-jdk-headless maven golang-go ruby bundler php-cli php-curl composer >/dev/null
wait $! # fails where that failed
# A Java as archives and version managers bring it: its own list of authorities, of which ours isn't one.
mkdir /opt/unpacked
cd /usr/lib/jvm/default-java
cp -rL bin conf lib release /opt/unpacked 2>/dev/null || true # some links lead to what is in other packages
rm /opt/unpacked/lib/security/cacerts
certificate=$(find /usr/share/ca-certificates -name '*.crt' | head -n 1)
keytool -J-Dkeystore.pkcs12.certProtectionAlgorithm=NONE -J-Dkeystore.pkcs12.macAlgorithm=NONE -importcert -noprompt -alias one \
  -file "$certificate" -keystore /opt/unpacked/lib/security/cacerts -storepass changeit 2>/dev/null
