/* Bulk TCP over N connections at once, counted where it arrives.
 *
 *   tcpgen -s PORT N MODE WARM SECONDS         server
 *   tcpgen HOST PORT N MODE WARM SECONDS       client
 *   tcpgen -s PORT N hold 0 0                  accepts, and holds what it accepted until it is killed
 *   tcpgen HOST PORT N hold 0 0                opens N connections, says so, holds them until it is killed
 *
 * MODE is seen from the client: up, down or both. The clock of each side starts when its last connection is there; what
 * arrives between WARM and WARM + SECONDS counts. Prints one line of JSON. */
#include "common.h"
#include <fcntl.h>
#include <stdbool.h>
#include <sys/epoll.h>

enum { CHUNK = 128 * 1024, EVENTS = 64 };
/* Traffic goes on this long after the window, so that the side that is later in time is not cut short. */
static const double TAIL = 0.15;

struct connection {
    int fd;
    unsigned long received, at_start, at_end;
};

static char chunk[CHUNK];

static void open_all(struct connection *all, int n, const char *host, const char *port) {
    if (host) {
        struct sockaddr_in to = address(host, port);
        for (int i = 0; i < n; i++)
            if ((all[i].fd = reach(SOCK_STREAM, &to)) < 0)
                die("connection %d of %d", i + 1, n);
        return;
    }
    int listener = serve(SOCK_STREAM, port);
    receive_timeout(listener, 60);
    for (int i = 0; i < n; i++)
        if ((all[i].fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) < 0)
            die("accept %d of %d", i + 1, n);
    close(listener);
}

/* Moves one chunk each way at most, so that the connections of one process get turns; false at the end of it. */
static bool turn(struct connection *c, uint32_t events, bool sends) {
    if (events & (EPOLLIN | EPOLLHUP | EPOLLERR)) {
        ssize_t k = recv(c->fd, chunk, sizeof chunk, MSG_DONTWAIT);
        if (k == 0 || (k < 0 && errno != EAGAIN))
            return false;
        if (k > 0)
            c->received += (unsigned long)k;
    }
    if (sends && (events & EPOLLOUT))
        if (send(c->fd, chunk, sizeof chunk, MSG_DONTWAIT | MSG_NOSIGNAL) < 0 && errno != EAGAIN)
            return false;
    return true;
}

static void run(struct connection *all, int n, bool sends, double warm, double seconds) {
    struct epoll_event events[EVENTS];
    int poll = epoll_create1(EPOLL_CLOEXEC), open = n, lost = 0;
    for (int i = 0; i < n; i++) {
        struct epoll_event e = {.events = EPOLLIN | (sends ? EPOLLOUT : 0u), .data.ptr = &all[i]};
        reset_on_close(all[i].fd);
        if (epoll_ctl(poll, EPOLL_CTL_ADD, all[i].fd, &e))
            die("epoll_ctl");
    }
    double begin = now(), started = 0, ended = 0;
    while (open > 0) {
        double t = now();
        if (!started && t - begin >= warm) {
            started = t;
            for (int i = 0; i < n; i++)
                all[i].at_start = all[i].received;
        }
        if (started && !ended && t - started >= seconds) {
            ended = t;
            for (int i = 0; i < n; i++)
                all[i].at_end = all[i].received;
        }
        if (ended && t - ended >= TAIL)
            break;
        int k = epoll_wait(poll, events, EVENTS, 10);
        for (int i = 0; i < k; i++) {
            struct connection *c = events[i].data.ptr;
            if (turn(c, events[i].events, sends))
                continue;
            epoll_ctl(poll, EPOLL_CTL_DEL, c->fd, NULL);
            open--;
            lost += !ended;
        }
    }
    if (!ended)
        die("all %d connections ended before the time was over", n);
    unsigned long total = 0;
    printf("{\"seconds\": %.6f, \"lost\": %d, \"received\": [", ended - started, lost);
    for (int i = 0; i < n; i++) {
        printf("%s%lu", i ? ", " : "", all[i].at_end - all[i].at_start);
        total += all[i].received;
    }
    printf("], \"total\": %lu}\n", total);
}

int main(int argc, char **argv) {
    bool server = argc == 7 && !strcmp(argv[1], "-s");
    if (argc != 7)
        die("usage: tcpgen {-s PORT | HOST PORT} N {up|down|both|hold} WARM SECONDS");
    int n = atoi(argv[3]);
    const char *mode = argv[4];
    struct connection *all = calloc((size_t)(n > 0 ? n : 1), sizeof *all);
    if (!all || n < 1)
        die("no room for %d connections", n);
    open_all(all, n, server ? NULL : argv[1], argv[2]);
    if (!strcmp(mode, "hold")) {
        puts("holding");
        fflush(stdout);
        for (;;)
            pause();
    }
    bool sends = !strcmp(mode, "both") || !strcmp(mode, server ? "down" : "up");
    run(all, n, sends, atof(argv[5]), atof(argv[6]));
    return 0;
}
