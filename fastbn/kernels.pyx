# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The C interface of fastbn for Cython, and the operators over memoryviews, for Cython and Python.

`from fastbn.kernels cimport fbn_dense_forward` calls libfastbn without linking it; see fastbn/kernels.pxd.
"""
from libc.stdint cimport int32_t, int64_t, uint8_t, uint64_t
from libc.string cimport memset

cdef extern from "fastbn/fastbn.h" nogil:
    const char* c_last_error "fbn_last_error"()
    const char* c_version "fbn_version"()
    int32_t c_abi "fbn_abi"()
    int32_t c_get_num_threads "fbn_get_num_threads"()
    fbn_status c_set_num_threads "fbn_set_num_threads"(int32_t num_threads)
    const char* c_num_threads_reason "fbn_num_threads_reason"()
    const char* c_isa_compiled "fbn_isa_compiled"()
    const char* c_isa_found "fbn_isa_found"()
    const char* c_isa_in_use "fbn_isa_in_use"()
    fbn_status c_set_isa "fbn_set_isa"(const char* name)
    const char* c_build_info "fbn_build_info"()
    const char* c_threading_layer "fbn_threading_layer"()
    fbn_status c_set_serial_threshold "fbn_set_serial_threshold"(double work)
    fbn_status c_conv2d_output_size "fbn_conv2d_output_size"(const fbn_conv2d* d, int64_t* out_height,
        int64_t* out_width)
    fbn_status c_conv2d_algorithm "fbn_conv2d_algorithm"(const fbn_conv2d* d, int32_t which, const char** name,
        char* reason, size_t capacity)
    fbn_status c_conv2d_forward "fbn_conv2d_forward"(const fbn_conv2d* d, const float* x, const float* kernel,
        const float* bias, float* y, const fbn_exec* exec)
    fbn_status c_conv2d_backward "fbn_conv2d_backward"(const fbn_conv2d* d, const float* dy, const float* x,
        const float* kernel, const float* y, float* dx, float* dkernel, float* dbias, const fbn_exec* exec)
    fbn_status c_dense_forward "fbn_dense_forward"(const fbn_dense* d, const float* x, const float* kernel,
        const float* bias, float* y, const fbn_exec* exec)
    fbn_status c_dense_backward "fbn_dense_backward"(const fbn_dense* d, const float* dy, const float* x,
        const float* kernel, const float* y, float* dx, float* dkernel, float* dbias, const fbn_exec* exec)
    fbn_status c_batch_norm_forward "fbn_batch_norm_forward"(const fbn_batch_norm* d, const float* x,
        const float* gamma, const float* beta, const float* residual, float* y, double* mean, double* variance,
        const fbn_exec* exec)
    fbn_status c_batch_norm_backward "fbn_batch_norm_backward"(const fbn_batch_norm* d, const float* dy,
        const float* x, const float* gamma, const float* beta, const double* mean, const double* variance,
        const float* y, float* dx, float* dgamma, float* dbeta, float* dresidual, const fbn_exec* exec)
    fbn_status c_batch_norm_inference "fbn_batch_norm_inference"(const fbn_batch_norm* d, const float* x,
        const float* gamma, const float* beta, const double* mean, const double* variance, const float* residual,
        float* y, const fbn_exec* exec)
    fbn_status c_batch_norm_chunk_rows "fbn_batch_norm_chunk_rows"(int64_t total_rows, int64_t channels,
        int64_t* chunk_rows)
    fbn_status c_batch_norm_partial "fbn_batch_norm_partial"(const fbn_batch_norm* d, const float* x,
        int64_t total_rows, double* mean, double* m2, const fbn_exec* exec)
    fbn_status c_batch_norm_merge "fbn_batch_norm_merge"(int64_t shards, int64_t channels, const int64_t* counts,
        const double* means, const double* m2s, double* mean, double* variance)
    fbn_status c_batch_norm_backward_partial "fbn_batch_norm_backward_partial"(const fbn_batch_norm* d,
        const float* dy, const float* x, const float* gamma, const float* beta, const double* mean,
        const double* variance, const float* y, int64_t total_rows, double* sum_dy, double* sum_dy_xc,
        const fbn_exec* exec)
    fbn_status c_batch_norm_backward_merge "fbn_batch_norm_backward_merge"(int64_t shards, int64_t channels,
        const double* sums_dy, const double* sums_dy_xc, double* sum_dy, double* sum_dy_xc)
    fbn_status c_batch_norm_backward_apply "fbn_batch_norm_backward_apply"(const fbn_batch_norm* d, const float* dy,
        const float* x, const float* gamma, const float* beta, const double* mean, const double* variance,
        const float* y, const double* sum_dy, const double* sum_dy_xc, int64_t total_rows, float* dx, float* dresidual,
        const fbn_exec* exec)
    fbn_status c_pool2d_output_size "fbn_pool2d_output_size"(const fbn_pool2d* d, int64_t* out_height,
        int64_t* out_width)
    int32_t c_pool2d_index_dtype "fbn_pool2d_index_dtype"(const fbn_pool2d* d)
    fbn_status c_max_pool2d_forward "fbn_max_pool2d_forward"(const fbn_pool2d* d, const float* x, float* y,
        void* index, const fbn_exec* exec)
    fbn_status c_max_pool2d_backward "fbn_max_pool2d_backward"(const fbn_pool2d* d, const float* dy, const void* index,
        float* dx, const fbn_exec* exec)
    fbn_status c_avg_pool2d_forward "fbn_avg_pool2d_forward"(const fbn_pool2d* d, const float* x, float* y,
        const fbn_exec* exec)
    fbn_status c_avg_pool2d_backward "fbn_avg_pool2d_backward"(const fbn_pool2d* d, const float* dy, float* dx,
        const fbn_exec* exec)
    fbn_status c_global_avg_pool2d_forward "fbn_global_avg_pool2d_forward"(int64_t batch, int64_t pixels,
        int64_t channels, const float* x, float* y, const fbn_exec* exec)
    fbn_status c_global_avg_pool2d_backward "fbn_global_avg_pool2d_backward"(int64_t batch, int64_t pixels,
        int64_t channels, const float* dy, float* dx, const fbn_exec* exec)
    fbn_status c_activation_forward "fbn_activation_forward"(int32_t activation, float alpha, int64_t rows,
        int64_t columns, const float* x, float* y, const fbn_exec* exec)
    fbn_status c_activation_backward "fbn_activation_backward"(int32_t activation, float alpha, int64_t rows,
        int64_t columns, const float* dy, const float* y, float* dx, const fbn_exec* exec)
    fbn_status c_dropout_forward "fbn_dropout_forward"(double rate, uint64_t seed, int64_t size, const float* x,
        float* y, const fbn_exec* exec)
    fbn_status c_dropout_backward "fbn_dropout_backward"(double rate, uint64_t seed, int64_t size, const float* dy,
        float* dx, const fbn_exec* exec)
    fbn_status c_softmax_cross_entropy_forward "fbn_softmax_cross_entropy_forward"(int64_t rows, int64_t classes,
        const float* logits, const void* labels, int32_t labels_dtype, float* loss, float* probabilities,
        const fbn_exec* exec)
    fbn_status c_softmax_cross_entropy_backward "fbn_softmax_cross_entropy_backward"(int64_t rows, int64_t classes,
        const float* probabilities, const void* labels, int32_t labels_dtype, float scale, float* dlogits,
        const fbn_exec* exec)
    fbn_status c_mean_squared_error_forward "fbn_mean_squared_error_forward"(int64_t rows, int64_t columns,
        const float* predictions, const float* targets, float* loss, const fbn_exec* exec)
    fbn_status c_mean_squared_error_backward "fbn_mean_squared_error_backward"(int64_t rows, int64_t columns,
        const float* predictions, const float* targets, float scale, float* dpredictions, const fbn_exec* exec)
    int32_t c_optimizer_slot_count "fbn_optimizer_slot_count"(const fbn_optimizer* d)
    const char* c_optimizer_slot_name "fbn_optimizer_slot_name"(const fbn_optimizer* d, int32_t slot)
    fbn_status c_optimizer_update "fbn_optimizer_update"(const fbn_optimizer* d, int64_t iteration, int64_t size,
        float* weights, const float* gradient, float** slots, const fbn_exec* exec)
    fbn_status c_graph_create "fbn_graph_create"(fbn_graph** graph)
    void c_graph_destroy "fbn_graph_destroy"(fbn_graph* graph)
    fbn_status c_graph_add "fbn_graph_add"(fbn_graph* graph, const fbn_layer* layer, int32_t* node)
    fbn_status c_graph_shape "fbn_graph_shape"(const fbn_graph* graph, int32_t node, int32_t* rank, int64_t* shape)
    fbn_status c_graph_layer_cost "fbn_graph_layer_cost"(const fbn_graph* graph, int32_t node,
        int64_t* trainable_parameters, int64_t* other_parameters, int64_t* multiply_adds)
    fbn_status c_program_create "fbn_program_create"(const fbn_graph* graph, int32_t output,
        const fbn_program_options* options, fbn_program** program)
    void c_program_destroy "fbn_program_destroy"(fbn_program* program)
    fbn_status c_program_set_max_batch "fbn_program_set_max_batch"(fbn_program* program, int64_t max_batch)
    fbn_status c_program_train "fbn_program_train"(fbn_program* program, const void* x, const void* y,
        const int64_t* index, int64_t n, fbn_step_result* result, const fbn_exec* exec)
    fbn_status c_program_evaluate "fbn_program_evaluate"(fbn_program* program, const void* x, const void* y,
        const int64_t* index, int64_t n, fbn_step_result* result, const fbn_exec* exec)
    fbn_status c_program_predict "fbn_program_predict"(fbn_program* program, const void* x, const int64_t* index,
        int64_t n, float* out, const fbn_exec* exec)
    fbn_status c_program_node_output "fbn_program_node_output"(fbn_program* program, int32_t node, const void* x,
        const int64_t* index, int64_t n, float* out, const fbn_exec* exec)
    int32_t c_program_parameter_count "fbn_program_parameter_count"(const fbn_program* program)
    const char* c_program_parameter_name "fbn_program_parameter_name"(const fbn_program* program, int32_t parameter)
    fbn_status c_program_parameter_info "fbn_program_parameter_info"(const fbn_program* program, int32_t parameter,
        int32_t* rank, int64_t* shape, int32_t* trainable)
    fbn_status c_program_get "fbn_program_get"(const fbn_program* program, int32_t parameter, const char* what,
        float* out)
    fbn_status c_program_set "fbn_program_set"(fbn_program* program, int32_t parameter, const char* what,
        const float* values)
    fbn_status c_program_find_parameter "fbn_program_find_parameter"(const fbn_program* program, const char* name,
        int32_t* parameter)
    fbn_status c_program_get_by_name "fbn_program_get_by_name"(const fbn_program* program, const char* name,
        const char* what, float* out, int64_t size)
    fbn_status c_program_set_by_name "fbn_program_set_by_name"(fbn_program* program, const char* name,
        const char* what, const float* values, int64_t size)
    int64_t c_program_get_iteration "fbn_program_get_iteration"(const fbn_program* program)
    fbn_status c_program_set_iteration "fbn_program_set_iteration"(fbn_program* program, int64_t iteration)
    double c_program_get_learning_rate "fbn_program_get_learning_rate"(const fbn_program* program)
    fbn_status c_program_set_learning_rate "fbn_program_set_learning_rate"(fbn_program* program, double learning_rate)
    fbn_status c_program_describe "fbn_program_describe"(const fbn_program* program, char* text, size_t capacity,
        size_t* needed)
    fbn_status c_program_costs "fbn_program_costs"(const fbn_program* program, int64_t batch, fbn_cost_row* rows,
        int32_t capacity, int32_t* count)
    fbn_status c_program_reset_costs "fbn_program_reset_costs"(fbn_program* program)
    fbn_status c_measure_ceilings "fbn_measure_ceilings"(const char* isa, double seconds, fbn_ceilings* ceilings,
        const fbn_exec* options)


cdef const char* fbn_last_error() noexcept nogil:
    return c_last_error()


cdef const char* fbn_version() noexcept nogil:
    return c_version()


cdef int32_t fbn_abi() noexcept nogil:
    return c_abi()


cdef int32_t fbn_get_num_threads() noexcept nogil:
    return c_get_num_threads()


cdef fbn_status fbn_set_num_threads(int32_t num_threads) noexcept nogil:
    return c_set_num_threads(num_threads)


cdef const char* fbn_num_threads_reason() noexcept nogil:
    return c_num_threads_reason()


cdef const char* fbn_isa_compiled() noexcept nogil:
    return c_isa_compiled()


cdef const char* fbn_isa_found() noexcept nogil:
    return c_isa_found()


cdef const char* fbn_isa_in_use() noexcept nogil:
    return c_isa_in_use()


cdef fbn_status fbn_set_isa(const char* name) noexcept nogil:
    return c_set_isa(name)


cdef const char* fbn_build_info() noexcept nogil:
    return c_build_info()


cdef const char* fbn_threading_layer() noexcept nogil:
    return c_threading_layer()


cdef fbn_status fbn_set_serial_threshold(double work) noexcept nogil:
    return c_set_serial_threshold(work)


cdef fbn_status fbn_conv2d_output_size(const fbn_conv2d* d, int64_t* out_height, int64_t* out_width) noexcept nogil:
    return c_conv2d_output_size(d, out_height, out_width)


cdef fbn_status fbn_conv2d_algorithm(const fbn_conv2d* d, int32_t which, const char** name, char* reason,
        size_t capacity) noexcept nogil:
    return c_conv2d_algorithm(d, which, name, reason, capacity)


cdef fbn_status fbn_conv2d_forward(const fbn_conv2d* d, const float* x, const float* kernel, const float* bias,
        float* y, const fbn_exec* exec) noexcept nogil:
    return c_conv2d_forward(d, x, kernel, bias, y, exec)


cdef fbn_status fbn_conv2d_backward(const fbn_conv2d* d, const float* dy, const float* x, const float* kernel,
        const float* y, float* dx, float* dkernel, float* dbias, const fbn_exec* exec) noexcept nogil:
    return c_conv2d_backward(d, dy, x, kernel, y, dx, dkernel, dbias, exec)


cdef fbn_status fbn_dense_forward(const fbn_dense* d, const float* x, const float* kernel, const float* bias, float* y,
        const fbn_exec* exec) noexcept nogil:
    return c_dense_forward(d, x, kernel, bias, y, exec)


cdef fbn_status fbn_dense_backward(const fbn_dense* d, const float* dy, const float* x, const float* kernel,
        const float* y, float* dx, float* dkernel, float* dbias, const fbn_exec* exec) noexcept nogil:
    return c_dense_backward(d, dy, x, kernel, y, dx, dkernel, dbias, exec)


cdef fbn_status fbn_batch_norm_forward(const fbn_batch_norm* d, const float* x, const float* gamma, const float* beta,
        const float* residual, float* y, double* mean, double* variance, const fbn_exec* exec) noexcept nogil:
    return c_batch_norm_forward(d, x, gamma, beta, residual, y, mean, variance, exec)


cdef fbn_status fbn_batch_norm_backward(const fbn_batch_norm* d, const float* dy, const float* x, const float* gamma,
        const float* beta, const double* mean, const double* variance, const float* y, float* dx, float* dgamma,
        float* dbeta, float* dresidual, const fbn_exec* exec) noexcept nogil:
    return c_batch_norm_backward(d, dy, x, gamma, beta, mean, variance, y, dx, dgamma, dbeta, dresidual, exec)


cdef fbn_status fbn_batch_norm_inference(const fbn_batch_norm* d, const float* x, const float* gamma,
        const float* beta, const double* mean, const double* variance, const float* residual, float* y,
        const fbn_exec* exec) noexcept nogil:
    return c_batch_norm_inference(d, x, gamma, beta, mean, variance, residual, y, exec)


cdef fbn_status fbn_batch_norm_chunk_rows(int64_t total_rows, int64_t channels,
        int64_t* chunk_rows) noexcept nogil:
    return c_batch_norm_chunk_rows(total_rows, channels, chunk_rows)


cdef fbn_status fbn_batch_norm_partial(const fbn_batch_norm* d, const float* x, int64_t total_rows, double* mean,
        double* m2, const fbn_exec* exec) noexcept nogil:
    return c_batch_norm_partial(d, x, total_rows, mean, m2, exec)


cdef fbn_status fbn_batch_norm_merge(int64_t shards, int64_t channels, const int64_t* counts, const double* means,
        const double* m2s, double* mean, double* variance) noexcept nogil:
    return c_batch_norm_merge(shards, channels, counts, means, m2s, mean, variance)


cdef fbn_status fbn_batch_norm_backward_partial(const fbn_batch_norm* d, const float* dy, const float* x,
        const float* gamma, const float* beta, const double* mean, const double* variance, const float* y,
        int64_t total_rows, double* sum_dy, double* sum_dy_xc, const fbn_exec* exec) noexcept nogil:
    return c_batch_norm_backward_partial(d, dy, x, gamma, beta, mean, variance, y, total_rows, sum_dy, sum_dy_xc,
        exec)


cdef fbn_status fbn_batch_norm_backward_merge(int64_t shards, int64_t channels, const double* sums_dy,
        const double* sums_dy_xc, double* sum_dy, double* sum_dy_xc) noexcept nogil:
    return c_batch_norm_backward_merge(shards, channels, sums_dy, sums_dy_xc, sum_dy, sum_dy_xc)


cdef fbn_status fbn_batch_norm_backward_apply(const fbn_batch_norm* d, const float* dy, const float* x,
        const float* gamma, const float* beta, const double* mean, const double* variance, const float* y,
        const double* sum_dy, const double* sum_dy_xc, int64_t total_rows, float* dx, float* dresidual,
        const fbn_exec* exec) noexcept nogil:
    return c_batch_norm_backward_apply(d, dy, x, gamma, beta, mean, variance, y, sum_dy, sum_dy_xc, total_rows, dx,
        dresidual, exec)


cdef fbn_status fbn_pool2d_output_size(const fbn_pool2d* d, int64_t* out_height, int64_t* out_width) noexcept nogil:
    return c_pool2d_output_size(d, out_height, out_width)


cdef int32_t fbn_pool2d_index_dtype(const fbn_pool2d* d) noexcept nogil:
    return c_pool2d_index_dtype(d)


cdef fbn_status fbn_max_pool2d_forward(const fbn_pool2d* d, const float* x, float* y, void* index,
        const fbn_exec* exec) noexcept nogil:
    return c_max_pool2d_forward(d, x, y, index, exec)


cdef fbn_status fbn_max_pool2d_backward(const fbn_pool2d* d, const float* dy, const void* index, float* dx,
        const fbn_exec* exec) noexcept nogil:
    return c_max_pool2d_backward(d, dy, index, dx, exec)


cdef fbn_status fbn_avg_pool2d_forward(const fbn_pool2d* d, const float* x, float* y,
        const fbn_exec* exec) noexcept nogil:
    return c_avg_pool2d_forward(d, x, y, exec)


cdef fbn_status fbn_avg_pool2d_backward(const fbn_pool2d* d, const float* dy, float* dx,
        const fbn_exec* exec) noexcept nogil:
    return c_avg_pool2d_backward(d, dy, dx, exec)


cdef fbn_status fbn_global_avg_pool2d_forward(int64_t batch, int64_t pixels, int64_t channels, const float* x,
        float* y, const fbn_exec* exec) noexcept nogil:
    return c_global_avg_pool2d_forward(batch, pixels, channels, x, y, exec)


cdef fbn_status fbn_global_avg_pool2d_backward(int64_t batch, int64_t pixels, int64_t channels, const float* dy,
        float* dx, const fbn_exec* exec) noexcept nogil:
    return c_global_avg_pool2d_backward(batch, pixels, channels, dy, dx, exec)


cdef fbn_status fbn_activation_forward(int32_t activation, float alpha, int64_t rows, int64_t columns, const float* x,
        float* y, const fbn_exec* exec) noexcept nogil:
    return c_activation_forward(activation, alpha, rows, columns, x, y, exec)


cdef fbn_status fbn_activation_backward(int32_t activation, float alpha, int64_t rows, int64_t columns,
        const float* dy, const float* y, float* dx, const fbn_exec* exec) noexcept nogil:
    return c_activation_backward(activation, alpha, rows, columns, dy, y, dx, exec)


cdef fbn_status fbn_dropout_forward(double rate, uint64_t seed, int64_t size, const float* x, float* y,
        const fbn_exec* exec) noexcept nogil:
    return c_dropout_forward(rate, seed, size, x, y, exec)


cdef fbn_status fbn_dropout_backward(double rate, uint64_t seed, int64_t size, const float* dy, float* dx,
        const fbn_exec* exec) noexcept nogil:
    return c_dropout_backward(rate, seed, size, dy, dx, exec)


cdef fbn_status fbn_softmax_cross_entropy_forward(int64_t rows, int64_t classes, const float* logits,
        const void* labels, int32_t labels_dtype, float* loss, float* probabilities,
        const fbn_exec* exec) noexcept nogil:
    return c_softmax_cross_entropy_forward(rows, classes, logits, labels, labels_dtype, loss, probabilities, exec)


cdef fbn_status fbn_softmax_cross_entropy_backward(int64_t rows, int64_t classes, const float* probabilities,
        const void* labels, int32_t labels_dtype, float scale, float* dlogits, const fbn_exec* exec) noexcept nogil:
    return c_softmax_cross_entropy_backward(rows, classes, probabilities, labels, labels_dtype, scale, dlogits, exec)


cdef fbn_status fbn_mean_squared_error_forward(int64_t rows, int64_t columns, const float* predictions,
        const float* targets, float* loss, const fbn_exec* exec) noexcept nogil:
    return c_mean_squared_error_forward(rows, columns, predictions, targets, loss, exec)


cdef fbn_status fbn_mean_squared_error_backward(int64_t rows, int64_t columns, const float* predictions,
        const float* targets, float scale, float* dpredictions, const fbn_exec* exec) noexcept nogil:
    return c_mean_squared_error_backward(rows, columns, predictions, targets, scale, dpredictions, exec)


cdef int32_t fbn_optimizer_slot_count(const fbn_optimizer* d) noexcept nogil:
    return c_optimizer_slot_count(d)


cdef const char* fbn_optimizer_slot_name(const fbn_optimizer* d, int32_t slot) noexcept nogil:
    return c_optimizer_slot_name(d, slot)


cdef fbn_status fbn_optimizer_update(const fbn_optimizer* d, int64_t iteration, int64_t size, float* weights,
        const float* gradient, float** slots, const fbn_exec* exec) noexcept nogil:
    return c_optimizer_update(d, iteration, size, weights, gradient, slots, exec)


cdef fbn_status fbn_graph_create(fbn_graph** graph) noexcept nogil:
    return c_graph_create(graph)


cdef void fbn_graph_destroy(fbn_graph* graph) noexcept nogil:
    c_graph_destroy(graph)


cdef fbn_status fbn_graph_add(fbn_graph* graph, const fbn_layer* layer, int32_t* node) noexcept nogil:
    return c_graph_add(graph, layer, node)


cdef fbn_status fbn_graph_shape(const fbn_graph* graph, int32_t node, int32_t* rank, int64_t* shape) noexcept nogil:
    return c_graph_shape(graph, node, rank, shape)


cdef fbn_status fbn_graph_layer_cost(const fbn_graph* graph, int32_t node, int64_t* trainable_parameters,
        int64_t* other_parameters, int64_t* multiply_adds) noexcept nogil:
    return c_graph_layer_cost(graph, node, trainable_parameters, other_parameters, multiply_adds)


cdef fbn_status fbn_program_create(const fbn_graph* graph, int32_t output, const fbn_program_options* options,
        fbn_program** program) noexcept nogil:
    return c_program_create(graph, output, options, program)


cdef void fbn_program_destroy(fbn_program* program) noexcept nogil:
    c_program_destroy(program)


cdef fbn_status fbn_program_set_max_batch(fbn_program* program, int64_t max_batch) noexcept nogil:
    return c_program_set_max_batch(program, max_batch)


cdef fbn_status fbn_program_train(fbn_program* program, const void* x, const void* y, const int64_t* index, int64_t n,
        fbn_step_result* result, const fbn_exec* exec) noexcept nogil:
    return c_program_train(program, x, y, index, n, result, exec)


cdef fbn_status fbn_program_evaluate(fbn_program* program, const void* x, const void* y, const int64_t* index,
        int64_t n, fbn_step_result* result, const fbn_exec* exec) noexcept nogil:
    return c_program_evaluate(program, x, y, index, n, result, exec)


cdef fbn_status fbn_program_predict(fbn_program* program, const void* x, const int64_t* index, int64_t n, float* out,
        const fbn_exec* exec) noexcept nogil:
    return c_program_predict(program, x, index, n, out, exec)


cdef fbn_status fbn_program_node_output(fbn_program* program, int32_t node, const void* x, const int64_t* index,
        int64_t n, float* out, const fbn_exec* exec) noexcept nogil:
    return c_program_node_output(program, node, x, index, n, out, exec)


cdef int32_t fbn_program_parameter_count(const fbn_program* program) noexcept nogil:
    return c_program_parameter_count(program)


cdef const char* fbn_program_parameter_name(const fbn_program* program, int32_t parameter) noexcept nogil:
    return c_program_parameter_name(program, parameter)


cdef fbn_status fbn_program_parameter_info(const fbn_program* program, int32_t parameter, int32_t* rank,
        int64_t* shape, int32_t* trainable) noexcept nogil:
    return c_program_parameter_info(program, parameter, rank, shape, trainable)


cdef fbn_status fbn_program_get(const fbn_program* program, int32_t parameter, const char* what,
        float* out) noexcept nogil:
    return c_program_get(program, parameter, what, out)


cdef fbn_status fbn_program_set(fbn_program* program, int32_t parameter, const char* what,
        const float* values) noexcept nogil:
    return c_program_set(program, parameter, what, values)


cdef fbn_status fbn_program_find_parameter(const fbn_program* program, const char* name,
        int32_t* parameter) noexcept nogil:
    return c_program_find_parameter(program, name, parameter)


cdef fbn_status fbn_program_get_by_name(const fbn_program* program, const char* name, const char* what, float* out,
        int64_t size) noexcept nogil:
    return c_program_get_by_name(program, name, what, out, size)


cdef fbn_status fbn_program_set_by_name(fbn_program* program, const char* name, const char* what, const float* values,
        int64_t size) noexcept nogil:
    return c_program_set_by_name(program, name, what, values, size)


cdef int64_t fbn_program_get_iteration(const fbn_program* program) noexcept nogil:
    return c_program_get_iteration(program)


cdef fbn_status fbn_program_set_iteration(fbn_program* program, int64_t iteration) noexcept nogil:
    return c_program_set_iteration(program, iteration)


cdef double fbn_program_get_learning_rate(const fbn_program* program) noexcept nogil:
    return c_program_get_learning_rate(program)


cdef fbn_status fbn_program_set_learning_rate(fbn_program* program, double learning_rate) noexcept nogil:
    return c_program_set_learning_rate(program, learning_rate)


cdef fbn_status fbn_program_describe(const fbn_program* program, char* text, size_t capacity,
        size_t* needed) noexcept nogil:
    return c_program_describe(program, text, capacity, needed)


cdef fbn_status fbn_program_costs(const fbn_program* program, int64_t batch, fbn_cost_row* rows, int32_t capacity,
        int32_t* count) noexcept nogil:
    return c_program_costs(program, batch, rows, capacity, count)


cdef fbn_status fbn_program_reset_costs(fbn_program* program) noexcept nogil:
    return c_program_reset_costs(program)


cdef fbn_status fbn_measure_ceilings(const char* isa, double seconds, fbn_ceilings* ceilings,
        const fbn_exec* options) noexcept nogil:
    return c_measure_ceilings(isa, seconds, ceilings, options)

# ---------------------------------------------------------------------------------------------------------------------
# The operators over memoryviews, for Cython (nogil, no checks of an exception after the call but of -1) and for Python.
# Nothing is converted or allocated: float32, C-contiguous. Shapes are checked; ValueError says which rule was broken.

cdef int _raise(fbn_status status) except -1 nogil:
    if status == FBN_OK:
        return 0
    with gil:
        message = fbn_last_error().decode()
        if status == FBN_INVALID_VALUE:
            raise ValueError(message)
        if status == FBN_INVALID_TYPE:
            raise TypeError(message)
        if status == FBN_UNSUPPORTED:
            raise NotImplementedError(message)
        if status == FBN_OUT_OF_MEMORY:
            raise MemoryError(message)
        raise RuntimeError(message)


cdef str _text(const Py_ssize_t* shape, int rank):
    return "(" + ", ".join([str(shape[axis]) for axis in range(rank)]) + ")"


cdef fbn_exec _on(int32_t num_threads) noexcept nogil:
    cdef fbn_exec how
    memset(&how, 0, sizeof(how))
    how.struct_size = sizeof(how)
    how.num_threads = num_threads
    return how


cdef bint _same_2d(const Py_ssize_t* a, const Py_ssize_t* b) noexcept nogil:
    return a[0] == b[0] and a[1] == b[1]


cdef bint _same_4d(const Py_ssize_t* a, const Py_ssize_t* b) noexcept nogil:
    return _same_2d(a, b) and _same_2d(a + 2, b + 2)


cdef fbn_dense _dense(const Py_ssize_t* x, const Py_ssize_t* kernel, int32_t activation, float alpha) noexcept nogil:
    cdef fbn_dense d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.rows = x[0]
    d.in_features = kernel[0]
    d.out_features = kernel[1]
    d.activation = activation
    d.alpha = alpha
    return d


cpdef int dense_forward(const float[:, ::1] x, const float[:, ::1] kernel, const float[::1] bias, float[:, ::1] y,
                        int32_t activation=0, float alpha=0, int32_t num_threads=0) except -1 nogil:
    """y = act(x kernel + bias).

    x (rows, in), kernel (in, out), bias (out) or None, y (rows, out).
    """
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_dense d = _dense(x.shape, kernel.shape, activation, alpha)
    if (x.shape[1] != d.in_features or y.shape[0] != d.rows or y.shape[1] != d.out_features
            or (bias is not None and bias.shape[0] != d.out_features)):
        with gil:
            raise ValueError(
                "dense_forward: shapes must be x (rows, in), kernel (in, out), bias (out), y (rows, out). Received: "
                f"x {_text(x.shape, 2)}, kernel {_text(kernel.shape, 2)}, "
                f"bias {None if bias is None else _text(bias.shape, 1)}, y {_text(y.shape, 2)}")
    return _raise(fbn_dense_forward(&d, &x[0, 0], &kernel[0, 0], NULL if bias is None else &bias[0], &y[0, 0], &how))


cpdef int dense_backward(const float[:, ::1] dy, const float[:, ::1] x, const float[:, ::1] kernel,
                         const float[:, ::1] y, float[:, ::1] dx, float[:, ::1] dkernel, float[::1] dbias,
                         int32_t activation=0, float alpha=0, int32_t num_threads=0) except -1 nogil:
    """dx = dy' kernel^T, dkernel = x^T dy', dbias = sum over rows of dy'; dy' = dy act'(y).

    y, the forward result, is needed only with an activation. An output that is None is not computed.
    """
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_dense d = _dense(x.shape, kernel.shape, activation, alpha)
    if (x.shape[1] != d.in_features or dy.shape[0] != d.rows or dy.shape[1] != d.out_features
            or (y is not None and not _same_2d(y.shape, dy.shape))
            or (dx is not None and not _same_2d(dx.shape, x.shape))
            or (dkernel is not None and not _same_2d(dkernel.shape, kernel.shape))
            or (dbias is not None and dbias.shape[0] != d.out_features)):
        with gil:
            raise ValueError(
                "dense_backward: shapes must be dy and y (rows, out), x and dx (rows, in), kernel, dkernel (in, out), "
                f"dbias (out). Received: dy {_text(dy.shape, 2)}, x {_text(x.shape, 2)}, "
                f"kernel {_text(kernel.shape, 2)}")
    return _raise(fbn_dense_backward(
        &d, &dy[0, 0], &x[0, 0], &kernel[0, 0], NULL if y is None else &y[0, 0], NULL if dx is None else &dx[0, 0],
        NULL if dkernel is None else &dkernel[0, 0], NULL if dbias is None else &dbias[0], &how))


cdef fbn_conv2d _conv2d(const Py_ssize_t* x, const Py_ssize_t* kernel, int64_t stride_height, int64_t stride_width,
                        bint same, int64_t dilation_height, int64_t dilation_width, int32_t activation,
                        float alpha) noexcept nogil:
    cdef fbn_conv2d d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.batch = x[0]
    d.height = x[1]
    d.width = x[2]
    d.in_channels = x[3]
    d.kernel_height = kernel[0]
    d.kernel_width = kernel[1]
    d.out_channels = kernel[3]
    d.groups = x[3] // kernel[2] if kernel[2] > 0 and x[3] % kernel[2] == 0 else 0
    d.stride_height = stride_height
    d.stride_width = stride_width
    d.dilation_height = dilation_height
    d.dilation_width = dilation_width
    d.padding = FBN_PADDING_SAME if same else FBN_PADDING_VALID
    d.activation = activation
    d.alpha = alpha
    return d


# Raises unless `y` is the shape of the result of `d` on `x`.
cdef int _require_images(const char* operation, const fbn_conv2d* d, const Py_ssize_t* x, const Py_ssize_t* kernel,
                         const Py_ssize_t* y) except -1 nogil:
    cdef int64_t height = 0, width = 0
    if d.groups == 0:
        with gil:
            raise ValueError(
                f"{operation.decode()}: the kernel's third axis must divide the channels of x. Received: "
                f"x {_text(x, 4)}, kernel {_text(kernel, 4)}")
    _raise(fbn_conv2d_output_size(d, &height, &width))
    if y[0] != d.batch or y[1] != height or y[2] != width or y[3] != d.out_channels:
        with gil:
            raise ValueError(
                f"{operation.decode()}: the result has the shape ({d.batch}, {height}, {width}, {d.out_channels}). "
                f"Received: {_text(y, 4)}")
    return 0


cpdef int conv2d_forward(const float[:, :, :, ::1] x, const float[:, :, :, ::1] kernel, const float[::1] bias,
                         float[:, :, :, ::1] y, int64_t stride_height=1, int64_t stride_width=1, bint same=False,
                         int64_t dilation_height=1, int64_t dilation_width=1, int32_t activation=0, float alpha=0,
                         int32_t num_threads=0) except -1 nogil:
    """y[n,oy,ox,o] = act(bias[o] + sum_{ky,kx,c} x[n, oy*s+ky*d-pad, ox*s+kx*d-pad, c] kernel[ky,kx,c,o]).

    x (batch, height, width, in), kernel (height, width, in / groups, out), bias (out) or None, y (batch, out height,
    out width, out). `same`: padded as Keras' "same", else not at all.
    """
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_conv2d d = _conv2d(x.shape, kernel.shape, stride_height, stride_width, same, dilation_height,
                                dilation_width, activation, alpha)
    _require_images("conv2d_forward", &d, x.shape, kernel.shape, y.shape)
    if bias is not None and bias.shape[0] != d.out_channels:
        with gil:
            raise ValueError(f"conv2d_forward: bias must have {d.out_channels} elements. Received: {bias.shape[0]}")
    return _raise(fbn_conv2d_forward(&d, &x[0, 0, 0, 0], &kernel[0, 0, 0, 0], NULL if bias is None else &bias[0],
                                     &y[0, 0, 0, 0], &how))


cpdef int conv2d_backward(const float[:, :, :, ::1] dy, const float[:, :, :, ::1] x,
                          const float[:, :, :, ::1] kernel, const float[:, :, :, ::1] y, float[:, :, :, ::1] dx,
                          float[:, :, :, ::1] dkernel, float[::1] dbias, int64_t stride_height=1,
                          int64_t stride_width=1, bint same=False, int64_t dilation_height=1,
                          int64_t dilation_width=1, int32_t activation=0, float alpha=0,
                          int32_t num_threads=0) except -1 nogil:
    """Gradients of conv2d_forward.

    y, the forward result, is needed only with an activation. An output that is None is not computed.
    """
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_conv2d d = _conv2d(x.shape, kernel.shape, stride_height, stride_width, same, dilation_height,
                                dilation_width, activation, alpha)
    _require_images("conv2d_backward", &d, x.shape, kernel.shape, dy.shape)
    if ((y is not None and not _same_4d(y.shape, dy.shape)) or (dx is not None and not _same_4d(dx.shape, x.shape))
            or (dkernel is not None and not _same_4d(dkernel.shape, kernel.shape))
            or (dbias is not None and dbias.shape[0] != d.out_channels)):
        with gil:
            raise ValueError(
                "conv2d_backward: y must have the shape of dy, dx of x, dkernel of the kernel, dbias (out). Received: "
                f"dy {_text(dy.shape, 4)}, x {_text(x.shape, 4)}, kernel {_text(kernel.shape, 4)}")
    return _raise(fbn_conv2d_backward(
        &d, &dy[0, 0, 0, 0], &x[0, 0, 0, 0], &kernel[0, 0, 0, 0], NULL if y is None else &y[0, 0, 0, 0],
        NULL if dx is None else &dx[0, 0, 0, 0], NULL if dkernel is None else &dkernel[0, 0, 0, 0],
        NULL if dbias is None else &dbias[0], &how))


cdef fbn_batch_norm _batch_norm(const Py_ssize_t* x, double epsilon, int32_t activation, float alpha) noexcept nogil:
    cdef fbn_batch_norm d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.rows = x[0]
    d.channels = x[1]
    d.epsilon = epsilon
    d.activation = activation
    d.alpha = alpha
    return d


# Raises unless `other` has the shape of x, and gamma, beta (-1: None), mean and variance the size of its last axis.
cdef int _require_channels(const char* operation, const Py_ssize_t* x, const Py_ssize_t* other, Py_ssize_t gamma,
                           Py_ssize_t beta, Py_ssize_t mean, Py_ssize_t variance) except -1 nogil:
    if (not _same_2d(x, other) or (gamma >= 0 and gamma != x[1]) or (beta >= 0 and beta != x[1]) or mean != x[1]
            or variance != x[1]):
        with gil:
            raise ValueError(
                f"{operation.decode()}: matrices must have the shape {_text(x, 2)} of x and every other array "
                f"({x[1]}). Received: {_text(other, 2)}, gamma {gamma if gamma >= 0 else None}, "
                f"beta {beta if beta >= 0 else None}, mean {mean}, variance {variance}")
    return 0


cpdef int batch_norm_forward(const float[:, ::1] x, const float[::1] gamma, const float[::1] beta, float[:, ::1] y,
                             double[::1] mean, double[::1] variance, double epsilon=1e-3, int32_t activation=0,
                             float alpha=0, int32_t num_threads=0) except -1 nogil:
    """y = act((x - mean) / sqrt(variance + epsilon) * gamma + beta), with the statistics of the batch (biased).

    x and y (rows, channels); gamma and beta (channels) or None; mean and variance (channels), float64, are written.
    """
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_batch_norm d = _batch_norm(x.shape, epsilon, activation, alpha)
    _require_channels("batch_norm_forward", x.shape, y.shape, -1 if gamma is None else gamma.shape[0],
                      -1 if beta is None else beta.shape[0], mean.shape[0], variance.shape[0])
    return _raise(fbn_batch_norm_forward(&d, &x[0, 0], NULL if gamma is None else &gamma[0],
                                         NULL if beta is None else &beta[0], NULL, &y[0, 0], &mean[0], &variance[0],
                                         &how))


cpdef int batch_norm_backward(const float[:, ::1] dy, const float[:, ::1] x, const float[::1] gamma,
                              const float[::1] beta, const double[::1] mean, const double[::1] variance,
                              const float[:, ::1] y, float[:, ::1] dx, float[::1] dgamma, float[::1] dbeta,
                              double epsilon=1e-3, int32_t activation=0, float alpha=0,
                              int32_t num_threads=0) except -1 nogil:
    """Gradients of batch_norm_forward.

    With an activation y or beta is needed. An output that is None is not computed.
    """
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_batch_norm d = _batch_norm(x.shape, epsilon, activation, alpha)
    _require_channels("batch_norm_backward", x.shape, dy.shape, -1 if gamma is None else gamma.shape[0],
                      -1 if beta is None else beta.shape[0], mean.shape[0], variance.shape[0])
    if ((y is not None and not _same_2d(y.shape, x.shape)) or (dx is not None and not _same_2d(dx.shape, x.shape))
            or (dgamma is not None and dgamma.shape[0] != d.channels)
            or (dbeta is not None and dbeta.shape[0] != d.channels)):
        with gil:
            raise ValueError(
                "batch_norm_backward: y and dx must have the shape of x, dgamma and dbeta the size of its last axis. "
                f"Received: x {_text(x.shape, 2)}")
    return _raise(fbn_batch_norm_backward(
        &d, &dy[0, 0], &x[0, 0], NULL if gamma is None else &gamma[0], NULL if beta is None else &beta[0], &mean[0],
        &variance[0], NULL if y is None else &y[0, 0], NULL if dx is None else &dx[0, 0],
        NULL if dgamma is None else &dgamma[0], NULL if dbeta is None else &dbeta[0], NULL, &how))


cpdef int batch_norm_inference(const float[:, ::1] x, const float[::1] gamma, const float[::1] beta,
                               const double[::1] mean, const double[::1] variance, float[:, ::1] y,
                               double epsilon=1e-3, int32_t activation=0, float alpha=0,
                               int32_t num_threads=0) except -1 nogil:
    """batch_norm_forward with given statistics."""
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_batch_norm d = _batch_norm(x.shape, epsilon, activation, alpha)
    _require_channels("batch_norm_inference", x.shape, y.shape, -1 if gamma is None else gamma.shape[0],
                      -1 if beta is None else beta.shape[0], mean.shape[0], variance.shape[0])
    return _raise(fbn_batch_norm_inference(&d, &x[0, 0], NULL if gamma is None else &gamma[0],
                                           NULL if beta is None else &beta[0], &mean[0], &variance[0], NULL, &y[0, 0],
                                           &how))


cdef fbn_pool2d _pool2d(const Py_ssize_t* x, int64_t pool_height, int64_t pool_width, int64_t stride_height,
                        int64_t stride_width, bint same) noexcept nogil:
    cdef fbn_pool2d d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.batch = x[0]
    d.height = x[1]
    d.width = x[2]
    d.channels = x[3]
    d.pool_height = pool_height
    d.pool_width = pool_width
    d.stride_height = stride_height if stride_height > 0 else pool_height
    d.stride_width = stride_width if stride_width > 0 else pool_width
    d.padding = FBN_PADDING_SAME if same else FBN_PADDING_VALID
    return d


# Raises unless `y` is the shape of the result of `d`, and the index (or NULL) has it too.
cdef int _require_pooled(const char* operation, const fbn_pool2d* d, const Py_ssize_t* y,
                         const Py_ssize_t* index) except -1 nogil:
    cdef int64_t height = 0, width = 0
    _raise(fbn_pool2d_output_size(d, &height, &width))
    if (y[0] != d.batch or y[1] != height or y[2] != width or y[3] != d.channels
            or (index != NULL and not _same_4d(index, y))):
        with gil:
            raise ValueError(
                f"{operation.decode()}: the pooled shape is ({d.batch}, {height}, {width}, {d.channels}). "
                f"Received: {_text(y, 4)}" + (f", index {_text(index, 4)}" if index != NULL else ""))
    if index != NULL and fbn_pool2d_index_dtype(d) != FBN_UINT8:
        with gil:
            raise ValueError(
                f"{operation.decode()}: an index of bytes is for windows of at most 256 cells. Received: "
                f"{d.pool_height} x {d.pool_width}")
    return 0


cpdef int max_pool2d_forward(const float[:, :, :, ::1] x, float[:, :, :, ::1] y, uint8_t[:, :, :, ::1] index,
                             int64_t pool_height=2, int64_t pool_width=2, int64_t stride_height=0,
                             int64_t stride_width=0, bint same=False, int32_t num_threads=0) except -1 nogil:
    """The first maximum of each window, and its place ky * pool_width + kx; index may be None. Strides 0: the window's.
    """
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_pool2d d = _pool2d(x.shape, pool_height, pool_width, stride_height, stride_width, same)
    _require_pooled("max_pool2d_forward", &d, y.shape, NULL if index is None else index.shape)
    return _raise(fbn_max_pool2d_forward(&d, &x[0, 0, 0, 0], &y[0, 0, 0, 0],
                                         NULL if index is None else <void*>&index[0, 0, 0, 0], &how))


cpdef int max_pool2d_backward(const float[:, :, :, ::1] dy, const uint8_t[:, :, :, ::1] index,
                              float[:, :, :, ::1] dx, int64_t pool_height=2, int64_t pool_width=2,
                              int64_t stride_height=0, int64_t stride_width=0, bint same=False,
                              int32_t num_threads=0) except -1 nogil:
    """dy to the places that the index names."""
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_pool2d d = _pool2d(dx.shape, pool_height, pool_width, stride_height, stride_width, same)
    _require_pooled("max_pool2d_backward", &d, dy.shape, index.shape)
    return _raise(fbn_max_pool2d_backward(&d, &dy[0, 0, 0, 0], &index[0, 0, 0, 0], &dx[0, 0, 0, 0], &how))


cpdef int avg_pool2d_forward(const float[:, :, :, ::1] x, float[:, :, :, ::1] y, int64_t pool_height=2,
                             int64_t pool_width=2, int64_t stride_height=0, int64_t stride_width=0, bint same=False,
                             int32_t num_threads=0) except -1 nogil:
    """The mean of each window's cells inside the image. Strides 0: the window's."""
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_pool2d d = _pool2d(x.shape, pool_height, pool_width, stride_height, stride_width, same)
    _require_pooled("avg_pool2d_forward", &d, y.shape, NULL)
    return _raise(fbn_avg_pool2d_forward(&d, &x[0, 0, 0, 0], &y[0, 0, 0, 0], &how))


cpdef int avg_pool2d_backward(const float[:, :, :, ::1] dy, float[:, :, :, ::1] dx, int64_t pool_height=2,
                              int64_t pool_width=2, int64_t stride_height=0, int64_t stride_width=0, bint same=False,
                              int32_t num_threads=0) except -1 nogil:
    """dy, shared out over each window's cells inside the image."""
    cdef fbn_exec how = _on(num_threads)
    cdef fbn_pool2d d = _pool2d(dx.shape, pool_height, pool_width, stride_height, stride_width, same)
    _require_pooled("avg_pool2d_backward", &d, dy.shape, NULL)
    return _raise(fbn_avg_pool2d_backward(&d, &dy[0, 0, 0, 0], &dx[0, 0, 0, 0], &how))


# Raises unless three matrices have one shape.
cdef int _require_one_shape(const char* operation, const Py_ssize_t* a, const Py_ssize_t* b,
                            const Py_ssize_t* c) except -1 nogil:
    if not _same_2d(a, b) or not _same_2d(a, c):
        with gil:
            raise ValueError(f"{operation.decode()}: all matrices must have one shape. Received: {_text(a, 2)}, "
                             f"{_text(b, 2)}, {_text(c, 2)}")
    return 0


cpdef int global_avg_pool2d_forward(const float[:, :, ::1] x, float[:, ::1] y, int32_t num_threads=0) except -1 nogil:
    """x (batch, pixels, channels) -> y (batch, channels), the mean over the pixels."""
    cdef fbn_exec how = _on(num_threads)
    if y.shape[0] != x.shape[0] or y.shape[1] != x.shape[2]:
        with gil:
            raise ValueError("global_avg_pool2d_forward: y must be (batch, channels) of x. Received: "
                             f"x {_text(x.shape, 3)}, y {_text(y.shape, 2)}")
    return _raise(fbn_global_avg_pool2d_forward(x.shape[0], x.shape[1], x.shape[2], &x[0, 0, 0], &y[0, 0], &how))


cpdef int global_avg_pool2d_backward(const float[:, ::1] dy, float[:, :, ::1] dx,
                                     int32_t num_threads=0) except -1 nogil:
    """dy (batch, channels), shared out over the pixels of dx (batch, pixels, channels)."""
    cdef fbn_exec how = _on(num_threads)
    if dy.shape[0] != dx.shape[0] or dy.shape[1] != dx.shape[2]:
        with gil:
            raise ValueError("global_avg_pool2d_backward: dy must be (batch, channels) of dx. Received: "
                             f"dy {_text(dy.shape, 2)}, dx {_text(dx.shape, 3)}")
    return _raise(fbn_global_avg_pool2d_backward(dx.shape[0], dx.shape[1], dx.shape[2], &dy[0, 0], &dx[0, 0, 0], &how))


cpdef int activation_forward(const float[:, ::1] x, float[:, ::1] y, int32_t activation, float alpha=0,
                             int32_t num_threads=0) except -1 nogil:
    """y = act(x), softmax over the last axis; x and y may be one array."""
    cdef fbn_exec how = _on(num_threads)
    _require_one_shape("activation_forward", x.shape, y.shape, y.shape)
    return _raise(fbn_activation_forward(activation, alpha, x.shape[0], x.shape[1], &x[0, 0], &y[0, 0], &how))


cpdef int activation_backward(const float[:, ::1] dy, const float[:, ::1] y, float[:, ::1] dx, int32_t activation,
                              float alpha=0, int32_t num_threads=0) except -1 nogil:
    """dx = dy act'(y), from the forward result y; dy and dx may be one array."""
    cdef fbn_exec how = _on(num_threads)
    _require_one_shape("activation_backward", dy.shape, y.shape, dx.shape)
    return _raise(fbn_activation_backward(activation, alpha, y.shape[0], y.shape[1], &dy[0, 0], &y[0, 0], &dx[0, 0],
                                          &how))


cpdef int dropout_forward(const float[::1] x, float[::1] y, double rate, uint64_t seed,
                          int32_t num_threads=0) except -1 nogil:
    """y[i] = x[i] / (1 - rate) or 0, a function of seed and i alone; backward is the same applied to dy."""
    cdef fbn_exec how = _on(num_threads)
    if y.shape[0] != x.shape[0]:
        with gil:
            raise ValueError(f"dropout_forward: x and y must have one size. Received: {x.shape[0]}, {y.shape[0]}")
    return _raise(fbn_dropout_forward(rate, seed, x.shape[0], &x[0], &y[0], &how))


cpdef int softmax_cross_entropy_forward(const float[:, ::1] logits, const int32_t[::1] labels, float[::1] loss,
                                        float[:, ::1] probabilities, int32_t num_threads=0) except -1 nogil:
    """loss[r] = -log softmax(logits[r])[labels[r]], and the probabilities."""
    cdef fbn_exec how = _on(num_threads)
    _require_one_shape("softmax_cross_entropy_forward", logits.shape, probabilities.shape, logits.shape)
    if labels.shape[0] != logits.shape[0] or loss.shape[0] != logits.shape[0]:
        with gil:
            raise ValueError(f"softmax_cross_entropy_forward: labels and loss must have {logits.shape[0]} elements. "
                             f"Received: {labels.shape[0]}, {loss.shape[0]}")
    return _raise(fbn_softmax_cross_entropy_forward(logits.shape[0], logits.shape[1], &logits[0, 0], &labels[0],
                                                    FBN_INT32, &loss[0], &probabilities[0, 0], &how))


cpdef int softmax_cross_entropy_backward(const float[:, ::1] probabilities, const int32_t[::1] labels,
                                         float[:, ::1] dlogits, float scale=1,
                                         int32_t num_threads=0) except -1 nogil:
    """dlogits[r,k] = (probabilities[r,k] - [k = labels[r]]) scale."""
    cdef fbn_exec how = _on(num_threads)
    _require_one_shape("softmax_cross_entropy_backward", probabilities.shape, dlogits.shape, dlogits.shape)
    if labels.shape[0] != dlogits.shape[0]:
        with gil:
            raise ValueError(f"softmax_cross_entropy_backward: labels must have {dlogits.shape[0]} elements. "
                             f"Received: {labels.shape[0]}")
    return _raise(fbn_softmax_cross_entropy_backward(dlogits.shape[0], dlogits.shape[1], &probabilities[0, 0],
                                                     &labels[0], FBN_INT32, scale, &dlogits[0, 0], &how))


cpdef int mean_squared_error_forward(const float[:, ::1] predictions, const float[:, ::1] targets, float[::1] loss,
                                     int32_t num_threads=0) except -1 nogil:
    """loss[r] = mean_k (predictions[r,k] - targets[r,k])^2."""
    cdef fbn_exec how = _on(num_threads)
    _require_one_shape("mean_squared_error_forward", predictions.shape, targets.shape, targets.shape)
    if loss.shape[0] != predictions.shape[0]:
        with gil:
            raise ValueError(f"mean_squared_error_forward: loss must have {predictions.shape[0]} elements. "
                             f"Received: {loss.shape[0]}")
    return _raise(fbn_mean_squared_error_forward(predictions.shape[0], predictions.shape[1], &predictions[0, 0],
                                                 &targets[0, 0], &loss[0], &how))


cpdef int mean_squared_error_backward(const float[:, ::1] predictions, const float[:, ::1] targets,
                                      float[:, ::1] dpredictions, float scale=1,
                                      int32_t num_threads=0) except -1 nogil:
    """dpredictions = 2 (predictions - targets) / columns scale."""
    cdef fbn_exec how = _on(num_threads)
    _require_one_shape("mean_squared_error_backward", predictions.shape, targets.shape, dpredictions.shape)
    return _raise(fbn_mean_squared_error_backward(predictions.shape[0], predictions.shape[1], &predictions[0, 0],
                                                  &targets[0, 0], scale, &dpredictions[0, 0], &how))
