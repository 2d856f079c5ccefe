// SPDX-License-Identifier: Apache-2.0
/*
 * The sub-regions of a container by address, so that rendering a few addresses
 * does not walk all siblings: a treap (a search tree by offset that is a heap
 * by random numbers, hence balanced on average) whose nodes also know the
 * highest end in their subtree (Seidel and Aragon 1996; the "interval tree" of
 * Cormen et al.).  The nodes are the regions themselves.
 *
 * Called by region.c on each change of offset, size or container, and by
 * render.c.
 */
#include "mem_priv.h"

static u128 region_end(const struct mem_region *region)
{
	return (u128)region->offset + region->size;
}

static void node_update(struct mem_region *node)
{
	u128 end = region_end(node);

	if (node->left && node->left->max_end > end)
		end = node->left->max_end;
	if (node->right && node->right->max_end > end)
		end = node->right->max_end;
	node->max_end = end;
}

/* A strict total order: two siblings may have one offset. */
static bool node_is_before(const struct mem_region *a,
			   const struct mem_region *b)
{
	if (a->offset != b->offset)
		return a->offset < b->offset;
	return a->sequence < b->sequence;
}

/* Split @node into what is before @key and the rest. */
static void node_split(struct mem_region *node, const struct mem_region *key,
		       struct mem_region **ret_before,
		       struct mem_region **ret_after)
{
	if (!node) {
		*ret_before = *ret_after = NULL;
		return;
	}
	if (node_is_before(node, key)) {
		node_split(node->right, key, &node->right, ret_after);
		*ret_before = node;
	} else {
		node_split(node->left, key, ret_before, &node->left);
		*ret_after = node;
	}
	node_update(node);
}

/* All of @a is before all of @b. */
static struct mem_region *node_join(struct mem_region *a, struct mem_region *b)
{
	if (!a || !b)
		return a ? a : b;
	if (a->heap > b->heap) {
		a->right = node_join(a->right, b);
		node_update(a);
		return a;
	}
	b->left = node_join(a, b->left);
	node_update(b);
	return b;
}

static struct mem_region *node_insert(struct mem_region *node,
				      struct mem_region *sub)
{
	if (!node || sub->heap > node->heap) {
		node_split(node, sub, &sub->left, &sub->right);
		node_update(sub);
		return sub;
	}
	if (node_is_before(sub, node))
		node->left = node_insert(node->left, sub);
	else
		node->right = node_insert(node->right, sub);
	node_update(node);
	return node;
}

static struct mem_region *node_remove(struct mem_region *node,
				      struct mem_region *sub)
{
	if (node == sub)
		return node_join(sub->left, sub->right);
	if (node_is_before(sub, node))
		node->left = node_remove(node->left, sub);
	else
		node->right = node_remove(node->right, sub);
	node_update(node);
	return node;
}

/* xorshift64 (Marsaglia 2003) */
static uint64_t next_random(struct mem *mem)
{
	uint64_t x = mem->random;

	x ^= x << 13;
	x ^= x >> 7;
	x ^= x << 17;
	mem->random = x;
	return x;
}

void region_index_insert(struct mem_region *container, struct mem_region *sub)
{
	sub->heap = next_random(container->mem);
	container->children = node_insert(container->children, sub);
}

void region_index_remove(struct mem_region *container, struct mem_region *sub)
{
	container->children = node_remove(container->children, sub);
	sub->left = sub->right = NULL;
}

static void node_visit(struct mem_region *node, i128 lo, i128 hi,
		       void (*visit)(void *opaque, struct mem_region *sub),
		       void *opaque)
{
	for (; node && (i128)node->max_end > lo; node = node->right) {
		node_visit(node->left, lo, hi, visit, opaque);
		if ((i128)node->offset >= hi)
			return;
		if ((i128)region_end(node) > lo)
			visit(opaque, node);
	}
}

void region_index_visit(const struct mem_region *container, i128 lo, i128 hi,
			void (*visit)(void *opaque, struct mem_region *sub),
			void *opaque)
{
	node_visit(container->children, lo, hi, visit, opaque);
}
