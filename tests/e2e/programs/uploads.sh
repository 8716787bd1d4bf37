# Uploads with a length, in chunks, and after asking first (Expect: 100-continue).
head -c 10000000 /dev/zero >/tmp/large
for version in --http1.1 --http2; do
  curl -sS $version --data-binary @/tmp/large https://up.test/upload
  curl -sS $version -T - https://up.test/upload </tmp/large
  curl -sS $version -T /tmp/large -H 'Expect: 100-continue' https://up.test/upload
done
