/* The payload for an image without a shell: a static program. What it does is told by the files that came with it:
 * "orphans": leaves twenty orphans, which end after 0.3 s; "fill": writes until the disk is full; "seconds": how long it
 * runs, in the end. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static void leave_orphan(void) {
    if (fork() == 0) {
        if (fork() == 0) {
            setsid();
            usleep(300000);
        }
        _exit(0);
    }
    wait(NULL);
}

static void fill(void) {
    static char block[4096];
    int file = open("filler", O_WRONLY | O_CREAT, 0644);
    memset(block, 'x', sizeof block);
    while (write(file, block, sizeof block) > 0) {
    }
}

int main(void) {
    FILE *seconds = fopen("seconds", "r");
    FILE *result = fopen("result.txt", "w");
    int wait_s = 0;
    fprintf(result, "uid %d pid-1-parent %d\n", (int)getuid(), (int)getppid() == 1);
    fclose(result);
    for (int left = access("orphans", F_OK) == 0 ? 20 : 0; left > 0; left--) leave_orphan();
    if (access("fill", F_OK) == 0) fill();
    if (seconds != NULL && fscanf(seconds, "%d", &wait_s) == 1) sleep(wait_s);
    puts("hello from a static program");
    return 0;
}
