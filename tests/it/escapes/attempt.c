/* What a payload tries that wants to get at more than it was given: `attempt NAME ARGUMENT...` makes one try and prints one line,
 * `escaped` or `held: CALL: why`. A plain static program without a need of its own, so that it runs on each machine and in an image
 * without a shell. It takes care to do no harm where it succeeds: it sets what is set already, or asks for what cannot be done,
 * where the kernel says by its error that it would have looked at it. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <mqueue.h>
#include <sched.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/shm.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <time.h>
#include <unistd.h>

static int escaped(void) {
    puts("escaped");
    return 0;
}

static int held(const char *call) {
    printf("held: %s: %s (%d)\n", call, strerror(errno), errno);
    return 0;
}

/* For calls that succeed or do not. */
static int told(long result, const char *call) { return result < 0 ? held(call) : escaped(); }

/* For calls with arguments that no kernel accepts: any other answer than a refusal shows that it would have been done. */
static int looked_at(long result, const char *call) {
    if (result < 0 && (errno == EPERM || errno == EACCES || errno == ENOSYS || errno == EOPNOTSUPP)) return held(call);
    return escaped();
}

static int usage(const char *name) {
    printf("no attempt is called %s, or it misses arguments\n", name);
    return 2;
}

/* --- files */

static int list(const char *path) {
    DIR *directory = opendir(path);
    if (directory == NULL) return held("opendir");
    for (struct dirent *entry; (entry = readdir(directory)) != NULL;)
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) return escaped();
    errno = ENOENT;
    return held("readdir");
}

/* By way of a descriptor of the directory above, not of a path. */
static int from_above(const char *name) {
    int above = open("..", O_PATH | O_DIRECTORY);
    return above < 0 ? held("open") : told(openat(above, name, O_RDONLY), "openat");
}

static int watch(const char *path) {
    int queue = inotify_init1(IN_CLOEXEC);
    return queue < 0 ? held("inotify_init1") : told(inotify_add_watch(queue, path, IN_ACCESS), "inotify_add_watch");
}

/* A script in memory is run, which reads what its runner may not. */
static int memory_file(const char *path) {
    char name[64];
    int script = memfd_create("script", 0);
    if (script < 0) return held("memfd_create");
    dprintf(script, "#!/bin/sh\ncat '%s'\n", path);
    snprintf(name, sizeof name, "/proc/self/fd/%d", script);
    fflush(stdout);
    execl(name, "script", NULL);
    return held("execve");
}

/* By a handle, which needs no way to it (open_by_handle_at(2)): of what the payload may name, since the root of its file system can be had in the same way. */
static int handle(void) {
    struct {
        struct file_handle head;
        unsigned char bytes[128];
    } handle = {.head.handle_bytes = 128};
    int mount, at = open(".", O_RDONLY | O_DIRECTORY);
    if (name_to_handle_at(AT_FDCWD, ".", &handle.head, &mount, 0) < 0) return held("name_to_handle_at");
    return told(open_by_handle_at(at, &handle.head, O_RDONLY), "open_by_handle_at");
}

/* A node for the disk itself: the first one that the kernel names. */
static int disk_node(void) {
    unsigned major = 0, minor = 0;
    char line[256];
    FILE *list = fopen("/proc/partitions", "r");
    while (list != NULL && fgets(line, sizeof line, list) != NULL)
        if (sscanf(line, " %u %u", &major, &minor) == 2) break;
    if (major == 0) major = 1, minor = 3; /* /dev/null will do */
    if (mknod("node", (major == 1 ? S_IFCHR : S_IFBLK) | 0600, makedev(major, minor)) < 0) return held("mknod");
    return told(open("node", O_RDONLY), "open");
}

static int descriptors(void) {
    for (int each = 3; each < 1024; each++)
        if (fcntl(each, F_GETFD) >= 0) return escaped();
    errno = EBADF;
    return held("fcntl");
}

/* --- other processes */

static int trace(pid_t pid) {
    if (ptrace(PTRACE_SEIZE, pid, NULL, NULL) < 0) return held("ptrace");
    return escaped(); /* it is let go at the exit */
}

/* Nothing is at that address: EFAULT comes after the permission. */
static int memory_of(pid_t pid) {
    char here[8];
    struct iovec local = {here, sizeof here}, remote = {(void *)4096, sizeof here};
    long result = process_vm_readv(pid, &local, 1, &remote, 1, 0);
    return result < 0 && errno != EFAULT ? held("process_vm_readv") : escaped();
}

static int descriptor_of(pid_t pid) {
    int process = syscall(SYS_pidfd_open, pid, 0);
    return process < 0 ? held("pidfd_open") : told(syscall(SYS_pidfd_getfd, process, 0, 0), "pidfd_getfd");
}

/* Signal 0 is permitted where others are. */
static int signals(pid_t pid) {
    siginfo_t told_by = {.si_code = SI_QUEUE};
    int process = syscall(SYS_pidfd_open, pid, 0);
    if (kill(pid, 0) == 0 || syscall(SYS_tgkill, pid, pid, 0) == 0) return escaped();
    if (syscall(SYS_rt_sigqueueinfo, pid, 0, &told_by) == 0) return escaped();
    if (process >= 0 && syscall(SYS_pidfd_send_signal, process, 0, NULL, 0) == 0) return escaped();
    return held("kill");
}

static int limits_of(pid_t pid) {
    struct rlimit limit;
    if (prlimit(pid, RLIMIT_NOFILE, NULL, &limit) < 0) return held("prlimit");
    return told(prlimit(pid, RLIMIT_NOFILE, &limit, NULL), "prlimit");
}

static int priority_of(pid_t pid) {
    errno = 0;
    int now = getpriority(PRIO_PROCESS, pid);
    return now == -1 && errno != 0 ? held("getpriority") : told(setpriority(PRIO_PROCESS, pid, now), "setpriority");
}

/* Looks whether it was done: the filter may say so and do nothing. */
static int processors_of(pid_t pid) {
    cpu_set_t all, fewer, now;
    if (sched_getaffinity(pid, sizeof all, &all) < 0) return held("sched_getaffinity");
    fewer = all;
    for (int each = 0; each < CPU_SETSIZE && CPU_COUNT(&fewer) > 1; each++) CPU_CLR(each, &fewer);
    if (sched_setaffinity(pid, sizeof fewer, &fewer) < 0) return held("sched_setaffinity");
    sched_getaffinity(pid, sizeof now, &now);
    sched_setaffinity(pid, sizeof all, &all);
    if (CPU_EQUAL(&now, &fewer)) return escaped();
    puts("held: sched_setaffinity: nothing was done");
    return 0;
}

static int scheduling_of(pid_t pid) {
    struct sched_param plain = {0};
    return told(syscall(SYS_sched_setscheduler, pid, SCHED_OTHER, &plain), "sched_setscheduler"); /* musl's does nothing */
}

/* Best effort, 4: the default. */
static int disk_priority_of(pid_t pid) { return told(syscall(SYS_ioprio_set, 1, pid, 2 << 13 | 4), "ioprio_set"); }

/* --- the kernel */

static int in_a_child(int flags) {
    pid_t child = syscall(SYS_clone, flags | SIGCHLD, 0, 0, 0, 0);
    if (child == 0) _exit(0);
    return told(child, "clone");
}

static int clone_3(uint64_t flags) {
    uint64_t arguments[11] = {flags, 0, 0, 0, SIGCHLD};
    pid_t child = syscall(SYS_clone3, arguments, 64);
    if (child == 0) _exit(0);
    return told(child, "clone3");
}

/* A new user namespace by the numbers that 32-bit programs have, and by those of x32: a filter that looks at the number alone misses them. */
static int by_other_numbers(int is_x32) {
#if defined __x86_64__
    long result;
    signal(SIGSEGV, SIG_DFL);
    if (is_x32) {
        result = syscall(0x40000000 | SYS_unshare, CLONE_NEWUSER);
    } else {
        __asm__ volatile("int $0x80" : "=a"(result) : "a"(310L), "b"((long)CLONE_NEWUSER) : "memory", "r8", "r9", "r10", "r11");
        errno = -(int)result;
        result = (int)result;
    }
    return told(result < 0 ? -1 : 0, "unshare");
#else
    (void)is_x32;
    errno = ENOSYS;
    return held("unshare");
#endif
}

static int mounts(void) {
    mkdir("mounted", 0755);
    if (mount("none", "mounted", "tmpfs", 0, "size=4k") < 0) return held("mount");
    umount2("mounted", MNT_DETACH);
    return escaped();
}

/* As above, after a try to become root of a namespace of its own, as a rootless container does. */
static int mounts_as_own_root(void) {
    if (unshare(CLONE_NEWUSER | CLONE_NEWNS) < 0) return held("unshare");
    return mounts();
}

static int in_a_root_of_its_own(void) { return told(chroot("."), "chroot"); }

static int ring(void) {
    char parameters[120] = {0};
    return told(syscall(SYS_io_uring_setup, 1, parameters), "io_uring_setup");
}

/* BPF_MAP_CREATE of no kind that there is. */
static int program_for_the_kernel(void) {
    uint32_t attributes[32] = {9999, 4, 4, 1};
    return looked_at(syscall(SYS_bpf, 0, attributes, sizeof attributes), "bpf");
}

/* Into the keyring of the user, which outlives the payload. KEY_SPEC_USER_KEYRING is -4. */
static int key(const char *name) { return told(syscall(SYS_add_key, "user", name, "x", 1, -4), "add_key"); }

static int key_is_there(const char *name) {
    return told(syscall(SYS_keyctl, 10 /* KEYCTL_SEARCH */, -4, "user", name, 0), "keyctl");
}

/* Counts the cycles of itself: PERF_TYPE_SOFTWARE, exclude_kernel and exclude_hv. */
static int counter(void) {
    uint32_t attributes[32] = {1, 128};
    attributes[10] = 1 << 5 | 1 << 6;
    return told(syscall(SYS_perf_event_open, attributes, 0, -1, -1, 0), "perf_event_open");
}

/* 1: UFFD_USER_MODE_ONLY, which any user may have. */
static int page_faults(void) { return told(syscall(SYS_userfaultfd, 1), "userfaultfd"); }

/* To what it is. */
static int time_of_day(void) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return told(clock_settime(CLOCK_REALTIME, &now), "clock_settime");
}

static int host_name(void) {
    char name[256];
    gethostname(name, sizeof name);
    return told(sethostname(name, strlen(name)), "sethostname");
}

/* Types a character into the terminal that it is attached to: one of its own, since the filter is what is looked for. */
static int typing(void) {
    int terminal = posix_openpt(O_RDWR | O_NOCTTY);
    if (terminal < 0 || grantpt(terminal) < 0 || unlockpt(terminal) < 0) return held("posix_openpt");
    pid_t child = fork();
    if (child == 0) {
        setsid();
        int own = open(ptsname(terminal), O_RDWR);
        if (own < 0) _exit(held("open"));
        ioctl(own, TIOCSCTTY, 0);
        if (ioctl(own, TIOCSTI, "x") < 0) held("TIOCSTI");
        else escaped();
        fflush(stdout);
        _exit(0);
    }
    waitpid(child, NULL, 0);
    return 0;
}

/* --- the network, and what is reached like it */

static void in_time(int socket) {
    struct timeval time = {2, 0};
    setsockopt(socket, SOL_SOCKET, SO_RCVTIMEO, &time, sizeof time);
    setsockopt(socket, SOL_SOCKET, SO_SNDTIMEO, &time, sizeof time);
}

/* The service on the other side says something first. */
static int hears(int socket) {
    char byte;
    return recv(socket, &byte, 1, 0) == 1 ? escaped() : held("recv");
}

static struct sockaddr_in here(const char *port) {
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(port))};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return address;
}

static int stream(const char *port, int protocol, int is_fast) {
    struct sockaddr_in address = here(port);
    int connection = socket(AF_INET, SOCK_STREAM, protocol);
    if (connection < 0) return held("socket");
    in_time(connection);
    if (is_fast) {
        if (sendto(connection, "x", 1, MSG_FASTOPEN, (void *)&address, sizeof address) < 0) return held("sendto");
    } else if (connect(connection, (void *)&address, sizeof address) < 0) {
        return held("connect");
    }
    return hears(connection);
}

static int stream_6(const char *port) {
    struct sockaddr_in6 address = {.sin6_family = AF_INET6, .sin6_port = htons(atoi(port)), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int connection = socket(AF_INET6, SOCK_STREAM, 0);
    if (connection < 0) return held("socket");
    in_time(connection);
    return connect(connection, (void *)&address, sizeof address) < 0 ? held("connect") : hears(connection);
}

static int datagram(const char *port) {
    struct sockaddr_in address = here(port);
    int connection = socket(AF_INET, SOCK_DGRAM, 0);
    if (connection < 0) return held("socket");
    in_time(connection);
    if (sendto(connection, "x", 1, 0, (void *)&address, sizeof address) < 0) return held("sendto");
    return hears(connection);
}

static int local(const char *path, int is_abstract) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int connection = socket(AF_UNIX, SOCK_STREAM, 0);
    if (connection < 0) return held("socket");
    in_time(connection);
    strncpy(address.sun_path + is_abstract, path, sizeof address.sun_path - 2);
    socklen_t length = offsetof(struct sockaddr_un, sun_path) + is_abstract + strlen(path);
    return connect(connection, (void *)&address, length) < 0 ? held("connect") : hears(connection);
}

/* One request; the status of the answer says it. */
static int request(const char *port, const char *method, const char *path) {
    char answer[13] = {0};
    struct sockaddr_in address = here(port);
    int connection = socket(AF_INET, SOCK_STREAM, 0);
    if (connection < 0) return held("socket");
    in_time(connection);
    if (connect(connection, (void *)&address, sizeof address) < 0) return held("connect");
    dprintf(connection, "%s %s HTTP/1.1\r\nHost: client\r\nConnection: close\r\n\r\n", method, path);
    if (recv(connection, answer, 12, MSG_WAITALL) != 12) return held("recv");
    if (strcmp(answer + 9, "200") == 0) return escaped();
    printf("held: %s\n", answer);
    return 0;
}

/* --- what stays */

static int shared_memory(const char *name) { return told(shmget(atoi(name), 4096, IPC_CREAT | 0666), "shmget"); }
static int shared_memory_is_there(const char *name) { return told(shmget(atoi(name), 0, 0), "shmget"); }
static int shared_memory_goes(const char *name) { return told(shmctl(shmget(atoi(name), 0, 0), IPC_RMID, NULL), "shmctl"); }
static int queue(const char *name) { return told(mq_open(name, O_CREAT | O_RDWR, 0666, NULL), "mq_open"); }
static int queue_is_there(const char *name) { return told(mq_open(name, O_RDONLY), "mq_open"); }

/* --- limits: the word is how far it got */

/* Children that live at the same time, each for SECONDS. */
static int forks(int count, int seconds) {
    int had = 0;
    for (; had < count; had++) {
        pid_t child = fork();
        if (child == 0) {
            sleep(seconds);
            _exit(0);
        }
        if (child < 0) break;
    }
    if (had < count) return held("fork");
    sleep(seconds);
    return escaped();
}

/* Half of it by a child, so that only what looks at the whole tree sees it. */
static int eats(int mebibytes, int seconds) {
    size_t bytes = (size_t)mebibytes / 2 << 20;
    pid_t child = fork();
    if (child < 0) return held("fork");
    char *memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return held("mmap");
    memset(memory, 1, bytes);
    sleep(seconds);
    if (child == 0) _exit(0);
    return escaped();
}

/* SECONDS of CPU, by children one after the other, none of which has much itself. */
static int spins(int seconds) {
    for (int each = 0; each < 4 * seconds; each++) {
        pid_t child = fork();
        if (child < 0) return held("fork");
        if (child == 0) {
            struct timespec used;
            do clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
            while (used.tv_sec == 0 && used.tv_nsec < 250000000);
            _exit(0);
        }
        waitpid(child, NULL, 0);
    }
    return escaped();
}

static int fills(const char *path, int mebibytes) {
    static char block[1 << 20];
    int file = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    memset(block, 'x', sizeof block);
    for (; mebibytes > 0; mebibytes--)
        if (write(file, block, sizeof block) != (ssize_t)sizeof block) return held("write");
    return escaped();
}

/* --- what this host gives, asked by other means than the client has */

/* As landlock(7): version 1 of LANDLOCK_CREATE_RULESET_VERSION. */
static int landlock(void) {
    long version = syscall(SYS_landlock_create_ruleset, NULL, 0, 1);
    printf("%ld\n", version < 0 ? 0 : version);
    return 0;
}

static int put(const char *path, const char *text) {
    int file = open(path, O_WRONLY);
    return file < 0 || write(file, text, strlen(text)) < 0 ? -1 : close(file);
}

/* Whether a user may have namespaces, and mount in them what a room needs. */
static int namespaces(void) {
    char map[64];
    uid_t user = getuid();
    gid_t group = getgid();
    int may = unshare(CLONE_NEWUSER) == 0;
    put("/proc/self/setgroups", "deny");
    snprintf(map, sizeof map, "%u %u 1", user, user);
    may = may && put("/proc/self/uid_map", map) == 0;
    snprintf(map, sizeof map, "%u %u 1", group, group);
    may = may && put("/proc/self/gid_map", map) == 0;
    may = may && unshare(CLONE_NEWPID | CLONE_NEWNS | CLONE_NEWIPC) == 0;
    may = may && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0;
    pid_t child = may ? fork() : -1;
    if (child == 0) _exit(mount("proc", "/proc", "proc", MS_NOSUID | MS_NODEV | MS_NOEXEC, NULL) != 0);
    int status = 1;
    may = may && waitpid(child, &status, 0) == child && status == 0;
    puts(may ? "yes" : "no");
    return 0;
}

/* A process that stands for the client where nothing contains: it waits to be looked at. */
_Noreturn static void stand(void) {
    for (;;) pause();
}

#define IS(word) (strcmp(name, word) == 0)

int main(int count, char **words) {
    const char *name = count > 1 ? words[1] : "";
    const char *one = count > 2 ? words[2] : NULL, *two = count > 3 ? words[3] : NULL, *three = count > 4 ? words[4] : NULL;
    pid_t pid = one == NULL ? 0 : atoi(one);
    if (IS("descriptors")) return descriptors();
    if (IS("handle")) return handle();
    if (IS("disk-node")) return disk_node();
    if (IS("unshare-user")) return told(unshare(CLONE_NEWUSER), "unshare");
    if (IS("unshare-all")) return told(unshare(CLONE_NEWNS | CLONE_NEWNET | CLONE_NEWIPC | CLONE_NEWUTS), "unshare");
    if (IS("clone-user")) return in_a_child(CLONE_NEWUSER);
    if (IS("clone-network")) return in_a_child(CLONE_NEWNET);
    if (IS("clone3-user")) return clone_3(CLONE_NEWUSER);
    if (IS("unshare-i386")) return by_other_numbers(0);
    if (IS("unshare-x32")) return by_other_numbers(1);
    if (IS("mount")) return mounts();
    if (IS("mount-as-own-root")) return mounts_as_own_root();
    if (IS("chroot")) return in_a_root_of_its_own();
    if (IS("pivot-root")) return looked_at(syscall(SYS_pivot_root, ".", "."), "pivot_root");
    if (IS("fsopen")) return told(syscall(SYS_fsopen, "tmpfs", 0), "fsopen");
    if (IS("open-tree")) return told(syscall(SYS_open_tree, AT_FDCWD, "/", 1 /* OPEN_TREE_CLONE */), "open_tree");
    if (IS("io-uring")) return ring();
    if (IS("bpf")) return program_for_the_kernel();
    if (IS("perf")) return counter();
    if (IS("userfaultfd")) return page_faults();
    if (IS("clock")) return time_of_day();
    if (IS("host-name")) return host_name();
    if (IS("module")) return looked_at(syscall(SYS_delete_module, "no_such_module", O_NONBLOCK), "delete_module");
    if (IS("load-module")) return looked_at(syscall(SYS_init_module, "", 0, ""), "init_module");
    if (IS("kexec")) return looked_at(syscall(SYS_kexec_load, 0, 0x7fff, NULL, 0xffff), "kexec_load");
    if (IS("reboot")) return looked_at(syscall(SYS_reboot, 0, 0, 0, NULL), "reboot"); /* no magic, no reboot */
    if (IS("swap")) return looked_at(syscall(SYS_swapoff, "/no/such/file"), "swapoff");
    if (IS("accounting")) return looked_at(syscall(SYS_acct, "/no/such/file"), "acct");
    if (IS("kernel-log")) return told(syscall(SYS_syslog, 3, (char[64]){0}, 64), "syslog");
    if (IS("typing")) return typing();
    if (IS("vsock")) return told(socket(40 /* AF_VSOCK */, SOCK_STREAM, 0), "socket");
    if (IS("packets")) return told(socket(AF_PACKET, SOCK_RAW, 0), "socket");
    if (IS("user-id")) return geteuid() == 0 ? escaped() : held("geteuid");
    if (IS("landlock")) return landlock();
    if (IS("namespaces")) return namespaces();
    if (IS("stand")) stand();
    if (one == NULL) return usage(name);
    if (IS("open")) return told(open(one, O_RDONLY | O_NONBLOCK), "open");
    if (IS("open-to-write")) return told(open(one, O_WRONLY | O_NONBLOCK), "open");
    if (IS("list")) return list(one);
    if (IS("from-above")) return from_above(one);
    if (IS("watch")) return watch(one);
    if (IS("truncate")) return told(truncate(one, 0), "truncate");
    if (IS("mode")) return told(chmod(one, 0777), "chmod");
    if (IS("times")) return told(utimensat(AT_FDCWD, one, NULL, 0), "utimensat");
    if (IS("attribute")) return told(setxattr(one, "user.tried", "x", 1, 0), "setxattr");
    if (IS("memory-file")) return memory_file(one);
    if (IS("trace")) return trace(pid);
    if (IS("memory-of")) return memory_of(pid);
    if (IS("descriptor-of")) return descriptor_of(pid);
    if (IS("signals")) return signals(pid);
    if (IS("limits-of")) return limits_of(pid);
    if (IS("priority-of")) return priority_of(pid);
    if (IS("processors-of")) return processors_of(pid);
    if (IS("scheduling-of")) return scheduling_of(pid);
    if (IS("disk-priority-of")) return disk_priority_of(pid);
    if (IS("key")) return key(one);
    if (IS("key-is-there")) return key_is_there(one);
    if (IS("stream")) return stream(one, 0, 0);
    if (IS("stream-fast")) return stream(one, 0, 1);
    if (IS("stream-by-mptcp")) return stream(one, 262, 0);
    if (IS("stream-6")) return stream_6(one);
    if (IS("datagram")) return datagram(one);
    if (IS("local")) return local(one, 0);
    if (IS("abstract")) return local(one, 1);
    if (IS("shared-memory")) return shared_memory(one);
    if (IS("shared-memory-is-there")) return shared_memory_is_there(one);
    if (IS("shared-memory-goes")) return shared_memory_goes(one);
    if (IS("queue")) return queue(one);
    if (IS("queue-is-there")) return queue_is_there(one);
    if (IS("queue-goes")) return told(mq_unlink(one), "mq_unlink");
    if (IS("spins")) return spins(pid);
    if (two == NULL) return usage(name);
    if (IS("forks")) return forks(pid, atoi(two));
    if (IS("eats")) return eats(pid, atoi(two));
    if (IS("fills")) return fills(one, atoi(two));
    if (three == NULL) return usage(name);
    if (IS("request")) return request(one, two, three);
    return usage(name);
}
