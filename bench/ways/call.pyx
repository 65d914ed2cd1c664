# cython: language_level=3, boundscheck=False, wraparound=False
# The call by pointers and by memoryviews, in loops without the GIL; both return the seconds of `calls` calls.
from time import perf_counter

from fastbn.kernels cimport FBN_RELU, dense_forward, fbn_dense, fbn_dense_forward, fbn_exec
from libc.string cimport memset


def pointers(const float[:, ::1] x, const float[:, ::1] kernel, const float[::1] bias, float[:, ::1] y, int calls):
    cdef fbn_dense d
    memset(&d, 0, sizeof(d))
    d.struct_size = sizeof(d)
    d.rows = x.shape[0]
    d.in_features = kernel.shape[0]
    d.out_features = kernel.shape[1]
    d.activation = FBN_RELU
    cdef fbn_exec how
    memset(&how, 0, sizeof(how))
    how.struct_size = sizeof(how)
    how.num_threads = 1
    start = perf_counter()
    with nogil:
        for _ in range(calls):
            fbn_dense_forward(&d, &x[0, 0], &kernel[0, 0], &bias[0], &y[0, 0], &how)
    return perf_counter() - start


def memoryviews(const float[:, ::1] x, const float[:, ::1] kernel, const float[::1] bias, float[:, ::1] y, int calls):
    start = perf_counter()
    with nogil:
        for _ in range(calls):
            dense_forward(x, kernel, bias, y, FBN_RELU, 0, 1)
    return perf_counter() - start
