/* Connect, one byte there, one byte back, close: connections per second.
 *
 *   crr -s PORT                              answers until it is killed
 *   crr HOST PORT SECONDS CLIENTS {rst|fin}  prints one line of JSON
 *
 * With rst the client resets after the answer; with fin both sides close in order, the server first, so that TIME_WAIT
 * is the server's and the client's ports do not run out. */
#include "common.h"
#include <pthread.h>
#include <stdbool.h>

enum { SERVERS = 8, MOST_CLIENTS = 256 };

struct client {
    pthread_t thread;
    const struct sockaddr_in *to;
    double end;
    bool fin;
    unsigned long done, failed;
};

static void *answer(void *listener) {
    for (;;) {
        char byte;
        int fd = accept(*(int *)listener, NULL, NULL);
        if (fd < 0)
            continue;
        receive_timeout(fd, 1);
        if (recv(fd, &byte, 1, 0) == 1)
            send(fd, &byte, 1, MSG_NOSIGNAL);
        close(fd);
    }
    return NULL;
}

static bool once(const struct client *c) {
    char byte = 'x';
    int fd = reach(SOCK_STREAM, c->to);
    if (fd < 0)
        return false;
    receive_timeout(fd, 2);
    if (!c->fin)
        reset_on_close(fd);
    bool good = send(fd, &byte, 1, MSG_NOSIGNAL) == 1 && recv(fd, &byte, 1, 0) == 1;
    if (good && c->fin)
        good = recv(fd, &byte, 1, 0) == 0;
    close(fd);
    return good;
}

static void *ask(void *context) {
    struct client *c = context;
    while (now() < c->end) {
        if (once(c))
            c->done++;
        else
            c->failed++;
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc == 3 && !strcmp(argv[1], "-s")) {
        int fd = serve(SOCK_STREAM, argv[2]);
        pthread_t thread;
        for (int i = 1; i < SERVERS; i++)
            pthread_create(&thread, NULL, answer, &fd);
        answer(&fd);
    }
    if (argc != 6)
        die("usage: crr -s PORT | crr HOST PORT SECONDS CLIENTS {rst|fin}");
    static struct client clients[MOST_CLIENTS];
    struct sockaddr_in to = address(argv[1], argv[2]);
    int n = atoi(argv[4]);
    if (n < 1 || n > MOST_CLIENTS)
        die("1 to %d clients", MOST_CLIENTS);
    double begin = now();
    for (int i = 0; i < n; i++) {
        clients[i] = (struct client){.to = &to, .end = begin + atof(argv[3]), .fin = !strcmp(argv[5], "fin")};
        if (pthread_create(&clients[i].thread, NULL, ask, &clients[i]))
            die("pthread_create");
    }
    unsigned long done = 0, failed = 0;
    for (int i = 0; i < n; i++) {
        pthread_join(clients[i].thread, NULL);
        done += clients[i].done;
        failed += clients[i].failed;
    }
    printf("{\"done\": %lu, \"failed\": %lu, \"seconds\": %.6f}\n", done, failed, now() - begin);
    return 0;
}
