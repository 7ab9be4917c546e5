/* Request and response, one byte each way, one at a time: round trips and their percentiles.
 *
 *   rr -s {tcp|udp} PORT                 answers until it is killed
 *   rr {tcp|udp} HOST PORT SECONDS       prints one line of JSON, times in microseconds of the whole round trip */
#include "common.h"
#include <stdbool.h>

enum { SAMPLES = 1 << 22 };

static void answer(bool tcp, const char *port) {
    int fd = serve(tcp ? SOCK_STREAM : SOCK_DGRAM, port);
    char byte;
    for (;;) {
        if (!tcp) {
            struct sockaddr_in from;
            socklen_t length = sizeof from;
            ssize_t k = recvfrom(fd, &byte, 1, 0, (struct sockaddr *)&from, &length);
            if (k >= 0)
                sendto(fd, &byte, (size_t)k, 0, (struct sockaddr *)&from, length);
            continue;
        }
        int peer = accept(fd, NULL, NULL);
        if (peer < 0)
            continue;
        no_delay(peer);
        while (recv(peer, &byte, 1, 0) == 1 && send(peer, &byte, 1, MSG_NOSIGNAL) == 1)
            ;
        close(peer);
    }
}

static int ascending(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void ask(bool tcp, const char *host, const char *port, double seconds) {
    struct sockaddr_in to = address(host, port);
    int fd = reach(tcp ? SOCK_STREAM : SOCK_DGRAM, &to);
    float *micros = malloc(SAMPLES * sizeof *micros);
    if (fd < 0 || !micros)
        die("connect %s", host);
    if (tcp)
        no_delay(fd);
    receive_timeout(fd, 1);
    size_t n = 0;
    unsigned long lost = 0;
    char byte = 'x';
    double begin = now(), t = begin;
    while (t - begin < seconds && n < SAMPLES) {
        double sent = t;
        bool back = send(fd, &byte, 1, MSG_NOSIGNAL) == 1 && recv(fd, &byte, 1, 0) == 1;
        t = now();
        if (back)
            micros[n++] = (float)((t - sent) * 1e6);
        else if (tcp)
            die("the connection ended");
        else
            lost++;
    }
    errno = 0;
    if (!n)
        die("no answer came");
    qsort(micros, n, sizeof *micros, ascending);
    printf("{\"count\": %zu, \"lost\": %lu, \"p50\": %.2f, \"p99\": %.2f, \"max\": %.2f}\n", n, lost, micros[n / 2],
           micros[n * 99 / 100], micros[n - 1]);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "-s"))
        answer(!strcmp(argv[2], "tcp"), argv[3]);
    else if (argc == 5)
        ask(!strcmp(argv[1], "tcp"), argv[2], argv[3], atof(argv[4]));
    else
        die("usage: rr -s {tcp|udp} PORT | rr {tcp|udp} HOST PORT SECONDS");
    return 0;
}
