# Compiled as C.
include "perceptron.pxi"
