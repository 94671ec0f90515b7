# What the suites share: where their sources come from, and how a result is written down. Sourced, not run.
#
# Nothing of the suites is kept in this repository: they are fetched from Debian's archive as source packages, by apt and
# so with their signatures checked, and built below target/suites.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
work=${SUITES_DIR:-$(cd "$here/../.." && pwd)/target/suites}
mkdir -p "$work"
# Read and written by whoever opens it, so that it never ends: what a program finds on a terminal where nobody types.
[ -p "$work/idle" ] || mkfifo "$work/idle"

# Installs packages that are missing.
need() {
  local package missing=()
  for package in "$@"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
  done
  [ ${#missing[@]} -eq 0 ] && return
  echo "Installing for the suites: ${missing[*]}" >&2
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
}

# The archive that this machine uses.
mirror=${DEBIAN_MIRROR:-$(apt-get indextargets --format '$(ORIGIN) $(LABEL) $(REPO_URI)' 'Created-By: Packages' |
  awk '$1 == "Debian" && $2 == "Debian" { print $3; exit }')}

# apt with an archive of sources of its own: the machine's settings stay as they are.
sources() {
  local apt=$work/apt
  if [ ! -e "$apt/ready" ]; then
    mkdir -p "$apt/lists/partial" "$apt/cache/archives/partial"
    cat >"$apt/apt.conf" <<CONF
Dir::Etc::SourceList "$apt/sources.list";
Dir::Etc::SourceParts "/dev/null";
Dir::State::Lists "$apt/lists";
Dir::Cache "$apt/cache";
APT::Sandbox::User "root";
CONF
    for release in bookworm trixie forky sid; do
      echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror $release main"
    done >"$apt/sources.list"
    APT_CONFIG=$apt/apt.conf apt-get update -qq >&2
    touch "$apt/ready"
  fi
  APT_CONFIG=$apt/apt.conf apt-get "$@"
}
# fetch PACKAGE VERSION DIR: unpacks the upstream source of a Debian source package, once.
fetch() {
  local package=$1 version=$2 dir=$3
  [ -e "$dir" ] && return
  mkdir -p "$work/downloads"
  (cd "$work/downloads" && sources source --download-only --tar-only -qq "$package=$version" >&2)
  mkdir -p "$dir.new"
  tar -xf "$work/downloads/${package}_${version%-*}".orig.tar.* -C "$dir.new" --strip-components=1
  mv "$dir.new" "$dir"
}

# result pass|fail|skip TEST [REMARK]
result() { printf '%s\t%s\t%s\n' "$1" "$2" "${3:-}"; }

# Reads TAP and writes results, with a prefix before each test's name.
results_of_tap() {
  awk -v prefix="$1" '
    /^1\.\.[0-9]+/ { plan = substr($1, 4) + 0 }
    /^(not )?ok / {
      word = /^not ok/ ? "fail" : "pass"
      sub(/^(not )?ok [0-9]+ *(- *)?/, "")
      remark = ""
      if (match($0, / *# ?(SKIP|skip|TODO)/)) {
        remark = substr($0, RSTART + RLENGTH); gsub(/^[ :]+|[ ()]+$/, "", remark)
        word = "skip"
        $0 = substr($0, 1, RSTART - 1)
      }
      sub(/ # timeout after .*/, ""); sub(/ in [0-9]+ms$/, ""); sub(/ +$/, "")
      printf "%s\t%s%s\t%s\n", word, prefix, $0, remark
      count++
    }
    END { if (count < plan) printf "fail\t%sthe rest of the file\tdid not end\n", prefix }'
}
