# Downloads that were cut go on where they stopped, with curl and with wget.
cd "$(mktemp -d)"
file=https://up.test/files/large
curl -sS -o whole $file
for tool in curl wget; do
  head -c 1000000 whole >$tool
  case $tool in
    curl) curl -sS -C - -o curl -w '%{http_code} %{size_download}\n' $file ;;
    wget) wget -S -c -O wget $file 2>&1 | grep '^ *HTTP/' | grep -o ' 206' ;;
  esac
  cmp whole $tool
done
