/* The bare TAP loop: two TAPs with vnet headers and every offload, a thread for each direction that reads one and writes
 * the other. Nothing is learned, looked up or checked: what any switch made of TAPs can reach at best on this machine.
 *
 *   taploop NETNS_FILE IFNAME NETNS_FILE IFNAME */
#include "common.h"
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <sys/ioctl.h>

#ifndef TUN_F_USO4
#define TUN_F_USO4 0x20
#define TUN_F_USO6 0x40
#endif

/* 64 KiB of packet, Ethernet and vnet header. */
enum { LARGEST = 65536 + 64, VNET_HEADER = 12 };

struct way {
    int from, to;
};

static int make_tap(const char *netns, const char *name) {
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int space = open(netns, O_RDONLY | O_CLOEXEC), header = VNET_HEADER;
    unsigned offloads = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN;
    if (space < 0 || setns(space, CLONE_NEWNET))
        die("%s", netns);
    close(space);
    int fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
    if (fd < 0 || ioctl(fd, TUNSETIFF, &request) || ioctl(fd, TUNSETVNETHDRSZ, &header))
        die("tap %s", name);
    if (ioctl(fd, TUNSETOFFLOAD, offloads | TUN_F_USO4 | TUN_F_USO6) && ioctl(fd, TUNSETOFFLOAD, offloads))
        die("offloads of %s", name);
    return fd;
}

static void *relay(void *context) {
    const struct way *way = context;
    struct pollfd readable = {.fd = way->from, .events = POLLIN};
    char *frame = malloc(LARGEST);
    if (!frame)
        die("no memory");
    for (;;) {
        ssize_t length = read(way->from, frame, LARGEST);
        if (length < 0) {
            if (errno != EAGAIN)
                die("read");
            poll(&readable, 1, -1);
        } else if (write(way->to, frame, (size_t)length) < 0 && errno != EAGAIN && errno != EIO) {
            /* A full or downed interface drops the frame, as a wire would. */
            die("write");
        }
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5)
        die("usage: taploop NETNS_FILE IFNAME NETNS_FILE IFNAME");
    int a = make_tap(argv[1], argv[2]), b = make_tap(argv[3], argv[4]);
    struct way there = {a, b}, back = {b, a};
    pthread_t thread;
    puts("ready");
    fflush(stdout);
    if (pthread_create(&thread, NULL, relay, &there))
        die("pthread_create");
    relay(&back);
    return 0;
}
