// Makes load on one HTTPS server and prints what it measured as one JSON object.
// Must cost little beside what it measures: a thread for each client with blocking calls, one key share, the server's
// certificate verified on each client's first connection only, and GnuTLS: half the time of OpenSSL 3.0 for a handshake.
//
//     network_load keep|new|get CLIENTS SECONDS CA_FILE HOST ADDRESS|- PORT PATH
//
// keep: requests one after the other on a connection per client. new: a connection for each request, with a full handshake.
// get: PATH once. A time is from the request's first byte (new: from the connect) to the answer's last byte, in µs. The first
// WARM_SECONDS don't count.

#define _GNU_SOURCE
#include <errno.h>
#include <gnutls/gnutls.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { MAX_CLIENTS = 256, BUFFER = 1 << 18, TIMEOUT_SECONDS = 30 };
static const double WARM_SECONDS = 1;

struct client {
    pthread_t thread;
    gnutls_session_t tls;
    int fd;
    bool verified;
    double *times;
    size_t count, room;
    double bytes;
    char error[200];
    char buffer[BUFFER];
};

static const char *mode, *host, *path;
static struct addrinfo *server;
static gnutls_certificate_credentials_t trust;
static gnutls_priority_t priorities;
static double begin, end;

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

// `code` is GnuTLS's, 0 for an errno or an end of the connection.
static bool failed(struct client *c, const char *what, int code) {
    const char *why = code < 0 ? gnutls_strerror(code) : errno ? strerror(errno) : "the connection ended";
    snprintf(c->error, sizeof c->error, "%s: %s", what, why);
    return false;
}

static bool open_connection(struct client *c) {
    struct timeval limit = {TIMEOUT_SECONDS, 0};
    const gnutls_datum_t protocol = {(unsigned char *)"http/1.1", 8};
    int yes = 1, code;
    errno = 0;
    c->tls = NULL;
    if ((c->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)) < 0) return failed(c, "socket", 0);
    setsockopt(c->fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    setsockopt(c->fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    if (connect(c->fd, server->ai_addr, server->ai_addrlen)) return failed(c, "connect", 0);
    gnutls_init(&c->tls, GNUTLS_CLIENT | GNUTLS_NO_TICKETS);
    gnutls_priority_set(c->tls, priorities);
    gnutls_credentials_set(c->tls, GNUTLS_CRD_CERTIFICATE, trust);
    gnutls_server_name_set(c->tls, GNUTLS_NAME_DNS, host, strlen(host));
    if (!c->verified) gnutls_session_set_verify_cert(c->tls, host, 0);
    gnutls_alpn_set_protocols(c->tls, &protocol, 1, 0);
    gnutls_transport_set_int(c->tls, c->fd);
    do code = gnutls_handshake(c->tls);
    while (code == GNUTLS_E_INTERRUPTED);
    c->verified = code == 0;
    return c->verified || failed(c, "TLS handshake", code);
}

static void close_connection(struct client *c) {
    if (c->tls) {
        if (!c->error[0]) gnutls_bye(c->tls, GNUTLS_SHUT_WR);
        gnutls_deinit(c->tls);
    }
    if (c->fd >= 0) close(c->fd);
}

// It says "again" after a session ticket; where the socket's own limit is over, it says so every time.
static ssize_t receive(struct client *c, char *into, size_t most) {
    ssize_t n = GNUTLS_E_AGAIN;
    for (int tries = 0; tries < 8 && (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED); tries++)
        n = gnutls_record_recv(c->tls, into, most);
    return n;
}

// One request and its whole answer, which must have a length and be a success.
static bool request(struct client *c) {
    char text[1024];
    int size = snprintf(text, sizeof text, "GET %s HTTP/1.1\r\nHost: %s\r\nUser-Agent: bench\r\nAccept: */*\r\n\r\n", path, host);
    errno = 0;
    ssize_t n = gnutls_record_send(c->tls, text, size);
    if (n != size) return failed(c, "sending the request", n);
    int got = 0;
    char *body = NULL;
    while (!body) {
        n = receive(c, c->buffer + got, BUFFER - 1 - got);
        if (n <= 0) return failed(c, "reading the answer's head", n);
        c->buffer[got += n] = 0;
        body = strstr(c->buffer, "\r\n\r\n");
    }
    if (strncmp(c->buffer, "HTTP/1.1 200 ", 13)) {
        snprintf(c->error, sizeof c->error, "answered: %.100s", c->buffer);
        return false;
    }
    char *field = strcasestr(c->buffer, "\r\ncontent-length:");
    if (!field || field > body) return failed(c, "the answer has no length", 0);
    double length = atof(field + 17), left = length - (got - (body + 4 - c->buffer));
    while (left > 0) {
        n = receive(c, c->buffer, BUFFER);
        if (n <= 0) return failed(c, "reading the answer", n);
        left -= n;
    }
    c->bytes += length;
    return true;
}

static void remember(struct client *c, double began) {
    double ended = now();
    if (began < begin || ended > end) return;
    if (c->count == c->room) c->times = realloc(c->times, sizeof(double) * (c->room = c->room * 2 + 1024));
    c->times[c->count++] = (ended - began) * 1e6;
}

static void *work(void *argument) {
    struct client *c = argument;
    bool anew = !strcmp(mode, "new");
    bool good = anew || open_connection(c);
    double began;
    while (good && (began = now()) < end) {
        good = (!anew || open_connection(c)) && request(c);
        remember(c, began);
        if (anew) close_connection(c);
    }
    if (!anew) close_connection(c);
    return NULL;
}

static void die(const char *format, ...) {
    va_list list;
    va_start(list, format);
    vfprintf(stderr, format, list);
    va_end(list);
    fputc('\n', stderr);
    exit(1);
}

static int compare(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void report(struct client *clients, int count, double seconds) {
    size_t total = 0, at = 0;
    for (int i = 0; i < count; i++) {
        if (clients[i].error[0]) die("%s", clients[i].error);
        total += clients[i].count;
    }
    if (!total) die("no request was answered in time");
    double *times = malloc(sizeof(double) * total);
    for (int i = 0; i < count; at += clients[i++].count)
        if (clients[i].count) memcpy(times + at, clients[i].times, sizeof(double) * clients[i].count);
    qsort(times, total, sizeof(double), compare);
    printf("{\"count\": %zu, \"per_second\": %.1f, \"p50\": %.1f, \"p99\": %.1f}\n", total, total / seconds,
           times[total / 2], times[total * 99 / 100]);
}

int main(int argc, char **argv) {
    if (argc != 9) die("usage: network_load keep|new|get CLIENTS SECONDS CA_FILE HOST ADDRESS|- PORT PATH");
    int count = atoi(argv[2]);
    double seconds = atof(argv[3]);
    if (count < 1 || count > MAX_CLIENTS) die("1 to %d clients", MAX_CLIENTS);
    mode = argv[1], host = argv[5], path = argv[8];
    signal(SIGPIPE, SIG_IGN);

    struct addrinfo hints = {.ai_family = AF_INET, .ai_socktype = SOCK_STREAM};
    const char *target = strcmp(argv[6], "-") ? argv[6] : host;
    int error = getaddrinfo(target, argv[7], &hints, &server);
    if (error) die("%s: %s", target, gai_strerror(error));
    gnutls_certificate_allocate_credentials(&trust);
    if (gnutls_certificate_set_x509_trust_file(trust, argv[4], GNUTLS_X509_FMT_PEM) < 1) die("%s can't be read", argv[4]);
    gnutls_priority_init(&priorities, "NORMAL:-GROUP-ALL:+GROUP-X25519:-VERS-ALL:+VERS-TLS1.3:-CIPHER-ALL:+AES-128-GCM", NULL);

    struct client *clients = calloc(count, sizeof *clients);
    if (!strcmp(mode, "get")) {
        double began = now();
        if (open_connection(clients) && request(clients)) close_connection(clients);
        if (clients->error[0]) die("%s", clients->error);
        printf("{\"bytes\": %.0f, \"seconds\": %.4f}\n", clients->bytes, now() - began);
        return 0;
    }
    begin = now() + WARM_SECONDS, end = begin + seconds;
    for (int i = 0; i < count; i++) pthread_create(&clients[i].thread, NULL, work, &clients[i]);
    for (int i = 0; i < count; i++) pthread_join(clients[i].thread, NULL);
    report(clients, count, seconds);
    return 0;
}
