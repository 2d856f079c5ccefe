/* SPDX-License-Identifier: Apache-2.0 */
/*
 * vhost-user messages.  Numbers are in the byte order of the machine that both ends
 * run on.  Source: the vhost-user specification.
 */
#ifndef GODWIT_VHOST_USER_MSG_H
#define GODWIT_VHOST_USER_MSG_H

#include <assert.h>
#include <stdint.h>

enum um_request {
	UM_GET_FEATURES = 1,
	UM_SET_FEATURES = 2,
	UM_SET_OWNER = 3,
	UM_SET_MEM_TABLE = 5,
	UM_SET_LOG_BASE = 6,
	UM_SET_VRING_NUM = 8,
	UM_SET_VRING_ADDR = 9,
	UM_SET_VRING_BASE = 10,
	UM_GET_VRING_BASE = 11,
	UM_SET_VRING_KICK = 12,
	UM_SET_VRING_CALL = 13,
	UM_GET_PROTOCOL_FEATURES = 15,
	UM_SET_PROTOCOL_FEATURES = 16,
	UM_GET_QUEUE_NUM = 17,
	UM_SET_VRING_ENABLE = 18,
	UM_SEND_RARP = 19,
	UM_SET_BACKEND_REQ_FD = 21,
	UM_GET_CONFIG = 24,
	UM_SET_CONFIG = 25,
	UM_GET_INFLIGHT_FD = 31,
	UM_SET_INFLIGHT_FD = 32,
	UM_GET_MAX_MEM_SLOTS = 36,
	UM_ADD_MEM_REG = 37,
	UM_REM_MEM_REG = 38,
};

/* What a back end asks. */
enum um_backend_request {
	UM_BACKEND_CONFIG_CHANGE = 2,
};

/* Among the features of a device: there are protocol features. */
#define UM_F_PROTOCOL_FEATURES 30

enum um_protocol_feature {
	UM_PROTOCOL_MQ = 0,
	UM_PROTOCOL_LOG_SHMFD = 1,
	UM_PROTOCOL_RARP = 2,
	UM_PROTOCOL_REPLY_ACK = 3,
	UM_PROTOCOL_BACKEND_REQ = 5,
	UM_PROTOCOL_CONFIG = 9,
	UM_PROTOCOL_INFLIGHT_SHMFD = 12,
	UM_PROTOCOL_CONFIGURE_MEM_SLOTS = 15,
};

#define UM_VERSION      1u
#define UM_VERSION_MASK 3u
#define UM_REPLY        4u
#define UM_NEED_REPLY   8u

struct um_header {
	uint32_t request;
	uint32_t flags;
	uint32_t size; /* of what follows */
};
static_assert(sizeof(struct um_header) == 12, "vhost-user header");

struct um_state {
	uint32_t index;
	uint32_t num;
};
static_assert(sizeof(struct um_state) == 8, "vring state");

#define UM_ADDR_LOG 1u

struct um_addr {
	uint32_t index;
	uint32_t flags;
	uint64_t desc, used, avail; /* hva */
	uint64_t log;               /* gpa */
};
static_assert(sizeof(struct um_addr) == 40, "vring address");

/* In a table; back ends may have more slots. */
#define UM_REGIONS_MAX 8u

struct um_region {
	uint64_t gpa, size, hva, offset;
};

struct um_memory {
	uint32_t count;
	uint32_t padding;
	struct um_region regions[UM_REGIONS_MAX];
};
static_assert(sizeof(struct um_memory) == 8 + 8 * 32, "memory table");

/* With UM_ADD_MEM_REG and _REM_MEM_REG. */
struct um_single_region {
	uint64_t padding;
	struct um_region region;
};
static_assert(sizeof(struct um_single_region) == 40, "single memory region");

struct um_log {
	uint64_t size, offset;
};
static_assert(sizeof(struct um_log) == 16, "log");

#define UM_CONFIG_MAX 256u

struct um_config {
	uint32_t offset, size, flags;
	uint8_t bytes[UM_CONFIG_MAX];
};
static_assert(sizeof(struct um_config) == 12 + 256, "config");

struct um_inflight {
	uint64_t size, offset;
	uint16_t queues, queue_size;
	uint32_t padding;
};
static_assert(sizeof(struct um_inflight) == 24, "inflight");

/* With UM_SET_VRING_KICK and _CALL. */
#define UM_VRING_INDEX_MASK 0xffull

#define UM_PAYLOAD_MAX sizeof(struct um_config)

#endif
