# A step of gradient descent for a perceptron, y = act(x kernel + bias), the loss the mean of (y - target)^2: once through
# pointers, with one call of the C interface after another and no Python in between, once through memoryviews.
from fastbn.kernels cimport (
    FBN_SIGMOID,
    FBN_OK,
    FBN_SGD,
    dense_backward,
    dense_forward,
    fbn_dense,
    fbn_dense_backward,
    fbn_dense_forward,
    fbn_exec,
    fbn_last_error,
    fbn_mean_squared_error_backward,
    fbn_mean_squared_error_forward,
    fbn_optimizer,
    fbn_optimizer_update,
    fbn_status,
    fbn_version,
    mean_squared_error_backward,
    mean_squared_error_forward,
)
from libc.string cimport memset


cdef fbn_status step(const fbn_dense* d, const fbn_optimizer* sgd, const float* x, const float* target, float* kernel,
                     float* bias, float* y, float* dy, float* dkernel, float* dbias, float* loss,
                     const fbn_exec* how) noexcept nogil:
    cdef fbn_status status
    status = fbn_dense_forward(d, x, kernel, bias, y, how)
    if status != FBN_OK:
        return status
    status = fbn_mean_squared_error_forward(d.rows, d.out_features, y, target, loss, how)
    if status != FBN_OK:
        return status
    status = fbn_mean_squared_error_backward(d.rows, d.out_features, y, target, 1 / <float>d.rows, dy, how)
    if status != FBN_OK:
        return status
    status = fbn_dense_backward(d, dy, x, kernel, y, NULL, dkernel, dbias, how)
    if status != FBN_OK:
        return status
    status = fbn_optimizer_update(sgd, 0, d.in_features * d.out_features, kernel, dkernel, NULL, how)
    if status != FBN_OK:
        return status
    return fbn_optimizer_update(sgd, 0, d.out_features, bias, dbias, NULL, how)


def train(const float[:, ::1] x, const float[:, ::1] target, float[:, ::1] kernel, float[::1] bias, float[:, ::1] y,
          float[:, ::1] dy, float[:, ::1] dkernel, float[::1] dbias, float[::1] loss, int steps, double rate):
    """`steps` steps without the GIL; kernel and bias are updated in place."""
    cdef fbn_dense d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.rows = x.shape[0]
    d.in_features = x.shape[1]
    d.out_features = kernel.shape[1]
    d.activation = FBN_SIGMOID
    cdef fbn_optimizer sgd
    memset(&sgd, 0, sizeof(sgd))
    sgd.struct_size = sizeof(sgd)
    sgd.kind = FBN_SGD
    sgd.learning_rate = rate
    cdef fbn_exec how
    memset(&how, 0, sizeof(how))
    how.struct_size = sizeof(how)
    how.num_threads = 1
    cdef fbn_status status = FBN_OK
    cdef int i
    with nogil:
        for i in range(steps):
            status = step(&d, &sgd, &x[0, 0], &target[0, 0], &kernel[0, 0], &bias[0], &y[0, 0], &dy[0, 0],
                          &dkernel[0, 0], &dbias[0], &loss[0], &how)
            if status != FBN_OK:
                break
    if status != FBN_OK:
        raise RuntimeError(fbn_last_error().decode())


def gradients(const float[:, ::1] x, const float[:, ::1] target, const float[:, ::1] kernel, const float[::1] bias,
              float[:, ::1] y, float[:, ::1] dy, float[:, ::1] dkernel, float[::1] dbias, float[::1] loss):
    """The same gradients through memoryviews: shapes are checked, and an error is an exception."""
    with nogil:
        dense_forward(x, kernel, bias, y, FBN_SIGMOID)
        mean_squared_error_forward(y, target, loss)
        mean_squared_error_backward(y, target, dy, 1 / <float>x.shape[0])
        dense_backward(dy, x, kernel, y, None, dkernel, dbias, FBN_SIGMOID)


def version():
    return fbn_version().decode()
