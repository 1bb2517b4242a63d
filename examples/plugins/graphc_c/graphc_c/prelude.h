#include <math.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

enum { INTEGER_DIVISION = 1, BAD_INDEX = 2 };

static inline int64_t min_i(int64_t a, int64_t b) { return a < b ? a : b; }
static inline int64_t max_i(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }
static inline int64_t floor_mod(int64_t a, int64_t b) { return a % b + (a % b < 0 ? b : 0); }

#define MAX(x, y) ((x) > (y) || (x) != (x) ? (x) : (y))
#define MIN(x, y) ((x) < (y) || (x) != (x) ? (x) : (y))
#define SIGN(x) ((x) > 0 ? 1 : (x) < 0 ? -1 : (x) == 0 ? 0 : (x))
#define TRUNCATED(T, x, low, high) ((x) >= (high) + 1.0 ? (T)(high) : (x) < (low) ? (T)(low) : (x) == (x) ? (T)(x) : 0)
#define CHECK(i, n) if ((i) < 0 || (i) >= (n)) return BAD_INDEX
#define DIVIDES(x, y, low) if ((y) == 0 || ((low) < 0 && (y) + 1 == 0 && (x) == (low))) return INTEGER_DIVISION

static inline double sigmoid_f64(double x) { double e = exp(-fabs(x)); return (x >= 0 ? 1 : e) / (1 + e); }
static inline double mod_f64(double x, double y) {
  double r = fmod(x, y);
  return r == 0 ? copysign(0, y) : (r < 0) != (y < 0) ? r + y : r;
}

/* Rows of n elements, `stride` apart, sorted by merging runs of 1, 2, 4, ... positions; NaN is the greatest. */
#define SORT(NAME, T, DESCENDING) \
static int less_##NAME(T a, T b) { return a < b || (a == a && b != b); } \
int NAME(void **p, const int64_t *d, void *scratch, int64_t begin, int64_t end) { \
  const T *x = p[0]; T *y = p[1]; int64_t *at = p[2], n = d[0], stride = d[1]; \
  for (int64_t row = begin; row < end; row++) { \
    int64_t base = row / stride * n * stride + row % stride, *from = scratch, *to = from + n; \
    for (int64_t i = 0; i < n; i++) from[i] = i; \
    for (int64_t width = 1; width < n; width *= 2) { \
      for (int64_t low = 0; low < n; low += 2 * width) { \
        int64_t a = low, middle = min_i(low + width, n), b = middle, high = min_i(middle + width, n); \
        for (int64_t k = low; k < high; k++) { \
          int left = a < middle; \
          if (left && b < high) { \
            T u = x[base + from[a] * stride], v = x[base + from[b] * stride]; \
            left = DESCENDING ? !less_##NAME(u, v) : !less_##NAME(v, u); \
          } \
          to[k] = left ? from[a++] : from[b++]; \
        } \
      } \
      int64_t *t = from; from = to; to = t; \
    } \
    for (int64_t i = 0; i < n; i++) { y[base + i * stride] = x[base + from[i] * stride]; at[base + i * stride] = from[i]; } \
  } \
  return 0; \
}
