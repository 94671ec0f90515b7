/* The floor: the fewest system calls that put a command into an image of layers with a scratch top, as an ordinary user.
 *
 * usage: floor LAYERS COMMAND [ARGUMENT...]    LAYERS: lower folders, topmost first, separated by colons
 *
 * It makes a user and a mount namespace with one's own ids mapped one to one, an overlay of the layers with its top on a
 * tmpfs, binds the host's /dev, /proc, /sys and /tmp into it, makes it the root, and executes the command in place: what
 * `berth run` does, without an image store, a configuration or an error message worth reading. */
#define _GNU_SOURCE
#include <err.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

static void put(const char *file, const char *text) {
  int fd = open(file, O_WRONLY | O_CLOEXEC);
  if (fd < 0 || write(fd, text, strlen(text)) < 0) err(125, "%s", file);
  close(fd);
}

int main(int argc, char **argv) {
  static const char *const binds[][2] = {
    {"/dev", "root/dev"}, {"/proc", "root/proc"}, {"/sys", "root/sys"}, {"/tmp", "root/tmp"}};
  static char options[1 << 16];
  char map[64];
  unsigned uid = getuid(), gid = getgid();

  if (argc < 3) errx(125, "usage: floor LAYERS COMMAND [ARGUMENT...]");
  if (unshare(CLONE_NEWUSER | CLONE_NEWNS)) err(125, "unshare");
  put("/proc/self/setgroups", "deny");
  snprintf(map, sizeof map, "%u %u 1", uid, uid);
  put("/proc/self/uid_map", map);
  snprintf(map, sizeof map, "%u %u 1", gid, gid);
  put("/proc/self/gid_map", map);

  if (mount(0, "/", 0, MS_PRIVATE | MS_REC, 0)) err(125, "private mounts");
  /* /mnt is as good as any folder that is there and not among the binds. */
  if (mount("tmpfs", "/mnt", "tmpfs", 0, 0)) err(125, "tmpfs");
  if (chdir("/mnt") || mkdir("root", 0755) || mkdir("upper", 0755) || mkdir("work", 0755)) err(125, "/mnt");
  snprintf(options, sizeof options, "lowerdir=%s,upperdir=upper,workdir=work,userxattr", argv[1]);
  if (mount("overlay", "root", "overlay", 0, options)) err(125, "overlay");
  for (unsigned at = 0; at < sizeof binds / sizeof *binds; at++)
    if (mount(binds[at][0], binds[at][1], 0, MS_BIND | MS_REC, 0)) err(125, "bind %s", binds[at][0]);
  if (chdir("root")) err(125, "root");
  if (syscall(SYS_pivot_root, ".", ".") || umount2(".", MNT_DETACH) || chdir("/")) err(125, "pivot_root");
  execv(argv[2], argv + 2);
  err(127, "%s", argv[2]);
}
