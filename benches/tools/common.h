/* What the traffic tools share: clock, errors, sockets that listen or connect with cubic. */
#ifndef WEFT_BENCH_COMMON_H
#define WEFT_BENCH_COMMON_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

/* Seconds of the monotonic clock. */
static inline double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

__attribute__((noreturn, format(printf, 1, 2))) static inline void die(const char *format, ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    if (errno)
        fprintf(stderr, ": %s", strerror(errno));
    fputc('\n', stderr);
    exit(1);
}

static inline struct sockaddr_in address(const char *host, const char *port) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((unsigned short)atoi(port))};
    errno = 0;
    if (inet_pton(AF_INET, host, &a.sin_addr) != 1)
        die("not an IPv4 address: %s", host);
    return a;
}

/* Under the machine's own choice (bbr paces) the pacing would be measured and not the relay. */
static inline void use_cubic(int fd) {
    if (setsockopt(fd, IPPROTO_TCP, TCP_CONGESTION, "cubic", 5))
        die("TCP_CONGESTION cubic");
}

static inline void receive_timeout(int fd, double seconds) {
    struct timeval t = {(time_t)seconds, (suseconds_t)((seconds - (double)(time_t)seconds) * 1e6)};
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof t))
        die("SO_RCVTIMEO");
}

/* A close that resets: no TIME_WAIT, and the relay drops what it still holds. */
static inline void reset_on_close(int fd) {
    struct linger l = {1, 0};
    if (setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof l))
        die("SO_LINGER");
}

static inline void no_delay(int fd) {
    int on = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
}

/* Binds (and for TCP listens) on every address, then tells the harness with a line. */
static inline int serve(int type, const char *port) {
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0), on = 1;
    struct sockaddr_in a = address("0.0.0.0", port);
    if (fd < 0)
        die("socket");
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (type == SOCK_STREAM)
        use_cubic(fd);
    if (bind(fd, (struct sockaddr *)&a, sizeof a))
        die("bind port %s", port);
    if (type == SOCK_STREAM && listen(fd, 4096))
        die("listen");
    puts("ready");
    fflush(stdout);
    return fd;
}

/* A connected socket, or -1 with errno. */
static inline int reach(int type, const struct sockaddr_in *to) {
    int fd = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    if (type == SOCK_STREAM)
        use_cubic(fd);
    if (connect(fd, (const struct sockaddr *)to, sizeof *to)) {
        int why = errno;
        close(fd);
        errno = why;
        return -1;
    }
    return fd;
}

#endif
