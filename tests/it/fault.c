/* Faults of the disk, for tests: preloaded into the program, it fails the n-th call that changes a file
 * below a folder.
 *
 *   FAULT_DIR   the folder
 *   FAULT_CALLS which calls count, comma separated; all if absent
 *   FAULT_AT    which of them fails, from 1
 *   FAULT_KIND  kill: end the process before the call; torn: write half, then end; eio: fail with EIO from
 *               this call on
 *   FAULT_FLAG  count only while this file exists
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

static atomic_int calls;

static int below(const char *path) {
    const char *dir = getenv("FAULT_DIR");
    return dir && strncmp(path, dir, strlen(dir)) == 0;
}

static int fd_below(int fd) {
    char link[64], path[PATH_MAX];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return below(path);
}

static int counts(const char *call) {
    const char *listed = getenv("FAULT_CALLS"), *flag = getenv("FAULT_FLAG");
    return (!listed || strstr(listed, call)) && (!flag || access(flag, F_OK) == 0);
}

/* 1 if the call must fail now. */
static int due(const char *call) {
    const char *at = getenv("FAULT_AT"), *kind = getenv("FAULT_KIND");
    if (!at || !kind || !counts(call)) return 0;
    int number = atomic_fetch_add(&calls, 1) + 1;
    if (!strcmp(kind, "eio")) return number >= atoi(at);
    if (number != atoi(at)) return 0;
    if (!strcmp(kind, "kill")) kill(getpid(), SIGKILL);
    return 1;
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF_DUE(call) \
    if (due(call)) {      \
        errno = EIO;      \
        return -1;        \
    }

static int torn(void) {
    const char *kind = getenv("FAULT_KIND");
    return kind && !strcmp(kind, "torn");
}

ssize_t write(int fd, const void *bytes, size_t length) {
    if (fd_below(fd) && due("write")) {
        if (torn()) { REAL(write)(fd, bytes, length / 2); kill(getpid(), SIGKILL); }
        errno = EIO;
        return -1;
    }
    return REAL(write)(fd, bytes, length);
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    if (fd_below(fd) && due("write")) {
        if (torn()) { REAL(pwrite64)(fd, bytes, length / 2, offset); kill(getpid(), SIGKILL); }
        errno = EIO;
        return -1;
    }
    return REAL(pwrite64)(fd, bytes, length, offset);
}

int fdatasync(int fd) {
    if (fd_below(fd)) FAIL_IF_DUE("sync")
    return REAL(fdatasync)(fd);
}

int fsync(int fd) {
    if (fd_below(fd)) FAIL_IF_DUE("sync")
    return REAL(fsync)(fd);
}

int ftruncate64(int fd, off64_t length) {
    if (fd_below(fd)) FAIL_IF_DUE("truncate")
    return REAL(ftruncate64)(fd, length);
}

int rename(const char *from, const char *to) {
    if (below(to)) FAIL_IF_DUE("rename")
    return REAL(rename)(from, to);
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    if (below(to)) FAIL_IF_DUE("linkat")
    return REAL(linkat)(from_dir, from, to_dir, to, flags);
}

int unlink(const char *path) {
    if (below(path)) FAIL_IF_DUE("unlink")
    return REAL(unlink)(path);
}

int mkdir(const char *path, mode_t mode) {
    if (below(path)) FAIL_IF_DUE("mkdir")
    return REAL(mkdir)(path, mode);
}
