/* UDP packets of one size as fast as they go, counted where they arrive.
 *
 *   udpgen -s PORT SECONDS               counts from the first packet on, until SECONDS are over or 1 s is silent
 *   udpgen HOST PORT SIZE SECONDS        sends, one system call for each packet as most programs do
 *
 * Prints one line of JSON. */
#include "common.h"

enum { BATCH = 64, LARGEST = 65536, QUEUE = 4 << 20 };

static void count(const char *port, double seconds) {
    static char bytes[BATCH][2048];
    struct iovec parts[BATCH];
    struct mmsghdr messages[BATCH];
    memset(messages, 0, sizeof messages);
    for (int i = 0; i < BATCH; i++) {
        parts[i] = (struct iovec){bytes[i], sizeof bytes[i]};
        messages[i].msg_hdr.msg_iov = &parts[i];
        messages[i].msg_hdr.msg_iovlen = 1;
    }
    int queue = QUEUE, fd = serve(SOCK_DGRAM, port);
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &queue, sizeof queue);
    receive_timeout(fd, 4);
    unsigned long packets = 0, total = 0;
    double first = 0, last = 0;
    for (;;) {
        int k = recvmmsg(fd, messages, BATCH, MSG_WAITFORONE, NULL);
        if (k <= 0)
            break;
        last = now();
        if (!packets) {
            first = last;
            receive_timeout(fd, 1);
        }
        packets += (unsigned long)k;
        for (int i = 0; i < k; i++)
            total += messages[i].msg_len;
        if (last - first >= seconds)
            break;
    }
    errno = 0;
    if (last <= first)
        die("no packets arrived");
    printf("{\"packets\": %lu, \"bytes\": %lu, \"seconds\": %.6f}\n", packets, total, last - first);
}

static void flood(const char *host, const char *port, size_t size, double seconds) {
    static char bytes[LARGEST];
    struct sockaddr_in to = address(host, port);
    int fd = reach(SOCK_DGRAM, &to);
    if (fd < 0 || size > sizeof bytes)
        die("cannot send %zu bytes to %s", size, host);
    unsigned long packets = 0, failed = 0;
    double begin = now(), t;
    do {
        for (int i = 0; i < BATCH; i++) {
            if (send(fd, bytes, size, 0) == (ssize_t)size)
                packets++;
            else
                failed++;
        }
        t = now();
    } while (t - begin < seconds);
    printf("{\"packets\": %lu, \"failed\": %lu, \"seconds\": %.6f}\n", packets, failed, t - begin);
}

int main(int argc, char **argv) {
    if (argc == 4 && !strcmp(argv[1], "-s"))
        count(argv[2], atof(argv[3]));
    else if (argc == 5)
        flood(argv[1], argv[2], (size_t)atoi(argv[3]), atof(argv[4]));
    else
        die("usage: udpgen -s PORT SECONDS | udpgen HOST PORT SIZE SECONDS");
    return 0;
}
