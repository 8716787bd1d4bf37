# A module from a private proxy of modules. `go` fetches it itself, with the HTTP and TLS that every Go program has.
cd "$(mktemp -d)"
export GOPROXY=https://up.test/files/go GONOSUMDB='*' GOMODCACHE="$PWD/cache" GOFLAGS=-modcacherw HOME="$PWD"
cat >go.mod <<'EOF'
module try

go 1.18

require up.test/hello v1.0.0
EOF
env -i HTTPS_PROXY="${HTTPS_PROXY-}" PATH="$PATH" HOME="$HOME" GOPROXY="$GOPROXY" GONOSUMDB='*' GOMODCACHE="$PWD/bare" go mod download
go mod download
cat cache/up.test/hello@v1.0.0/hello.go
