# runc's integration tests, which are written for bats.

version=1.3.6+ds1-1
source_tree=$work/runc

build() {
  need bats gawk jq curl golang-go golang-github-containerd-console-dev golang-github-opencontainers-runc-dev \
    golang-github-opencontainers-specs-dev golang-github-urfave-cli-dev busybox-static mmdebstrap gcc libc6-dev libseccomp-dev \
    pkg-config golang-github-seccomp-libseccomp-golang-dev
  fetch runc $version "$source_tree"
  images
  cd "$source_tree/tests/cmd"
  # Debian 12 has the libraries of runc 1.1, in which this function has its old name.
  sed -i 's/utils\.RecvFile/utils.RecvFd/' ./*/*.go
  local helper
  export GO111MODULE=off GOPATH=/usr/share/gocode
  for helper in fs-idmap pidfd-kill recvtty remap-rootfs seccompagent; do
    [ -x "_bin/$helper" ] || (cd $helper && go build -tags seccomp -o "../_bin/$helper" .)
  done
}

# In place of the two images that their script would download: one of busybox alone, and a small Debian.
images() {
  local busybox=$work/busybox applet
  if [ ! -e "$busybox.tar" ]; then
    rm -rf "$busybox"
    mkdir -p "$busybox"/{bin,dev,etc,home,lib,root,tmp,usr/bin,usr/sbin,var/run,var/spool,var/www}
    chmod 1777 "$busybox/tmp"
    cp /bin/busybox "$busybox/bin/"
    for applet in $(/bin/busybox --list); do
      [ "$applet" = busybox ] || ln -s busybox "$busybox/bin/$applet"
    done
    printf '%s\n' root:x:0:0:root:/root:/bin/sh daemon:x:1:1:daemon:/usr/sbin:/bin/false \
      mail:x:8:8:mail:/var/spool/mail:/bin/false www-data:x:33:33:www-data:/var/www:/bin/false \
      nobody:x:65534:65534:nobody:/home:/bin/false >"$busybox/etc/passwd"
    printf '%s\n' root:x:0: daemon:x:1: tty:x:5: mail:x:8: users:x:100: nobody:x:65534: >"$busybox/etc/group"
    tar -C "$busybox" -cf "$busybox.tar.new" . && mv "$busybox.tar.new" "$busybox.tar"
  fi
  if [ ! -e "$work/debian.tar" ]; then
    mmdebstrap --quiet --variant=essential --dpkgopt='path-exclude=/usr/share/doc/*' \
      --dpkgopt='path-exclude=/usr/share/locale/*' bookworm "$work/debian.new.tar" "deb $mirror bookworm main" >&2
    mv "$work/debian.new.tar" "$work/debian.tar"
  fi
  cat >"$source_tree/tests/integration/get-images.sh" <<SCRIPT
#!/bin/sh
echo BUSYBOX_IMAGE=$busybox.tar
echo DEBIAN_IMAGE=$work/debian.tar
SCRIPT
}

run_suite() {
  local runtime=$1 logs=$2 only=$3 file name
  cd "$source_tree/tests/integration"
  export RUNC=$runtime BATS_TEST_TIMEOUT=60
  for file in *.bats; do
    name=${file%.bats}
    [[ $name == *$only* ]] || continue
    # bats without a pretty printer, but with a terminal: many containers of theirs want one.
    timeout -k 5 600 script -qec "bats --formatter tap --print-output-on-failure $file >$logs/$name.out 2>$logs/$name.err" \
      /dev/null <>"$work/idle" >/dev/null || true
    results_of_tap "$name: " <"$logs/$name.out"
  done
}
