/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A file that gets its name once it is whole.
 *
 * Until then it is called PATH.part, and whoever writes it holds a lock on it:
 * a second save to the same PATH is refused, and a part left behind by a
 * process that died is written anew.
 */
#ifndef GODWIT_MIGRATE_SAVE_H
#define GODWIT_MIGRATE_SAVE_H

struct err;

struct save {
	const char *name; /* within its folder, borrowed from the path; NULL:
			     nothing is being saved */
	int folder_fd;    /* owned with a name */
};

/* PATH.part, empty; whatever could keep it from its name later is tried now.
 * -EBUSY: somebody else saves to @path. */
int save_open(struct save *save, const char *path, int *ret_fd,
	      struct err *err);
/* Give the file its name.  With an error it has none, and save_drop() is due;
 * otherwise it has it, for good. */
int save_commit(struct save *save, struct err *err);
/* Remove the part, while its descriptor is open.  No-op without one. */
void save_drop(struct save *save);

#endif
