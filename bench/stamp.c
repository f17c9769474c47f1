/* The interpreter of a run.sh: writes to the file `stamp` when it was started and when it ends, in nanoseconds of
   CLOCK_MONOTONIC, and fails. In C, and linked statically, since a runtime or a dynamic linker would take longer to start
   than the client to start it. */
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

static int64_t now_ns(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

int main(void) {
    int64_t started = now_ns();
    int file = open("stamp", O_WRONLY | O_CREAT, 0644);
    char line[64];
    int length = snprintf(line, sizeof line, "%" PRId64 " %" PRId64 "\n", started, now_ns());
    _exit(write(file, line, length) == length ? 1 : 2);
}
