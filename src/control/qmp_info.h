/* SPDX-License-Identifier: Apache-2.0 */
/* Migration statistics as `query-migrate` returns them. */
#ifndef GODWIT_CONTROL_QMP_INFO_H
#define GODWIT_CONTROL_QMP_INFO_H

#include <jansson.h>

struct mig;
struct mig_info;

/* A new object, NULL without memory.  Members, units and presence are QEMU's
 * MigrationInfo; "pause", "throttle" and "verify" are ours.  @info is @mig's. */
json_t *qmp_info_new(const struct mig_info *info, struct mig *mig);

#endif
