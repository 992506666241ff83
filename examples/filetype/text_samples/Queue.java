package org.example.tides;

import java.util.ArrayDeque;
import java.util.Deque;
import java.util.Optional;

/** A bounded queue that forgets its oldest element. */
public final class Queue<T> {
    private final Deque<T> items = new ArrayDeque<>();
    private final int capacity;

    public Queue(int capacity) {
        if (capacity < 1) {
            throw new IllegalArgumentException("capacity must be positive");
        }
        this.capacity = capacity;
    }

    public synchronized void push(T item) {
        if (items.size() == capacity) {
            items.removeFirst();
        }
        items.addLast(item);
    }

    public synchronized Optional<T> pop() {
        return Optional.ofNullable(items.pollFirst());
    }

    public static void main(String[] args) {
        Queue<String> queue = new Queue<>(2);
        for (String arg : args) {
            queue.push(arg);
        }
        queue.pop().ifPresent(System.out::println);
    }
}
