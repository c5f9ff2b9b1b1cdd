/* Disk faults for tests: a library that is preloaded into the program. It fails the n-th call that changes a
 * file below a folder, and records the calls that succeed.
 *
 *   FAULT_DIR   the folder
 *   FAULT_CALLS which calls count, comma separated; all if absent
 *   FAULT_AT    which of them fails, from 1
 *   FAULT_KIND  kill: end the process before the call; torn: write half, then end; eio: fail with EIO from
 *               this call on; enospc: fail with ENOSPC from this call on, only calls that need space, and
 *               write half of what is written
 *   FAULT_COUNT number of calls that fail with enospc; all that follow if absent
 *   FAULT_FLAG  count only while this file exists
 *   FAULT_TRACE a file that gets a line for each call below the folder that succeeded, and for each response
 *               of HTTP that says 200: name, inode and paths, separated by tabs
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <unistd.h>

static atomic_int calls;

static int below(const char *path) {
    const char *dir = getenv("FAULT_DIR");
    return dir && strncmp(path, dir, strlen(dir)) == 0;
}

/* The path of a descriptor; 0 if it has none. */
static int path_of(int fd, char *path) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = readlink(link, path, PATH_MAX - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return 1;
}

static int fd_below(int fd) {
    char path[PATH_MAX];
    return path_of(fd, path) && below(path);
}

static int is_kind(const char *name) {
    const char *kind = getenv("FAULT_KIND");
    return kind && !strcmp(kind, name);
}

static int counts(const char *call) {
    const char *listed = getenv("FAULT_CALLS"), *flag = getenv("FAULT_FLAG");
    return (!listed || strstr(listed, call)) && (!flag || access(flag, F_OK) == 0);
}

/* 1 if the call must fail now. */
static int due(const char *call) {
    const char *at = getenv("FAULT_AT"), *count = getenv("FAULT_COUNT");
    if (!at || !getenv("FAULT_KIND") || !counts(call)) return 0;
    int number = atomic_fetch_add(&calls, 1) + 1;
    if (is_kind("enospc")) return number >= atoi(at) && (!count || number < atoi(at) + atoi(count));
    if (is_kind("eio")) return number >= atoi(at);
    if (number != atoi(at)) return 0;
    if (is_kind("kill")) kill(getpid(), SIGKILL);
    return 1;
}

static int failed(void) {
    errno = is_kind("enospc") ? ENOSPC : EIO;
    return -1;
}

static void trace(const char *call, ino_t inode, const char *path, const char *to) {
    static atomic_int descriptor = -1;
    const char *name = getenv("FAULT_TRACE");
    if (!name) return;
    int saved = errno, fd = atomic_load(&descriptor);
    if (fd < 0) {
        int none = -1, opened = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644);
        if (atomic_compare_exchange_strong(&descriptor, &none, opened)) fd = opened;
        else {
            syscall(SYS_close, opened);
            fd = none;
        }
    }
    char line[2 * PATH_MAX + 64];
    int length = snprintf(line, sizeof line, "%s\t%lu\t%s\t%s\n", call, (unsigned long)inode, path, to);
    syscall(SYS_write, fd, line, length);
    errno = saved;
}

static void trace_fd(const char *call, int fd) {
    char path[PATH_MAX];
    struct stat found;
    if (getenv("FAULT_TRACE") && path_of(fd, path) && below(path) && !fstat(fd, &found))
        trace(call, found.st_ino, path, "");
}

static ino_t inode_of(const char *path) {
    struct stat found;
    return lstat(path, &found) ? 0 : found.st_ino;
}

static void trace_answer(const void *bytes, size_t length) {
    static const char start[] = "HTTP/1.1 200";
    if (length >= sizeof start - 1 && !memcmp(bytes, start, sizeof start - 1)) trace("answer", 0, "", "");
}

#define REAL(name) ((typeof(&name))dlsym(RTLD_NEXT, #name))
#define FAIL_IF_DUE(call) \
    if (due(call)) return failed();
/* For calls that need no space. */
#define FAIL_IF_BROKEN(call) \
    if (!is_kind("enospc")) FAIL_IF_DUE(call)

ssize_t write(int fd, const void *bytes, size_t length) {
    int is_ours = fd_below(fd);
    if (is_ours && due("write")) {
        if (is_kind("torn") || is_kind("enospc")) REAL(write)(fd, bytes, length / 2);
        if (is_kind("torn")) kill(getpid(), SIGKILL);
        return failed();
    }
    if (!is_ours) trace_answer(bytes, length);
    ssize_t written = REAL(write)(fd, bytes, length);
    if (is_ours && written >= 0) trace_fd("write", fd);
    return written;
}

ssize_t pwrite64(int fd, const void *bytes, size_t length, off64_t offset) {
    int is_ours = fd_below(fd);
    if (is_ours && due("write")) {
        if (is_kind("torn") || is_kind("enospc")) REAL(pwrite64)(fd, bytes, length / 2, offset);
        if (is_kind("torn")) kill(getpid(), SIGKILL);
        return failed();
    }
    ssize_t written = REAL(pwrite64)(fd, bytes, length, offset);
    if (is_ours && written >= 0) trace_fd("write", fd);
    return written;
}

ssize_t writev(int fd, const struct iovec *parts, int count) {
    if (count > 0) trace_answer(parts[0].iov_base, parts[0].iov_len);
    return REAL(writev)(fd, parts, count);
}

ssize_t send(int fd, const void *bytes, size_t length, int flags) {
    trace_answer(bytes, length);
    return REAL(send)(fd, bytes, length, flags);
}

int fdatasync(int fd) {
    if (fd_below(fd)) FAIL_IF_BROKEN("sync")
    int done = REAL(fdatasync)(fd);
    if (!done) trace_fd("sync", fd);
    return done;
}

int fsync(int fd) {
    if (fd_below(fd)) FAIL_IF_BROKEN("sync")
    int done = REAL(fsync)(fd);
    if (!done) trace_fd("sync", fd);
    return done;
}

int ftruncate64(int fd, off64_t length) {
    if (fd_below(fd)) FAIL_IF_BROKEN("truncate")
    int done = REAL(ftruncate64)(fd, length);
    if (!done) trace_fd("write", fd);
    return done;
}

int open64(const char *path, int flags, ...) {
    mode_t mode = 0;
    if (flags & O_CREAT) {
        va_list rest;
        va_start(rest, flags);
        mode = va_arg(rest, mode_t);
        va_end(rest);
    }
    int is_ours = (flags & O_CREAT) && below(path);
    int is_new = is_ours && !inode_of(path);
    /* The other kinds count calls that change an existing file. */
    if (is_new && is_kind("enospc")) FAIL_IF_DUE("create")
    int fd = REAL(open64)(path, flags, mode);
    if (fd >= 0 && is_new) trace_fd("create", fd);
    if (fd >= 0 && is_ours && !is_new && (flags & O_TRUNC)) trace_fd("write", fd);
    return fd;
}

int rename(const char *from, const char *to) {
    if (below(to)) FAIL_IF_DUE("rename")
    ino_t inode = inode_of(from);
    int done = REAL(rename)(from, to);
    if (!done && below(to)) trace("rename", inode, from, to);
    return done;
}

int linkat(int from_dir, const char *from, int to_dir, const char *to, int flags) {
    if (below(to)) FAIL_IF_DUE("linkat")
    int done = REAL(linkat)(from_dir, from, to_dir, to, flags);
    if (!done && below(to)) trace("link", inode_of(to), from, to);
    return done;
}

int unlink(const char *path) {
    if (below(path)) FAIL_IF_BROKEN("unlink")
    int done = REAL(unlink)(path);
    if (!done && below(path)) trace("unlink", 0, path, "");
    return done;
}

int unlinkat(int dir, const char *name, int flags) {
    char path[2 * PATH_MAX] = "";
    if (name[0] != '/' && dir != AT_FDCWD && path_of(dir, path)) strcat(path, "/");
    strncat(path, name, PATH_MAX - 1);
    int done = REAL(unlinkat)(dir, name, flags);
    if (!done && below(path)) trace(flags & AT_REMOVEDIR ? "rmdir" : "unlink", 0, path, "");
    return done;
}

int rmdir(const char *path) {
    int done = REAL(rmdir)(path);
    if (!done && below(path)) trace("rmdir", 0, path, "");
    return done;
}

int mkdir(const char *path, mode_t mode) {
    if (below(path)) FAIL_IF_DUE("mkdir")
    int done = REAL(mkdir)(path, mode);
    if (!done && below(path)) trace("mkdir", inode_of(path), path, "");
    return done;
}
