# Each version towards the filter, whatever the server has.
for host in up old.up new.up; do
  for version in 1.2 1.3; do
    curl -sS --tlsv$version --tls-max $version "https://$host.test/hello/tls_versions"
  done
done
