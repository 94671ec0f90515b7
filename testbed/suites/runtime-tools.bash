# The validation programs of opencontainers/runtime-tools, one test each.

version=0.9.0.109.ge931285-1
source_tree=$work/gopath/src/github.com/opencontainers/runtime-tools

build() {
  need golang-go golang-github-blang-semver-dev golang-github-google-uuid-dev golang-github-hashicorp-go-multierror-dev \
    golang-github-mrunalp-fileutils-dev golang-github-opencontainers-selinux-dev golang-github-opencontainers-specs-dev \
    golang-github-sirupsen-logrus-dev golang-gocapability-dev golang-github-urfave-cli-dev \
    golang-github-xeipuuv-gojsonschema-dev
  fetch golang-github-opencontainers-runtime-tools $version "$source_tree"
  mkdir -p "$work/gopath/src/github.com/mndrix/tap-go" "$source_tree/bin"
  cp "$here/stand-ins/tap.go" "$work/gopath/src/github.com/mndrix/tap-go/"
  export GO111MODULE=off GOPATH=$work/gopath:/usr/share/gocode
  cd "$source_tree"
  # It runs inside of the containers, which have no libraries.
  [ -x runtimetest ] || go build -tags 'netgo osusergo' -ldflags '-extldflags -static' -o runtimetest ./cmd/runtimetest
  local program name
  for program in validation/*/; do
    name=$(basename "$program")
    [ "$name" = util ] || [ -x "bin/$name" ] || go build -o "bin/$name" "./$program"
  done
}

# A program passes if it ends with 0 and has told of nothing that failed; some of them say nothing at all when all is well.
run_suite() {
  local runtime=$1 logs=$2 only=$3 program name code error
  cd "$source_tree"
  export RUNTIME=$runtime
  for program in bin/*; do
    name=${program#bin/}
    [[ $name == *$only* ]] || continue
    code=0
    timeout -k 5 90 "$program" >"$logs/$name.out" 2>"$logs/$name.err" </dev/null || code=$?
    if [ $code -ne 0 ]; then
      result fail "$name" "ends with $code"
    elif grep '^not ok' "$logs/$name.out" | grep -qv '# TODO'; then
      result fail "$name" "$(grep '^not ok' "$logs/$name.out" | grep -v '# TODO' | sed 's/^not ok [0-9]* - //' | sort | uniq -c |
        sed 's/^ *1 //; s/^ *//' | paste -sd '|' | sed 's/|/; /g' | cut -c1-200)"
    elif ! grep -q '^ok' "$logs/$name.out"; then
      error=$(sed -n 's/^ *"error": "\(.*\)".*/\1/p' "$logs/$name.out" | head -1)
      if [ -n "$error" ]; then result fail "$name" "${error%%\\n*}"; else result pass "$name"; fi
    else
      result pass "$name"
    fi
  done
}
