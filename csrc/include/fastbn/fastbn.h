/* fastbn: CPU kernels and recorded training programs for convolutional networks.
 *
 * The public C interface (C11, usable from C++17). Everything that fastbn can do is reached through
 * this header; the Python bindings use nothing else.
 *
 * Conventions
 *  - Every function that can fail returns a fbn_status. On anything but FBN_OK (and FBN_INTERRUPTED,
 *    which must be asked for) no output has been written and fbn_last_error() holds a message for the calling thread.
 *  - Descriptors and results begin with struct_size, to be set to sizeof(the struct). Zero every other field
 *    that is not used: zero is the default of all of them unless the field says otherwise. A library that knows
 *    fewer fields than the caller refuses those that are not zero (FBN_UNSUPPORTED). See ABI.md.
 *  - Tensors are dense, row-major, float32. Images are NHWC (channels last), convolution kernels HWIO
 *    (height, width, in / groups, out), dense kernels (in, out), as in Keras.
 *  - Outputs never overlap inputs unless a function says so.
 *  - No exception leaves a function, and none may be thrown through one (by a host's callback).
 */
#ifndef FASTBN_FASTBN_H
#define FASTBN_FASTBN_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define FBN_API
#elif defined(__GNUC__)
#define FBN_API __attribute__((visibility("default")))
#else
#define FBN_API
#endif

#ifdef __cplusplus
extern "C" {
#endif

#define FBN_VERSION_MAJOR 0
#define FBN_VERSION_MINOR 1
#define FBN_VERSION_PATCH 0

/* The number of the binary interface: programs built against a header with the same number run with any later
 * library that has it (ABI.md). fbn_abi() is the library's. */
#define FBN_ABI 1

/* ------------------------------------------------------------------ status */

typedef enum fbn_status {
  FBN_OK = 0,
  FBN_INVALID_VALUE = 1,  /* a shape or value breaks a rule                  (ValueError)          */
  FBN_INVALID_TYPE = 2,   /* a dtype or layout that is not accepted          (TypeError)           */
  FBN_UNSUPPORTED = 3,    /* valid, but not in this build                    (NotImplementedError) */
  FBN_OUT_OF_MEMORY = 4,  /* allocation failed, or a byte count passes int64 (MemoryError)         */
  FBN_INTERNAL = 5,       /* a broken invariant of the library               (RuntimeError)        */
  FBN_BUSY = 6,           /* the object is in use by another thread          (RuntimeError)        */
  FBN_INTERRUPTED = 7     /* the host asked for an end; outputs are whatever was written by then   */
} fbn_status;

/* Message of the calling thread's last failure: "<operator>: <rule>. Received: ...". Never NULL. */
FBN_API const char* fbn_last_error(void);

/* ----------------------------------------------------------------- runtime */

FBN_API const char* fbn_version(void);
FBN_API int32_t fbn_abi(void);

/* Threads that a call uses when fbn_exec.num_threads is 0. The default honours OMP_NUM_THREADS, the
 * affinity mask and the cgroup quota; fbn_num_threads_reason() says in words which one decided. */
FBN_API int32_t fbn_get_num_threads(void);
FBN_API fbn_status fbn_set_num_threads(int32_t num_threads); /* 0 restores the default */
FBN_API const char* fbn_num_threads_reason(void);

/* Instruction sets, as a comma-separated list, best first ("avx512,avx2,baseline"). `in_use` is what
 * FASTBN_ISA or fbn_set_isa chose; it can only be lowered below what was found. It is NULL, with a message
 * in fbn_last_error(), while FASTBN_ISA names none that can run here; every operator call then fails. A program
 * runs under the set that was in use when it was made, and says so under another. */
FBN_API const char* fbn_isa_compiled(void);
FBN_API const char* fbn_isa_found(void);
FBN_API const char* fbn_isa_in_use(void);
FBN_API fbn_status fbn_set_isa(const char* name); /* for tests; not while anything else runs */

FBN_API const char* fbn_build_info(void);     /* "key=value" lines: compiler, flags, build type, ... */
FBN_API const char* fbn_threading_layer(void); /* "openmp (libgomp)", "openmp (libomp)", "serial" */

/* A call whose estimated work (the larger of floating-point operations and bytes) lies below the threshold
 * runs on the calling thread alone. Negative restores the measured default; 0 lets every call go parallel, on
 * as many threads as it is given even where there are fewer processors. For tests: it never changes bits. */
FBN_API fbn_status fbn_set_serial_threshold(double work);

/* The host's own thread pool: must call task(i, lane, argument) for every i in [0, count) and return
 * when all are done. lane in [0, num_threads) must not be shared by two tasks at the same time. */
typedef void (*fbn_task)(int64_t index, int32_t lane, void* argument);
typedef void (*fbn_parallel_for)(void* host, int64_t count, fbn_task task, void* argument);

/* How one call is to run. NULL wherever it is accepted means: all defaults. */
typedef struct fbn_exec {
  size_t struct_size;
  int32_t num_threads;           /* 0: fbn_get_num_threads() */
  fbn_parallel_for parallel_for; /* NULL: fastbn's own executor */
  void* parallel_for_host;
  /* NULL: the library allocates, and keeps what it can for the next call of the thread. Else at least the queried
   * number of bytes, 64-aligned: the call then allocates nothing. The query is that of the same descriptor and the
   * same number of threads; a program's is that of the same function, max_batch and number of threads, for any n. */
  void* workspace;
  size_t workspace_size;
  size_t* workspace_query; /* not NULL: validate, store the bytes needed here, compute nothing */
  /* Not NULL: asked on the calling thread, between tasks, about every 50 ms; anything but 0 ends the call
   * with FBN_INTERRUPTED. A training step does not ask: it is taken whole. It may call the library, but not
   * change the program whose call asks (FBN_BUSY); that holds for parallel_for as well. */
  int32_t (*interrupted)(void* host);
  void* interrupted_host;
} fbn_exec;

/* ------------------------------------------------------------- enumerations */

/* Fields that a later library gives a meaning; zero until then. They keep the size of structs that lie in others. */
#define FBN_RESERVED 4

typedef enum fbn_dtype { FBN_FLOAT32 = 0, FBN_UINT8 = 1, FBN_INT32 = 2 } fbn_dtype;

typedef enum fbn_activation {
  FBN_LINEAR = 0,
  FBN_RELU = 1,
  FBN_LEAKY_RELU = 2, /* slope below zero: `alpha` */
  FBN_SIGMOID = 3,
  FBN_TANH = 4,
  FBN_SOFTMAX = 5 /* over the last axis; only where a function says that it takes it */
} fbn_activation;

typedef enum fbn_padding {
  FBN_PADDING_VALID = 0,
  FBN_PADDING_SAME = 1, /* Keras: out = ceil(in / stride), the extra row or column after */
  FBN_PADDING_EXPLICIT = 2
} fbn_padding;

typedef enum fbn_algorithm { FBN_ALGORITHM_AUTO = 0, FBN_ALGORITHM_DIRECT = 1 } fbn_algorithm;

/* ---------------------------------------------------------------- operators
 * Each forward and backward works on caller-owned arrays. In a backward function an output that is
 * NULL is not computed. `y` is the forward result, needed only where an activation was fused. */

typedef struct fbn_conv2d {
  size_t struct_size;
  int64_t batch, height, width, in_channels, out_channels;
  int64_t kernel_height, kernel_width;
  int64_t stride_height, stride_width;     /* >= 1 */
  int64_t dilation_height, dilation_width; /* >= 1 */
  int64_t groups;                          /* >= 1; divides in_channels and out_channels */
  int32_t padding;                         /* fbn_padding */
  int64_t pad_top, pad_bottom, pad_left, pad_right; /* for FBN_PADDING_EXPLICIT, >= 0 */
  int32_t activation;                      /* fbn_activation, not softmax */
  float alpha;
  int32_t algorithm; /* fbn_algorithm */
  int64_t reserved[FBN_RESERVED];
} fbn_conv2d;

/* y[n,oy,ox,o] = act(bias[o] + sum_{ky,kx,c} x[n, oy*s+ky*d-pad, ox*s+kx*d-pad, c] kernel[ky,kx,c,o]) */
FBN_API fbn_status fbn_conv2d_output_size(const fbn_conv2d* d, int64_t* out_height, int64_t* out_width);
typedef enum fbn_conv2d_pass {
  FBN_CONV2D_FORWARD = 0,
  FBN_CONV2D_BACKWARD_DATA = 1,
  FBN_CONV2D_BACKWARD_FILTER = 2
} fbn_conv2d_pass;
/* The kernel that a pass of this shape gets: "direct", "pointwise" (direct, 1x1), "depthwise", "narrow", "winograd4"
 * or "winograd2". The batch plays no part. reason (or NULL): its register tile, why, and what was refused, cut to
 * `capacity` with its final 0. */
FBN_API fbn_status fbn_conv2d_algorithm(const fbn_conv2d* d, int32_t pass, const char** name, char* reason,
                                        size_t capacity);
FBN_API fbn_status fbn_conv2d_forward(const fbn_conv2d* d, const float* x, const float* kernel,
                                      const float* bias /* or NULL */, float* y, const fbn_exec* exec);
FBN_API fbn_status fbn_conv2d_backward(const fbn_conv2d* d, const float* dy, const float* x,
                                       const float* kernel, const float* y, float* dx, float* dkernel,
                                       float* dbias, const fbn_exec* exec);

typedef struct fbn_dense {
  size_t struct_size;
  int64_t rows, in_features, out_features;
  int32_t activation; /* fbn_activation, not softmax */
  float alpha;
  int64_t reserved[FBN_RESERVED];
} fbn_dense;

FBN_API fbn_status fbn_dense_forward(const fbn_dense* d, const float* x, const float* kernel,
                                     const float* bias /* or NULL */, float* y, const fbn_exec* exec);
FBN_API fbn_status fbn_dense_backward(const fbn_dense* d, const float* dy, const float* x,
                                      const float* kernel, const float* y, float* dx, float* dkernel,
                                      float* dbias, const fbn_exec* exec);

/* Batch-norm over a (rows, channels) matrix; every other axis is folded into the rows. */
typedef struct fbn_batch_norm {
  size_t struct_size;
  int64_t rows, channels;
  double epsilon; /* > 0, or >= 0 with no constant channel */
  int32_t activation;
  float alpha;
  int32_t has_residual; /* forward adds `residual` before the activation */
  int32_t frozen;       /* backward: mean and variance are constants (inference statistics) */
  int64_t reserved[FBN_RESERVED];
} fbn_batch_norm;

/* y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta + residual); mean and variance are those
 * of the batch (biased), returned in float64. gamma NULL means ones, beta NULL zeros. */
FBN_API fbn_status fbn_batch_norm_forward(const fbn_batch_norm* d, const float* x, const float* gamma,
                                          const float* beta, const float* residual, float* y, double* mean,
                                          double* variance, const fbn_exec* exec);
/* With an activation y is needed, or (without residual) beta, from which y's sign or value is recomputed. */
FBN_API fbn_status fbn_batch_norm_backward(const fbn_batch_norm* d, const float* dy, const float* x,
                                           const float* gamma, const float* beta, const double* mean,
                                           const double* variance, const float* y, float* dx, float* dgamma,
                                           float* dbeta, float* dresidual, const fbn_exec* exec);
FBN_API fbn_status fbn_batch_norm_inference(const fbn_batch_norm* d, const float* x, const float* gamma,
                                            const float* beta, const double* mean, const double* variance,
                                            const float* residual, float* y, const fbn_exec* exec);
/* Split-phase statistics: the sums of a shard of the batch, merged pairwise in the order given (Chan et al. 1979).
 * `total_rows` of the whole batch (0: d->rows) decides how sums are cut into chunks: shards of 1, 2, 4, ... chunks
 * each, the last of what is left, give the bits of the whole batch; other shards the same within rounding. */
FBN_API fbn_status fbn_batch_norm_chunk_rows(int64_t total_rows, int64_t channels, int64_t* chunk_rows);
FBN_API fbn_status fbn_batch_norm_partial(const fbn_batch_norm* d, const float* x, int64_t total_rows, double* mean,
                                          double* m2, const fbn_exec* exec);
/* counts[shards], means[shards][channels], m2s[shards][channels] -> mean, variance = m2 / count. Shards without rows
 * count for nothing. */
FBN_API fbn_status fbn_batch_norm_merge(int64_t shards, int64_t channels, const int64_t* counts,
                                        const double* means, const double* m2s, double* mean, double* variance);
/* sum_dy[c] = sum dy', sum_dy_xc[c] = sum dy' (x - mean), dy' = dy through the activation; in chunks as above. */
FBN_API fbn_status fbn_batch_norm_backward_partial(const fbn_batch_norm* d, const float* dy, const float* x,
                                                   const float* gamma, const float* beta, const double* mean,
                                                   const double* variance, const float* y, int64_t total_rows,
                                                   double* sum_dy, double* sum_dy_xc, const fbn_exec* exec);
/* sums_dy[shards][channels], sums_dy_xc[shards][channels], added pairwise in the order given. */
FBN_API fbn_status fbn_batch_norm_backward_merge(int64_t shards, int64_t channels, const double* sums_dy,
                                                 const double* sums_dy_xc, double* sum_dy, double* sum_dy_xc);
/* dx of a shard from sums over all shards; total_rows is the row count of all of them. */
FBN_API fbn_status fbn_batch_norm_backward_apply(const fbn_batch_norm* d, const float* dy, const float* x,
                                                 const float* gamma, const float* beta, const double* mean,
                                                 const double* variance, const float* y, const double* sum_dy,
                                                 const double* sum_dy_xc, int64_t total_rows, float* dx,
                                                 float* dresidual, const fbn_exec* exec);

typedef struct fbn_pool2d {
  size_t struct_size;
  int64_t batch, height, width, channels;
  int64_t pool_height, pool_width;
  int64_t stride_height, stride_width;
  int32_t padding; /* fbn_padding */
  int64_t pad_top, pad_bottom, pad_left, pad_right;
  int64_t reserved[FBN_RESERVED];
} fbn_pool2d;

/* index: the place of the maximum inside its window, ky * pool_width + kx, the first in row-major order.
 * One byte where pool_height * pool_width <= 256, else int32: fbn_pool2d_index_dtype(). NaN wins. */
FBN_API fbn_status fbn_pool2d_output_size(const fbn_pool2d* d, int64_t* out_height, int64_t* out_width);
FBN_API int32_t fbn_pool2d_index_dtype(const fbn_pool2d* d); /* FBN_UINT8 or FBN_INT32 */
FBN_API fbn_status fbn_max_pool2d_forward(const fbn_pool2d* d, const float* x, float* y,
                                          void* index /* or NULL */, const fbn_exec* exec);
FBN_API fbn_status fbn_max_pool2d_backward(const fbn_pool2d* d, const float* dy, const void* index, float* dx,
                                           const fbn_exec* exec);
/* The average is over the window's cells inside the image (padding does not count), as Keras. */
FBN_API fbn_status fbn_avg_pool2d_forward(const fbn_pool2d* d, const float* x, float* y, const fbn_exec* exec);
FBN_API fbn_status fbn_avg_pool2d_backward(const fbn_pool2d* d, const float* dy, float* dx, const fbn_exec* exec);
/* (batch, pixels, channels) -> (batch, channels) */
FBN_API fbn_status fbn_global_avg_pool2d_forward(int64_t batch, int64_t pixels, int64_t channels, const float* x,
                                                 float* y, const fbn_exec* exec);
FBN_API fbn_status fbn_global_avg_pool2d_backward(int64_t batch, int64_t pixels, int64_t channels,
                                                  const float* dy, float* dx, const fbn_exec* exec);

/* Over a (rows, columns) matrix; only softmax looks at the shape. x == y (dy == dx) is allowed. */
FBN_API fbn_status fbn_activation_forward(int32_t activation, float alpha, int64_t rows, int64_t columns,
                                          const float* x, float* y, const fbn_exec* exec);
FBN_API fbn_status fbn_activation_backward(int32_t activation, float alpha, int64_t rows, int64_t columns,
                                           const float* dy, const float* y, float* dx, const fbn_exec* exec);

/* y[i] = keep(seed, i) ? x[i] / (1 - rate) : 0. The mask is a function of seed and i alone. rate 1: zeros.
 * Backward is the same function applied to dy. */
FBN_API fbn_status fbn_dropout_forward(double rate, uint64_t seed, int64_t size, const float* x, float* y,
                                       const fbn_exec* exec);
FBN_API fbn_status fbn_dropout_backward(double rate, uint64_t seed, int64_t size, const float* dy, float* dx,
                                        const fbn_exec* exec);

/* loss[r] = -sum_k t[r,k] log softmax(logits[r])[k]; labels: int32 classes or float32 (rows, classes). */
FBN_API fbn_status fbn_softmax_cross_entropy_forward(int64_t rows, int64_t classes, const float* logits,
                                                     const void* labels, int32_t labels_dtype, float* loss,
                                                     float* probabilities, const fbn_exec* exec);
/* dlogits[r,k] = (p[r,k] sum_j t[r,j] - t[r,k]) * scale; scale is 1 / rows for the mean of the losses. */
FBN_API fbn_status fbn_softmax_cross_entropy_backward(int64_t rows, int64_t classes, const float* probabilities,
                                                      const void* labels, int32_t labels_dtype, float scale,
                                                      float* dlogits, const fbn_exec* exec);
/* loss[r] = mean_k (p[r,k] - t[r,k])^2; dp = 2 (p - t) / columns * scale */
FBN_API fbn_status fbn_mean_squared_error_forward(int64_t rows, int64_t columns, const float* predictions,
                                                  const float* targets, float* loss, const fbn_exec* exec);
FBN_API fbn_status fbn_mean_squared_error_backward(int64_t rows, int64_t columns, const float* predictions,
                                                   const float* targets, float scale, float* dpredictions,
                                                   const fbn_exec* exec);

/* --------------------------------------------------------------- optimizers */

typedef enum fbn_optimizer_kind {
  FBN_SGD = 0,     /* slots: velocity (only with momentum) */
  FBN_RMSPROP = 1, /* slots: velocity, then momentum if momentum > 0, then average_gradient if centered */
  FBN_ADAM = 2     /* slots: momentum, velocity, then velocity_hat if amsgrad; weight_decay > 0: AdamW */
} fbn_optimizer_kind;

/* Formulas and defaults of Keras 3 (its optimizers/sgd.py, rmsprop.py, adam.py). */
typedef struct fbn_optimizer {
  size_t struct_size;
  int32_t kind;
  double learning_rate;
  double momentum; /* SGD, RMSprop */
  int32_t nesterov;
  double rho; /* RMSprop */
  int32_t centered;
  double beta_1, beta_2; /* Adam */
  int32_t amsgrad;
  double epsilon;
  double weight_decay; /* decoupled: w -= w * weight_decay * learning_rate, before the update */
  int64_t reserved[FBN_RESERVED];
} fbn_optimizer;

FBN_API int32_t fbn_optimizer_slot_count(const fbn_optimizer* d);
FBN_API const char* fbn_optimizer_slot_name(const fbn_optimizer* d, int32_t slot); /* NULL past the end */
/* In place. `iteration` counts from 0 (Adam's t is iteration + 1). slots[i]: size floats each. */
FBN_API fbn_status fbn_optimizer_update(const fbn_optimizer* d, int64_t iteration, int64_t size, float* weights,
                                        const float* gradient, float* const* slots, const fbn_exec* exec);

/* -------------------------------------------------------------------- graph
 * A graph is a list of layers; each returns a node that later layers name as input. The batch axis is
 * never written: shapes are those of one sample. */

typedef enum fbn_layer_kind {
  FBN_LAYER_INPUT = 0,        /* shape, dtype (float32 or uint8) */
  FBN_LAYER_CONV2D = 1,       /* conv (batch, height, width, in_channels ignored), use_bias */
  FBN_LAYER_DENSE = 2,        /* units, use_bias, activation; over the last axis */
  FBN_LAYER_BATCH_NORM = 3,   /* epsilon, momentum, center, scale, over the last axis */
  FBN_LAYER_ACTIVATION = 4,   /* activation (softmax allowed), alpha */
  FBN_LAYER_MAX_POOL2D = 5,   /* pool (batch, height, width, channels ignored) */
  FBN_LAYER_AVG_POOL2D = 6,   /* the same */
  FBN_LAYER_GLOBAL_AVG_POOL2D = 7,
  FBN_LAYER_DROPOUT = 8,      /* rate, seed */
  FBN_LAYER_RESHAPE = 9,      /* shape (Flatten is a reshape to rank 1) */
  FBN_LAYER_RESCALING = 10,   /* x * scale_factor + offset; uint8 input becomes float32 */
  FBN_LAYER_ADD = 11,         /* two or more inputs of one shape */
  FBN_LAYER_CONCATENATE = 12  /* over the last axis */
} fbn_layer_kind;

typedef enum fbn_initializer_kind {
  FBN_INIT_DEFAULT = 0, /* kernels: glorot_uniform; bias, beta, moving mean: zeros; gamma, moving variance: ones */
  FBN_INIT_ZEROS = 1,
  FBN_INIT_ONES = 2,
  FBN_INIT_CONSTANT = 3,       /* a */
  FBN_INIT_RANDOM_UNIFORM = 4, /* [a, b) */
  FBN_INIT_RANDOM_NORMAL = 5,  /* mean a, standard deviation b */
  FBN_INIT_TRUNCATED_NORMAL = 6, /* the same, redrawn beyond two standard deviations */
  FBN_INIT_GLOROT_UNIFORM = 7,
  FBN_INIT_GLOROT_NORMAL = 8,
  FBN_INIT_HE_UNIFORM = 9,
  FBN_INIT_HE_NORMAL = 10,
  FBN_INIT_LECUN_UNIFORM = 11,
  FBN_INIT_LECUN_NORMAL = 12
} fbn_initializer_kind;

typedef struct fbn_initializer {
  int32_t kind;
  double a, b;
  uint64_t seed; /* 0: derived from the program's seed and the parameter's place in the graph */
} fbn_initializer;

#define FBN_MAX_RANK 6
#define FBN_MAX_INPUTS 16

typedef struct fbn_layer {
  size_t struct_size;
  int32_t kind;
  const char* name; /* unique in the graph; copied */
  int32_t num_inputs;
  int32_t inputs[FBN_MAX_INPUTS]; /* nodes */
  int32_t dtype;
  int32_t rank;
  int64_t shape[FBN_MAX_RANK];
  fbn_conv2d conv;
  fbn_pool2d pool;
  int64_t units;
  int32_t use_bias;
  int32_t activation;
  float alpha;
  double epsilon, momentum;
  int32_t center, scale;
  double rate;
  uint64_t seed; /* dropout; 0: derived from the program's seed */
  double scale_factor, offset;
  int32_t frozen; /* trainable=False: no update; batch-norm then uses its moving statistics */
  fbn_initializer kernel_initializer, bias_initializer;                                     /* conv, dense */
  fbn_initializer gamma_initializer, beta_initializer, mean_initializer, variance_initializer; /* batch-norm */
} fbn_layer;

typedef struct fbn_graph fbn_graph;

FBN_API fbn_status fbn_graph_create(fbn_graph** graph);
FBN_API void fbn_graph_destroy(fbn_graph* graph);
FBN_API fbn_status fbn_graph_add(fbn_graph* graph, const fbn_layer* layer, int32_t* node);
FBN_API fbn_status fbn_graph_shape(const fbn_graph* graph, int32_t node, int32_t* rank, int64_t* shape);
/* Parameters and forward multiply-adds of one layer, for one sample. */
FBN_API fbn_status fbn_graph_layer_cost(const fbn_graph* graph, int32_t node, int64_t* trainable_parameters,
                                        int64_t* other_parameters, int64_t* multiply_adds);

/* ------------------------------------------------------------------ program
 * A program is a graph with weights, a loss and an optimizer, recorded as phases of tasks and replayed
 * per batch. It is used by one thread at a time for training (FBN_BUSY otherwise); prediction and
 * evaluation may run from several threads at once. A fork waits for the step of another thread, and the
 * child has the program as it is after it; only where that takes longer than 10 seconds does the program
 * answer FBN_BUSY in the child. */

typedef enum fbn_loss_kind {
  FBN_LOSS_NONE = 0,                     /* prediction only */
  FBN_LOSS_SOFTMAX_CROSS_ENTROPY = 1,    /* the graph's output is logits, or ends in softmax (then fused) */
  FBN_LOSS_MEAN_SQUARED_ERROR = 2
} fbn_loss_kind;

typedef struct fbn_program_options {
  size_t struct_size;
  int64_t max_batch;       /* capacity of one training step, >= 1 */
  uint64_t seed;           /* initial weights and dropout */
  int32_t loss;            /* fbn_loss_kind */
  int32_t labels_dtype;    /* FBN_FLOAT32: (batch, output shape); FBN_INT32: (batch) class numbers */
  fbn_optimizer optimizer;
  int32_t conv_algorithm;  /* fbn_algorithm for every convolution */
  int32_t keep_gradients;  /* keep each step's gradients, for fbn_program_get(..., "gradient") */
  int32_t timing;          /* measure every node: fbn_program_costs */
  int64_t block_bytes;     /* cache budget of a sample block; 0: from the machine. Never changes bits. */
} fbn_program_options;

typedef struct fbn_step_result {
  size_t struct_size;
  double loss;             /* mean over the samples of the call */
  int64_t samples;
  int64_t correct;         /* rows whose arg-max equals the label's */
  double absolute_error;   /* sum over samples of mean |p - t| (mean squared error loss only) */
  double squared_error;
} fbn_step_result;

typedef struct fbn_program fbn_program;

/* The graph is copied. `outputs`: the node whose value is the prediction. */
FBN_API fbn_status fbn_program_create(const fbn_graph* graph, int32_t output, const fbn_program_options* options,
                                      fbn_program** program);
FBN_API void fbn_program_destroy(fbn_program* program);

/* Plans training steps anew for another capacity; weights, slots and the iteration stay. The order of summation
 * belongs to the capacity: the same bits need the same one. */
FBN_API fbn_status fbn_program_set_max_batch(fbn_program* program, int64_t max_batch);

/* One training step on rows index[0..n) of x and y (index NULL: rows 0..n). n <= max_batch; 0 does nothing.
 * Indices must lie within x and y; only negative ones can be refused here. */
FBN_API fbn_status fbn_program_train(fbn_program* program, const void* x, const void* y, const int64_t* index,
                                     int64_t n, fbn_step_result* result, const fbn_exec* exec);
/* Any n: loss and counts in inference mode; no state changes. */
FBN_API fbn_status fbn_program_evaluate(fbn_program* program, const void* x, const void* y,
                                        const int64_t* index, int64_t n, fbn_step_result* result,
                                        const fbn_exec* exec);
/* Any n: out[n][output shape] in inference mode. */
FBN_API fbn_status fbn_program_predict(fbn_program* program, const void* x, const int64_t* index, int64_t n,
                                       float* out, const fbn_exec* exec);
/* The value of any node in inference mode. */
FBN_API fbn_status fbn_program_node_output(fbn_program* program, int32_t node, const void* x,
                                           const int64_t* index, int64_t n, float* out, const fbn_exec* exec);

/* Parameters have numbers, in the order of the graph's layers, and names: "<layer>/kernel", "/bias", "/gamma", "/beta",
 * "/moving_mean", "/moving_variance".
 * what: "value", "gradient" (of the last step; needs keep_gradients) or an optimizer slot's name. */
FBN_API int32_t fbn_program_parameter_count(const fbn_program* program);
FBN_API const char* fbn_program_parameter_name(const fbn_program* program, int32_t parameter);
FBN_API fbn_status fbn_program_parameter_info(const fbn_program* program, int32_t parameter, int32_t* rank,
                                              int64_t* shape, int32_t* trainable);
FBN_API fbn_status fbn_program_get(const fbn_program* program, int32_t parameter, const char* what, float* out);
FBN_API fbn_status fbn_program_set(fbn_program* program, int32_t parameter, const char* what, const float* in);
FBN_API fbn_status fbn_program_find_parameter(const fbn_program* program, const char* name, int32_t* parameter);
/* By name; `size` is the number of floats that the array holds, which must be the parameter's. */
FBN_API fbn_status fbn_program_get_by_name(const fbn_program* program, const char* name, const char* what, float* out,
                                           int64_t size);
FBN_API fbn_status fbn_program_set_by_name(fbn_program* program, const char* name, const char* what, const float* in,
                                           int64_t size);
FBN_API int64_t fbn_program_get_iteration(const fbn_program* program);
FBN_API fbn_status fbn_program_set_iteration(fbn_program* program, int64_t iteration);
FBN_API double fbn_program_get_learning_rate(const fbn_program* program);
FBN_API fbn_status fbn_program_set_learning_rate(fbn_program* program, double learning_rate);

/* What was fused, stored and recomputed, phase by phase, as text. Stores at most `capacity` bytes with
 * the final NUL, and the size that the whole text needs in *needed. */
FBN_API fbn_status fbn_program_describe(const fbn_program* program, char* text, size_t capacity, size_t* needed);

typedef enum fbn_direction { FBN_FORWARD = 0, FBN_BACKWARD = 1, FBN_UPDATE = 2 } fbn_direction;

typedef struct fbn_cost_row {
  size_t struct_size;
  char layer[64];      /* "(loss)", "(waiting)", "(region)", "(loop)" for rows that belong to no layer */
  char operation[32];  /* "forward", "backward_data", "backward_filter", "normalise", ... */
  char note[64];       /* the algorithm, or what happens here too: "direct", "updated here" */
  char fused[96];      /* what was fused into the layer's operator, comma-separated */
  int32_t node;        /* of the graph; -1 for rows that belong to no layer */
  int32_t direction;
  int32_t phase;          /* as fbn_program_describe numbers them; 0 for rows that belong to no phase */
  int64_t multiply_adds;  /* for a step of `batch` samples */
  int64_t bytes_block;    /* read and written inside the block (cache) */
  int64_t bytes_crossing; /* read and written that cross a phase, or a step: weights, optimizer slots, data (memory) */
  int64_t calls;          /* kernel calls of a step of `batch` samples: blocks, columns or parts */
  double seconds;         /* thread-seconds / threads since the last reset, over `steps` steps; needs timing */
  int64_t steps;
} fbn_cost_row;

/* One row for each step of the plan, then three that belong to no layer: "(waiting)", what a thread waits for others
 * and between tasks; "(region)", opening and closing the parallel region; "(loop)", what a call of
 * fbn_program_train does outside it. All rows' seconds add up to the time inside fbn_program_train. The first row's
 * struct_size says how large the caller's rows are. */
FBN_API fbn_status fbn_program_costs(const fbn_program* program, int64_t batch, fbn_cost_row* rows,
                                     int32_t capacity, int32_t* count);
FBN_API fbn_status fbn_program_reset_costs(fbn_program* program);

/* What this machine can do at most with one instruction set on the threads of `exec`: what costs are measured against.
 * Rates are of all threads together, the best of several runs; bytes are read + written by a pass that updates an
 * array in place. The array of each thread fills half of the named cache; for memory all fill four times the last. */
typedef struct fbn_ceilings {
  size_t struct_size;
  int32_t threads;           /* that took part */
  double multiply_adds;      /* a second, in registers */
  double l1_bytes, l2_bytes; /* a second */
  double l3_bytes;           /* a second, of the cache behind L2; that of memory where there is none */
  double memory_bytes;       /* a second */
  double region_seconds;     /* to open and close a parallel region */
  double phase_seconds;      /* from one phase of a region to the next */
  int64_t l1_size, l2_size, l3_size; /* bytes, as the system tells; 0: not known */
} fbn_ceilings;

/* `isa`: one of fbn_isa_found, or NULL for the one in use. Takes about `seconds`. */
FBN_API fbn_status fbn_measure_ceilings(const char* isa, double seconds, fbn_ceilings* ceilings, const fbn_exec* exec);

#ifdef __cplusplus
}
#endif

#endif /* FASTBN_FASTBN_H */
