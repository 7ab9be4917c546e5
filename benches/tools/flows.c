/* What a packet costs when each belongs to another flow than the last.
 *
 *   flows -s PORT                        echoes on every connection until it is killed
 *   flows HOST PORT N SECONDS            prints one line of JSON
 *
 * The client opens N connections, then sends 64 bytes and takes them back on each in turn, a few under way at a time, however
 * many are open: so runs with few and with many connections differ in nothing but what finding a flow costs. */
#include "common.h"
#include <sys/epoll.h>

enum { SIZE = 64, UNDER_WAY = 8, EVENTS = 64 };

static int poll_fd;

static void watch(int fd) {
    struct epoll_event e = {.events = EPOLLIN, .data.fd = fd};
    if (epoll_ctl(poll_fd, EPOLL_CTL_ADD, fd, &e))
        die("epoll_ctl");
}

__attribute__((noreturn)) static void answer(const char *port) {
    struct epoll_event events[EVENTS];
    char message[SIZE];
    int listener = serve(SOCK_STREAM, port);
    if ((poll_fd = epoll_create1(EPOLL_CLOEXEC)) < 0)
        die("epoll_create1");
    watch(listener);
    for (;;) {
        int k = epoll_wait(poll_fd, events, EVENTS, -1);
        for (int i = 0; i < k; i++) {
            int fd = events[i].data.fd;
            if (fd == listener) {
                int peer = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
                if (peer < 0)
                    continue;
                no_delay(peer);
                watch(peer);
                continue;
            }
            ssize_t got = recv(fd, message, sizeof message, 0);
            if (got <= 0 || send(fd, message, (size_t)got, MSG_NOSIGNAL) != got)
                close(fd);
        }
    }
}

/* The next few of the ring of connections: all are asked before the first answer is taken. */
static void exchange(const int *fds, unsigned n, unsigned at) {
    char message[SIZE] = "flows";
    for (unsigned i = 0; i < UNDER_WAY; i++)
        if (send(fds[(at + i) % n], message, SIZE, MSG_NOSIGNAL) != SIZE)
            die("send on connection %u of %u", (at + i) % n + 1, n);
    for (unsigned i = 0; i < UNDER_WAY; i++)
        if (recv(fds[(at + i) % n], message, SIZE, MSG_WAITALL) != SIZE)
            die("no answer on connection %u of %u", (at + i) % n + 1, n);
}

static void ask(const char *host, const char *port, unsigned n, double seconds) {
    struct sockaddr_in to = address(host, port);
    int *fds = calloc(n, sizeof *fds);
    if (!fds)
        die("no memory");
    for (unsigned i = 0; i < n; i++) {
        if ((fds[i] = reach(SOCK_STREAM, &to)) < 0)
            die("connection %u of %u", i + 1, n);
        no_delay(fds[i]);
        reset_on_close(fds[i]);
        receive_timeout(fds[i], 5);
    }
    unsigned long done = 0;
    unsigned at = 0;
    /* Once round all of them first: each is then known to be open all the way. */
    for (unsigned i = 0; i < n; i += UNDER_WAY, at = (at + UNDER_WAY) % n)
        exchange(fds, n, at);
    double begin = now(), t;
    do {
        exchange(fds, n, at);
        at = (at + UNDER_WAY) % n;
        done += UNDER_WAY;
        t = now();
    } while (t - begin < seconds);
    printf("{\"done\": %lu, \"seconds\": %.6f}\n", done, t - begin);
}

int main(int argc, char **argv) {
    int n = argc == 5 ? atoi(argv[3]) : 0;
    if (argc == 3 && !strcmp(argv[1], "-s"))
        answer(argv[2]);
    if (n < UNDER_WAY)
        die("usage: flows -s PORT | flows HOST PORT N SECONDS, N at least %d", UNDER_WAY);
    ask(argv[1], argv[2], (unsigned)n, atof(argv[4]));
    return 0;
}
