# crun's own tests: Python programs that take the runtime's path, and options that only crun has (`run --config`).

version=1.21-1
source_tree=$work/crun

build() {
  need gcc libc6-dev libseccomp-dev python3
  fetch crun $version "$source_tree"
  cd "$source_tree"
  # What their configure would find out; the program that plays the container's command needs no more.
  mkdir -p stand-in
  printf '#define HAVE_LINUX_IOPRIO_H 1\n#define HAVE_SECCOMP 1\n' >stand-in/config.h
  [ -x tests/init ] || gcc -O1 -w -static -Istand-in -o tests/init tests/init.c
}

run_suite() {
  local runtime=$1 logs=$2 only=$3 program name
  # Each run in a copy: the tests write beside themselves.
  rm -rf "$logs/tests" && cp -r "$source_tree/tests" "$logs/tests" && cd "$logs/tests"
  export OCI_RUNTIME=$runtime INIT=$PWD/init PYTHONPATH=$here/stand-ins PYTHONDONTWRITEBYTECODE=1
  for program in test_*.py; do
    name=${program%.py} name=${name#test_}
    [[ $name == *$only* ]] || continue
    timeout -k 5 120 script -qec "/usr/bin/python3 $program >../$name.out 2>../$name.err" /dev/null <>"$work/idle" >/dev/null || true
    results_of_tap "$name: " <"../$name.out"
  done
}
