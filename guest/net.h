/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The guest program `net`: its options, and what it knows of a network card.  A
 * pair of queues belongs to one vCPU.
 */
#ifndef GODWIT_GUEST_NET_H
#define GODWIT_GUEST_NET_H

#include <linux/virtio_net.h>
#include <stdbool.h>
#include <stdint.h>

#include "guest/flow.h"
#include "guest/frame.h"
#include "guest/inet.h"
#include "guest/io.h"

#define NET_HEADER    sizeof(struct virtio_net_hdr_v1)
#define NET_SHIFT     4  /* where a buffer begins: then its frame is aligned */
#define NET_HEARD_MAX 64 /* senders that a pair tells apart */

enum net_mode {
	NET_SINK,   /* receives and checks */
	NET_ECHO,   /* the same, and sends it back */
	NET_SOURCE, /* sends; nothing comes back */
	NET_LOOP,   /* sends and expects all of it back */
	NET_PING,   /* the same, one at a time */
};

struct net_config {
	struct io_config io;
	uint64_t mode;         /* enum net_mode */
	uint64_t peer;         /* frames go to this card; IO_ALL: to itself */
	uint64_t to;           /* MAC to send to; 0: that of @peer */
	uint64_t mac;          /* to be set; 0: the device's own */
	uint64_t ip;           /* answers ARP and ping; 0 = no. +1 a card */
	uint64_t is_mergeable; /* bool: if offered */
	uint64_t rx_size;      /* bytes of a receive buffer */
	uint64_t is_promisc;   /* bool */
	uint64_t has_idle;     /* bool: pairs that are set up and not used */
	uint64_t resend_us;
};

struct net_counts {
	uint64_t sent, received; /* frames of any kind */
	uint64_t other;          /* received, and of no interest */
	uint64_t dropped;        /* answers for which there was no buffer */
	uint64_t arps, pings;    /* answered */
	uint64_t merged;         /* frames in more than one buffer */
	uint64_t announced;
};

/* A frame that the device hands over buffer by buffer. */
struct net_parts {
	uint8_t *frame; /* header and all, in one piece, after NET_SHIFT */
	uint32_t size;
	unsigned int missing; /* buffers to come; 0: none has been taken */
};

struct net_pair {
	/* immutable after setup */
	struct net_nic *nic;
	unsigned int number;
	struct io_cpu *cpu;
	struct vdev_queue *rx, *tx;
	uint8_t *rx_buffers, *tx_buffers; /* of rx_size, tx_size bytes each */
	uint32_t rx_size, tx_size;
	unsigned int rx_count, tx_count;

	/* owned by @cpu */
	uint16_t *tx_idle; /* stack of buffers that are not in flight */
	unsigned int tx_idle_count;
	struct net_parts parts;
	struct flow flow;
	struct flow_heard *heard;
	struct pace pace;
	uint64_t random;
	bool is_checking;
	uint32_t announces;       /* of nic->announces, done */
	struct net_counts counts; /* CPU 0 reads them */
};

struct net_nic {
	struct vdev *dev; /* borrowed */
	struct inet_host host;
	struct frame_mac to;
	unsigned int pairs, pairs_max;
	unsigned int first;         /* index of its first pair */
	struct vdev_queue *control; /* or NULL */
	uint8_t *control_memory;
	uint64_t announces; /* that were asked for; by CPU 0 */
	bool is_down;
};

extern const struct option_table net_options;
void net_config_init(struct net_config *config);

/* ---- net_pair.c: buffers ---- */

/* Takes the memory of a pair. */
void net_pair_init(struct io *io, struct net_pair *pair,
		   const struct net_config *config);

/* All buffers are the driver's again, and the receive queue gets its own. */
void net_pair_fill(struct net_pair *pair);

/* Room for a frame that net_send() sends, or NULL. */
uint8_t *net_frame(struct net_pair *pair);
void net_send(struct net_pair *pair, uint32_t size);

/* Takes back what has been sent. */
void net_reap(struct net_pair *pair, uint64_t now);

/* Gives each frame that has arrived to @handle; at most a ring full of them. */
void net_receive(struct net_pair *pair, uint64_t now,
		 void (*handle)(struct net_pair *pair, const uint8_t *frame,
				uint32_t size));

/* Begins an error line about @pair, as io_error_begin(). */
bool net_error_begin(struct net_pair *pair, struct line *line,
		     const char *kind);

/* ---- net_nic.c: registers and the control queue; CPU 0 ---- */

void net_nic_start(struct io *io, struct net_nic *nic,
		   const struct net_config *config, unsigned int ring);
/* After its queues have been filled. */
void net_nic_ready(struct io *io, struct net_nic *nic,
		   const struct net_config *config);
void net_nic_print(const struct net_nic *nic);
/* Link and announcements. */
void net_nic_look(struct io *io, struct net_nic *nic);

#endif
