/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A PCI function that is RAM: as the specification of the inter-VM shared memory
 * device has it ("ivshmem-plain"), without anybody to share it with.
 *
 * BAR 0 is the registers, which all read as 0 and take nothing: without
 * interrupts none has a meaning.  BAR 2 is the memory, 64 bit and prefetchable, a
 * RAM block of its own, so that a guest moves, removes and brings back a memslot
 * by its BAR.  The memory migrates as all RAM does, wherever it is mapped, and a
 * reset of the function leaves it alone.
 *
 * Source: QEMU's docs/specs/ivshmem-spec, of which the layout is a fact.
 */
#ifndef GODWIT_DEV_IVSHMEM_H
#define GODWIT_DEV_IVSHMEM_H

struct err;
struct mem;
struct pci_bus;
struct shmem;

/* @name: of the function and of the RAM block.  @text: "size=N", a power of two of
 * at least 4 KiB. */
int shmem_new(struct mem *mem, struct pci_bus *bus, const char *name,
	      const char *text, struct shmem **ret_shmem, struct err *err);
/* NULL is accepted. */
void shmem_free(struct shmem *shmem);

#endif
