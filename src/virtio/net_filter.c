// SPDX-License-Identifier: Apache-2.0
/*
 * Which frames the driver asked for; called for each one by net_rx.c.
 *
 * The kernel could do it (TUNSETTXFILTER), but its filter is the interface's and
 * outlives whoever set it: what uses that tap next would miss frames, for no reason
 * that can be seen.
 */
#include <string.h>

#include "virtio/net.h"

static bool is_in(const uint8_t address[6], const uint8_t table[][6],
		  uint32_t count)
{
	for (uint32_t i = 0; i < count; i++)
		if (memcmp(table[i], address, 6) == 0)
			return true;
	return false;
}

bool net_filter_takes(const struct net_rx_filter *filter,
		      const uint8_t address[6])
{
	static const uint8_t broadcast[6] = { 255, 255, 255, 255, 255, 255 };

	if (filter->is_promisc || memcmp(filter->mac, address, 6) == 0)
		return true;
	if (!(address[0] & 1))
		return filter->is_unicast_over ||
		       is_in(address, filter->unicast, filter->unicast_count);
	return filter->is_all_multicast || filter->is_multicast_over ||
	       memcmp(broadcast, address, 6) == 0 ||
	       is_in(address, filter->multicast, filter->multicast_count);
}
