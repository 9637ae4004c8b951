/* kernel.py in C. */
#include <math.h>
#include <stdint.h>

int64_t kernel(const int64_t *arrive, int64_t count, const int64_t *outputs, int64_t *heap, int64_t *phases,
               int64_t size, int64_t prompt)
{
    int64_t t = 0, it = 0, s = 0, n = 0, blocks = 0, i = 0;
    while (i < count || n > 0) {
        if (n == 0 && t < arrive[i])
            t = arrive[i];
        if (i < count && arrive[i] <= t) {
            t += 6000000 + 18000 * (n + prompt) + 40 * s;
            it += 1;
            s += n + prompt;
            phases[(prompt + size - it % size) % size] += 1;
            int64_t entry = (it + outputs[i]) << 20 | outputs[i], hole = n;
            while (hole > 0 && heap[(hole - 1) >> 1] > entry) {
                heap[hole] = heap[(hole - 1) >> 1];
                hole = (hole - 1) >> 1;
            }
            heap[hole] = entry;
            n += 1;
            i += 1;
        } else {
            int64_t k = (heap[0] >> 20) - it, a = 6000000 + 28000 * n + 40 * s, d = 40 * n;
            if (i < count) {
                int64_t wait = arrive[i] - t;
                double b = a - 0.5 * d;
                int64_t cut = (int64_t)(2.0 * wait / (b + sqrt(b * b + 2.0 * d * wait)));
                while (cut > 1 && (cut - 1) * a + d * ((cut - 1) * (cut - 2) / 2) >= wait)
                    cut -= 1;
                while (cut * a + d * (cut * (cut - 1) / 2) < wait)
                    cut += 1;
                if (cut < k)
                    k = cut;
            }
            if (k > 0) {
                blocks += n * (k / size);
                int64_t phase = (size - it % size) % size;
                for (int64_t left = k % size; left > 0; left--) {
                    blocks += phases[phase];
                    phase = phase > 0 ? phase - 1 : size - 1;
                }
                t += k * a + d * (k * (k - 1) / 2);
                it += k;
                s += n * k;
            }
        }
        while (n > 0 && heap[0] >> 20 <= it) {
            int64_t context = prompt + (heap[0] & 0xFFFFF);
            s -= context;
            phases[(context + size - it % size) % size] -= 1;
            n -= 1;
            int64_t last = heap[n], gap = 0, child = 1;
            while (child < n) {
                if (child + 1 < n && heap[child + 1] < heap[child])
                    child += 1;
                if (heap[child] >= last)
                    break;
                heap[gap] = heap[child];
                gap = child;
                child = 2 * gap + 1;
            }
            heap[gap] = last;
        }
    }
    return t + blocks;
}
