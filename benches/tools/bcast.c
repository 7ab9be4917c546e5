/* UDP packets to a broadcast address, at a rate or as fast as they go.
 *
 *   bcast ADDRESS PORT SIZE RATE SECONDS     RATE packets a second, 0 for no bound
 *
 * Prints one line of JSON. */
#include "common.h"

enum { LARGEST = 1472 };

static void pause_until(double when) {
    double left = when - now();
    if (left <= 0)
        return;
    struct timespec t = {(time_t)left, (long)((left - (double)(time_t)left) * 1e9)};
    nanosleep(&t, NULL);
}

int main(int argc, char **argv) {
    static char bytes[LARGEST];
    if (argc != 6)
        die("usage: bcast ADDRESS PORT SIZE RATE SECONDS");
    struct sockaddr_in to = address(argv[1], argv[2]);
    size_t size = (size_t)atoi(argv[3]);
    double rate = atof(argv[4]), seconds = atof(argv[5]);
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), on = 1;
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_BROADCAST, &on, sizeof on) || size > sizeof bytes)
        die("cannot broadcast %zu bytes", size);
    unsigned long packets = 0, failed = 0;
    double begin = now(), t;
    do {
        if (sendto(fd, bytes, size, 0, (const struct sockaddr *)&to, sizeof to) == (ssize_t)size)
            packets++;
        else
            failed++;
        if (rate > 0)
            pause_until(begin + (double)(packets + failed) / rate);
        t = now();
    } while (t - begin < seconds);
    printf("{\"packets\": %lu, \"failed\": %lu, \"seconds\": %.6f}\n", packets, failed, t - begin);
    return 0;
}
