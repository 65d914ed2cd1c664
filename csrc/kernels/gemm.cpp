// Batch-reduce matrix product on register tiles of MR rows by NV vectors, packing, column sums.
#include "gemm.hpp"

#include <fastbn/fastbn.h>

#include "sgd.hpp"
#include "shuffles.hpp"
#include "vector_math.hpp"

namespace fastbn {
namespace FASTBN_ISA {
namespace {

// The accumulators, one row of B and a broadcast element of A share the vector registers.
#if defined(__AVX512F__)
constexpr int kRegisters = 32, kBroadcasts = 1;
#elif defined(__aarch64__)
constexpr int kRegisters = 32, kBroadcasts = 9;  // g++ loads elements of A well ahead
#elif FASTBN_HAS_FMA
constexpr int kRegisters = 16, kBroadcasts = 1;
#else
constexpr int kRegisters = 16, kBroadcasts = 2;  // the element and its product
#endif
constexpr int kMaxRows = 14;  // taller tiles of one vector are slower: more broadcasts for each row of B
constexpr int kMaxVectors = 4;

constexpr int tile_rows(int vectors) {
  const int rows = (kRegisters - vectors - kBroadcasts) / vectors;
  return rows < kMaxRows ? rows : kMaxRows;
}

constexpr int kTileRows[kMaxVectors] = {tile_rows(1), tile_rows(2), tile_rows(3), tile_rows(4)};

FASTBN_INLINE vfloat load_lanes(const float* p, int64_t lanes) {
#if defined(__AVX512F__)
  return load_partial(p, lanes);  // masked: as fast as a whole load
#else
  return lanes == kLanes ? load(p) : load_partial(p, lanes);
#endif
}
FASTBN_INLINE void store_lanes(float* p, vfloat v, int64_t lanes) {
#if defined(__AVX512F__)
  store_partial(p, v, lanes);
#else
  if (lanes == kLanes) {
    store(p, v);
  } else {
    store_partial(p, v, lanes);
  }
#endif
}

constexpr int kLineFloats = 16;

// Where the first cache is small beside what the products of a tile read, C is fetched when its stores are near: else
// it would be gone by then.
#if defined(__AVX512F__)
constexpr bool kFetchLate = false;
#else
constexpr bool kFetchLate = true;
#endif
constexpr int64_t kProductsOfFetch = 64;

// Products of one pass of the loop where addresses are constants apart, A's columns side by side or packed: with few
// registers the instructions around six rows' products count. They read a line of what is next.
constexpr int kAtOnce = 2;
static_assert(kAtOnce * kNextFloats == kLineFloats);
constexpr int64_t kBeside = sizeof(float), kPacked = kTileRows[1] * sizeof(float);  // bytes between columns of A

// Rows of W in panels that a call reads once are fetched so many rows ahead: the processor's own streams end with
// pages.
constexpr int64_t kRowsAhead = 48;

// Tiles one after another, each as far from the one before: where the rows of the first are, in bytes from A's first
// element and in floats from C's, and how far the next tile's. p's that do not fetch C fetch kNextFloats each of
// g.next, from tile `first` of the call on.
struct TileRows {
  int64_t a[kMaxRows], c[kMaxRows];
  int64_t a_next, c_next;
  int64_t first, count;
};

// The lines of a row of NV vectors, which need not begin where a line does.
template <int NV>
FASTBN_INLINE void fetch_row(const float* c) {
  FASTBN_UNROLL
  for (int j = 0; j < NV * kLanes; j += kLineFloats) __builtin_prefetch(c + j, 1);
  __builtin_prefetch(c + NV * kLanes - 1, 1);
}

// The weights and the velocity at these lanes after a step of SGD.
FASTBN_INLINE void update_lanes(const GemmUpdate& u, float* w, float* velocity, vfloat gradient, int64_t lanes) {
  const vfloat old = load_lanes(w, lanes);
  if (!velocity) return store_lanes(w, sgd_step(u.rate, u.decay, old, gradient), lanes);
  vfloat v = load_lanes(velocity, lanes);
  const vfloat updated = sgd_step(u.rate, u.decay, u.momentum, u.nesterov, old, gradient, v);
  store_lanes(velocity, v, lanes);
  store_lanes(w, updated, lanes);
}

// MR rows of C, all n columns, n in ((NV - 1) * kLanes, NV * kLanes], of the tile whose first elements are at `a_first`
// and `c`; what lies at `c_fetch` is fetched, this tile's C or another's. Every case of the end stores at once instead
// of changing the accumulators: else the compiler hoists constants into vector registers and spills.
template <int MR, int NV>
FASTBN_INLINE void one_tile(const GemmArgs& g, const TileRows& at, const char* a_first, float* c, float* c_fetch,
                            const float* next) {
  alignas(64) static const float kZeros[NV * kLanes] = {};
  const int64_t tail = g.n - (NV - 1) * kLanes;
  const bool chain = g.start == GemmStart::kChain;
  const float* start = chain ? c : g.bias ? g.bias : kZeros;
  const int64_t start_row = chain ? -1 : 0;  // a mask of the row offsets

  vfloat sum[MR][NV];
  FASTBN_UNROLL
  for (int i = 0; i < MR; ++i) {
    const float* from = start + (at.c[i] & start_row);
    FASTBN_UNROLL
    for (int v = 0; v + 1 < NV; ++v) sum[i][v] = load(from + v * kLanes);
    sum[i][NV - 1] = load_lanes(from + (NV - 1) * kLanes, tail);
  }

  // C is fetched for writing while the products are under way; otherwise its misses stall the stores at the end. One
  // row with each of some products: all at once they fill the queue of misses, and A and B wait behind them.
  const int64_t spread = g.batch > 0 ? (g.k < MR ? g.k : MR) : 0;
  const int64_t fetch_batch = kFetchLate ? g.batch - 1 : 0;
  const int64_t fetch_first = kFetchLate && g.k > kProductsOfFetch ? g.k - kProductsOfFetch : 0;
  float* velocity = g.update && g.update->velocity ? g.update->velocity + (c - g.c) : nullptr;
  float* velocity_fetch = velocity ? velocity + (c_fetch - c) : nullptr;
  for (int64_t i = spread; i < MR; ++i) {
    fetch_row<NV>(c_fetch + at.c[i]);
    if (velocity) fetch_row<NV>(velocity_fetch + at.c[i]);
  }

  int64_t row_at[MR];  // from the first row
  FASTBN_UNROLL
  for (int i = 0; i < MR; ++i) row_at[i] = at.a[i] - at.a[0];
  const int64_t a_step = g.a_col * (int64_t)sizeof(float), b_step = g.b_row;
  for (int64_t e = 0; e < g.batch; ++e) {
    const char* a = a_first + (g.a_offset ? g.a_offset[e] * (int64_t)sizeof(float) : 0);
    const float* b = g.b_offset ? g.b + g.b_offset[e] : g.b;
    const auto product_at = [&](int q, int64_t a_apart, int64_t b_apart) __attribute__((always_inline)) {
      vfloat row[NV];
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) row[v] = load(b + q * b_apart + v * kLanes);
      FASTBN_UNROLL
      for (int i = 0; i < MR; ++i) {
        const vfloat element = broadcast(*(const float*)(i == 0 ? a + q * a_apart : a + row_at[i] + q * a_apart));
        FASTBN_UNROLL
        for (int v = 0; v < NV; ++v) sum[i][v] = fma(element, row[v], sum[i][v]);
      }
    };
    const auto product = [&]() __attribute__((always_inline)) {
      product_at(0, 0, 0);
      a += a_step;
      b += b_step;
    };
    int64_t end = e == fetch_batch ? fetch_first : g.k;
    for (int64_t p = 0;; end = g.k) {
      // Products whose addresses are constants apart.
      const auto run = [&](auto a_apart, auto b_apart, auto fetches) __attribute__((always_inline)) {
        int64_t passes = (end - p) / kAtOnce;
        p += passes * kAtOnce;
        for (; passes > 0; --passes) {
          if constexpr (fetches.value != 0) {
            __builtin_prefetch(next, 0, 2);
            next += kAtOnce * kNextFloats;
          }
          FASTBN_UNROLL
          for (int i = 0; i < kAtOnce; ++i) product_at(i, a_apart.value, b_apart.value);
          a += kAtOnce * a_apart.value;
          b += kAtOnce * b_apart.value;
        }
      };
      constexpr Constant<NV * kLanes> kTight{};
      if (kRegisters == 16 && b_step == NV * kLanes && (a_step == kBeside || a_step == kPacked)) {
        if (a_step == kBeside) {
          next == nullptr ? run(Constant<kBeside>{}, kTight, Constant<0>{})
                          : run(Constant<kBeside>{}, kTight, Constant<1>{});
        } else {
          next == nullptr ? run(Constant<kPacked>{}, kTight, Constant<0>{})
                          : run(Constant<kPacked>{}, kTight, Constant<1>{});
        }
      }
      if constexpr (kRegisters == 16 && 2 * NV * kLanes == kWidePanel) {
        if (b_step == kWidePanel && a_step == kBeside && next == nullptr)
          run(Constant<kBeside>{}, Constant<kWidePanel>{}, Constant<0>{});
      }
      if (next == nullptr) {
        for (; p < end; ++p) product();
      }
      for (; p < end; ++p) {
        __builtin_prefetch(next, 0, 2);
        next += kNextFloats;
        product();
      }
      if (p == g.k) break;
      for (int64_t i = 0; i < spread; ++i, ++p) {
        fetch_row<NV>(c_fetch + at.c[i]);
        if (velocity) fetch_row<NV>(velocity_fetch + at.c[i]);
        product();
      }
    }
  }

  if (g.update) {
    FASTBN_UNROLL
    for (int i = 0; i < MR; ++i) {
      float* own = velocity ? velocity + at.c[i] : nullptr;
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) {
        update_lanes(*g.update, c + at.c[i] + v * kLanes, own ? own + v * kLanes : nullptr, sum[i][v],
                     v + 1 < NV ? kLanes : tail);
      }
    }
  } else if (g.start == GemmStart::kAdd) {
    FASTBN_UNROLL
    for (int i = 0; i < MR; ++i) {
      float* to = c + at.c[i];
      FASTBN_UNROLL
      for (int v = 0; v + 1 < NV; ++v) store(to + v * kLanes, load(to + v * kLanes) + sum[i][v]);
      to += (NV - 1) * kLanes;
      store_lanes(to, load_lanes(to, tail) + sum[i][NV - 1], tail);
    }
  } else if (g.activation == FBN_LINEAR) {
    FASTBN_UNROLL
    for (int i = 0; i < MR; ++i) {
      float* to = c + at.c[i];
      FASTBN_UNROLL
      for (int v = 0; v + 1 < NV; ++v) store(to + v * kLanes, sum[i][v]);
      store_lanes(to + (NV - 1) * kLanes, sum[i][NV - 1], tail);
    }
  } else {
    const vfloat slope = broadcast(g.activation == FBN_LEAKY_RELU ? g.alpha : 0.0f);
    const bool leaky = g.activation == FBN_LEAKY_RELU;
    FASTBN_UNROLL
    for (int i = 0; i < MR; ++i) {
      float* to = c + at.c[i];
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) {
        const vfloat below = leaky ? slope * sum[i][v] : vfloat{};
        const vfloat value = sum[i][v] < vfloat{} ? below : sum[i][v];
        if (v + 1 < NV) {
          store(to + v * kLanes, value);
        } else {
          store_lanes(to + v * kLanes, value, tail);
        }
      }
    }
  }
}

// Most products of a tile that goes without fetching what is next; those of longer ones hide it.
constexpr int64_t kProductsOfShort = 192;

using Tiles = void (*)(const GemmArgs&, const TileRows&);

// Tiles of whole vectors from zero or the bias, columns of A and rows of B constants apart, without an end of their
// own: what a tile costs beside its products counts where these are few. Fetches the C of the tile that follows. Once:
// B is read by one tile only.
template <int MR, int NV, int ColumnBytes, int RowFloats, bool Once = false>
__attribute__((noinline)) void plain_tiles(const GemmArgs& g, const TileRows& at) {
  alignas(64) static const float kZeros[NV * kLanes] = {};
  const char* a_tile = (const char*)g.a + at.a[0];
  const float* const start = g.bias ? g.bias : kZeros;
  float* c = g.c;
  int64_t row_at[MR];
  FASTBN_UNROLL
  for (int i = 0; i < MR; ++i) row_at[i] = at.a[i] - at.a[0];
  for (int64_t t = 0; t < at.count; ++t) {
    vfloat sum[MR][NV];
    FASTBN_UNROLL
    for (int i = 0; i < MR; ++i) {
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) sum[i][v] = load(start + v * kLanes);
    }
    for (int64_t e = 0; e < g.batch; ++e) {
      const char* a = a_tile + (g.a_offset ? g.a_offset[e] * (int64_t)sizeof(float) : 0);
      const float* b = g.b_offset ? g.b + g.b_offset[e] : g.b;
      const auto products = [&](auto count) __attribute__((always_inline)) {
        FASTBN_UNROLL
        for (int q = 0; q < count.value; ++q) {
          vfloat row[NV];
          if constexpr (Once) __builtin_prefetch(b + (q + kRowsAhead) * RowFloats);
          FASTBN_UNROLL
          for (int v = 0; v < NV; ++v) row[v] = load(b + q * RowFloats + v * kLanes);
          FASTBN_UNROLL
          for (int i = 0; i < MR; ++i) {
            const char* at_row = i == 0 ? a + q * ColumnBytes : a + row_at[i] + q * ColumnBytes;
            const vfloat element = broadcast(*(const float*)at_row);
            FASTBN_UNROLL
            for (int v = 0; v < NV; ++v) sum[i][v] = fma(element, row[v], sum[i][v]);
          }
        }
        a += count.value * ColumnBytes;
        b += count.value * RowFloats;
      };
      int64_t passes = g.k / kAtOnce;
      if (e == 0) {
        for (int64_t i = 0; i < MR && passes > 0; ++i, --passes) {
          fetch_row<NV>(c + at.c_next + at.c[i]);
          products(Constant<kAtOnce>{});
        }
      }
      for (; passes > 0; --passes) products(Constant<kAtOnce>{});
      if (g.k % kAtOnce != 0) products(Constant<1>{});
    }
    FASTBN_UNROLL
    for (int i = 0; i < MR; ++i) {
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) store(c + at.c[i] + v * kLanes, sum[i][v]);
    }
    a_tile += at.a_next;
    c += at.c_next;
  }
}

// plain_tiles for these arguments; nullptr: there are none.
template <int MR, int NV>
FASTBN_INLINE Tiles plain_tiles_for(const GemmArgs& g) {
  if constexpr (kRegisters == 16 && NV == 2 && MR >= 4) {
    if (g.n != NV * kLanes || g.start != GemmStart::kZero || g.activation != FBN_LINEAR || g.update ||
        (g.next_floats > 0 && g.k * g.batch > kProductsOfShort)) {
      return nullptr;
    }
    const int64_t a_step = g.a_col * (int64_t)sizeof(float);
    if (a_step == kBeside && g.b_row == NV * kLanes) return plain_tiles<MR, NV, kBeside, NV * kLanes>;
    if (a_step == kPacked && g.b_row == NV * kLanes) return plain_tiles<MR, NV, kPacked, NV * kLanes>;
    if (a_step == kBeside && g.b_row == kWidePanel) {
      return g.m <= MR ? plain_tiles<MR, NV, kBeside, kWidePanel, true> : plain_tiles<MR, NV, kBeside, kWidePanel>;
    }
  }
  return nullptr;
}

// Not inlined, and nothing is known to stay the same from tile to tile: the loop would let the compiler hoist constants
// into vector registers and spill accumulators.
template <int MR, int NV>
__attribute__((noinline)) void tiles(const GemmArgs& g, const TileRows& at) {
  if (const Tiles plain = plain_tiles_for<MR, NV>(g)) return plain(g, at);
  const char* a = (const char*)g.a + at.a[0];
  float* c = g.c;
  const int64_t fetched = g.k * g.batch * kNextFloats;  // by one tile
  const int64_t c_ahead = kFetchLate && g.k * g.batch <= kProductsOfFetch ? at.c_next : 0;
  for (int64_t t = 0; t < at.count; ++t) {
    asm volatile("" ::: "memory");
    const int64_t from = (at.first + t) * fetched;
    one_tile<MR, NV>(g, at, a, c, c + c_ahead, from < g.next_floats ? g.next + from : nullptr);
    a += at.a_next;
    c += at.c_next;
  }
}

template <int NV, int MR>
constexpr Tiles tiles_or_none() {
  if constexpr (MR <= tile_rows(NV)) {
    return tiles<MR, NV>;
  } else {
    return nullptr;
  }
}

#define FASTBN_TILES(NV)                                                                                     \
  {                                                                                                          \
    nullptr, tiles_or_none<NV, 1>(), tiles_or_none<NV, 2>(), tiles_or_none<NV, 3>(), tiles_or_none<NV, 4>(), \
        tiles_or_none<NV, 5>(), tiles_or_none<NV, 6>(), tiles_or_none<NV, 7>(), tiles_or_none<NV, 8>(),      \
        tiles_or_none<NV, 9>(), tiles_or_none<NV, 10>(), tiles_or_none<NV, 11>(), tiles_or_none<NV, 12>(),   \
        tiles_or_none<NV, 13>(), tiles_or_none<NV, 14>()                                                     \
  }
constexpr Tiles kTiles[kMaxVectors][kMaxRows + 1] = {FASTBN_TILES(1), FASTBN_TILES(2), FASTBN_TILES(3),
                                                     FASTBN_TILES(4)};
#undef FASTBN_TILES

// Rows of A that begin a multiple of kSetsFloats apart fall into one set of the first cache. Its ways, 12 here, do not
// hold the lines of 14 of them and pass B's, so that every tile would read each line again and again.
constexpr int64_t kSetsFloats = 1024;
constexpr int kRowsOfOneSet = 10;

int most_rows(const GemmArgs& g, int64_t vectors) {
  const int most = kTileRows[vectors - 1];
  const bool one_set = g.a_col == 1 && g.a_row % kSetsFloats == 0;
  return one_set && most > kRowsOfOneSet ? kRowsOfOneSet : most;
}

RegisterTile tile_of(int64_t columns) {
  int vectors = 1;
  while (vectors < kMaxVectors && vectors * kLanes < columns) ++vectors;
  return {kTileRows[vectors - 1], vectors * kLanes};
}

// Cuts the rows evenly, so that no tile is much lower than the others. Tiles of one height that are as far apart as the
// first two are done in one call.
void gemm(const GemmArgs& g) {
  if (g.m <= 0 || g.n <= 0) return;
  const int64_t vectors = (g.n + kLanes - 1) / kLanes;
  const int64_t most = most_rows(g, vectors);
  const int64_t tiles = (g.m + most - 1) / most, height = g.m / tiles, higher = g.m % tiles;
  int64_t in = g.first_row % g.inner;
  int64_t a_outer = g.first_row / g.inner * g.a_outer, c_outer = g.first_row / g.inner * g.c_outer;
  TileRows at;
  for (at.first = 0; at.first < tiles; at.first += at.count) {
    const int64_t rows = height + (at.first < higher), alike = (at.first < higher ? higher : tiles) - at.first;
    const bool by_outer = in == 0 && rows == g.inner;
    const int64_t left = g.inner - in;
    // rows is at least 1. NOLINTNEXTLINE(clang-analyzer-core.DivideZero)
    at.count = by_outer ? alike : left < 2 * rows ? 1 : left / rows < alike ? left / rows : alike;
    at.a_next = (by_outer ? g.a_outer : rows * g.a_row) * (int64_t)sizeof(float);
    at.c_next = by_outer ? g.c_outer : rows * g.c_row;
    int64_t a = a_outer + in * g.a_row, c = c_outer + in * g.c_row;
    for (int64_t i = 0; i < rows; ++i) {
      at.a[i] = a * (int64_t)sizeof(float);
      at.c[i] = c;
      a += g.a_row;
      c += g.c_row;
      if (++in == g.inner) {
        in = 0;
        a = a_outer += g.a_outer;
        c = c_outer += g.c_outer;
      }
    }
    if (by_outer) {
      a_outer += (at.count - 1) * g.a_outer;
      c_outer += (at.count - 1) * g.c_outer;
    } else {
      in += (at.count - 1) * rows;
    }
    if (in == g.inner) {
      in = 0;
      a_outer += g.a_outer;
      c_outer += g.c_outer;
    }
    kTiles[vectors - 1][rows](g, at);
  }
}

// The first Rows rows of C from a and c on.
template <int Rows, int NV>
FASTBN_INLINE void few_terms_tile(const GemmArgs& g, const float* a, float* c) {
  const int64_t tail = g.n - (NV - 1) * kLanes;
  vfloat sum[Rows][NV];
  FASTBN_UNROLL
  for (int v = 0; v < NV; ++v) {
    vfloat start{};
    if (g.bias) start = v + 1 < NV ? load(g.bias + v * kLanes) : load_lanes(g.bias + v * kLanes, tail);
    FASTBN_UNROLL
    for (int i = 0; i < Rows; ++i) sum[i][v] = start;
  }
  const float* b = g.b;
  for (int64_t e = 0; e < g.batch; ++e) {
    const float* element = a + g.a_offset[e];
    if constexpr (Rows < NV) {  // the fewer of both stay in registers
      vfloat factor[Rows];
      FASTBN_UNROLL
      for (int i = 0; i < Rows; ++i) factor[i] = broadcast(element[i * g.a_row]);
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) {
        const vfloat row = held(load(b + v * kLanes));
        FASTBN_UNROLL
        for (int i = 0; i < Rows; ++i) sum[i][v] = fma(factor[i], row, sum[i][v]);
      }
    } else {
      vfloat row[NV];
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) row[v] = held(load(b + v * kLanes));
      FASTBN_UNROLL
      for (int i = 0; i < Rows; ++i) {
        const vfloat factor = broadcast(element[i * g.a_row]);
        FASTBN_UNROLL
        for (int v = 0; v < NV; ++v) sum[i][v] = fma(factor, row[v], sum[i][v]);
      }
    }
    b += g.b_row;
  }
  if (g.activation != FBN_LINEAR) {
    const vfloat slope = broadcast(g.activation == FBN_LEAKY_RELU ? g.alpha : 0.0f);
    const bool leaky = g.activation == FBN_LEAKY_RELU;
    FASTBN_UNROLL
    for (int i = 0; i < Rows; ++i) {
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) {
        const vfloat below = leaky ? slope * sum[i][v] : vfloat{};
        sum[i][v] = sum[i][v] < vfloat{} ? below : sum[i][v];
      }
    }
  }
  FASTBN_UNROLL
  for (int i = 0; i < Rows; ++i) {
    float* to = c + i * g.c_row;
    FASTBN_UNROLL
    for (int v = 0; v + 1 < NV; ++v) store(to + v * kLanes, sum[i][v]);
    store_lanes(to + (NV - 1) * kLanes, sum[i][NV - 1], tail);
  }
}

// Tiles of the rows of a run; the last one reaches back over rows that are already there.
template <int Rows, int NV>
FASTBN_INLINE void few_terms_run(const GemmArgs& g, int64_t count, const float* a, float* c) {
  if constexpr (Rows > 1) {
    if (count < Rows) return few_terms_run<Rows / 2, NV>(g, count, a, c);
  }
  for (int64_t i = 0; i < count; i += Rows) {
    const int64_t at = i + Rows <= count ? i : count - Rows;
    few_terms_tile<Rows, NV>(g, a + at * g.a_row, c + at * g.c_row);
  }
}

// Runs of `inner` rows, with as many sums in registers as hide how long a multiply-add takes.
template <int NV>
void few_terms_rows(const GemmArgs& g) {
  constexpr int kRows = NV == 1 ? 8 : kRegisters == 32 || NV == 2 ? 4 : !FASTBN_HAS_FMA ? 2 : NV == 3 ? 4 : 3;
  for (int64_t r = g.first_row, end = g.first_row + g.m, count; r < end; r += count) {
    const int64_t outer = r / g.inner, in = r % g.inner;
    count = g.inner - in < end - r ? g.inner - in : end - r;
    few_terms_run<kRows, NV>(g, count, g.a + outer * g.a_outer + in * g.a_row, g.c + outer * g.c_outer + in * g.c_row);
  }
}

void few_terms(const GemmArgs& g) {
  constexpr void (*kRows[kMaxVectors])(const GemmArgs&) = {few_terms_rows<1>, few_terms_rows<2>, few_terms_rows<3>,
                                                           few_terms_rows<4>};
  kRows[(g.n + kLanes - 1) / kLanes - 1](g);
}

// Rows x NV vectors from column j, the last of `tail` lanes.
template <int Rows, int NV>
FASTBN_INLINE void outer_block(const float* a, int64_t a_col, const float* b, int64_t b_row, int64_t k, float* c,
                               int64_t c_row, int64_t tail, const GemmUpdate* update, int64_t from_first) {
  vfloat sum[Rows][NV] = {};
  for (int64_t p = 0; p < k; ++p) {
    vfloat row[NV];
    FASTBN_UNROLL
    for (int v = 0; v + 1 < NV; ++v) row[v] = load(b + v * kLanes);
    row[NV - 1] = load_lanes(b + (NV - 1) * kLanes, tail);
    FASTBN_UNROLL
    for (int i = 0; i < Rows; ++i) {
      const vfloat element = broadcast(a[i]);
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) sum[i][v] = fma(element, row[v], sum[i][v]);
    }
    a += a_col;
    b += b_row;
  }
  float* velocity = update && update->velocity ? update->velocity + from_first : nullptr;
  FASTBN_UNROLL
  for (int i = 0; i < Rows; ++i) {
    FASTBN_UNROLL
    for (int v = 0; v < NV; ++v) {
      const int64_t lanes = v + 1 < NV ? kLanes : tail, at = i * c_row + v * kLanes;
      if (update) {
        update_lanes(*update, c + at, velocity ? velocity + at : nullptr, sum[i][v], lanes);
      } else {
        store_lanes(c + at, sum[i][v], lanes);
      }
    }
  }
}

// K rows of B, two vectors of each, stay in registers; the rows of C go by, fetched ahead.
template <int K>
void outer_rows(const float* a, int64_t a_col, const float* b, int64_t b_row, int64_t m, float* c, int64_t c_row,
                const GemmUpdate* update, int64_t from_first) {
  constexpr int NV = 2;
  vfloat row[K][NV];
  FASTBN_UNROLL
  for (int p = 0; p < K; ++p) {
    FASTBN_UNROLL
    for (int v = 0; v < NV; ++v) row[p][v] = load(b + p * b_row + v * kLanes);
  }
  const auto rows = [&](auto finish) __attribute__((always_inline)) {
    for (int64_t i = 0; i < m; ++i) {
      vfloat sum[NV] = {};
      __builtin_prefetch(c + (i + kRowsAhead) * c_row, 1);
      FASTBN_UNROLL
      for (int p = 0; p < K; ++p) {
        const vfloat element = broadcast(a[p * a_col + i]);
        FASTBN_UNROLL
        for (int v = 0; v < NV; ++v) sum[v] = fma(element, row[p][v], sum[v]);
      }
      FASTBN_UNROLL
      for (int v = 0; v < NV; ++v) finish(i * c_row + v * kLanes, sum[v]);
    }
  };
  if (update == nullptr) {
    rows([&](int64_t at, vfloat gradient) __attribute__((always_inline)) { store(c + at, gradient); });
  } else if (update->velocity == nullptr) {
    const float rate = update->rate, decay = update->decay;
    rows([&](int64_t at, vfloat gradient)
             __attribute__((always_inline)) { store(c + at, sgd_step(rate, decay, load(c + at), gradient)); });
  } else {
    const GemmUpdate u = *update;
    float* velocity = u.velocity + from_first;
    rows([&](int64_t at, vfloat gradient)
             __attribute__((always_inline)) { update_lanes(u, c + at, velocity + at, gradient, kLanes); });
  }
}

void outer(const float* a, int64_t a_col, const float* b, int64_t b_row, int64_t m, int64_t n, int64_t k, float* c,
           int64_t c_row, const GemmUpdate* update) {
  constexpr decltype(&outer_rows<1>) kRows[] = {outer_rows<1>, outer_rows<2>, outer_rows<3>, outer_rows<4>};
  int64_t first = 0;
  if (k >= 1 && k <= 4 && c_row <= kWidePanel) {  // longer rows are written one after another
    for (; first + 2 * kLanes <= n; first += 2 * kLanes)
      kRows[k - 1](a, a_col, b + first, b_row, m, c + first, c_row, update, first);
    if (first == n) return;
  }
  const auto block = [&](int64_t i, int64_t j, auto rows, auto vectors, int64_t tail) __attribute__((always_inline)) {
    const int64_t at = i * c_row + j;
    outer_block<rows.value, vectors.value>(a + i, a_col, b + j, b_row, k, c + at, c_row, tail, update, at);
  };
  int64_t i = 0;
  if (n - first <= 2 * kLanes) {
    for (; i + 4 <= m; i += 4)
      n - first <= kLanes ? block(i, first, Constant<4>{}, Constant<1>{}, n - first)
                          : block(i, first, Constant<4>{}, Constant<2>{}, n - first - kLanes);
  }
  const auto rows_at = [&](auto rows) __attribute__((always_inline)) {
    int64_t j = first;
    for (; j + kMaxVectors * kLanes <= n; j += kMaxVectors * kLanes) block(i, j, rows, Constant<kMaxVectors>{}, kLanes);
    for (; j < n; j += kLanes) block(i, j, rows, Constant<1>{}, n - j < kLanes ? n - j : kLanes);
    i += rows.value;
  };
  while (i + 2 <= m) rows_at(Constant<2>{});
  if (i < m) rows_at(Constant<1>{});
}

// Sums of R rows of A and G groups of kLanes rows of B, which are transposed in registers. Whole: else B has `rows` of
// them, in one group.
template <int R, int G, bool Whole>
FASTBN_INLINE void dots_tile(const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t rows, int64_t k,
                             float* c, int64_t c_row, bool chain) {
  vfloat sum[R][G] = {};
  if (chain) {
    FASTBN_UNROLL
    for (int i = 0; i < R; ++i) {
      FASTBN_UNROLL
      for (int g = 0; g < G; ++g)
        sum[i][g] = Whole ? load(c + i * c_row + g * kLanes) : load_partial(c + i * c_row, rows);
    }
  }
  const auto add = [&](int g, int q, const vfloat& column) __attribute__((always_inline)) {
    FASTBN_UNROLL
    for (int i = 0; i < R; ++i) sum[i][g] = fma(broadcast(a[i * a_row + q]), column, sum[i][g]);
  };
  int64_t left = k;
  for (; Whole && left >= kColumnsAtOnce; left -= kColumnsAtOnce) {
    FASTBN_UNROLL
    for (int g = 0; g < G; ++g) {
      asm volatile("" ::: "memory");  // elements of A are read again for each group: they would not stay in registers
      vfloat columns[kColumnsAtOnce];
      load_columns(apart(b, g * kLanes * b_row), b_row, columns);
      FASTBN_UNROLL
      for (int q = 0; q < kColumnsAtOnce; ++q) add(g, q, columns[q]);
    }
    a += kColumnsAtOnce;
    b += kColumnsAtOnce;
  }
  for (; left > 0; left -= kColumnsAtOnce) {
    const int64_t depth = left < kColumnsAtOnce ? left : kColumnsAtOnce;
    FASTBN_UNROLL
    for (int g = 0; g < G; ++g) {
      vfloat columns[kColumnsAtOnce];
      load_columns_partial(b + g * kLanes * b_row, b_row, rows, depth, columns);
      FASTBN_UNROLL
      for (int q = 0; q < kColumnsAtOnce; ++q) {
        if (q < depth) add(g, q, columns[q]);
      }
    }
    a += kColumnsAtOnce;
    b += kColumnsAtOnce;
  }
  FASTBN_UNROLL
  for (int i = 0; i < R; ++i) {
    FASTBN_UNROLL
    for (int g = 0; g < G; ++g) {
      if (Whole) {
        store(c + i * c_row + g * kLanes, sum[i][g]);
      } else {
        store_partial(c + i * c_row, sum[i][g], rows);
      }
    }
  }
}

template <int R>
void dots_rows(const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t n, int64_t k, float* c,
               int64_t c_row, bool chain) {
  constexpr int kGroups = R <= 4 ? 2 : 1;
  int64_t j = 0;
  for (; j + kGroups * kLanes <= n; j += kGroups * kLanes)
    dots_tile<R, kGroups, true>(a, a_row, b + j * b_row, b_row, kLanes, k, c + j, c_row, chain);
  for (; j < n; j += kLanes) {
    const int64_t rows = n - j < kLanes ? n - j : kLanes;
    dots_tile<R, 1, false>(a, a_row, b + j * b_row, b_row, rows, k, c + j, c_row, chain);
  }
}

void dots(const float* a, int64_t a_row, const float* b, int64_t b_row, int64_t m, int64_t n, int64_t k, float* c,
          int64_t c_row, bool chain) {
  constexpr decltype(&dots_rows<1>) kRows[kMostDots] = {dots_rows<1>, dots_rows<2>, dots_rows<3>, dots_rows<4>,
                                                        dots_rows<5>, dots_rows<6>, dots_rows<7>, dots_rows<8>};
  kRows[m - 1](a, a_row, b, b_row, n, k, c, c_row, chain);
}

void pack(const float* source, int64_t row, int64_t k, int64_t n, int64_t width, float* packed) {
  const int64_t whole = n / kLanes * kLanes;
  for (int64_t p = 0; p < k; ++p) {
    int64_t j = 0;
    for (; j < whole; j += kLanes) store(packed + j, load(source + j));
    if (j < n) {
      store(packed + j, load_partial(source + j, n - j));
      j += kLanes;
    }
    for (; j < width; j += kLanes) store(packed + j, vfloat{});
    source += row;
    packed += width;
  }
}

void pack_transposed(const float* source, int64_t row, int64_t k, int64_t n, int64_t width, float* packed) {
  for (int64_t p = 0; p < k; p += kColumnsAtOnce) {
    const int64_t depth = k - p < kColumnsAtOnce ? k - p : kColumnsAtOnce;
    for (int64_t j = 0; j < width; j += kLanes) {
      vfloat columns[kColumnsAtOnce];
      if (depth == kColumnsAtOnce && j + kLanes <= n) {
        load_columns(source + j * row + p, row, columns);
        for (int q = 0; q < kColumnsAtOnce; ++q) store(packed + (p + q) * width + j, columns[q]);
        continue;
      }
      const int64_t rows = n - j < kLanes ? n - j : kLanes;
      const vint live = first_lanes(rows);
      load_columns_partial(source + j * row + p, row, rows, depth, columns);
      for (int q = 0; q < kColumnsAtOnce; ++q) {
        if (q < depth) store(packed + (p + q) * width + j, (vfloat)((vint)columns[q] & live));
      }
    }
  }
}

// A vector that reaches beyond its tile is stored all the same: the next p is stored over it. The m rows that follow
// are fetched, each line with the first tile that begins in it: they are packed next, and no stream of the processor's
// own follows so short pieces.
void pack_rows(const float* source, int64_t row, int64_t k, int64_t m, int64_t tile, float* packed) {
  constexpr int64_t kRows = kTileRows[1], kWhole = (kRows + kLanes - 1) / kLanes * kLanes;
  for (int64_t i = 0; i < m; i += kRows, packed += tile) {
    const float* from = source + i;
    const int64_t left = m - i;
    if (left >= kWhole) {
      for (int64_t p = 0; p < k; ++p) {
        if (i % kLineFloats < kRows) __builtin_prefetch(from + m + p * row, 0, 2);
        FASTBN_UNROLL
        for (int64_t j = 0; j < kWhole; j += kLanes) store(packed + p * kRows + j, load(from + p * row + j));
      }
    } else {
      for (int64_t p = 0; p < k; ++p) {
        for (int64_t j = 0; j < kRows && j < left; j += kLanes) {
          const int64_t lanes = left - j < kLanes ? left - j : kLanes;
          store(packed + p * kRows + j, load_lanes(from + p * row + j, lanes));
        }
      }
    }
  }
}

constexpr int64_t kChain = 64;  // rows
constexpr int kSumVectors = 4;

// sums[c + j] += the sums of V vectors, the last of `tail` lanes.
template <int V, bool Whole>
FASTBN_INLINE void sum_columns(const float* m, int64_t stride, int64_t rows, int64_t tail, double* sums) {
  for (int64_t begin = 0; begin < rows; begin += kChain) {
    const int64_t end = begin + kChain < rows ? begin + kChain : rows;
    vfloat sum[V] = {};
    for (int64_t r = begin; r < end; ++r) {
      const float* at = m + r * stride;
      for (int v = 0; v + 1 < V; ++v) sum[v] += load(at + v * kLanes);
      at += (V - 1) * kLanes;
      sum[V - 1] += Whole ? load(at) : load_partial(at, tail);
    }
    float chain[V * kLanes];
    for (int v = 0; v < V; ++v) store(chain + v * kLanes, sum[v]);
    for (int64_t j = 0; j < (V - 1) * kLanes + tail; ++j) sums[j] += (double)chain[j];
  }
}

void add_column_sums(const float* m, int64_t stride, int64_t rows, int64_t columns, double* sums) {
  int64_t c = 0;
  for (; c + kSumVectors * kLanes <= columns; c += kSumVectors * kLanes) {
    sum_columns<kSumVectors, true>(m + c, stride, rows, kLanes, sums + c);
  }
  if (c == columns) return;
  const int64_t vectors = (columns - c + kLanes - 1) / kLanes, tail = columns - c - (vectors - 1) * kLanes;
  if (vectors == 1) {
    sum_columns<1, false>(m + c, stride, rows, tail, sums + c);
  } else if (vectors == 2) {
    sum_columns<2, false>(m + c, stride, rows, tail, sums + c);
  } else if (vectors == 3) {
    sum_columns<3, false>(m + c, stride, rows, tail, sums + c);
  } else {
    sum_columns<4, false>(m + c, stride, rows, tail, sums + c);
  }
}

// A few columns without gaps are read as longer rows of whole vectors, each several rows side by side.
void column_sums(const float* m, int64_t stride, int64_t rows, int64_t columns, double* sums, bool accumulate) {
  constexpr int64_t kWidest = 1024;
  if (!accumulate) {
    for (int64_t c = 0; c < columns; ++c) sums[c] = 0;
  }
  const int64_t rest = columns & -columns;  // its largest power of two
  int64_t side_by_side = 1;
  if (stride == columns && columns < kSumVectors * kLanes) {
    side_by_side = kSumVectors * kLanes / rest;
    if (side_by_side * columns > kWidest) side_by_side = rest < kLanes ? kLanes / rest : 1;
  }
  const int64_t longer = rows / side_by_side;
  if (side_by_side > 1 && longer > 1) {
    double side[kWidest];
    const int64_t width = side_by_side * columns;
    for (int64_t j = 0; j < width; ++j) side[j] = 0;
    add_column_sums(m, width, longer, width, side);
    for (int64_t i = 0; i < side_by_side; ++i) {
      // Below width: set. NOLINTNEXTLINE(clang-analyzer-core.uninitialized.Assign)
      for (int64_t c = 0; c < columns; ++c) sums[c] += side[i * columns + c];
    }
    m += longer * width;
    rows -= longer * side_by_side;
  }
  add_column_sums(m, stride, rows, columns, sums);
}

}  // namespace

void fill_gemm(GemmKernels& table) {
  table.panel_floats = 2 * kLanes;
  table.wide_floats = kMaxVectors * kLanes;
  table.wide_rows = kTileRows[kMaxVectors - 1];
  table.tile_rows = kTileRows[1];
  table.low_tiles = 2 * kTileRows[1] <= kLineFloats;
  table.tile = tile_of;
  table.gemm = gemm;
  table.few_terms = few_terms;
  table.outer = outer;
  table.dots = dots;
  table.pack = pack;
  table.pack_transposed = pack_transposed;
  table.pack_rows = pack_rows;
  table.column_sums = column_sums;
}

}  // namespace FASTBN_ISA
}  // namespace fastbn
