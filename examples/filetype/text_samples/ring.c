#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* A ring buffer of fixed capacity. */
struct ring {
    size_t capacity;
    size_t head;
    size_t count;
    int32_t *items;
};

static int ring_push(struct ring *ring, int32_t value)
{
    if (ring->count == ring->capacity)
        return -1;
    ring->items[(ring->head + ring->count++) % ring->capacity] = value;
    return 0;
}

static int ring_pop(struct ring *ring, int32_t *value)
{
    if (ring->count == 0)
        return -1;
    *value = ring->items[ring->head];
    ring->head = (ring->head + 1) % ring->capacity;
    ring->count--;
    return 0;
}

int main(void)
{
    struct ring ring = { .capacity = 4, .items = calloc(4, sizeof(int32_t)) };
    int32_t value;

    for (int i = 0; ring_push(&ring, i * i) == 0; i++)
        ;
    while (ring_pop(&ring, &value) == 0)
        printf("%d\n", value);
    free(ring.items);
    return EXIT_SUCCESS;
}
