# cython: language_level=3, boundscheck=False, wraparound=False, freethreading_compatible=True
"""The C interface of fastbn for Cython, and a few kernels over memoryviews for Python.

`from fastbn.kernels cimport fbn_dense_forward` calls libfastbn without linking it; see fastbn/kernels.pxd.
"""
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memset

cdef extern from "fastbn/fastbn.h" nogil:
    const char* c_last_error "fbn_last_error"()
    const char* c_version "fbn_version"()
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
# Kernels over memoryviews. Nothing is converted: float32, C-contiguous. Each writes into `y` and releases the GIL.

cdef int _raise(fbn_status status) except -1:
    if status == FBN_OK:
        return 0
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


cdef int _require(bint holds, str message) except -1:
    if not holds:
        raise ValueError(message)
    return 0


cdef str _shape(const Py_ssize_t* sizes, int rank):
    return "(" + ", ".join([str(sizes[axis]) for axis in range(rank)]) + ")"


def dense_forward(const float[:, ::1] x, const float[:, ::1] kernel, const float[::1] bias, float[:, ::1] y):
    """y = x kernel + bias.

    x (rows, in), kernel (in, out), bias (out) or None, y (rows, out). Raises ValueError where shapes disagree.
    """
    _require(kernel.shape[0] == x.shape[1] and y.shape[0] == x.shape[0] and y.shape[1] == kernel.shape[1]
             and (bias is None or bias.shape[0] == kernel.shape[1]),
             "dense_forward: shapes must be x (rows, in), kernel (in, out), bias (out), y (rows, out). Received: x "
             f"{_shape(x.shape, 2)}, kernel {_shape(kernel.shape, 2)}, "
             f"bias {None if bias is None else _shape(bias.shape, 1)}, y {_shape(y.shape, 2)}")
    cdef fbn_dense d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.rows = x.shape[0]
    d.in_features = x.shape[1]
    d.out_features = kernel.shape[1]
    cdef const float* x_data = &x[0, 0] if x.size else NULL
    cdef const float* kernel_data = &kernel[0, 0] if kernel.size else NULL
    cdef const float* bias_data = &bias[0] if bias is not None and bias.size else NULL
    cdef float* y_data = &y[0, 0] if y.size else NULL
    cdef fbn_status status
    with nogil:
        status = fbn_dense_forward(&d, x_data, kernel_data, bias_data, y_data, NULL)
    _raise(status)


def conv2d_forward(const float[:, :, :, ::1] x, const float[:, :, :, ::1] kernel, const float[::1] bias,
                   float[:, :, :, ::1] y, strides=(1, 1), str padding="valid"):
    """y[n,oy,ox,o] = bias[o] + sum_{ky,kx,c} x[n, oy*sh+ky-top, ox*sw+kx-left, c] kernel[ky,kx,c,o].

    x (batch, height, width, in), kernel (height, width, in / groups, out), bias (out) or None, y (batch, out height,
    out width, out); padding "valid" or "same". Raises ValueError where shapes disagree.
    """
    cdef fbn_conv2d d
    memset(&d, 0, sizeof(d))
    _require(padding == "valid" or padding == "same",
             f"conv2d_forward: padding must be 'valid' or 'same'. Received: {padding!r}")
    _require(kernel.shape[2] > 0 and x.shape[3] % kernel.shape[2] == 0,
             "conv2d_forward: the kernel's third axis must divide the channels of x. Received: x "
             f"{_shape(x.shape, 4)}, kernel {_shape(kernel.shape, 4)}")
    d.struct_size = sizeof(d)
    d.batch = x.shape[0]
    d.height = x.shape[1]
    d.width = x.shape[2]
    d.in_channels = x.shape[3]
    d.kernel_height = kernel.shape[0]
    d.kernel_width = kernel.shape[1]
    d.out_channels = kernel.shape[3]
    d.groups = x.shape[3] // kernel.shape[2]
    d.stride_height, d.stride_width = strides
    d.dilation_height = d.dilation_width = 1
    d.padding = FBN_PADDING_SAME if padding == "same" else FBN_PADDING_VALID
    cdef int64_t out_height, out_width
    _raise(fbn_conv2d_output_size(&d, &out_height, &out_width))
    _require(y.shape[0] == d.batch and y.shape[1] == out_height and y.shape[2] == out_width
             and y.shape[3] == d.out_channels and (bias is None or bias.shape[0] == d.out_channels),
             f"conv2d_forward: y must have the shape ({d.batch}, {out_height}, {out_width}, {d.out_channels}) and "
             f"bias ({d.out_channels}). Received: y {_shape(y.shape, 4)}, "
             f"bias {None if bias is None else _shape(bias.shape, 1)}")
    cdef const float* x_data = &x[0, 0, 0, 0] if x.size else NULL
    cdef const float* kernel_data = &kernel[0, 0, 0, 0] if kernel.size else NULL
    cdef const float* bias_data = &bias[0] if bias is not None and bias.size else NULL
    cdef float* y_data = &y[0, 0, 0, 0] if y.size else NULL
    cdef fbn_status status
    with nogil:
        status = fbn_conv2d_forward(&d, x_data, kernel_data, bias_data, y_data, NULL)
    _raise(status)


def batch_norm_forward(const float[:, ::1] x, const float[::1] gamma, const float[::1] beta, float[:, ::1] y,
                       double[::1] mean, double[::1] variance, double epsilon=1e-3):
    """y = (x - mean) / sqrt(variance + epsilon) * gamma + beta, with the statistics of the batch (biased).

    x and y (rows, channels); gamma and beta (channels) or None; mean and variance (channels), float64, are written.
    Raises ValueError where shapes disagree.
    """
    cdef Py_ssize_t channels = x.shape[1]
    _require(y.shape[0] == x.shape[0] and y.shape[1] == channels and mean.shape[0] == channels
             and variance.shape[0] == channels and (gamma is None or gamma.shape[0] == channels)
             and (beta is None or beta.shape[0] == channels),
             f"batch_norm_forward: y must have the shape of x and every other array ({channels}). Received: x "
             f"{_shape(x.shape, 2)}, y {_shape(y.shape, 2)}, mean ({mean.shape[0]}), variance ({variance.shape[0]})")
    cdef fbn_batch_norm d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.rows = x.shape[0]
    d.channels = channels
    d.epsilon = epsilon
    cdef const float* x_data = &x[0, 0] if x.size else NULL
    cdef const float* gamma_data = &gamma[0] if gamma is not None and channels else NULL
    cdef const float* beta_data = &beta[0] if beta is not None and channels else NULL
    cdef float* y_data = &y[0, 0] if y.size else NULL
    cdef double* mean_data = &mean[0] if channels else NULL
    cdef double* variance_data = &variance[0] if channels else NULL
    cdef fbn_status status
    with nogil:
        status = fbn_batch_norm_forward(&d, x_data, gamma_data, beta_data, NULL, y_data, mean_data, variance_data, NULL)
    _raise(status)
