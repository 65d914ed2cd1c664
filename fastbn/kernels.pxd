# Declarations for `from fastbn.kernels cimport fbn_dense_forward`: the C interface of fastbn/fastbn.h, whose comments
# say what everything means. The functions are reached through the imported module, so a consumer links nothing; it
# compiles with fastbn.get_include() on the include path.
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t

cdef extern from "fastbn/fastbn.h" nogil:
    enum:
        FBN_ABI
        FBN_RESERVED
        FBN_MAX_RANK
        FBN_MAX_INPUTS

    ctypedef enum fbn_status:
        FBN_OK
        FBN_INVALID_VALUE
        FBN_INVALID_TYPE
        FBN_UNSUPPORTED
        FBN_OUT_OF_MEMORY
        FBN_INTERNAL
        FBN_BUSY
        FBN_INTERRUPTED

    ctypedef void (*fbn_task)(int64_t index, int32_t lane, void* argument) noexcept

    ctypedef void (*fbn_parallel_for)(void* host, int64_t count, fbn_task task, void* argument) noexcept

    ctypedef struct fbn_exec:
        size_t struct_size
        int32_t num_threads
        fbn_parallel_for parallel_for
        void* parallel_for_host
        void* workspace
        size_t workspace_size
        size_t* workspace_query
        int32_t (*interrupted)(void* host) noexcept
        void* interrupted_host

    ctypedef enum fbn_dtype:
        FBN_FLOAT32
        FBN_UINT8
        FBN_INT32

    ctypedef enum fbn_activation:
        FBN_LINEAR
        FBN_RELU
        FBN_LEAKY_RELU
        FBN_SIGMOID
        FBN_TANH
        FBN_SOFTMAX

    ctypedef enum fbn_padding:
        FBN_PADDING_VALID
        FBN_PADDING_SAME
        FBN_PADDING_EXPLICIT

    ctypedef enum fbn_algorithm:
        FBN_ALGORITHM_AUTO
        FBN_ALGORITHM_DIRECT

    ctypedef struct fbn_conv2d:
        size_t struct_size
        int64_t batch, height, width, in_channels, out_channels
        int64_t kernel_height, kernel_width
        int64_t stride_height, stride_width
        int64_t dilation_height, dilation_width
        int64_t groups
        int32_t padding
        int64_t pad_top, pad_bottom, pad_left, pad_right
        int32_t activation
        float alpha
        int32_t algorithm
        int64_t reserved[4]

    ctypedef enum fbn_conv2d_pass:
        FBN_CONV2D_FORWARD
        FBN_CONV2D_BACKWARD_DATA
        FBN_CONV2D_BACKWARD_FILTER

    ctypedef struct fbn_dense:
        size_t struct_size
        int64_t rows, in_features, out_features
        int32_t activation
        float alpha
        int64_t reserved[4]

    ctypedef struct fbn_batch_norm:
        size_t struct_size
        int64_t rows, channels
        double epsilon
        int32_t activation
        float alpha
        int32_t has_residual
        int32_t frozen
        int64_t reserved[4]

    ctypedef struct fbn_pool2d:
        size_t struct_size
        int64_t batch, height, width, channels
        int64_t pool_height, pool_width
        int64_t stride_height, stride_width
        int32_t padding
        int64_t pad_top, pad_bottom, pad_left, pad_right
        int64_t reserved[4]

    ctypedef enum fbn_optimizer_kind:
        FBN_SGD
        FBN_RMSPROP
        FBN_ADAM

    ctypedef struct fbn_optimizer:
        size_t struct_size
        int32_t kind
        double learning_rate
        double momentum
        int32_t nesterov
        double rho
        int32_t centered
        double beta_1, beta_2
        int32_t amsgrad
        double epsilon
        double weight_decay
        int64_t reserved[4]

    ctypedef enum fbn_layer_kind:
        FBN_LAYER_INPUT
        FBN_LAYER_CONV2D
        FBN_LAYER_DENSE
        FBN_LAYER_BATCH_NORM
        FBN_LAYER_ACTIVATION
        FBN_LAYER_MAX_POOL2D
        FBN_LAYER_AVG_POOL2D
        FBN_LAYER_GLOBAL_AVG_POOL2D
        FBN_LAYER_DROPOUT
        FBN_LAYER_RESHAPE
        FBN_LAYER_RESCALING
        FBN_LAYER_ADD
        FBN_LAYER_CONCATENATE

    ctypedef enum fbn_initializer_kind:
        FBN_INIT_DEFAULT
        FBN_INIT_ZEROS
        FBN_INIT_ONES
        FBN_INIT_CONSTANT
        FBN_INIT_RANDOM_UNIFORM
        FBN_INIT_RANDOM_NORMAL
        FBN_INIT_TRUNCATED_NORMAL
        FBN_INIT_GLOROT_UNIFORM
        FBN_INIT_GLOROT_NORMAL
        FBN_INIT_HE_UNIFORM
        FBN_INIT_HE_NORMAL
        FBN_INIT_LECUN_UNIFORM
        FBN_INIT_LECUN_NORMAL

    ctypedef struct fbn_initializer:
        int32_t kind
        double a, b
        uint64_t seed

    ctypedef struct fbn_layer:
        size_t struct_size
        int32_t kind
        const char* name
        int32_t num_inputs
        int32_t inputs[16]
        int32_t dtype
        int32_t rank
        int64_t shape[6]
        fbn_conv2d conv
        fbn_pool2d pool
        int64_t units
        int32_t use_bias
        int32_t activation
        float alpha
        double epsilon, momentum
        int32_t center, scale
        double rate
        uint64_t seed
        double scale_factor, offset
        int32_t frozen
        fbn_initializer kernel_initializer, bias_initializer
        fbn_initializer gamma_initializer, beta_initializer, mean_initializer, variance_initializer

    ctypedef struct fbn_graph:
        pass

    ctypedef enum fbn_loss_kind:
        FBN_LOSS_NONE
        FBN_LOSS_SOFTMAX_CROSS_ENTROPY
        FBN_LOSS_MEAN_SQUARED_ERROR

    ctypedef struct fbn_program_options:
        size_t struct_size
        int64_t max_batch
        uint64_t seed
        int32_t loss
        int32_t labels_dtype
        fbn_optimizer optimizer
        int32_t conv_algorithm
        int32_t keep_gradients
        int32_t timing
        int64_t block_bytes

    ctypedef struct fbn_step_result:
        size_t struct_size
        double loss
        int64_t samples
        int64_t correct
        double absolute_error
        double squared_error

    ctypedef struct fbn_program:
        pass

    ctypedef enum fbn_direction:
        FBN_FORWARD
        FBN_BACKWARD
        FBN_UPDATE

    ctypedef struct fbn_cost_row:
        size_t struct_size
        char layer[64]
        char operation[32]
        char note[64]
        char fused[96]
        int32_t node
        int32_t direction
        int32_t phase
        int64_t multiply_adds
        int64_t bytes_block
        int64_t bytes_crossing
        int64_t calls
        double seconds
        int64_t steps

    ctypedef struct fbn_ceilings:
        size_t struct_size
        int32_t threads
        double multiply_adds
        double l1_bytes
        double l2_bytes
        double l3_bytes
        double memory_bytes
        double region_seconds
        double phase_seconds
        int64_t l1_size
        int64_t l2_size
        int64_t l3_size


cdef const char* fbn_last_error() noexcept nogil
cdef const char* fbn_version() noexcept nogil
cdef int32_t fbn_abi() noexcept nogil
cdef int32_t fbn_get_num_threads() noexcept nogil
cdef fbn_status fbn_set_num_threads(int32_t num_threads) noexcept nogil
cdef const char* fbn_num_threads_reason() noexcept nogil
cdef const char* fbn_isa_compiled() noexcept nogil
cdef const char* fbn_isa_found() noexcept nogil
cdef const char* fbn_isa_in_use() noexcept nogil
cdef fbn_status fbn_set_isa(const char* name) noexcept nogil
cdef const char* fbn_build_info() noexcept nogil
cdef const char* fbn_threading_layer() noexcept nogil
cdef fbn_status fbn_set_serial_threshold(double work) noexcept nogil
cdef fbn_status fbn_conv2d_output_size(const fbn_conv2d* d, int64_t* out_height, int64_t* out_width) noexcept nogil
cdef fbn_status fbn_conv2d_algorithm(const fbn_conv2d* d, int32_t which, const char** name, char* reason,
        size_t capacity) noexcept nogil
cdef fbn_status fbn_conv2d_forward(const fbn_conv2d* d, const float* x, const float* kernel, const float* bias,
        float* y, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_conv2d_backward(const fbn_conv2d* d, const float* dy, const float* x, const float* kernel,
        const float* y, float* dx, float* dkernel, float* dbias, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_dense_forward(const fbn_dense* d, const float* x, const float* kernel, const float* bias, float* y,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_dense_backward(const fbn_dense* d, const float* dy, const float* x, const float* kernel,
        const float* y, float* dx, float* dkernel, float* dbias, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_batch_norm_forward(const fbn_batch_norm* d, const float* x, const float* gamma, const float* beta,
        const float* residual, float* y, double* mean, double* variance, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_batch_norm_backward(const fbn_batch_norm* d, const float* dy, const float* x, const float* gamma,
        const float* beta, const double* mean, const double* variance, const float* y, float* dx, float* dgamma,
        float* dbeta, float* dresidual, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_batch_norm_inference(const fbn_batch_norm* d, const float* x, const float* gamma,
        const float* beta, const double* mean, const double* variance, const float* residual, float* y,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_batch_norm_chunk_rows(int64_t total_rows, int64_t channels, int64_t* chunk_rows) noexcept nogil
cdef fbn_status fbn_batch_norm_partial(const fbn_batch_norm* d, const float* x, int64_t total_rows, double* mean,
        double* m2, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_batch_norm_merge(int64_t shards, int64_t channels, const int64_t* counts, const double* means,
        const double* m2s, double* mean, double* variance) noexcept nogil
cdef fbn_status fbn_batch_norm_backward_partial(const fbn_batch_norm* d, const float* dy, const float* x,
        const float* gamma, const float* beta, const double* mean, const double* variance, const float* y,
        int64_t total_rows, double* sum_dy, double* sum_dy_xc, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_batch_norm_backward_merge(int64_t shards, int64_t channels, const double* sums_dy,
        const double* sums_dy_xc, double* sum_dy, double* sum_dy_xc) noexcept nogil
cdef fbn_status fbn_batch_norm_backward_apply(const fbn_batch_norm* d, const float* dy, const float* x,
        const float* gamma, const float* beta, const double* mean, const double* variance, const float* y,
        const double* sum_dy, const double* sum_dy_xc, int64_t total_rows, float* dx, float* dresidual,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_pool2d_output_size(const fbn_pool2d* d, int64_t* out_height, int64_t* out_width) noexcept nogil
cdef int32_t fbn_pool2d_index_dtype(const fbn_pool2d* d) noexcept nogil
cdef fbn_status fbn_max_pool2d_forward(const fbn_pool2d* d, const float* x, float* y, void* index,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_max_pool2d_backward(const fbn_pool2d* d, const float* dy, const void* index, float* dx,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_avg_pool2d_forward(const fbn_pool2d* d, const float* x, float* y,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_avg_pool2d_backward(const fbn_pool2d* d, const float* dy, float* dx,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_global_avg_pool2d_forward(int64_t batch, int64_t pixels, int64_t channels, const float* x,
        float* y, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_global_avg_pool2d_backward(int64_t batch, int64_t pixels, int64_t channels, const float* dy,
        float* dx, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_activation_forward(int32_t activation, float alpha, int64_t rows, int64_t columns, const float* x,
        float* y, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_activation_backward(int32_t activation, float alpha, int64_t rows, int64_t columns,
        const float* dy, const float* y, float* dx, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_dropout_forward(double rate, uint64_t seed, int64_t size, const float* x, float* y,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_dropout_backward(double rate, uint64_t seed, int64_t size, const float* dy, float* dx,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_softmax_cross_entropy_forward(int64_t rows, int64_t classes, const float* logits,
        const void* labels, int32_t labels_dtype, float* loss, float* probabilities,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_softmax_cross_entropy_backward(int64_t rows, int64_t classes, const float* probabilities,
        const void* labels, int32_t labels_dtype, float scale, float* dlogits, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_mean_squared_error_forward(int64_t rows, int64_t columns, const float* predictions,
        const float* targets, float* loss, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_mean_squared_error_backward(int64_t rows, int64_t columns, const float* predictions,
        const float* targets, float scale, float* dpredictions, const fbn_exec* exec) noexcept nogil
cdef int32_t fbn_optimizer_slot_count(const fbn_optimizer* d) noexcept nogil
cdef const char* fbn_optimizer_slot_name(const fbn_optimizer* d, int32_t slot) noexcept nogil
cdef fbn_status fbn_optimizer_update(const fbn_optimizer* d, int64_t iteration, int64_t size, float* weights,
        const float* gradient, float** slots, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_graph_create(fbn_graph** graph) noexcept nogil
cdef void fbn_graph_destroy(fbn_graph* graph) noexcept nogil
cdef fbn_status fbn_graph_add(fbn_graph* graph, const fbn_layer* layer, int32_t* node) noexcept nogil
cdef fbn_status fbn_graph_shape(const fbn_graph* graph, int32_t node, int32_t* rank, int64_t* shape) noexcept nogil
cdef fbn_status fbn_graph_layer_cost(const fbn_graph* graph, int32_t node, int64_t* trainable_parameters,
        int64_t* other_parameters, int64_t* multiply_adds) noexcept nogil
cdef fbn_status fbn_program_create(const fbn_graph* graph, int32_t output, const fbn_program_options* options,
        fbn_program** program) noexcept nogil
cdef void fbn_program_destroy(fbn_program* program) noexcept nogil
cdef fbn_status fbn_program_set_max_batch(fbn_program* program, int64_t max_batch) noexcept nogil
cdef fbn_status fbn_program_train(fbn_program* program, const void* x, const void* y, const int64_t* index, int64_t n,
        fbn_step_result* result, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_program_evaluate(fbn_program* program, const void* x, const void* y, const int64_t* index,
        int64_t n, fbn_step_result* result, const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_program_predict(fbn_program* program, const void* x, const int64_t* index, int64_t n, float* out,
        const fbn_exec* exec) noexcept nogil
cdef fbn_status fbn_program_node_output(fbn_program* program, int32_t node, const void* x, const int64_t* index,
        int64_t n, float* out, const fbn_exec* exec) noexcept nogil
cdef int32_t fbn_program_parameter_count(const fbn_program* program) noexcept nogil
cdef const char* fbn_program_parameter_name(const fbn_program* program, int32_t parameter) noexcept nogil
cdef fbn_status fbn_program_parameter_info(const fbn_program* program, int32_t parameter, int32_t* rank,
        int64_t* shape, int32_t* trainable) noexcept nogil
cdef fbn_status fbn_program_get(const fbn_program* program, int32_t parameter, const char* what,
        float* out) noexcept nogil
cdef fbn_status fbn_program_set(fbn_program* program, int32_t parameter, const char* what,
        const float* values) noexcept nogil
cdef fbn_status fbn_program_find_parameter(const fbn_program* program, const char* name,
        int32_t* parameter) noexcept nogil
cdef fbn_status fbn_program_get_by_name(const fbn_program* program, const char* name, const char* what, float* out,
        int64_t size) noexcept nogil
cdef fbn_status fbn_program_set_by_name(fbn_program* program, const char* name, const char* what, const float* values,
        int64_t size) noexcept nogil
cdef int64_t fbn_program_get_iteration(const fbn_program* program) noexcept nogil
cdef fbn_status fbn_program_set_iteration(fbn_program* program, int64_t iteration) noexcept nogil
cdef double fbn_program_get_learning_rate(const fbn_program* program) noexcept nogil
cdef fbn_status fbn_program_set_learning_rate(fbn_program* program, double learning_rate) noexcept nogil
cdef fbn_status fbn_program_describe(const fbn_program* program, char* text, size_t capacity,
        size_t* needed) noexcept nogil
cdef fbn_status fbn_program_costs(const fbn_program* program, int64_t batch, fbn_cost_row* rows, int32_t capacity,
        int32_t* count) noexcept nogil
cdef fbn_status fbn_program_reset_costs(fbn_program* program) noexcept nogil
cdef fbn_status fbn_measure_ceilings(const char* isa, double seconds, fbn_ceilings* ceilings,
        const fbn_exec* options) noexcept nogil

# The operators over memoryviews: shapes are checked, float32 and C-contiguous arrays are taken as they are; -1 means
# that a Python exception is set. They hold no GIL. What is not set here takes its default; kernels.pyx says the rest.
cpdef int dense_forward(const float[:, ::1] x, const float[:, ::1] kernel, const float[::1] bias, float[:, ::1] y,
        int32_t activation=*, float alpha=*, int32_t num_threads=*) except -1 nogil
cpdef int dense_backward(const float[:, ::1] dy, const float[:, ::1] x, const float[:, ::1] kernel,
        const float[:, ::1] y, float[:, ::1] dx, float[:, ::1] dkernel, float[::1] dbias, int32_t activation=*,
        float alpha=*, int32_t num_threads=*) except -1 nogil
cpdef int conv2d_forward(const float[:, :, :, ::1] x, const float[:, :, :, ::1] kernel, const float[::1] bias,
        float[:, :, :, ::1] y, int64_t stride_height=*, int64_t stride_width=*, bint same=*, int64_t dilation_height=*,
        int64_t dilation_width=*, int32_t activation=*, float alpha=*, int32_t num_threads=*) except -1 nogil
cpdef int conv2d_backward(const float[:, :, :, ::1] dy, const float[:, :, :, ::1] x, const float[:, :, :, ::1] kernel,
        const float[:, :, :, ::1] y, float[:, :, :, ::1] dx, float[:, :, :, ::1] dkernel, float[::1] dbias,
        int64_t stride_height=*, int64_t stride_width=*, bint same=*, int64_t dilation_height=*,
        int64_t dilation_width=*, int32_t activation=*, float alpha=*, int32_t num_threads=*) except -1 nogil
cpdef int batch_norm_forward(const float[:, ::1] x, const float[::1] gamma, const float[::1] beta, float[:, ::1] y,
        double[::1] mean, double[::1] variance, double epsilon=*, int32_t activation=*, float alpha=*,
        int32_t num_threads=*) except -1 nogil
cpdef int batch_norm_backward(const float[:, ::1] dy, const float[:, ::1] x, const float[::1] gamma,
        const float[::1] beta, const double[::1] mean, const double[::1] variance, const float[:, ::1] y,
        float[:, ::1] dx, float[::1] dgamma, float[::1] dbeta, double epsilon=*, int32_t activation=*, float alpha=*,
        int32_t num_threads=*) except -1 nogil
cpdef int batch_norm_inference(const float[:, ::1] x, const float[::1] gamma, const float[::1] beta,
        const double[::1] mean, const double[::1] variance, float[:, ::1] y, double epsilon=*, int32_t activation=*,
        float alpha=*, int32_t num_threads=*) except -1 nogil
cpdef int max_pool2d_forward(const float[:, :, :, ::1] x, float[:, :, :, ::1] y, uint8_t[:, :, :, ::1] index,
        int64_t pool_height=*, int64_t pool_width=*, int64_t stride_height=*, int64_t stride_width=*, bint same=*,
        int32_t num_threads=*) except -1 nogil
cpdef int max_pool2d_backward(const float[:, :, :, ::1] dy, const uint8_t[:, :, :, ::1] index, float[:, :, :, ::1] dx,
        int64_t pool_height=*, int64_t pool_width=*, int64_t stride_height=*, int64_t stride_width=*, bint same=*,
        int32_t num_threads=*) except -1 nogil
cpdef int avg_pool2d_forward(const float[:, :, :, ::1] x, float[:, :, :, ::1] y, int64_t pool_height=*,
        int64_t pool_width=*, int64_t stride_height=*, int64_t stride_width=*, bint same=*,
        int32_t num_threads=*) except -1 nogil
cpdef int avg_pool2d_backward(const float[:, :, :, ::1] dy, float[:, :, :, ::1] dx, int64_t pool_height=*,
        int64_t pool_width=*, int64_t stride_height=*, int64_t stride_width=*, bint same=*,
        int32_t num_threads=*) except -1 nogil
cpdef int global_avg_pool2d_forward(const float[:, :, ::1] x, float[:, ::1] y, int32_t num_threads=*) except -1 nogil
cpdef int global_avg_pool2d_backward(const float[:, ::1] dy, float[:, :, ::1] dx,
        int32_t num_threads=*) except -1 nogil
cpdef int activation_forward(const float[:, ::1] x, float[:, ::1] y, int32_t activation, float alpha=*,
        int32_t num_threads=*) except -1 nogil
cpdef int activation_backward(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx, int32_t activation,
        float alpha=*, int32_t num_threads=*) except -1 nogil
cpdef int dropout_forward(const float[::1] x, float[::1] y, double rate, uint64_t seed,
        int32_t num_threads=*) except -1 nogil
cpdef int softmax_cross_entropy_forward(const float[:, ::1] logits, const int32_t[::1] labels, float[::1] loss,
        float[:, ::1] probabilities, int32_t num_threads=*) except -1 nogil
cpdef int softmax_cross_entropy_backward(const float[:, ::1] probabilities, const int32_t[::1] labels,
        float[:, ::1] dlogits, float scale=*, int32_t num_threads=*) except -1 nogil
cpdef int mean_squared_error_forward(const float[:, ::1] predictions, const float[:, ::1] targets, float[::1] loss,
        int32_t num_threads=*) except -1 nogil
cpdef int mean_squared_error_backward(const float[:, ::1] predictions, const float[:, ::1] targets,
        float[:, ::1] dpredictions, float scale=*, int32_t num_threads=*) except -1 nogil
